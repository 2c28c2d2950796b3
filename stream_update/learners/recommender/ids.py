"""Ids become rows of a table that never has more than so many."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream_update.errors import CorruptSnapshot
from stream_update.events import Tree

__all__ = ["NOBODY", "Admitted", "Id", "IdTable", "Whole", "check_id"]

Id = str | int
Whole = NDArray[np.int64]

NOBODY = 0
"""The row of every id that has none of its own."""

MAX_TEXT = 256
INT64 = 2**63


class Admitted(NamedTuple):
    """The row of each id, and those rows, each once, that are new or have changed hands."""

    rows: list[int]
    fresh: list[int]


class IdTable:
    """A row for each id, at most ``limit`` of them; row 0 is nobody's.

    When the table is full, a newcomer gets the row of the id that has rested longest. One
    that was used ``protect`` times or more is passed over once for every halving of its count
    until that is less: it goes to the back of the queue. So frequent ids outlast a wave of
    newcomers, and what was frequent long ago leaves in the end. With 0, no id is passed over.

    The rows depend on nothing but the ids in their order.
    """

    def __init__(self, limit: int, *, protect: int = 0) -> None:
        self.limit = limit
        self.evicted = 0
        self._protect = protect
        self._rows: OrderedDict[Id, int] = OrderedDict()
        self._ids: list[Id] = [""]
        self._counts: list[int] = [0]
        self._serials: Whole = np.zeros(64, dtype=np.int64)
        self._arrived = 0

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, one: object) -> bool:
        return one in self._rows

    @property
    def serials(self) -> Whole:
        """For each row the number of its id in the order of arrival. A row and its serial
        number say whether it still belongs to the id that it belonged to. Not to be kept: it
        changes as ids come.
        """
        return self._serials[: len(self._ids)]

    def id_of(self, row: int) -> Id:
        return self._ids[row]

    def find(self, ids: Iterable[Any]) -> Whole:
        """Rows of these ids; 0 for those that have none. Changes nothing."""
        get = self._rows.get
        return np.array([get(one, NOBODY) for one in ids], dtype=np.int64)

    def admit(self, ids: Sequence[Id]) -> Admitted:
        """Give each a row and note that it was used. The ids of one call do not drive each
        other out: with more different ones than there is room for, raise :class:`ValueError`.
        """
        rows = self._rows
        together = dict.fromkeys(ids)
        if len(together) > self.limit:
            raise ValueError(f"{len(together)} ids at once in a table that takes {self.limit}")
        fresh = []
        for one in together:
            if one not in rows:
                row = self._room(together)
                self._arrived += 1
                rows[one] = row
                self._ids[row], self._counts[row], self._serials[row] = one, 0, self._arrived
                fresh.append(row)
        for one in ids:
            rows.move_to_end(one)
            self._counts[rows[one]] += 1
        return Admitted([rows[one] for one in ids], fresh)

    def _room(self, together: dict[Id, None]) -> int:
        if len(self._rows) < self.limit:
            self._ids.append("")
            self._counts.append(0)
            if len(self._ids) > len(self._serials):
                self._serials = np.pad(self._serials, (0, len(self._serials)))
            return len(self._ids) - 1
        while True:
            one, row = next(iter(self._rows.items()))
            if one not in together:
                if not 0 < self._protect <= self._counts[row]:
                    del self._rows[one]
                    self.evicted += 1
                    return row
                self._counts[row] //= 2
            self._rows.move_to_end(one)

    def dump(self) -> Tree:
        return {
            "ids": self._ids[1:],
            "counts": np.array(self._counts[1:], dtype=np.int64).tobytes(),
            "serials": self.serials[1:].tobytes(),
            "order": np.array(list(self._rows.values()), dtype=np.int64).tobytes(),
            "arrived": self._arrived,
            "evicted": self.evicted,
        }

    def load(self, tree: Tree) -> None:
        """Take back what :meth:`dump` gave; raises :class:`CorruptSnapshot`."""
        ids = list(tree["ids"])
        if len(ids) > self.limit:
            raise CorruptSnapshot(f"{len(ids)} ids in a table that takes {self.limit}")
        for one in ids:
            check_id(one)
        counts, serials, order = (
            np.frombuffer(tree[name], dtype=np.int64) for name in ("counts", "serials", "order")
        )
        if not len(ids) == len(set(ids)) == len(counts) == len(serials):
            raise CorruptSnapshot("the columns of the ids do not belong together")
        if not np.array_equal(np.sort(order), np.arange(1, len(ids) + 1)):
            raise CorruptSnapshot("the order of the ids does not name each row once")
        self._ids = ["", *ids]
        self._counts = [0, *counts.tolist()]
        self._serials = np.concatenate([[0], serials])
        self._rows = OrderedDict((self._ids[row], row) for row in order.tolist())
        self._arrived, self.evicted = int(tree["arrived"]), int(tree["evicted"])


def check_id(one: Any) -> None:
    """Raise :class:`TypeError` or :class:`ValueError` for what cannot be an id."""
    if isinstance(one, bool) or not isinstance(one, str | int):
        raise TypeError(f"an id is a text or a whole number, not a {type(one).__name__}")
    if isinstance(one, str) and len(one) > MAX_TEXT:
        raise ValueError(f"an id of {len(one)} characters is longer than {MAX_TEXT}")
    if isinstance(one, int) and not -INT64 <= one < INT64:
        raise ValueError("an id that is a number has at most 64 bits")
