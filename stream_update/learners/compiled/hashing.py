"""What river's hasher makes of events, quickly where all of them have the same names."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from stream_update.events import Features, Table
from stream_update.learners.compiled.rows import NOT_NUMBERS, Floats, floats, values

__all__ = ["Hashing"]


class _Names(NamedTuple):
    """Names of features, the number of each, and whether its values are turned round."""

    names: list[Any]
    numbers: list[int]
    signs: Floats
    apart: bool


class Hashing:
    """A ``FeatureHasher``, which asks river's for what it does not know."""

    def __init__(self, hasher: Any) -> None:
        self._hasher = hasher
        self._last = self._known([])

    def events(self, features: Sequence[Features]) -> list[Features]:
        """The events that river's hasher makes of these."""
        return [self._hasher.transform_one(event) for event in features]

    def alike(self, features: Sequence[Features]) -> tuple[list[int], Floats] | None:
        """The names and all values of what river's hasher makes of these events, in which the
        names are the same; None if they are not, or if two of them meet in one number.
        """
        names = list(features[0]) if features else []
        if not isinstance(features, Table) and (
            list(chain.from_iterable(features)) != names * len(features)
        ):
            return None
        if names != self._last.names:
            self._last = self._known(names)
        if not self._last.apart:
            return None
        try:
            found = floats(values(features), len(names) * len(features))
        except NOT_NUMBERS:
            return None
        return self._last.numbers, found * np.tile(self._last.signs, len(features))

    def _known(self, names: list[Any]) -> _Names:
        pairs = [pair for name in names for pair in self._hasher.transform_one({name: 1}).items()]
        numbers = [number for number, _ in pairs]
        signs = np.array([sign for _, sign in pairs], float)
        return _Names(names, numbers, signs, len(set(numbers)) == len(numbers))
