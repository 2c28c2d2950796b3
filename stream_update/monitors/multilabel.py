"""Figures where several classes may apply to an event: what they are, and what they come from.

An event says of every class known so far whether it applies, and so does a prediction; a class
that the prediction does not name does not apply, nor does any where there is no answer. Where
river has the figure its ``get()`` computes it: the mean over events is that of
``river.metrics.multioutput.SampleAverage``, micro and macro are ``MicroAverage`` and
``MacroAverage``. An event to which no class applies, and none is said to, has the Jaccard index
0, as in river, and is an exact match.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from river import metrics

from stream_update.errors import ConfigError, Fatal
from stream_update.monitors.confusion import Confusion
from stream_update.monitors.fading import Floats
from stream_update.monitors.losses import binary_log_losses
from stream_update.monitors.tally import Mean

__all__ = [
    "FIGURES",
    "SetTally",
    "as_river",
    "by_class",
    "check_metric",
    "hamming_loss",
    "log_losses",
    "said_classes",
]

MOST_CLASSES = 100
"""So many are reported by themselves: a record has to stay small."""

Counts = tuple[float, float, float, float]

_river: Any = metrics


@dataclass(frozen=True)
class SetTally:
    """What all figures follow from.

    ``counts`` has for each class, in the order of first appearance, the weight of the events
    that are true negatives, false positives, false negatives and true positives of it. The
    others are means over events: whether all classes were right, the share of classes that
    were wrong, the Jaccard index, and the log loss of those that came with probabilities.
    """

    counts: Mapping[Any, Counts]
    exact: Mean
    hamming: Mean
    jaccard: Mean
    loss: Mean

    @cached_property
    def by_class(self) -> list[Confusion]:
        return [_confusion(counts) for counts in self.counts.values() if sum(counts)]

    @cached_property
    def together(self) -> Confusion:
        columns = list(zip(*self.counts.values(), strict=True)) or [()] * 4
        negative, false_positive, false_negative, positive = map(sum, columns)
        return _confusion((negative, false_positive, false_negative, positive))

    @classmethod
    def pooled(cls, tallies: Sequence[Self]) -> Self:
        if len(tallies) == 1:
            return tallies[0]
        counts: dict[Any, Counts] = {}
        for tally in tallies:
            for name, found in tally.counts.items():
                a, b, c, d = counts.get(name, (0, 0, 0, 0))
                counts[name] = a + found[0], b + found[1], c + found[2], d + found[3]
        return cls(
            counts,
            Mean.pooled(tally.exact for tally in tallies),
            Mean.pooled(tally.hamming for tally in tallies),
            Mean.pooled(tally.jaccard for tally in tallies),
            Mean.pooled(tally.loss for tally in tallies),
        )


def _confusion(counts: Counts) -> Confusion:
    """Of whether it applies, and was said to."""
    pairs = ((False, False), (False, True), (True, False), (True, True))
    return Confusion.of(dict(zip(pairs, counts, strict=True)))


def _micro(kind: Any) -> Callable[[SetTally], float]:
    return lambda tally: kind(cm=tally.together).get()


def _macro(kind: Any) -> Callable[[SetTally], float]:
    def figure(tally: SetTally) -> float:
        found = [kind(cm=confusion).get() for confusion in tally.by_class]
        return statistics.mean(found) if found else 0.0

    return figure


def _log_loss(tally: SetTally) -> float | None:
    return tally.loss.value if tally.loss.weight or not tally.exact.weight else None


FIGURES: dict[str, Callable[[Any], float | None]] = {
    "exact_match": lambda tally: tally.exact.value,
    "hamming_loss": lambda tally: tally.hamming.value,
    "jaccard": lambda tally: tally.jaccard.value,
    "micro_precision": _micro(_river.Precision),
    "micro_recall": _micro(_river.Recall),
    "micro_f1": _micro(_river.F1),
    "macro_precision": _macro(_river.Precision),
    "macro_recall": _macro(_river.Recall),
    "macro_f1": _macro(_river.F1),
    "log_loss": _log_loss,
}
"""By the names that configurations and reports use."""


def by_class(tallies: Sequence[SetTally]) -> list[dict[str, Any]]:
    """How often each class was known, applied, was said to apply, and was right in that.

    Of more than 100 classes those that applied most often.
    """
    rows = [
        {
            "class": name,
            "events": sum(counts),
            "labelled": counts[2] + counts[3],
            "predicted": counts[1] + counts[3],
            "right": counts[3],
        }
        for name, counts in SetTally.pooled(tallies).counts.items()
    ]
    if len(rows) > MOST_CLASSES:
        rows = sorted(rows, key=lambda row: -row["labelled"])[:MOST_CLASSES]
    return rows


def said_classes(value: Any) -> Mapping[Any, bool]:
    """A prediction, of no class where there is none.

    Raises :class:`~stream_update.errors.Fatal` if it is something else.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise Fatal(
            f"the learner predicted {value!r:.200}, which does not say of classes whether they "
            "apply",
            hint="a learner of task 'multilabel' has to predict a mapping of class to bool",
        )
    return value


def hamming_loss(label: Mapping[Any, bool], value: Any) -> float:
    """The share of the classes that the prediction is wrong about, 0 if there are none."""
    said = said_classes(value)
    unknown = sum(1 for name, applies in said.items() if applies and name not in label)
    wrong = unknown + sum(bool(said.get(name, False)) != applies for name, applies in label.items())
    return wrong / (len(label) + unknown) if wrong else 0.0


def log_losses(
    labels: Sequence[Mapping[Any, bool]], probabilities: Sequence[Mapping[Any, float]]
) -> list[float]:
    """The mean over an event's classes, as ``SampleAverage(LogLoss())`` of river has it.

    A class without a probability has the probability 0.
    """
    sizes = list(map(len, labels))
    truths = np.array([on for label in labels for on in label.values()], dtype=bool)
    chances = np.array(
        [
            chances.get(name, 0.0)
            for label, chances in zip(labels, probabilities, strict=True)
            for name in label
        ],
        dtype=np.float64,
    )
    losses = binary_log_losses(truths, chances)
    table: Floats = np.zeros((len(labels), max(sizes, default=0)))
    table[np.arange(table.shape[1]) < np.array(sizes, dtype=np.intp)[:, np.newaxis]] = losses
    means = np.zeros(len(labels))
    for column in range(table.shape[1]):
        further = means + (1.0 / (column + 1)) * (table[:, column] - means)
        means = np.where(column < np.array(sizes), further, means)
    made: list[float] = means.tolist()
    return made


def as_river(label: Mapping[Any, bool], answer: Any, uses: str) -> dict[Any, Any]:
    """What river's multi-output metrics are updated with: an answer for each of the classes."""
    said = said_classes(answer)
    if uses == "label":
        return {name: bool(said.get(name, False)) for name in label}
    chances = ((name, said.get(name, 0.0)) for name in label)
    return {name: {False: 1.0 - chance, True: chance} for name, chance in chances}


def check_metric(name: str, metric: Any) -> None:
    """Refuse metrics of river that want one label for an event."""
    if isinstance(metric, _river.base.ClassificationMetric | _river.base.RegressionMetric):
        raise ConfigError(
            f"metrics: {name!r} is a {type(metric).__name__}, which wants one label for an event",
            hint="[[metric]] with use = 'river.metrics.multioutput:MicroAverage' (or MacroAverage, "
            "SampleAverage) and metric = { use = 'river.metrics:...' }",
        )
