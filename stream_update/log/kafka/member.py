"""One process of a consumer group."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from kafka import ConsumerRebalanceListener
from kafka import errors as vendor
from kafka.structs import MemberState, OffsetAndMetadata
from kafka.structs import TopicPartition as VendorPartition

from stream_update.errors import Fatal, StreamUpdateError, Transient
from stream_update.events import Committed, Poll, TopicInfo
from stream_update.log.busy import Busy
from stream_update.log.kafka.polling import ASK_MS, Polling, note_of
from stream_update.log.kafka.refusals import translated
from stream_update.protocols import Closing

__all__ = ["KafkaMember"]

SLICE_S = 0.1
BREATH_S = 0.05
CLOSE_MS = 3_000


class KafkaMember(Closing):
    """See :class:`stream_update.protocols.Member`.

    ``overdue`` is called when the broker has not told the committed offsets in time.
    """

    def __init__(
        self,
        consumer: Any,
        group_id: str,
        topic: TopicInfo,
        assignors: Iterable[Any],
        *,
        breathe_s: float = 2.0,
        overdue: Callable[[], None],
    ) -> None:
        self.group_id = group_id
        self.topic = topic.name
        self._consumer = consumer
        self._polling = Polling(consumer)
        self._polling.watch([topic])
        self._notes = _Notes(consumer, [*assignors])
        self._owned: set[int] = set()
        self._flowing: set[int] = set()
        self._tainted: set[int] = set()
        self._identity: Any = None
        self._closed = False
        self._overdue = overdue
        self._busy = Busy(f"membership of {group_id}", breathe_s, self._breathe)
        self._failure: StreamUpdateError | None = None
        self._gained_as: dict[int, str] = {}
        _tell_of_every_eviction(consumer)
        consumer.subscribe([topic.name], listener=self._notes)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._busy.close()
            self._consumer.close(autocommit=False, timeout_ms=CLOSE_MS)

    def busy(self) -> AbstractContextManager[None]:
        return self._busy.step()

    def _breathe(self) -> None:
        """Take part in the group without reading anything."""
        if self._failure is not None:
            return
        flowing = {VendorPartition(self.topic, partition) for partition in self._flowing}
        paused = flowing & self._consumer.assignment()
        self._consumer.pause(*paused)
        try:
            _keep_finished_join(self._consumer)
            if self._polling.poll(BREATH_S, 1):
                self._failure = Fatal("the client returned records of paused partitions")
        except StreamUpdateError as error:
            self._failure = error
        finally:
            moved = {
                VendorPartition(self.topic, partition)
                for _, partitions in self._notes.entries
                for partition in partitions
            }
            self._consumer.resume(*(paused & self._consumer.assignment()) - moved)

    def poll(self, timeout_s: float, max_records: int = 500) -> Poll:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        deadline = time.monotonic() + timeout_s
        while True:
            left = deadline - time.monotonic()
            # Gained partitions are paused, so the client would sit out its whole timeout
            # before anybody hears of them.
            _keep_finished_join(self._consumer)
            batches = self._polling.poll(min(SLICE_S, left), max_records)
            # The identity that a checkpoint is fenced by must be of the same moment as the
            # assignment: asked for later, that of an evicted member would be the empty
            # one, which the broker accepts from anybody.
            self._identity = self._consumer.group_metadata()
            if batches or self._notes.entries or left <= SLICE_S:
                break
        gained, lost = self._settle()
        return Poll(batches, gained, lost)

    def _settle(self) -> tuple[list[int], list[int]]:
        """What the notes of this poll amount to for the caller."""
        before, gained, lost = frozenset(self._owned), set(), set()
        while self._notes.entries:
            arrived, partitions = self._notes.entries.popleft()
            if arrived:
                self._owned |= partitions
                gained |= partitions
            else:
                self._owned -= partitions
                gained -= partitions
                lost |= partitions & before
            self._flowing -= partitions
        self._gained_as.update(dict.fromkeys(gained, self._identity.member_id))
        return sorted(gained), sorted(lost)

    def resume_at(self, partition: int, offset: int) -> None:
        where = self._assigned(partition)
        # Lost while the caller was busy; the next poll tells of it.
        if where in self._consumer.assignment():
            self._consumer.seek(where, offset)
            self._consumer.resume(where)
            self._flowing.add(partition)

    def hold(self, partition: int) -> None:
        where = self._assigned(partition)
        if where in self._consumer.assignment():
            self._consumer.pause(where)
        self._flowing.discard(partition)

    def position(self, partition: int) -> int:
        where = self._assigned(partition)
        if partition not in self._flowing:
            raise ValueError(f"{self.topic}[{partition}] does not flow: resume_at() comes first")
        return self._polling.position(where)

    def committed(self, partitions: Iterable[int]) -> dict[int, Committed | None]:
        deadline = time.monotonic() + ASK_MS / 1000
        return {partition: self._committed(partition, deadline) for partition in partitions}

    def _committed(self, partition: int, deadline: float) -> Committed | None:
        where = VendorPartition(self.topic, partition)
        # A question that ran out of time is still under way in the client, and its late
        # answer is handed to the next asker however old it is: throw that one away.
        for _ in range(2 if partition in self._tainted else 1):
            left_ms = max(1, int((deadline - time.monotonic()) * 1000))
            try:
                found = self._consumer.committed(where, metadata=True, timeout_ms=left_ms)
            except vendor.KafkaTimeoutError as error:
                self._tainted.add(partition)
                self._overdue()
                raise Transient(
                    f"group {self.group_id}: the committed offset of {self.topic}[{partition}] "
                    "is not known yet",
                    hint="a checkpoint of a former owner is still under way, or the broker does "
                    "not answer; it is ended after transaction_timeout_ms",
                ) from error
            except vendor.KafkaError as error:
                raise translated(
                    error, f"asking for the committed offset of {self.topic}[{partition}]"
                ) from error
        self._tainted.discard(partition)
        return None if found is None else Committed(found.offset, note_of(found))

    def commit(self, offsets: Mapping[int, Committed]) -> None:
        """Commit positions without a transaction; raises the client's own errors."""
        self._consumer.commit(
            {
                self._assigned(partition): OffsetAndMetadata(at.offset, at.metadata, -1)
                for partition, at in offsets.items()
            },
            timeout_ms=ASK_MS,
        )

    def stable(self) -> bool:
        known = self._identity
        return (
            known is not None
            and not self._notes.entries
            and known.state == MemberState.STABLE
            and known.generation_id >= 0
            and self._consumer.group_metadata() == known
        )

    @property
    def identity(self) -> Any:
        """Who this member was in the group right after the last poll."""
        return self._identity

    def goes_by(self, identity: Any) -> bool:
        """Whether the client knows itself by this identity still."""
        return bool(self._consumer.group_metadata().member_id == identity.member_id)

    def owns(self, partitions: Iterable[int]) -> bool:
        """Whether all of these are assigned to this member, and have been without a break.

        The broker does not ask: it takes offsets of any partition from any member.
        """
        wanted, name = set(partitions), self._identity.member_id
        return self._owned >= wanted and all(self._gained_as.get(p) == name for p in wanted)

    def displaced(self, by: Fatal) -> None:
        """Let the next poll raise: the client itself goes on as if nothing had happened."""
        self._polling.broken = by

    def _assigned(self, partition: int) -> VendorPartition:
        if partition not in self._owned:
            raise ValueError(f"{self.topic}[{partition}] is not assigned to this member")
        return VendorPartition(self.topic, partition)


class _FinishedJoin:
    """A join that ended between two polls, made to look as if it were under way."""

    is_done = False

    def __init__(self, task: Any) -> None:
        self.add_callback = task.add_callback
        self.add_errback = task.add_errback


def _keep_finished_join(consumer: Any) -> None:
    """Let the next poll take what the group has decided since the last one.

    The client would throw it away and ask to join again, which sends everybody back
    to the start: two members that poll in turn for 50 ms never settled. Or, if it had
    joined because the topic has new partitions, it would never look at it, and wait
    without heartbeats until the group evicts it. (Both measured.)
    """
    coordinator = consumer._coordinator  # noqa: SLF001
    task = coordinator._join_task  # noqa: SLF001
    if task is None or isinstance(task, _FinishedJoin) or not task.is_done:
        return
    coordinator.request_rejoin()
    if task.succeeded() and coordinator.group_metadata().generation_id >= 0:
        coordinator._join_task = _FinishedJoin(task)  # noqa: SLF001


def _tell_of_every_eviction(consumer: Any) -> None:
    """Let the client report its partitions lost also if it was evicted while it rejoined.

    It looks for that only at the first of its tries to join. Evicted between two of them
    (it stood still with the request on its way), it comes back under another name, may be
    given what it had, and says nothing, although others have had it meanwhile. (Measured:
    it then published from where it had been.)
    """
    coordinator = consumer._coordinator  # noqa: SLF001
    reset = coordinator.reset_generation

    def reset_generation(*arguments: Any, **options: Any) -> None:
        reset(*arguments, **options)
        coordinator.rejoining = False

    coordinator.reset_generation = reset_generation


class _Notes(ConsumerRebalanceListener):  # type: ignore[misc]
    """Writes down what a rebalance did, and holds what it brought.

    Called on the client's own thread while the caller is inside ``poll``: anything
    that waits for the broker would hang here.
    """

    def __init__(self, consumer: Any, assignors: list[Any]) -> None:
        self._consumer = consumer
        self._assignors = assignors
        self.entries: deque[tuple[bool, set[int]]] = deque()

    def on_partitions_assigned(self, assigned: Iterable[VendorPartition]) -> None:
        for where in assigned:
            self._consumer.pause(where)
            # Without a position the client would ask for the committed one.
            self._consumer.seek(where, 0)
        self.entries.append((True, {where.partition for where in assigned}))

    def on_partitions_revoked(self, revoked: Iterable[VendorPartition]) -> None:
        self.entries.append((False, {where.partition for where in revoked}))

    def on_partitions_lost(self, lost: Iterable[VendorPartition]) -> None:
        # The sticky assignors would go on claiming what now belongs to somebody else.
        for assignor in self._assignors:
            if hasattr(assignor, "member_assignment"):
                assignor.member_assignment = None
        self.entries.append((False, {where.partition for where in lost}))
