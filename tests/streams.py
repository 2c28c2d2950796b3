"""Streams of outcomes for tests of monitors, and what a bare loop says about them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import river.drift
import river.metrics
from river import dummy, stats

from stream_update.events import Outcomes, Predictions

drift: Any = river.drift
metrics: Any = river.metrics
"""river's modules, of which only a part is typed."""

RIVER: dict[str, dict[str, Any]] = {
    "binary": {
        "accuracy": metrics.Accuracy,
        "precision": metrics.Precision,
        "recall": metrics.Recall,
        "f1": metrics.F1,
        "roc_auc": metrics.ROCAUC,
        "log_loss": metrics.LogLoss,
        "kappa": metrics.CohenKappa,
    },
    "multiclass": {
        "accuracy": metrics.Accuracy,
        "macro_precision": metrics.MacroPrecision,
        "macro_recall": metrics.MacroRecall,
        "macro_f1": metrics.MacroF1,
        "micro_precision": metrics.MicroPrecision,
        "micro_recall": metrics.MicroRecall,
        "micro_f1": metrics.MicroF1,
        "weighted_precision": metrics.WeightedPrecision,
        "weighted_recall": metrics.WeightedRecall,
        "weighted_f1": metrics.WeightedF1,
        "balanced_accuracy": metrics.BalancedAccuracy,
        "geometric_mean": metrics.GeometricMean,
        "log_loss": metrics.CrossEntropy,
        "kappa": metrics.CohenKappa,
    },
    "regression": {
        "mae": metrics.MAE,
        "rmse": metrics.RMSE,
        "mse": metrics.MSE,
        "r2": metrics.R2,
        "mape": metrics.MAPE,
        "smape": metrics.SMAPE,
    },
}
"""river's own class for each of our names."""


class Stream(NamedTuple):
    """Columns of equal length; ``probabilities`` is None for learners without."""

    labels: Sequence[Any]
    values: Sequence[Any]
    probabilities: Sequence[Mapping[Any, float]] | None = None

    def last(self, count: int) -> Stream:
        answers = self.probabilities
        return Stream(
            self.labels[-count:],
            self.values[-count:],
            None if answers is None else answers[-count:],
        )

    def outcomes(self, start: int = 0, stop: int | None = None, partition: int = 0) -> Outcomes:
        """The events from ``start`` to ``stop``; offsets are positions times ten, and
        event times 1,000 ms apart."""
        stop = len(self.labels) if stop is None else stop
        answers = self.probabilities
        return Outcomes(
            partition,
            range(start * 10, stop * 10, 10),
            self.labels[start:stop],
            Predictions(
                list(self.values[start:stop]),
                None if answers is None else answers[start:stop],
            ),
            lambda index: (start + index) * 1000,
        )

    def blocks(self, cuts: Iterable[int]) -> Iterator[Outcomes]:
        """All events, in blocks that end at these positions."""
        start = 0
        for stop in [*sorted({cut for cut in cuts if cut < len(self.labels)}), len(self.labels)]:
            if stop > start:
                yield self.outcomes(start, stop)
            start = stop


def through_bytes(tree: Any) -> Any:
    """A tree as it comes out of a snapshot."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(tree))


def number(value: Any) -> float | None:
    """A figure as reports write it."""
    return float(value) if math.isfinite(value) else None


def bare_metrics(task: str, stream: Stream) -> dict[str, float | None]:
    """river's metrics, updated event by event, by our names."""
    found: dict[str, float | None] = {}
    for name, kind in RIVER[task].items():
        metric = kind()
        answers: Sequence[Any] = stream.values
        if not getattr(metric, "requires_labels", True):
            if stream.probabilities is None:
                found[name] = None
                continue
            answers = stream.probabilities
        for label, answer in zip(stream.labels, answers, strict=True):
            metric.update(label, answer)
        found[name] = number(metric.get())
    return found


def bare_kappa_t(labels: Sequence[Any], values: Sequence[Any], before: Any = None) -> float:
    """The temporal kappa; ``before`` is the label before the first."""
    right = sum(map(lambda label, value: label == value, labels, values)) / len(labels)
    same = sum(map(lambda one, two: one == two, labels, [before, *labels])) / len(labels)
    return (right - same) / (1 - same) if same != 1 else 0.0


def bare_baselines(task: str, labels: Sequence[Any]) -> dict[str, dict[str, float | None]]:
    """river's dummy models in the plain loop: predict, update the metrics, learn."""
    models: dict[str, Any]
    names: tuple[str, ...]
    if task == "regression":
        names = ("mae", "rmse", "r2")
        models = {
            "no_change": _PreviousLabel(),
            "mean": dummy.StatisticRegressor(stats.Mean()),
        }
    else:
        names = ("accuracy", "kappa")
        models = {
            "no_change": dummy.NoChangeClassifier(),
            "majority": dummy.PriorClassifier(),
        }
    found = {}
    for baseline, model in models.items():
        kept = {name: RIVER[task][name]() for name in names}
        for label in labels:
            value = model.predict_one({})
            for metric in kept.values():
                metric.update(label, value)
            model.learn_one({}, label)
        found[baseline] = {name: number(metric.get()) for name, metric in kept.items()}
    return found


class _PreviousLabel:
    """What ``river.dummy`` has for classes only."""

    def __init__(self) -> None:
        self._last = 0.0

    def predict_one(self, _: object) -> float:
        return self._last

    def learn_one(self, _: object, label: float) -> None:
        self._last = label
