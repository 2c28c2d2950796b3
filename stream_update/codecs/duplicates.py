"""Events that a producer has sent twice, recognised by their ids."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from stream_update.events import Tree

__all__ = ["DuplicateFilter"]


class DuplicateFilter:
    """Remembers the ids of the last ``window`` events that had one.

    The window is a count, so what it remembers depends on nothing but the events; it is
    part of the lane's state. An event without an id is no duplicate of any other.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._order: deque[Any] = deque()
        self._known: set[Any] = set()

    def fresh(self, ids: Sequence[Any]) -> list[int] | None:
        """The indices of the events that are no duplicates; None if that is all of them."""
        keep = []
        for index, name in enumerate(ids):
            if name is not None:
                if name in self._known:
                    continue
                self._remember(name)
            keep.append(index)
        return None if len(keep) == len(ids) else keep

    def _remember(self, name: Any) -> None:
        if len(self._order) == self._window:
            self._known.remove(self._order.popleft())
        self._order.append(name)
        self._known.add(name)

    def dump(self) -> Tree:
        """The ids, oldest first."""
        return list(self._order)

    def load(self, tree: Tree) -> None:
        """Replace what is remembered by what :meth:`dump` returned."""
        self._order = deque(tree)
        self._known = set(tree)
        if len(self._known) != len(self._order) or len(self._order) > self._window:
            raise ValueError(f"not the ids of at most {self._window} events")
