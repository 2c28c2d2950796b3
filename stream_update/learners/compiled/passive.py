"""Passive-aggressive models."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from stream_update.events import Predictions
from stream_update.learners.compiled import kernels as k
from stream_update.learners.compiled.family import Family
from stream_update.learners.compiled.glm import chances, truths
from stream_update.learners.compiled.rows import Floats, Rows, floats

__all__ = ["Passive"]


class Passive(Family):
    """``PAClassifier`` or ``PARegressor``."""

    def _names(self) -> list[Any]:
        return list(self._last.weights)

    def _read(self, names: Sequence[Any]) -> None:
        self._table[: len(names), k.WEIGHT] = list(self._last.weights.values())
        self._numbers[k.INTERCEPT] = self._last.intercept

    def _fill(self, names: Sequence[Any]) -> None:
        weights = self._table[: len(names), k.WEIGHT]
        # River's regressor multiplies by what numpy's sign gives, a number of numpy's.
        values = list(weights) if self._plan.regression else weights.tolist()
        self._last.weights = collections.defaultdict(float, zip(names, values, strict=True))
        intercept = self._numbers[k.INTERCEPT]
        learned = self._plan.regression and names
        self._last.intercept = np.float64(intercept) if learned else float(intercept)

    def _targets(self, labels: Sequence[Any]) -> Floats:
        return floats(labels, len(labels)) if self._plan.regression else truths(labels)

    def _loop(self, rows: Rows, targets: Floats, mode: int, said: Floats) -> None:
        k.passive(
            *rows, targets, mode, self._table, self._numbers, self._plan.kinds,
            self._plan.options, said, self._progress,
        )  # fmt: skip

    def _answers(self, said: Floats, count: int) -> Predictions:
        said = said[:count]
        return Predictions(said.tolist()) if self._plan.regression else chances(said)
