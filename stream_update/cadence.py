"""When a checkpoint is due, and which checkpoints carry a snapshot.

Time is an argument everywhere, so a test moves it by hand.
"""

from __future__ import annotations

import math

__all__ = ["Cadence"]

AGAIN_S = 0.2
"""Between two tries. What refuses a checkpoint, mostly a rebalance, lasts longer."""


class Cadence:
    """Counts events and seconds since the last checkpoint.

    A checkpoint is due after ``events`` events exactly, or after ``seconds`` if at
    least one event was read. One in ``every`` checkpoints carries a snapshot, and
    fewer if snapshots would take more than ``max_overhead`` of the time: after one
    that took ``c`` seconds the next waits for at least ``c / max_overhead``.

    With ``heartbeat`` a checkpoint is due after so many seconds even if nothing was read.
    """

    def __init__(
        self,
        events: int,
        seconds: float,
        *,
        every: int = 1,
        max_overhead: float = 0.1,
        heartbeat: float | None = None,
        now: float = 0.0,
    ) -> None:
        self._events = events
        self._seconds = seconds
        self._every = every
        self._max_overhead = max_overhead
        self._count = 0
        self._since = now
        self._checkpoints = 0
        self._counted = True
        self._next_snapshot = now
        self._again_at: float | None = None
        self._heartbeat = heartbeat
        self._beat = self._beat_before = now

    def room(self) -> int:
        """How many events may still be read before the count makes it due."""
        return max(1, self._events - self._count) if self._again_at is None else self._events

    def advance(self, events: int) -> None:
        self._count += events

    def due(self, now: float) -> bool:
        if self._again_at is not None:
            return now >= self._again_at
        if self._count >= self._events:
            return True
        if self._count > 0 and now - self._since >= self._seconds:
            return True
        return self.heartbeat_due(now)

    def left(self, now: float) -> float:
        """Seconds until it is due if no more events are read; infinite if it never will be."""
        if self._again_at is not None:
            at = self._again_at
        else:
            at = self._since + self._seconds if self._count > 0 else math.inf
            if self._count >= self._events:
                at = now
            if self._heartbeat is not None:
                at = min(at, self._beat + self._heartbeat)
        return max(0.0, at - now)

    def heartbeat_due(self, now: float) -> bool:
        """Whether the checkpoint that is made now carries heartbeats."""
        return self._heartbeat is not None and now - self._beat >= self._heartbeat

    def snapshot_due(self, now: float) -> bool:
        """Whether the checkpoint that is made now carries snapshots."""
        return (self._checkpoints + 1) % self._every == 0 and now >= self._next_snapshot

    def begun(self, now: float) -> None:
        """A checkpoint is on its way."""
        # One that is made for a heartbeat only is none that snapshots are counted by.
        self._counted = self._count > 0 or not self.heartbeat_due(now)
        self._beat_before = self._beat
        if self.heartbeat_due(now):
            self._beat = now
        self._count = 0
        self._since = now
        self._again_at = None
        self._checkpoints += self._counted

    def took(self, began: float, cost_s: float) -> None:
        """The snapshots of the checkpoint that was begun then took so many seconds of work."""
        self._next_snapshot = began + cost_s / self._max_overhead

    def refused(self, now: float, *, begun: bool) -> None:
        """It did not get through, or could not even be ``begun``: try again, not at once."""
        if begun:
            self._checkpoints -= self._counted
            self._beat = self._beat_before
        self._again_at = now + AGAIN_S
