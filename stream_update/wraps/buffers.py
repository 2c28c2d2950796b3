"""Which events of a stream are kept to be learned again, in bounded memory.

A buffer holds events as bytes, at most ``max_events`` of them and at most ``max_bytes``
together. An event that is larger than that alone is not kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from stream_update.events import Tree
from stream_update.wraps.draws import Draws

__all__ = ["BUFFERS", "Buffer", "ClassBalanced", "Recency", "Reservoir"]


class Buffer(Protocol):
    """``size`` is the sum of the bytes of what it holds."""

    size: int

    def __len__(self) -> int: ...

    def add(self, item: bytes, label: Any) -> None:
        """Offer an event, which may take the place of others or not be kept at all."""
        ...

    def pick(self) -> bytes:
        """One of those kept, at random; there must be one."""
        ...

    def discard(self, item: bytes) -> None:
        """Let go of an event, if it is there."""
        ...

    def counts(self) -> Iterator[tuple[Any, int]]:
        """How many are kept of each class, where that is known."""
        ...

    def dump(self) -> Tree: ...

    def load(self, tree: Tree) -> None: ...


class Reservoir:
    """A uniform sample of all events so far: algorithm R (Vitter, 1985).

    While ``max_bytes`` is what is short, events that differ in size make the sample smaller
    and larger again, and it is uniform only about.
    """

    def __init__(self, max_events: int, max_bytes: int, draws: Draws) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._draws = draws
        self._items: list[bytes] = []
        self._seen = 0
        self.size = 0

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: bytes, label: Any) -> None:  # noqa: ARG002
        self._seen += 1
        if len(item) > self._max_bytes:
            return
        room = self._has_room(item)
        place = self._draws.below(self._seen)
        if place >= len(self._items) + room:
            return
        if not room and place < len(self._items):
            self._remove(place)
        self._insert(item)

    def _has_room(self, item: bytes) -> bool:
        return len(self._items) < self._max_events and self.size + len(item) <= self._max_bytes

    def _insert(self, item: bytes) -> None:
        while not self._has_room(item):
            self._remove(self._draws.below(len(self._items)))
        self._items.append(item)
        self.size += len(item)

    def _remove(self, place: int) -> None:
        self.size -= len(self._items[place])
        # The last one moves into the hole: the order means nothing.
        self._items[place] = self._items[-1]
        self._items.pop()

    def pick(self) -> bytes:
        return self._items[self._draws.below(len(self._items))]

    def discard(self, item: bytes) -> None:
        before = len(self._items)
        self._items = [kept for kept in self._items if kept != item]
        self.size = sum(map(len, self._items))
        if before:
            # The others stand for their share of the stream, and its place is free again.
            self._seen = self._seen * len(self._items) // before

    def counts(self) -> Iterator[tuple[Any, int]]:
        yield from ()

    def dump(self) -> Tree:
        return {"items": list(self._items), "seen": self._seen}

    def load(self, tree: Tree) -> None:
        self._items, self._seen = list(tree["items"]), tree["seen"]
        self.size = sum(map(len, self._items))


class Recency(Reservoir):
    """Newer events rather than older ones: the biased reservoir of Aggarwal (2006).

    Every event goes in. The chance that one is still there falls by ``1 / max_events`` with
    each that follows, to a half after about ``0.7 * max_events``.
    """

    def add(self, item: bytes, label: Any) -> None:  # noqa: ARG002
        self._seen += 1
        if len(item) > self._max_bytes:
            return
        if self._draws.below(self._max_events) < len(self._items):
            self._remove(self._draws.below(len(self._items)))
        self._insert(item)


class ClassBalanced:
    """As many events of each class as can be: CBRS (Chrysakis and Moens, 2020).

    A class that is, or was, the largest one is sampled uniformly; any other has all of its
    events kept, at the cost of the largest class. A class is picked first and then one of
    its events, so that a rare one is learned again as often as others.
    """

    def __init__(self, max_events: int, max_bytes: int, draws: Draws) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._draws = draws
        self._items: dict[Any, list[bytes]] = {}
        self._seen: dict[Any, int] = {}
        self._full: set[Any] = set()
        self._count = 0
        self.size = 0

    def __len__(self) -> int:
        return self._count

    def add(self, item: bytes, label: Any) -> None:
        seen = self._seen[label] = self._seen.get(label, 0) + 1
        if len(item) > self._max_bytes:
            return
        if not self._has_room(item):
            self._full.update(self._largest())
            kept = len(self._items.get(label, ()))
            if kept and label in self._full:
                if self._draws.below(seen) >= kept:
                    return
                self._remove(label)
            while not self._has_room(item):
                largest = self._largest()
                self._remove(largest[self._draws.below(len(largest))])
        self._items.setdefault(label, []).append(item)
        self._count += 1
        self.size += len(item)

    def _has_room(self, item: bytes) -> bool:
        return self._count < self._max_events and self.size + len(item) <= self._max_bytes

    def _largest(self) -> list[Any]:
        most = max(map(len, self._items.values()))
        return [label for label, items in self._items.items() if len(items) == most]

    def _remove(self, label: Any) -> None:
        items = self._items[label]
        place = self._draws.below(len(items))
        self.size -= len(items[place])
        self._count -= 1
        items[place] = items[-1]
        items.pop()
        if not items:
            del self._items[label]

    def pick(self) -> bytes:
        items = list(self._items.values())[self._draws.below(len(self._items))]
        return items[self._draws.below(len(items))]

    def discard(self, item: bytes) -> None:
        left = {
            label: [kept for kept in items if kept != item] for label, items in self._items.items()
        }
        self._take({label: items for label, items in left.items() if items})

    def counts(self) -> Iterator[tuple[Any, int]]:
        for label, items in self._items.items():
            yield label, len(items)

    def _take(self, items: dict[Any, list[bytes]]) -> None:
        self._items = items
        self._count = sum(map(len, items.values()))
        self.size = sum(len(item) for kept in items.values() for item in kept)

    def dump(self) -> Tree:
        return {
            "items": [[label, list(items)] for label, items in self._items.items()],
            "seen": [[label, count, label in self._full] for label, count in self._seen.items()],
        }

    def load(self, tree: Tree) -> None:
        self._seen = {label: count for label, count, _ in tree["seen"]}
        self._full = {label for label, _, full in tree["seen"] if full}
        self._take({label: list(items) for label, items in tree["items"]})


BUFFERS: dict[str, type[Reservoir | ClassBalanced]] = {
    "reservoir": Reservoir,
    "class-balanced": ClassBalanced,
    "recency": Recency,
}
"""By their names in a configuration."""
