"""Factorization machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stream_update.events import Features, Predictions
from stream_update.learners.compiled import kernels as k
from stream_update.learners.compiled.family import Family
from stream_update.learners.compiled.glm import chances, truths
from stream_update.learners.compiled.initial import Initial
from stream_update.learners.compiled.optimizers import fill_optimizer, read_optimizer
from stream_update.learners.compiled.rows import Floats, Rows, floats, values

__all__ = ["Machine"]


class Machine(Family):
    """``FMClassifier`` or ``FMRegressor``."""

    def _names(self) -> list[Any]:
        return list(self._last.weights)

    def _begin(self) -> None:
        last = self._last
        size = last.n_factors
        self.initial = [
            Initial(last.weight_initializer),
            Initial(last.latent_initializer, size),
        ]
        self._latents = np.zeros((len(self._table), size))
        self._factors = np.zeros((size, k.RANK - 1))

    def _widen(self, count: int) -> None:
        super()._widen(count)
        missing = len(self._table) - len(self._latents)
        if missing > 0:
            self._latents = np.pad(self._latents, ((0, missing), (0, 0)))

    def _start(self, start: int, rows: Sequence[Floats]) -> None:
        weights, latents = rows
        self._table[start : start + len(weights), k.WEIGHT] = weights[:, 0]
        self._latents[start : start + len(latents)] = latents

    def _read(self, names: Sequence[Any]) -> None:
        last, numbers, table = self._last, self._numbers, self._table[: len(names)]
        table[:, k.WEIGHT] = list(last.weights.values())
        for place, name in enumerate(names):
            self._latents[place] = last.latents[name]
        numbers[k.INTERCEPT] = last.intercept
        kept = table[:, k.STATE : k.PENALTY]
        numbers[k.STEPS] = read_optimizer(last.weight_optimizer, names, kept)
        factors = range(last.n_factors)
        numbers[k.LATENT_STEPS] = read_optimizer(last.latent_optimizer, factors, self._factors)

    def _fill(self, names: Sequence[Any]) -> None:
        last, numbers, table = self._last, self._numbers, self._table[: len(names)]
        last.weights.clear()
        last.weights.update(zip(names, table[:, k.WEIGHT].tolist(), strict=True))
        last.latents.clear()
        last.latents.update(zip(names, map(np.copy, self._latents), strict=False))
        steps, intercept = int(numbers[k.STEPS]), numbers[k.INTERCEPT]
        # River's regressor asks what it adds up for numpy's ``item``.
        last.intercept = np.float64(intercept) if self._plan.regression else float(intercept)
        fill_optimizer(last.weight_optimizer, names, table[:, k.STATE : k.PENALTY], steps)
        factors = range(last.n_factors)
        latent_steps = int(numbers[k.LATENT_STEPS])
        fill_optimizer(last.latent_optimizer, factors, self._factors, latent_steps)

    def _plain(self, features: Sequence[Features]) -> Sequence[Features]:
        """A text is a feature of its own, as in river."""
        if self._scaler is not None:
            return features
        kinds = set(map(type, values(features)))
        if str not in kinds:
            return features
        return [self._last._ohe_cat_features(event) for event in features]  # noqa: SLF001 - the names that river gives them

    def _targets(self, labels: Sequence[Any]) -> Floats:
        return floats(labels, len(labels)) if self._plan.regression else truths(labels)

    def _loop(self, rows: Rows, targets: Floats, mode: int, said: Floats) -> None:
        k.machine(
            *rows, targets, mode, self._table, self._numbers, self._plan.kinds,
            self._plan.options, said, self._progress, self._latents, self._factors,
        )  # fmt: skip

    def _answers(self, said: Floats, count: int) -> Predictions:
        said = said[:count]
        return Predictions(said.tolist()) if self._plan.regression else chances(said)
