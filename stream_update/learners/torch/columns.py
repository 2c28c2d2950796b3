"""Feature names become the columns of a matrix, in the order in which they arrive."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain
from math import nan
from operator import is_, itemgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream_update.errors import LearnerFailed
from stream_update.events import Features, Predictions, Tree

__all__ = ["Columns", "Floats", "Table"]

Floats = NDArray[np.float64]
LARGEST = int(sys.float_info.max)
"""Of whole numbers."""
LARGEST_NAME = (1 << 63) - 1
"""Of those that are names: what a snapshot has room for."""


class Table(NamedTuple):
    """Events as ``numbers``, one column for each numeric feature, NaN where it is missing,
    and ``ones``, the rows and the columns (of the whole matrix) of categories.
    """

    numbers: Floats
    ones: tuple[list[int], list[int]]


class Columns:
    """The vocabulary of a stream: every column keeps its place for ever.

    A number is a column. A text is a category, and so is every value of the features named
    in ``categorical``: each value has a column that is 1 where it occurs. With ``mask``,
    the column behind a number's is 1 where that number is missing. When there are ``limit``
    columns, no more are added: what comes then is not seen. Features named in ``apart`` are
    no columns.
    """

    def __init__(
        self,
        *,
        categorical: Iterable[str] = (),
        mask: bool = False,
        limit: int = 10_000,
        apart: AbstractSet[str] = frozenset(),
    ) -> None:
        self._categorical = frozenset(categorical)
        self._mask = mask
        self._limit = limit
        self._apart = apart
        self.numbers: list[str] = []
        self._seen: set[str] = set()
        self._at: list[int] = []
        self._categories: dict[str, dict[Any, int]] = {}
        self._order: list[list[Any]] = []
        self._get: Callable[[Features], tuple[Any, ...]] = lambda _: ()
        self._plain = True
        self._read: tuple[list[Features], Floats | None] = ([], None)

    def __len__(self) -> int:
        return len(self._order)

    @property
    def names(self) -> list[str]:
        """The columns in order, for people and for who builds a module."""
        return [_name(*entry) for entry in self._order]

    def declare(self, names: Iterable[str]) -> None:
        """Admit numeric features ahead of the first event."""
        for name in names:
            if name not in self._categorical and name not in self._apart:
                self._add_number(name)
        self._know()

    def admit(self, features: Sequence[Features]) -> None:
        """Add the columns that these events need.

        Raises :class:`~stream_update.errors.LearnerFailed` at a value that is neither a
        number, a text nor a truth value, and at a whole number that has no room.
        """
        # Who has as many features as there are numbers, and all of these, has nothing else.
        lengths = set(map(len, features))
        whole = lengths == {len(self.numbers) + len(self._apart)} and all(
            name in event for name in self._apart for event in features
        )
        if self._plain and whole and self._complete(features) is not None:
            return
        try:
            for index, event in enumerate(features):
                self._admit_one(index, event)
        finally:
            self._know()

    def _admit_one(self, index: int, event: Features) -> None:
        for name, value in event.items():
            if name in self._apart:
                continue
            category = isinstance(value, str) or name in self._categorical
            if type(value) is int and abs(value) > (LARGEST_NAME if category else LARGEST):
                large = ValueError(f"feature {name!r} is a whole number of too many digits")
                raise LearnerFailed(index, "learn", large, Predictions([]))
            if category:
                self._add_category(name, value)
            elif isinstance(value, int | float):
                self._add_number(name)
            elif value is not None:
                cause = TypeError(f"feature {name!r} is a {type(value).__name__}")
                raise LearnerFailed(index, "learn", cause, Predictions([]))

    def read(self, features: Sequence[Features]) -> Table:
        """The events as far as their columns are known. Nobody may write into it."""
        numbers = self._complete(features)
        if numbers is None:
            flat = array("d", [_number(x.get(name)) for x in features for name in self.numbers])
            numbers = np.frombuffer(flat).reshape(len(features), len(self.numbers))
        return Table(numbers, self._ones(features))

    def matrix(self, table: Table, scaled: Floats) -> Floats:
        """All columns; ``scaled`` are the numbers as the network is to see them."""
        if self._plain:
            return scaled
        whole = np.zeros((len(scaled), len(self._order)))
        whole[:, self._at] = scaled
        if self._mask:
            whole[:, [at + 1 for at in self._at]] = np.isnan(table.numbers)
        rows, columns = table.ones
        whole[rows, columns] = 1.0
        return whole

    def dump(self) -> Tree:
        return [list(entry) for entry in self._order]

    def load(self, tree: Tree) -> None:
        """Replace what has been admitted by what :meth:`dump` returned."""
        self.numbers, self._at, self._categories, self._order = [], [], {}, []
        self._seen = set()
        for kind, name, *value in tree:
            if kind == "number":
                self._add_number(name)
            elif kind == "category":
                self._add_category(name, *value)
        self._know()

    def _add_number(self, name: str) -> None:
        if name in self._seen or len(self._order) + 1 + self._mask > self._limit:
            return
        self._seen.add(name)
        self._at.append(len(self._order))
        self.numbers.append(name)
        self._order.append(["number", name])
        if self._mask:
            self._order.append(["missing", name])

    def _add_category(self, name: str, value: Any) -> None:
        values = self._categories.setdefault(name, {})
        if value is not None and value not in values and len(self._order) < self._limit:
            values[value] = len(self._order)
            self._order.append(["category", name, value])

    def _know(self) -> None:
        self._plain = not self._mask and not self._categories
        self._read = ([], None)
        if len(self.numbers) == 1:
            (name,) = self.numbers
            self._get = lambda x: (x[name],)
        elif self.numbers:
            self._get = itemgetter(*self.numbers)

    def _complete(self, features: Sequence[Features]) -> Floats | None:
        """The numbers if each event has all of them, else None.

        A mini-batch is asked for three times in a row: predicted, looked through for new
        names, learned. It is the same one if its events are the same objects.
        """
        events, numbers = self._read
        if len(events) != len(features) or not all(map(is_, events, features)):
            try:
                # An array takes no text for a number; numpy would.
                flat = array("d", chain.from_iterable(map(self._get, features)))
                numbers = np.frombuffer(flat).reshape(len(features), len(self.numbers))
            except (KeyError, TypeError, OverflowError):
                numbers = None
            self._read = (list(features), numbers)
        return numbers

    def _ones(self, features: Sequence[Features]) -> tuple[list[int], list[int]]:
        rows: list[int] = []
        columns: list[int] = []
        for name, values in self._categories.items():
            for row, event in enumerate(features):
                column = values.get(event.get(name))
                if column is not None:
                    rows.append(row)
                    columns.append(column)
        return rows, columns


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else nan


def _name(kind: str, name: str, value: Any = None) -> str:
    if kind == "category":
        return f"{name}={value}"
    return name if kind == "number" else f"{name} is missing"
