"""What an average user says of an average item: where every score starts from."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from stream_update.errors import CorruptSnapshot
from stream_update.events import Tree

__all__ = ["Averages"]

FADE = 0.9995
"""By how much an event counts less than the next one for the shift."""

MOST = 20.0


class Averages:
    """The mean label and its range, and for chances the shift from drawn events to real ones.

    Where items that nobody was asked about are learned as not taken, scores tell taken items
    from all there are. Chances are to be those of the events that come; so a constant is
    learned of these alone, by Newton's method with fading sums.
    """

    def __init__(self, *, chances: bool, drawn: bool) -> None:
        self._chances = chances
        self._drawn = drawn
        self.count = 0
        self._total = 0.0
        self._least, self._most = math.inf, -math.inf
        self._shift = 0.0
        self._curvature = 0.0

    @property
    def mean(self) -> float:
        return self._total / self.count if self.count else 0.0

    @property
    def range(self) -> tuple[float, float]:
        return self._least, self._most

    @property
    def offset(self) -> float:
        """The score of an average user with an average item, among all that is learned."""
        if not self._chances:
            return self.mean
        share = (self._total + 0.5) / (self.count + 1.0)
        return math.log(share / (1.0 - share))

    @property
    def answered(self) -> float:
        """The same among the events that come."""
        return self.offset + self._shift

    def learn(self, labels: NDArray[np.float64]) -> None:
        """Take in numbers, those for what was drawn among them."""
        self.count += len(labels)
        self._total += float(labels.sum())
        self._least = min(self._least, float(labels.min()))
        self._most = max(self._most, float(labels.max()))

    def compare(self, scores: NDArray[np.float64], labels: NDArray[np.float64]) -> None:
        """Take in what was right for events whose scores, without an offset, were these."""
        if not self._drawn or not np.isfinite(scores).all():
            return
        chances = 1.0 / (1.0 + np.exp(-np.clip(scores + self.answered, -MOST, MOST)))
        slope = float((chances * (1.0 - chances)).sum())
        self._curvature = FADE ** len(labels) * self._curvature + slope
        step = float((labels - chances).sum()) / (self._curvature + 1.0)
        self._shift = min(MOST, max(-MOST, self._shift + step))

    def dump(self) -> Tree:
        if not self.count:
            return None
        return [
            self.count, self._total, self._least, self._most, self._shift, self._curvature
        ]  # fmt: skip

    def load(self, tree: Tree) -> None:
        """Take back what :meth:`dump` gave, into fresh ones; raises :class:`CorruptSnapshot`."""
        if tree is None:
            return
        numbers: Iterable[float] = tree
        if not all(map(math.isfinite, numbers)):
            raise CorruptSnapshot("the mean label is no number", reason="non-finite")
        self.count, self._total, self._least, self._most, self._shift, self._curvature = tree
        # A mean that was rounded may be the least by one digit less.
        apart = 1e-9 * (1.0 + abs(self.mean))
        if self.count < 1 or not self._least - apart <= self.mean <= self._most + apart:
            raise CorruptSnapshot("the mean label is not between the least and the greatest")
