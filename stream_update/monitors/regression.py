"""The bookkeeping behind regression metrics, a block of events at a time.

The sums are river's own recurrences, run event after event over plain lists, so the
figures are river's to the last digit and do not depend on how events were cut.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from operator import sub
from typing import Any

import numpy as np

from stream_update.events import Tree
from stream_update.monitors.fading import Fading, Floats, running_sums
from stream_update.monitors.losses import differences, extended, shares
from stream_update.monitors.tally import Mean, NumberTally
from stream_update.monitors.window import Window

__all__ = ["OTHER_LOSSES", "Regression"]


def percentage_error(label: float, value: float) -> float:
    """As in ``river.metrics.MAPE``, before the factor 100."""
    return abs(label - value) / abs(label) if label != 0 else 0.0


def symmetric_percentage_error(label: float, value: float) -> float:
    """As in ``river.metrics.SMAPE``, before the factor 100."""
    size = abs(label) + abs(value)
    return 2.0 * abs(label - value) / size if size != 0 else 0.0


LARGEST_ROOT = math.sqrt(sys.float_info.max)

OTHER_LOSSES: dict[str, Callable[[float, float], float]] = {
    "mape": percentage_error,
    "smape": symmetric_percentage_error,
}


@dataclass
class _Errors:
    """The errors of one predictor: mean absolute, mean squared, and sum of squares."""

    absolute: float = 0.0
    squared: float = 0.0
    residual: float = 0.0

    def extend(self, errors: Sequence[float], weights: Sequence[float]) -> None:
        absolute, squared, residual = self.absolute, self.squared, self.residual
        for error, square, weight in zip(errors, squares(errors), weights, strict=True):
            absolute += weight * (abs(error) - absolute)
            squared += weight * (square - squared)
            residual += error * error
        self.absolute, self.squared, self.residual = absolute, squared, residual


@dataclass
class _Labels:
    """Mean and scatter of the labels, by Welford's recurrence as in ``river.stats.Var``."""

    mean: float = 0.0
    scatter: float = 0.0

    def extend(self, labels: Sequence[float], weights: Sequence[float]) -> list[float]:
        """The mean before each label: what the mean baseline predicts for it."""
        mean, scatter = self.mean, self.scatter
        before = []
        for label, weight in zip(labels, weights, strict=True):
            before.append(mean)
            apart = label - mean
            mean += weight * apart
            scatter += apart * (label - mean)
        self.mean, self.scatter = mean, scatter
        return before


class Regression:
    """The sums behind the cumulative, rolling and fading figures and two baselines.

    ``others`` names further losses to keep (``mape``, ``smape``). Memory: 16 bytes for
    each event of the window.
    """

    def __init__(self, *, window: int, fading: Fading, others: Sequence[str] = ()) -> None:
        self._fading = fading
        self._window = window
        self._losses = {name: OTHER_LOSSES[name] for name in others}
        self._clear()

    def _clear(self) -> None:
        self.events = 0
        self._errors = _Errors()
        self._labels = _Labels()
        self._others = dict.fromkeys(self._losses, Mean())
        self._previous: float = 0.0
        self._no_change = _Errors()
        self._mean = _Errors()
        self._origin = 0.0
        self._faded: Floats = np.zeros(5 + len(self._losses))
        self._recent_labels = Window(self._window, "<f8")
        self._recent_values = Window(self._window, "<f8")

    def absorb(self, labels: Sequence[Any], values: Sequence[Any], _scores: object = None) -> None:
        """Take in a block of at least one event."""
        count = len(labels)
        weights = shares(self.events, count)
        errors = differences(labels, values)
        if not self.events:
            self._origin = float(labels[0])
        self._errors.extend(errors, weights)
        means = self._labels.extend(labels, weights)
        self._mean.extend(list(map(sub, labels, means)), weights)
        previous = [self._previous, *labels]
        self._no_change.extend(list(map(sub, labels, previous)), weights)
        self._previous = previous[-1]
        others = [list(map(loss, labels, values)) for loss in self._losses.values()]
        for name, losses in zip(self._losses, others, strict=True):
            self._others[name] = extended(self._others[name], losses)
        self._recent_labels.extend(np.array(labels, dtype=np.float64))
        self._recent_values.extend(np.array(values, dtype=np.float64))
        self._fade(labels, errors, others)
        self.events += count

    def _fade(
        self,
        labels: Sequence[float],
        errors: Sequence[float],
        others: Sequence[Sequence[float]],
    ) -> None:
        """Faded sums of: one, |error|, error squared, label, label squared (from an origin
        at the first label, or large labels would leave no digits), and the other losses.
        """
        error = np.array(errors, dtype=np.float64)
        label = np.array(labels, dtype=np.float64) - self._origin
        with np.errstate(over="ignore", invalid="ignore"):
            rows = np.stack(
                (np.ones(len(error)), abs(error), error * error, label, label * label, *others)
            )
            for start, stop, weights, shrink in self._fading.pieces(self.events, len(error)):
                weighted = rows[:, start:stop] * weights
                self._faded = running_sums(self._faded * shrink, weighted)

    def cumulative(self) -> NumberTally:
        """Everything since the start."""
        return self._tally(self.events, self._errors, self._labels, self._others)

    def rolling(self) -> NumberTally:
        """The last events, at most as many as the window holds."""
        labels = self._recent_labels.values().tolist()
        values = self._recent_values.values().tolist()
        weights = shares(0, len(labels))
        errors, spread = _Errors(), _Labels()
        errors.extend(differences(labels, values), weights)
        spread.extend(labels, weights)
        others = {
            name: extended(Mean(), list(map(loss, labels, values)))
            for name, loss in self._losses.items()
        }
        return self._tally(len(labels), errors, spread, others)

    def fading(self) -> NumberTally:
        """All events, the last with weight one and each before with less."""
        sums = self._faded / self._fading.last_weight(self.events)
        weight, absolute, residual, label, square, *others = sums.tolist()
        if not weight:
            return self._tally(0, _Errors(), _Labels(), dict.fromkeys(self._losses, Mean()))
        errors = _Errors(absolute / weight, residual / weight, residual)
        scatter = max(0.0, square - label * label / weight)
        means = {
            name: Mean(weight, total / weight)
            for name, total in zip(self._losses, others, strict=True)
        }
        return self._tally(weight, errors, _Labels(self._origin + label / weight, scatter), means)

    def baselines(self) -> dict[str, NumberTally]:
        """The previous label, and the mean label so far; both answer 0.0 at first."""
        return {
            "no_change": self._tally(self.events, self._no_change, self._labels, {}),
            "mean": self._tally(self.events, self._mean, self._labels, {}),
        }

    @staticmethod
    def _tally(
        weight: float, errors: _Errors, labels: _Labels, others: Mapping[str, Mean]
    ) -> NumberTally:
        return NumberTally(
            Mean(weight, errors.absolute),
            Mean(weight, errors.squared),
            errors.residual,
            Mean(weight, labels.mean),
            labels.scatter,
            dict(others),
        )

    def recent_loss(self) -> float:
        """The fading mean absolute error; the largest float before the first event and
        after a prediction that was not finite.
        """
        weight, absolute = self._faded[:2].tolist()
        return absolute / weight if weight and math.isfinite(absolute) else sys.float_info.max

    def dump(self) -> Tree:
        return {
            "events": self.events,
            "errors": _flat(self._errors),
            "labels": _flat(self._labels),
            "others": {name: list(mean) for name, mean in self._others.items()},
            "previous": self._previous,
            "no_change": _flat(self._no_change),
            "mean": _flat(self._mean),
            "origin": self._origin,
            "faded": self._faded.tolist(),
            "recent": [self._recent_labels.dump(), self._recent_values.dump()],
        }

    def load(self, tree: Tree) -> None:
        self._clear()
        self._errors = _Errors(*tree["errors"])
        self._labels = _Labels(*tree["labels"])
        self._others = {name: Mean(*tree["others"][name]) for name in self._losses}
        self._previous = tree["previous"]
        self._no_change = _Errors(*tree["no_change"])
        self._mean = _Errors(*tree["mean"])
        self._origin = tree["origin"]
        self._faded[:] = tree["faded"]
        labels, values = tree["recent"]
        self._recent_labels.load(labels)
        self._recent_values.load(values)
        self.events = tree["events"]


def squares(numbers: Sequence[float]) -> list[float]:
    """Each ``** 2`` as in river, which is not always ``x * x``; infinite past the range."""
    try:
        return [number**2 for number in numbers]
    except OverflowError:
        return [math.inf if abs(number) > LARGEST_ROOT else number**2 for number in numbers]


def _flat(sums: _Errors | _Labels) -> list[float]:
    return list(astuple(sums))
