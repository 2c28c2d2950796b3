"""The log loss of single events, with river's arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from operator import sub
from typing import Any

import numpy as np

from stream_update.errors import Fatal
from stream_update.events import Chances, Column
from stream_update.monitors.fading import Floats
from stream_update.monitors.tally import Mean

__all__ = [
    "binary_log_losses",
    "chances_of_true",
    "cross_entropies",
    "differences",
    "extended",
    "shares",
]

LOW, HIGH = 1e-15, 1 - 1e-15
"""Where river clamps a probability before it takes the logarithm."""


def binary_log_losses(truths: Sequence[bool] | np.ndarray, chances: Floats) -> Floats:
    """As ``river.metrics.LogLoss``: by whether the label is true, and the probability of True.

    The logarithm is the standard library's: numpy's may differ in the last bit.
    """
    chances = np.maximum(np.minimum(chances, HIGH), LOW)
    chances = np.where(truths, chances, 1 - chances)
    logs = np.fromiter(map(math.log, chances.tolist()), np.float64, len(chances))
    return np.negative(logs, out=logs)


def chances_of_true(probabilities: Sequence[Mapping[Any, float]]) -> Column:
    """The probability of True of each event; what is not mentioned has none."""
    if isinstance(probabilities, Chances):
        column = probabilities.columns.get(True)
        return np.zeros(len(probabilities)) if column is None else column
    return [answer.get(True, 0.0) for answer in probabilities]


def cross_entropies(
    labels: Sequence[Any], probabilities: Sequence[Mapping[Any, float]]
) -> list[float]:
    """As ``river.metrics.CrossEntropy``, in which a label without a probability costs nothing."""
    chances: Iterable[float | None]
    if isinstance(probabilities, Chances):
        nothing = [None] * len(probabilities)
        columns: dict[Any, Any] = {
            label: probabilities.columns.get(label, nothing) for label in set(labels)
        }
        chances = (columns[label][place] for place, label in enumerate(labels))
    else:
        chances = (answer.get(label) for label, answer in zip(labels, probabilities, strict=True))
    log = math.log
    return [0.0 if chance is None else -log(max(min(chance, HIGH), LOW)) for chance in chances]


def differences(labels: Iterable[Any], values: Sequence[Any]) -> list[float]:
    """Label minus prediction, for regression. Raises :class:`~stream_update.errors.Fatal`
    if the learner predicted something else than a number.
    """
    try:
        return list(map(sub, labels, values))
    except TypeError as error:
        wrong = next((value for value in values if not isinstance(value, int | float)), None)
        raise Fatal(
            f"the learner predicted {wrong!r}, which is no number",
            hint="a learner of task 'regression' has to predict a number for every event",
        ) from error


def extended(mean: Mean, values: Sequence[float]) -> Mean:
    """The mean with further values behind it, one by one as ``river.stats.Mean`` does."""
    weight, value = int(mean.weight), mean.value
    for number, share in zip(values, shares(weight, len(values)), strict=True):
        value += share * (number - value)
    return Mean(weight + len(values), value)


def shares(seen: int, count: int) -> list[float]:
    """What each of the next ``count`` events has in a mean over it and all before: 1 / n."""
    return (1.0 / np.arange(seen + 1, seen + count + 1)).tolist()  # type: ignore[no-any-return]
