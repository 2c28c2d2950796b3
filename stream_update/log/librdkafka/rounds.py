"""What a rebalance did, written down while the client waits, for the next poll to tell."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

from stream_update.errors import Fatal

__all__ = ["Identity", "Rounds"]

MAGIC = b"CGMDv2:"


class Identity(NamedTuple):
    """Who a member is in its group at one moment; ``packed`` is the client's own form."""

    generation_id: int
    member_id: str
    packed: bytes

    @classmethod
    def of(cls, consumer: Any) -> Identity:
        """As the consumer knows itself now: generation -1 outside of the group.

        The client gives it as bytes: a magic word, the generation, and then the name of
        the group and of the member, each with a zero byte behind.
        """
        packed: bytes = consumer.consumer_group_metadata()
        if not packed.startswith(MAGIC):
            raise Fatal(
                f"a group's identity begins with {packed[:8]!r}, not with {MAGIC!r}",
                hint="this release of confluent-kafka is not known here: install an older one, or "
                "leave `client` out",
            )
        (generation,) = struct.unpack_from("=i", packed, len(MAGIC))
        _, member_id, _ = packed[len(MAGIC) + 4 :].split(b"\0", 2)
        return cls(generation, member_id.decode(), packed)


class Note(NamedTuple):
    """What one call of the client said: these came, or went; ``lost``: long ago."""

    came: bool
    partitions: frozenset[int]
    identity: Identity
    lost: bool = False


class Rounds:
    """The listener of a member's consumer.

    The client is always told that nothing is to be fetched: the partitions are read by
    another consumer, which is in no group, so a rebalance never finds anything under way.
    ``identity`` is that of the round that was settled last, None during a round.
    """

    def __init__(self, *, eager: bool) -> None:
        self.notes: deque[Note] = deque()
        self.identity: Identity | None = None
        self._eager = eager

    def forget(self) -> None:
        """What was said to a consumer that has left."""
        self.notes.clear()
        self.identity = None

    def on_assign(self, consumer: Any, partitions: Iterable[Any]) -> None:
        if self._eager:
            consumer.assign([])
        else:
            consumer.incremental_assign([])
        self.identity = Identity.of(consumer)
        self._note(partitions, came=True)

    def on_revoke(self, consumer: Any, partitions: Iterable[Any]) -> None:
        self._let_go(consumer, partitions, lost=False)

    def on_lost(self, consumer: Any, partitions: Iterable[Any]) -> None:
        self._let_go(consumer, partitions, lost=True)

    def _let_go(self, consumer: Any, partitions: Iterable[Any], *, lost: bool) -> None:
        if self._eager:
            consumer.unassign()
        else:
            consumer.incremental_unassign([])
        self.identity = None
        self._note(partitions, came=False, lost=lost)

    def _note(self, partitions: Iterable[Any], *, came: bool, lost: bool = False) -> None:
        numbers = frozenset(one.partition for one in partitions)
        self.notes.append(Note(came, numbers, self.identity or NOBODY, lost))


NOBODY = Identity(-1, "", b"")
