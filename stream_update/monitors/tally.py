"""What figures are computed from: sufficient statistics that can be added up.

There is one tally for everything since the start, one for the last events, and one
that fades; those of several lanes are pooled before anything is divided.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from stream_update.monitors.confusion import Confusion

__all__ = ["LabelTally", "Marginals", "Mean", "NumberTally", "Tally"]


class Mean(NamedTuple):
    """A mean, and the weight (mostly the number of events) behind it."""

    weight: float = 0.0
    value: float = 0.0

    @classmethod
    def pooled(cls, means: Iterable[Mean]) -> Mean:
        """The mean over all that is behind these; exactly the mean if it is only one."""
        first, *others = [mean for mean in means if mean.weight] or [cls()]
        for mean in others:
            weight = first.weight + mean.weight
            total = first.weight * first.value + mean.weight * mean.value
            first = cls(weight, total / weight)
        return first


@dataclass(frozen=True)
class LabelTally:
    """Classification: everything follows from these.

    ``pairs`` is the weight of each (label, prediction), in the order of first
    appearance. ``no_change_hits`` is the weight of events whose label was that of the
    event before. ``loss`` is the log loss of those events that came with probabilities,
    and ``ranks`` counts them, shape (2, thresholds + 1): by whether the label is True and
    by how many thresholds of the ROC curve lie below its probability.
    """

    pairs: Mapping[tuple[Any, Any], float]
    no_change_hits: float
    loss: Mean
    ranks: npt.NDArray[Any]

    @cached_property
    def confusion(self) -> Confusion:
        return Confusion.of(self.pairs)

    @cached_property
    def binary(self) -> Confusion:
        """True against everything else, as river's binary metrics count."""
        pairs: dict[tuple[bool, bool], float] = {}
        for (label, value), weight in self.pairs.items():
            pair = bool(label == True), bool(value == True)  # noqa: E712 - 1 counts as True too
            pairs[pair] = pairs.get(pair, 0) + weight
        return Confusion.of(pairs)

    @classmethod
    def pooled(cls, tallies: Sequence[Self]) -> Self:
        if len(tallies) == 1:
            return tallies[0]
        return cls(
            _added(tally.pairs for tally in tallies),
            sum(tally.no_change_hits for tally in tallies),
            Mean.pooled(tally.loss for tally in tallies),
            np.sum([tally.ranks for tally in tallies], axis=0),
        )


@dataclass(frozen=True)
class Marginals:
    """Classification by a baseline: how often each label was and was predicted."""

    labels: Mapping[Any, float]
    values: Mapping[Any, float]
    hits: float

    @cached_property
    def confusion(self) -> Confusion:
        return Confusion.of_marginals(self.labels, self.values, self.hits)

    @classmethod
    def pooled(cls, tallies: Sequence[Self]) -> Self:
        return cls(
            _added(tally.labels for tally in tallies),
            _added(tally.values for tally in tallies),
            sum(tally.hits for tally in tallies),
        )


@dataclass(frozen=True)
class NumberTally:
    """Regression: everything follows from these.

    ``residual`` is the sum of squared errors, ``labels`` the mean label, ``scatter``
    the sum of squared distances from it, and ``others`` holds the mean of each further
    loss that was asked for, by metric name.
    """

    absolute: Mean
    squared: Mean
    residual: float
    labels: Mean
    scatter: float
    others: Mapping[str, Mean]

    @classmethod
    def pooled(cls, tallies: Sequence[Self]) -> Self:
        """Scatter is pooled as by Chan, Golub and LeVeque (1983)."""
        first, *others = tallies
        labels, scatter = first.labels, first.scatter
        for tally in others:
            weight = labels.weight + tally.labels.weight
            if weight:
                apart = labels.value - tally.labels.value
                share = labels.weight * tally.labels.weight / weight
                scatter += tally.scatter + apart * apart * share
            labels = Mean.pooled((labels, tally.labels))
        return cls(
            Mean.pooled(tally.absolute for tally in tallies),
            Mean.pooled(tally.squared for tally in tallies),
            sum((tally.residual for tally in others), first.residual),
            labels,
            scatter,
            {name: Mean.pooled(tally.others[name] for tally in tallies) for name in first.others},
        )


Tally = LabelTally | Marginals | NumberTally


def _added(counts: Iterable[Mapping[Any, float]]) -> dict[Any, float]:
    total: dict[Any, float] = {}
    for count in counts:
        for key, weight in count.items():
            total[key] = total.get(key, 0) + weight
    return total
