"""The names of metrics, and how each is read off a tally.

Where river has the metric, river's own ``get()`` computes it, so its formula and its
answer to a division by zero are river's. The temporal kappa is that of Zliobaite,
Bifet, Read, Pfahringer and Holmes, "Evaluation methods and decision theory for
classification of streaming data with temporal dependence", Machine Learning 98(3), 2015.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from river import metrics

from stream_update import plugins
from stream_update.errors import ConfigError
from stream_update.monitors.multilabel import FIGURES
from stream_update.monitors.tally import LabelTally, Mean, NumberTally

__all__ = ["BASELINE", "DEFAULTS", "TASKS", "Formula", "build", "figure", "formula", "pooled"]

Formula = Callable[[Any], float | None]
"""A tally of the task's kind to the figure, or None where there is none."""

_river: Any = metrics


def shared(kind: Any) -> Formula:
    """The formula of a river metric that keeps nothing but a confusion matrix."""
    if issubclass(kind, _river.base.BinaryMetric):
        return lambda tally: kind(cm=tally.binary).get()
    return lambda tally: kind(cm=tally.confusion).get()


def kappa_t(tally: LabelTally) -> float:
    """(p - q) / (1 - q): accuracy p against that of the no-change baseline, q."""
    weight = tally.confusion.total_weight
    if not weight:
        return 0.0
    right = tally.confusion.total_true_positives / weight
    no_change = tally.no_change_hits / weight
    return (right - no_change) / (1 - no_change) if no_change != 1 else 0.0


def log_loss(tally: LabelTally) -> float | None:
    return tally.loss.value if tally.loss.weight or not tally.pairs else None


def roc_auc(tally: LabelTally) -> float | None:
    if tally.pairs and not tally.ranks.any():
        return None
    metric = _river.ROCAUC()
    for index, matrix in enumerate(metric.cms):
        for label, ranks in zip((False, True), tally.ranks, strict=True):
            matrix.update(label, y_pred=False, w=float(ranks[: index + 1].sum()))
            matrix.update(label, y_pred=True, w=float(ranks[index + 1 :].sum()))
    return float(metric.get())


def r2(tally: NumberTally) -> float:
    weight = tally.labels.weight
    if weight <= 1:
        return 0.0
    total = (weight - 1) * (tally.scatter / (weight - 1))
    return 1 - tally.residual / total if total else 0.0


KAPPAS: dict[str, Formula] = {"kappa": shared(_river.CohenKappa), "kappa_t": kappa_t}

TASKS: dict[str, dict[str, Formula]] = {
    "binary": {
        "accuracy": shared(_river.Accuracy),
        "precision": shared(_river.Precision),
        "recall": shared(_river.Recall),
        "f1": shared(_river.F1),
        "roc_auc": roc_auc,
        "log_loss": log_loss,
        **KAPPAS,
    },
    "multiclass": {
        "accuracy": shared(_river.Accuracy),
        "macro_precision": shared(_river.MacroPrecision),
        "macro_recall": shared(_river.MacroRecall),
        "macro_f1": shared(_river.MacroF1),
        "micro_precision": shared(_river.MicroPrecision),
        "micro_recall": shared(_river.MicroRecall),
        "micro_f1": shared(_river.MicroF1),
        "weighted_precision": shared(_river.WeightedPrecision),
        "weighted_recall": shared(_river.WeightedRecall),
        "weighted_f1": shared(_river.WeightedF1),
        "balanced_accuracy": shared(_river.BalancedAccuracy),
        "geometric_mean": shared(_river.GeometricMean),
        "log_loss": log_loss,
        **KAPPAS,
    },
    "multilabel": FIGURES,
    "regression": {
        "mae": lambda tally: tally.absolute.value,
        "rmse": lambda tally: tally.squared.value**0.5,
        "mse": lambda tally: tally.squared.value,
        "r2": r2,
        "mape": lambda tally: 100 * tally.others["mape"].value,
        "smape": lambda tally: 100 * tally.others["smape"].value,
    },
}
"""The metrics of each task, by the names that configurations and reports use."""

DEFAULTS: dict[str, tuple[str, ...]] = {
    "binary": tuple(TASKS["binary"]),
    "multiclass": tuple(TASKS["multiclass"]),
    "multilabel": tuple(FIGURES),
    "regression": ("mae", "rmse", "mse", "r2"),
}

BASELINE: dict[str, tuple[str, ...]] = {
    "binary": ("accuracy", "kappa"),
    "multiclass": ("accuracy", "kappa"),
    "multilabel": ("exact_match", "hamming_loss", "jaccard", "micro_f1"),
    "regression": ("mae", "rmse", "r2"),
}
"""What is reported of the baselines, which have neither probabilities nor a window."""


def formula(task: str, name: str) -> Formula | None:
    """The formula of a metric, or None for one that has to see every event.

    A name with a colon is a metric class, or a callable that makes a metric
    (``river.metrics:MCC``). Those of river that keep nothing but a confusion matrix
    read ours; the others are built by :func:`build`.
    """
    if name in TASKS[task]:
        return TASKS[task][name]
    if ":" not in name:
        raise ConfigError(
            f"metrics: there is no {name!r} for task {task!r}",
            hint=f"accepted values: {', '.join(TASKS[task])}, or module:attribute of a metric",
        )
    kind = plugins.resolve(name, "metrics")
    if task in {"multilabel", "regression"} or not _keeps_only_confusion(kind):
        return None
    found = shared(kind)
    try:
        found(LabelTally({(True, True): 1}, 0, Mean(), np.zeros((2, 1))))
    except (TypeError, NotImplementedError) as error:
        raise _not_by_name(name, error) from error
    return found


def build(name: str) -> Any:
    """A new metric from its ``module:attribute``, to be updated event by event."""
    try:
        made = plugins.resolve(name, "metrics")()
    except TypeError as error:
        raise _not_by_name(name, error) from error
    if not (hasattr(made, "update") and hasattr(made, "get")):
        raise ConfigError(
            f"metrics: {name!r} makes a {type(made).__name__}, which is no metric",
            hint="a metric has update(y_true, y_pred) and get()",
        )
    return made


def _not_by_name(name: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"metrics: {name!r} gives no figure without options: {error}",
        hint="write a function without parameters that makes it, and name that",
    )


def _keeps_only_confusion(kind: Any) -> bool:
    base = _river.base
    return (
        isinstance(kind, type)
        and issubclass(kind, base.ClassificationMetric)
        and kind.update in {base.ClassificationMetric.update, base.BinaryMetric.update}  # type: ignore[attr-defined]
    )


def figure(value: float | None) -> float | None:
    """As a plain number for a report: what is not finite is None, and -0.0 is 0.0."""
    if value is None or not math.isfinite(value):
        return None
    return float(value) + 0.0


def pooled(tallies: Sequence[Any], formulas: Mapping[str, Formula]) -> dict[str, float | None]:
    """The figures by name, over tallies of the same kind."""
    tally = type(tallies[0]).pooled(tallies)
    return {name: figure(formula(tally)) for name, formula in formulas.items()}
