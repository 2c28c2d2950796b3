"""One process of a consumer group."""

from __future__ import annotations

import logging
import sqlite3
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from stream_update.errors import StreamUpdateError, Transient
from stream_update.events import Committed, Poll, TopicPartition
from stream_update.log.embedded.address import Address
from stream_update.log.embedded.group import Group, Standing, monotonic_ms
from stream_update.log.embedded.heartbeat import Heartbeat
from stream_update.log.embedded.reading import Reading
from stream_update.log.embedded.store import Store, attempts
from stream_update.log.embedded.topics import Topic, place_of
from stream_update.protocols import Closing

__all__ = ["EmbeddedMember"]

logger = logging.getLogger(__name__)

WAIT_S = 0.5
"""How long a poll waits for those who write; it can take part in the group the next time."""

BEATS = 5
"""Signs of life in a session timeout."""


class EmbeddedMember(Closing):
    """See :class:`stream_update.protocols.Member`. Joins in its first poll.

    Dropped without :meth:`close` it leaves the group when its lease ends.
    """

    def __init__(
        self, store: Store, address: Address, group_id: str, topic: Topic, *, single: bool
    ) -> None:
        self.group_id = group_id
        self.topic = topic.name
        self._store = store
        self._reading = Reading(store)
        self._session_ms = address.session_timeout_ms
        self._every_ms = self._session_ms // BEATS
        self._group = Group(store, group_id, topic, single=single, session_ms=self._session_ms)
        own = Store(address)
        self._heartbeat = Heartbeat(
            own,
            Group(own, group_id, topic, single=single, session_ms=self._session_ms),
            every_ms=self._every_ms,
            max_poll_interval_ms=address.max_poll_interval_ms,
        )
        self._standing: Standing | None = None
        self._looked_at: int | None = None
        self._closed = False
        self._heartbeat.start()
        self._dropped = weakref.finalize(self, self._heartbeat.stop)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._dropped()
        self._heartbeat.join()
        standing, self._standing = self._standing, None
        try:
            if standing is not None:
                self._group.leave(standing.member_id, WAIT_S)
        except StreamUpdateError as error:
            logger.warning("%s; the group hears of it when the lease ends", error)
        finally:
            self._store.close()

    def poll(self, timeout_s: float, max_records: int = 500) -> Poll:
        for _ in attempts(timeout_s):
            gained, lost = self._take_part()
            batches = self._reading.next(max_records)
            if batches or gained or lost:
                return Poll(batches, gained, lost)
        return Poll()

    @contextmanager
    def busy(self) -> Iterator[None]:
        self._heartbeat.busy = True
        try:
            yield
        finally:
            self._heartbeat.polled_ms = monotonic_ms()
            self._heartbeat.busy = False

    def _take_part(self) -> tuple[list[int], list[int]]:
        """The partitions that were gained and lost since the last time."""
        self._heartbeat.polled_ms = now = monotonic_ms()
        before, version = self._standing, self._store.version()
        if before is not None and now - self._heartbeat.renewed_ms < self._every_ms:
            if version == self._looked_at:
                return [], []
            if self._group.generation() == before.generation:
                self._looked_at = version
                return [], []
        try:
            after = self._group.settle(before.member_id if before else None, WAIT_S)
        except Transient:
            if now - self._heartbeat.renewed_ms < self._session_ms:
                return [], []  # the lease still holds, and the next poll tries again
            return [], self._stand_down()
        self._heartbeat.member_id = after.member_id
        self._heartbeat.renewed_ms = now
        self._looked_at, self._standing = version, after
        if before is None:
            return sorted(after.owned), []
        if before.member_id != after.member_id:
            lost, gained = before.owned, after.owned
        else:
            lost, gained = before.owned - after.owned, after.owned - before.owned
        for partition in lost:
            self._reading.drop(TopicPartition(self.topic, partition))
        return sorted(gained), sorted(lost)

    def _stand_down(self) -> list[int]:
        """The lease is over although nobody could write that down yet."""
        before, self._standing = self._standing, None
        self._heartbeat.member_id = None
        self._reading.clear()
        return sorted(before.owned) if before else []

    def resume_at(self, partition: int, offset: int) -> None:
        where = self._assigned(partition)
        self._reading.add(where, place_of(self._store, *where), offset)

    def hold(self, partition: int) -> None:
        self._reading.drop(self._assigned(partition))

    def position(self, partition: int) -> int:
        where = self._assigned(partition)
        if where not in self._reading.positions:
            raise ValueError(f"{self.topic}[{partition}] does not flow: resume_at() comes first")
        return self._reading.positions[where]

    def committed(self, partitions: Iterable[int]) -> dict[int, Committed | None]:
        found = self._group.committed()
        return {partition: found.get(partition) for partition in partitions}

    def stable(self) -> bool:
        return self._standing is not None and self._group.alive(self._standing.member_id)

    def commit(self, sql: sqlite3.Connection, offsets: Mapping[int, Committed]) -> None:
        """Write the positions in a publisher's transaction, or raise :class:`Refused`."""
        self._group.fence(sql, self._standing.member_id if self._standing else None, offsets)
        self._group.commit(sql, offsets)

    def _assigned(self, partition: int) -> TopicPartition:
        if self._standing is None or partition not in self._standing.owned:
            raise ValueError(f"{self.topic}[{partition}] is not assigned to this member")
        return TopicPartition(self.topic, partition)
