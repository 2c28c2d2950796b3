"""A bound on how much of what is learned comes from one origin."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from stream_update.events import Tree

__all__ = ["ShareLimit"]


class ShareLimit:
    """Of the last ``window`` events that were taken, at most ``share`` are of one origin.

    So whoever floods the topic with false labels moves the model no more than that, however
    many events they send. Events without an origin count as of one origin. The window is
    a count, so what is taken depends on nothing but the events; it is part of the lane's state.
    """

    def __init__(self, window: int, share: float) -> None:
        self.most = max(1, int(window * share))
        self._window = window
        self._order: deque[bytes | None] = deque()
        self._counts: Counter[bytes | None] = Counter()

    def over(self, origins: Sequence[bytes | None]) -> list[int]:
        """The indices of the events that would be too many; the others are taken."""
        return [index for index, origin in enumerate(origins) if not self._take(origin)]

    def _take(self, origin: bytes | None) -> bool:
        if self._counts[origin] >= self.most:
            return False
        if len(self._order) == self._window:
            oldest = self._order.popleft()
            self._counts[oldest] -= 1
            if not self._counts[oldest]:
                del self._counts[oldest]
        self._order.append(origin)
        self._counts[origin] += 1
        return True

    def dump(self) -> Tree:
        """The origins, oldest first."""
        return list(self._order)

    def load(self, tree: Tree) -> None:
        """Replace what is remembered by what :meth:`dump` returned."""
        order = deque(tree)
        counts = Counter(order)
        if len(order) > self._window or any(count > self.most for count in counts.values()):
            raise ValueError(
                f"not the origins of at most {self._window} events, {self.most} of each"
            )
        self._order, self._counts = order, counts
