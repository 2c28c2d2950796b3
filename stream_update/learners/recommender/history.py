"""The last items of each user."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from stream_update.errors import CorruptSnapshot
from stream_update.events import Tree
from stream_update.learners.recommender.ids import Whole

__all__ = ["History"]


class History:
    """For each user's row the rows of at most ``length`` items, with their serial numbers.

    An item whose row has gone to another one since is forgotten: the number differs.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self._items: Whole = np.zeros((1, length), dtype=np.int64)
        self._serials: Whole = np.zeros((1, length), dtype=np.int64)
        self._counts: Whole = np.zeros(1, dtype=np.int64)

    def admit(self, users: int, fresh: Sequence[int]) -> None:
        """Have room for rows up to ``users``, and nothing in the ``fresh`` ones."""
        if users >= len(self._counts):
            more = max(users + 1, 2 * len(self._counts)) - len(self._counts)
            self._items = np.pad(self._items, ((0, more), (0, 0)))
            self._serials = np.pad(self._serials, ((0, more), (0, 0)))
            self._counts = np.pad(self._counts, (0, more))
        self._items[fresh] = 0
        self._counts[fresh] = 0

    def add(self, users: Iterable[int], items: Iterable[int], serials: Whole) -> None:
        """Each user took that item; ``serials`` are those of all item rows."""
        for user, item in zip(users, items, strict=True):
            at = self._counts[user] % self.length
            self._items[user, at] = item
            self._serials[user, at] = serials[item]
            self._counts[user] += 1

    def read(self, users: Whole, serials: Whole) -> Whole:
        """Item rows of shape (users, length), the oldest first, and 0 behind the last."""
        counts = self._counts[users][:, None]
        start = np.where(counts < self.length, 0, counts)
        where = (start + np.arange(self.length)) % self.length
        items = np.take_along_axis(self._items[users], where, axis=1)
        marks = np.take_along_axis(self._serials[users], where, axis=1)
        items = np.where(serials[items] == marks, items, 0)
        gaps = np.argsort(items == 0, axis=1, kind="stable")
        return np.take_along_axis(items, gaps, axis=1)

    def dump(self, users: int) -> Tree:
        stop = users + 1
        return {
            "items": self._items[:stop].tobytes(),
            "serials": self._serials[:stop].tobytes(),
            "counts": self._counts[:stop].tobytes(),
        }

    def load(self, tree: Tree, users: int, items: int) -> None:
        """Take back what :meth:`dump` gave; raises :class:`CorruptSnapshot`."""
        rows, serials, counts = (
            np.frombuffer(tree[name], dtype=np.int64) for name in ("items", "serials", "counts")
        )
        if len(counts) != users + 1 or not len(rows) == len(serials) == len(counts) * self.length:
            raise CorruptSnapshot(f"the histories are not those of {users} users")
        if rows.size and not (rows.min() >= 0 and rows.max() <= items and counts.min() >= 0):
            raise CorruptSnapshot("a history names a row that no item has")
        self._items = rows.reshape(-1, self.length).copy()
        self._serials = serials.reshape(-1, self.length).copy()
        self._counts = counts.copy()
