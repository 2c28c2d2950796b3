"""Whether what a model says is still current. Time is an argument, in milliseconds.

The terms are those of The Update Framework: a reader that never goes back, and that
knows when it is being kept from going forward.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["Freshness", "WhenStale"]

WhenStale = Literal["warn", "refuse", "flag"]


class Sign(NamedTuple):
    """The newest sign of life of one partition's trainer."""

    at_ms: int
    expires_ms: int | None


class Freshness:
    """Knows for each partition the newest verified snapshot or heartbeat.

    ``max_age`` in seconds, None for no limit. Read by many threads, written by one.
    """

    def __init__(self, max_age: float | None = None) -> None:
        self._max_age = max_age
        self._signs: dict[int, Sign] = {}

    def seen(self, partition: int, at_ms: int, expires_ms: int | None, now_ms: int) -> None:
        """The newest snapshot of a partition was the newest at this time.

        A clock that is ahead of ours makes nothing younger than it is.
        """
        self._signs = {**self._signs, partition: Sign(min(at_ms, now_ms), expires_ms)}

    def at(self, partition: int) -> int | None:
        """When the newest sign of a partition was given."""
        sign = self._signs.get(partition)
        return None if sign is None else sign.at_ms

    def age(self, now_ms: int) -> float:
        """Seconds since the partition that has been silent for longest was heard."""
        oldest = min((sign.at_ms for sign in self._signs.values()), default=now_ms)
        return max(0.0, (now_ms - oldest) / 1000)

    @property
    def limited(self) -> bool:
        """Whether it can ever become stale."""
        return self._max_age is not None or any(
            sign.expires_ms is not None for sign in self._signs.values()
        )

    def why_stale(self, now_ms: int) -> str:
        """What makes the model stale, for people; empty as long as it is not."""
        for partition, sign in sorted(self._signs.items()):
            if self._max_age is not None and now_ms - sign.at_ms > self._max_age * 1000:
                return (
                    f"nothing was heard of partition {partition}'s trainer for "
                    f"{(now_ms - sign.at_ms) / 1000:.1f} s, more than max_age = "
                    f"{self._max_age:g} s"
                )
            if sign.expires_ms is not None and now_ms >= sign.expires_ms:
                return (
                    f"the snapshot of partition {partition} expired "
                    f"{(now_ms - sign.expires_ms) / 1000:.1f} s ago"
                )
        return ""
