"""Fading factors: sums in which every event weighs ``alpha`` times its successor.

Source: Gama, Sebastiao and Rodrigues, "On evaluating stream learning algorithms",
Machine Learning 90(3), 2013.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stream_update.errors import ConfigError

__all__ = ["Fading", "Floats", "Piece"]

Floats = npt.NDArray[np.float64]

PERIOD = 1024
LARGEST_WEIGHT = 1e100


class Piece(NamedTuple):
    """A stretch of a block: events ``start`` to ``stop`` and their weights.

    The sums so far are to be multiplied by ``shrink`` before they are added to.
    """

    start: int
    stop: int
    weights: Floats
    shrink: float


class Fading:
    """The weights of consecutive events.

    Weights rise by ``1 / alpha`` from event to event, and all sums shrink once in a
    period to keep them in range: no sum is touched at every event, and where a period
    ends follows from the event's number, never from how the events were cut.
    """

    def __init__(self, alpha: float) -> None:
        if not 0.0 < alpha <= 1.0:
            raise ConfigError(
                f"fading: expected a factor above 0 and at most 1, got {alpha!r}",
                hint="0.999 remembers about a thousand events, 1 forgets nothing",
            )
        weights = [1.0]
        while len(weights) < PERIOD and weights[-1] / alpha <= LARGEST_WEIGHT:
            weights.append(weights[-1] / alpha)
        self.alpha = alpha
        self._weights = np.array(weights)
        self._shrink = alpha / weights[-1]

    def pieces(self, seen: int, count: int) -> Iterator[Piece]:
        """The next ``count`` events after ``seen`` ones, cut where a period ends."""
        period = len(self._weights)
        first = seen % period
        cuts = [0, *range(period - first, count, period), count]
        for start, stop in pairwise(cuts):
            position = (seen + start) % period
            fresh = position == 0 and seen + start > 0
            yield Piece(
                start,
                stop,
                self._weights[position : position + stop - start],
                self._shrink if fresh else 1.0,
            )

    def last_weight(self, seen: int) -> float:
        """The weight of the event number ``seen``: what to divide the sums by, so that
        the last event weighs one.
        """
        return float(self._weights[(seen - 1) % len(self._weights)]) if seen else 1.0


def running_sums(before: Floats, added: npt.NDArray[Any]) -> Floats:
    """``before`` plus what ``added`` has for each sum in a row, strictly one after the other."""
    rows = np.concatenate((before[:, np.newaxis], added), axis=1)
    last: Floats = np.add.accumulate(rows, axis=1)[:, -1]
    return last
