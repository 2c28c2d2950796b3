"""Why what stands on a snapshot topic is not taken: a few fixed words, counted.

They are names to count and to alarm by, so they do not change; what exactly was wrong
is in the log of the process.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["REASONS", "Refusal", "Refusals"]

logger = logging.getLogger(__name__)

REASONS: Mapping[str, str] = {
    "not-a-snapshot": "neither chunk, manifest nor heartbeat, or none that can be parsed",
    "truncated": "it ends too early",
    "unsigned": "there are trusted keys, and it has no signature",
    "untrusted-key": "its signature claims a key that is not trusted",
    "bad-signature": "the key that it names has not signed these bytes",
    "bad-headers": "its headers are malformed, or say something else than what is signed",
    "other-app": "it is of another application",
    "other-partition": "it is of another partition than the one it stands in",
    "other-format": "this version does not read its format",
    "other-version": "what it was made with is not installed here, or in another version",
    "bad-chunks": "chunks are missing, out of order, or not those of the manifest",
    "bad-digest": "what is there is not what the manifest or the heartbeat describes",
    "too-large": "it has, claims, or unpacks to more bytes than it may",
    "bad-ratio": "it would unpack to more than so many times its size",
    "too-deep": "it is nested too deep",
    "too-many-nodes": "it holds more values than it may",
    "bad-state": "its state is none that this program could have written",
    "non-finite": "a parameter that its predictions depend on is NaN or infinite",
    "expired": "its time is over, and no heartbeat has renewed it",
    "rollback": "it is not newer than what has been taken already",
}
"""Each word and what it means."""


class Refusal(NamedTuple):
    """One record, or snapshot, that is not taken; ``offset`` on the snapshot topic."""

    reason: str
    detail: str
    offset: int


class Refusals:
    """Counts refusals of one topic by reason.

    The first of each reason is logged, then the second, the fourth, the eighth and so
    on: who floods a topic does not flood the log of the process too.
    """

    def __init__(self, topic: str) -> None:
        self.counts: dict[str, int] = {}
        self._topic = topic

    def add(self, partition: int, refusal: Refusal) -> None:
        count = self.counts.get(refusal.reason, 0) + 1
        self.counts = {**self.counts, refusal.reason: count}
        if count & (count - 1) == 0:
            logger.error(
                "%s[%d] offset %d: refused, the current model stays: %s: %s (%d so far)",
                self._topic,
                partition,
                refusal.offset,
                refusal.reason,
                refusal.detail,
                count,
            )

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        return ", ".join(f"{reason} {self.counts[reason]}" for reason in sorted(self.counts))
