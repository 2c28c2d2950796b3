"""Events to arrays, with no loop in Python over their features."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream_update.events import Features, Table

__all__ = ["NOT_NUMBERS", "Floats", "Numbers", "Rows", "Slots", "floats", "values"]

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]

NOT_NUMBERS = (struct.error, TypeError, OverflowError)
"""What :func:`floats` raises for a text, a list, or an integer beyond all floats."""


def floats(values: Iterable[Any], count: int) -> Floats:
    """``count`` numbers as an array. Unlike numpy, it takes no text for a number."""
    buffer = bytearray(8 * count)
    struct.pack_into(f"{count}d", buffer, 0, *values)
    return np.frombuffer(buffer)


def values(features: Sequence[Features]) -> Iterable[Any]:
    """The values of the first event, then those of the second, and so on."""
    if isinstance(features, Table):
        return features.values
    return chain.from_iterable(map(dict.values, features))


class Rows(NamedTuple):
    """Events: ``length`` values from ``place`` on, with slots from ``first`` on."""

    first: Numbers
    place: Numbers
    length: Numbers
    slots: Numbers
    values: Floats

    def upto(self, count: int) -> Rows:
        """The first of them."""
        return Rows(self.first[:count], self.place[:count], self.length[:count], *self[3:])


@lru_cache(maxsize=64)
def _alike(count: int, size: int) -> tuple[Numbers, Numbers, Numbers]:
    """Where ``count`` events begin that have the same ``size`` slots, and their lengths."""
    length = np.full(count, size, np.int64)
    return np.zeros(count, np.int64), length.cumsum() - size, length


class Slots:
    """A number for each feature's name, in the order in which they come.

    ``grow(count)`` is told that there are so many now.
    """

    def __init__(self, names: Iterable[Any], grow: Callable[[int], None]) -> None:
        self._grow = grow
        self._numbers = {name: number for number, name in enumerate(names)}
        self._order: list[Any] = []
        self._alike: Numbers = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def names(self) -> list[Any]:
        return list(self._numbers)

    def rows(self, features: Sequence[Features]) -> Rows:
        """The events as rows; names that are new get the next numbers.

        Raises one of :data:`NOT_NUMBERS`, and then no name has got a number.
        """
        count = len(features)
        if isinstance(features, Table):
            names, total = list(features.names), len(features.values)
            return self.alike(names, count, floats(features.values, total))
        names = list(chain.from_iterable(features))
        values = floats(chain.from_iterable(map(dict.values, features)), len(names))
        # A name occurs once in an event, so this holds only if all events have these names.
        if count and names == (alike := list(features[0])) * count:
            return self.alike(alike, count, values)
        length = np.fromiter(map(len, features), np.int64, count)
        place = length.cumsum() - length
        return Rows(place, place, length, self._of(names), values)

    def alike(self, names: list[Any], count: int, values: Floats) -> Rows:
        """So many events as rows that all have these names in this order."""
        if names != self._order:
            self._alike = self._of(names)
            self._order = names
        return Rows(*_alike(count, len(names)), self._alike, values)

    def _of(self, names: Sequence[Any]) -> Numbers:
        numbers = self._numbers
        try:
            return np.fromiter(map(numbers.__getitem__, names), np.int64, len(names))
        except KeyError:
            for name in names:
                numbers.setdefault(name, len(numbers))
            self._grow(len(numbers))
        return np.fromiter(map(numbers.__getitem__, names), np.int64, len(names))

    def forget(self, count: int) -> None:
        """Keep only the first ``count`` names."""
        while len(self._numbers) > count:
            self._numbers.popitem()
        self._order = []
