"""Where the item that was taken stood in the list: hit rate and NDCG, prequentially.

With one item taken, the ideal list has it first, so NDCG@k (Jarvelin and Kekalainen 2002)
is 1 / log2(1 + rank) where the rank is at most k, and 0 otherwise.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

import numpy as np

from stream_update.errors import CorruptSnapshot
from stream_update.events import Tree

__all__ = ["Ranking", "Share"]

Share = tuple[int, float]
"""How many events a mean is over, and the mean."""


class Ranking:
    """Counts ranks; 0 stands for an item that was not in the list at all."""

    def __init__(self, k: int, *, window: int = 1000) -> None:
        self.k = k
        self.events = 0
        self._hits = 0
        self._gain = 0.0
        self._recent: deque[int] = deque(maxlen=window)

    def add(self, ranks: Iterable[int]) -> None:
        for rank in ranks:
            hit, gain = _worth(rank, self.k)
            self.events += 1
            self._hits += hit
            self._gain += gain
            self._recent.append(rank)

    def figures(self) -> dict[str, dict[str, Share]]:
        """By block of a report and name: over all events, and over the last ones."""
        worth = [_worth(rank, self.k) for rank in self._recent]
        rolling = sum(hit for hit, _ in worth), math.fsum(gain for _, gain in worth)
        return {
            "metrics": self._named(self.events, self._hits, self._gain),
            "rolling": self._named(len(worth), *rolling),
        }

    def _named(self, events: int, hits: int, gain: float) -> dict[str, Share]:
        if not events:
            return {}
        return {
            f"hit_rate@{self.k}": (events, hits / events),
            f"ndcg@{self.k}": (events, gain / events),
        }

    def dump(self) -> Tree:
        return {
            "events": self.events,
            "hits": self._hits,
            "gain": self._gain,
            "recent": np.array(self._recent, dtype=np.int64).tobytes(),
        }

    def load(self, tree: Tree) -> None:
        """Take back what :meth:`dump` gave; raises :class:`CorruptSnapshot`."""
        recent = np.frombuffer(tree["recent"], dtype=np.int64).tolist()
        if len(recent) > (self._recent.maxlen or 0):
            raise CorruptSnapshot(f"{len(recent)} ranks, more than are kept")
        self.events, self._hits = int(tree["events"]), int(tree["hits"])
        self._gain = float(tree["gain"])
        self._recent.clear()
        self._recent.extend(recent)


def _worth(rank: int, k: int) -> tuple[bool, float]:
    hit = 0 < rank <= k
    return hit, 1.0 / math.log2(1 + rank) if hit else 0.0
