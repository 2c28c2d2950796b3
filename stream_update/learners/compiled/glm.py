"""Generalized linear models: logistic and linear regression, the perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from river import optim, utils

from stream_update.events import Chances, Predictions
from stream_update.learners.compiled import kernels as k
from stream_update.learners.compiled.family import Family
from stream_update.learners.compiled.initial import Initial
from stream_update.learners.compiled.optimizers import fill_optimizer, read_optimizer
from stream_update.learners.compiled.rows import Floats, Rows, floats

__all__ = ["Linear", "chances", "truths"]


def chances(said: Floats) -> Predictions:
    """Labels and probabilities from the probability of True."""
    others = 1.0 - said
    return Predictions((said > others).tolist(), Chances({False: others, True: said}))


def truths(labels: Sequence[Any]) -> Floats:
    """Labels of two classes as 0 and 1. Raises ``TypeError`` for any other."""
    if not {False, True}.issuperset(labels):
        raise TypeError("a label that is neither 0 nor 1")
    return floats(labels, len(labels))


class Linear(Family):
    """``LogisticRegression``, ``LinearRegression`` or ``Perceptron``."""

    def _names(self) -> list[Any]:
        return list(self._last.weights)

    def _begin(self) -> None:
        self.initial = [Initial(self._last.initializer)]

    def _start(self, start: int, rows: Sequence[Floats]) -> None:
        (weights,) = rows
        self._table[start : start + len(weights), k.WEIGHT] = weights[:, 0]

    def _read(self, names: Sequence[Any]) -> None:
        last, numbers, table = self._last, self._numbers, self._table[: len(names)]
        table[:, k.WEIGHT] = list(last.weights.values())
        numbers[k.INTERCEPT] = last.intercept
        numbers[k.STEPS] = read_optimizer(last.optimizer, names, table[:, k.STATE : k.PENALTY])
        if last.l1:
            numbers[k.PENALTIES] = last.max_cum_l1
            table[:, k.PENALTY] = [last.cum_l1.get(name, 0.0) for name in names]

    def _fill(self, names: Sequence[Any]) -> None:
        last, numbers, table = self._last, self._numbers, self._table[: len(names)]
        steps = int(numbers[k.STEPS])
        last._weights = _vector(names, table[:, k.WEIGHT])  # noqa: SLF001 - no other way in
        last.intercept = float(numbers[k.INTERCEPT])
        kept = table[:, k.STATE : k.PENALTY]
        fill_optimizer(last.optimizer, names, kept, steps, vectors=True)
        if last.l1:
            last.max_cum_l1 = float(numbers[k.PENALTIES])
            last.cum_l1 = utils.VectorDict(
                dict(zip(names, table[:, k.PENALTY].tolist(), strict=True)),
                optim.initializers.Zeros(),
            )

    def _targets(self, labels: Sequence[Any]) -> Floats:
        return floats(labels, len(labels)) if self._plan.regression else truths(labels)

    def _loop(self, rows: Rows, targets: Floats, mode: int, said: Floats) -> None:
        k.linear(
            *rows, targets, mode, self._table, self._numbers, self._plan.kinds,
            self._plan.options, said, self._progress,
        )  # fmt: skip

    def _answers(self, said: Floats, count: int) -> Predictions:
        said = said[:count]
        return Predictions(said.tolist()) if self._plan.regression else chances(said)


def _vector(names: Sequence[Any], values: Floats) -> Any:
    return utils.VectorDict(dict(zip(names, values.tolist(), strict=True)))
