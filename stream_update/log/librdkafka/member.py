"""One process of a consumer group."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as VendorPartition

from stream_update.errors import Fatal, StreamUpdateError, Transient
from stream_update.events import Batch, Committed, Poll, TopicInfo, TopicPartition
from stream_update.log.busy import Busy
from stream_update.log.librdkafka.fetching import GONE, Fetching
from stream_update.log.librdkafka.refusals import FENCED, NEEDS_A_PERSON, cause, translated
from stream_update.log.librdkafka.rounds import Identity, Rounds
from stream_update.protocols import Closing

__all__ = ["LibrdkafkaMember"]

ASK_S = 10.0
BREATH_S = 0.05
JOIN_SLICE_S = 0.02
SLICE_S = 0.1


class LibrdkafkaMember(Closing):
    """See :class:`stream_update.protocols.Member`.

    ``join`` makes the consumer that takes part in the group and never reads, ``fetching``
    reads and is in no group. ``eager`` is whether the group's strategy takes everything away
    in each round.
    ``partitions`` tells how many the topic has now; given with ``single``, where whoever is
    assigned the first one owns all of them. ``overdue`` is called when the broker has not
    told the committed offsets in time.
    """

    def __init__(
        self,
        join: Callable[[], Any],
        fetching: Fetching,
        group_id: str,
        topic: TopicInfo,
        *,
        eager: bool,
        partitions: Callable[[], int] | None,
        breathe_s: float,
        overdue: Callable[[], None],
    ) -> None:
        self.group_id = group_id
        self.topic = topic.name
        self._join = join
        self._consumer: Any = None
        self._fetching = fetching
        self._fetching.watch([topic])
        self._rounds = Rounds(eager=eager)
        self._partitions = partitions
        self._owned: set[int] = set()
        self._owned_in: Identity | None = None
        self._gained_as: dict[int, str] = {}
        self._identity: Identity | None = None
        self._overdue = overdue
        self._busy = Busy(f"membership of {group_id}", breathe_s, self._breathe)
        self._failure: StreamUpdateError | None = None
        self._displaced: Fatal | None = None
        self._closed = False

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._busy.close()
            self._fetching.close()
            self._leave()

    def busy(self) -> AbstractContextManager[None]:
        return self._busy.step()

    def _breathe(self) -> None:
        """Take part in the group, while nobody reads."""
        if self._failure is None:
            try:
                self._take_part(BREATH_S)
            except StreamUpdateError as error:
                self._failure = error

    def poll(self, timeout_s: float, max_records: int = 500) -> Poll:
        failure, self._failure = self._failure or self._displaced, None
        if failure is not None:
            raise failure
        deadline = time.monotonic() + timeout_s
        batches: list[Batch] = []
        while True:
            left_s = max(0.0, deadline - time.monotonic())
            flowing = bool(self._fetching.positions)
            self._take_part(0.0 if flowing else min(JOIN_SLICE_S, left_s))
            if self._rounds.notes:
                break
            batches = self._fetching.poll(min(SLICE_S, left_s) if flowing else 0.0, max_records)
            if batches or left_s <= 0:
                break
        gained, lost = self._settle()
        self._identity = None if self._rounds.notes else self._rounds.identity
        return Poll(batches, gained, lost)

    def _take_part(self, timeout_s: float) -> None:
        """Let the client say what happened in the group; it says it on this thread."""
        if self._consumer is None:
            # Not before: the client joins at once, and who does not poll holds up the group.
            self._consumer = self._join()
            self._consumer.subscribe(
                [self.topic],
                on_assign=self._rounds.on_assign,
                on_revoke=self._rounds.on_revoke,
                on_lost=self._rounds.on_lost,
            )
        try:
            messages = self._consumer.consume(10, timeout_s)
        except KafkaException as error:
            raise self._meant(cause(error)) or translated(error, "polling") from error
        for message in messages:
            said = message.error()
            failure = self._meant(said) if said is not None else None
            if failure is not None:
                raise failure

    def _leave(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()

    def _meant(self, error: KafkaError) -> StreamUpdateError | None:
        """What an error of the group means; None: the client goes on by itself."""
        code = error.code()
        if code in FENCED or error.fatal():
            self._displaced = Fatal(
                f"another process of group {self.group_id} runs with the same group_instance_id"
                if code in FENCED or "static" in error.str()
                else f"{error.name()}: {error.str()} in group {self.group_id}",
                hint="give each process its own group_instance_id, or leave it out",
            )
            return self._displaced
        if code in NEEDS_A_PERSON:
            return translated(error, f"taking part in group {self.group_id}")
        if code in GONE:
            self._fetching.look_now()
        return None

    def _settle(self) -> tuple[list[int], list[int]]:
        """What the notes of this poll amount to for the caller."""
        if not self._rounds.notes:
            return [], []
        before, gained, lost = frozenset(self._owned), set[int](), set[int]()
        evicted = any(note.lost for note in self._rounds.notes)
        # Asked before a note is taken away: it may not be answered.
        every = frozenset[int]()
        if self._partitions is not None and any(
            note.came and 0 in note.partitions for note in self._rounds.notes
        ):
            every = frozenset(range(self._partitions()))
        while self._rounds.notes:
            note = self._rounds.notes.popleft()
            came, went = note.partitions, note.partitions
            if self._partitions is None:
                came, went = (came, frozenset[int]()) if note.came else (frozenset[int](), went)
            elif note.came:
                came, went = self._as_single(note.identity, every if 0 in came else frozenset())
            else:
                # Until the round is over nobody else can have them.
                came, went = frozenset(), frozenset(self._owned) if note.lost else frozenset()
            self._owned -= went
            gained -= went
            lost |= went & before
            self._owned |= came
            gained |= came
            self._gained_as.update(dict.fromkeys(came, note.identity.member_id))
        self._fetching.rest(TopicPartition(self.topic, p) for p in gained | lost)
        if self._partitions is not None and evicted and not self._owned:
            # Back under the old name it would be the first again, before who took over.
            self._leave()
            self._rounds.forget()
        return sorted(gained), sorted(lost)

    def _as_single(
        self, identity: Identity, partitions: frozenset[int]
    ) -> tuple[frozenset[int], frozenset[int]]:
        """What came and what went by a round that gave this member all, or nothing."""
        last, self._owned_in = self._owned_in, identity if partitions else None
        # Between two rounds that follow each other nobody else can have had them.
        unbroken = last is not None and (
            (last.member_id, last.generation_id + 1) == (identity.member_id, identity.generation_id)
        )
        if partitions and unbroken:
            return partitions - self._owned, frozenset()
        return partitions, frozenset(self._owned)

    def resume_at(self, partition: int, offset: int) -> None:
        self._fetching.flow({self._assigned(partition): offset})

    def hold(self, partition: int) -> None:
        self._fetching.rest([self._assigned(partition)])

    def position(self, partition: int) -> int:
        where = self._assigned(partition)
        if where not in self._fetching.positions:
            raise ValueError(f"{self.topic}[{partition}] does not flow: resume_at() comes first")
        return self._fetching.positions[where]

    def committed(self, partitions: Iterable[int]) -> dict[int, Committed | None]:
        asked = [VendorPartition(self.topic, partition) for partition in partitions]
        if not asked:
            return {}
        named = f"{self.topic}{[one.partition for one in asked]}"
        try:
            # Not by the one that is in the group: a broker answers a connection's questions
            # one after the other, and one to join may wait for all the other members.
            told = self._fetching.consumer.committed(asked, timeout=ASK_S)
            for one in told:
                if one.error is not None:
                    raise KafkaException(one.error)
        except KafkaException as error:
            if cause(error).code() in OVERDUE:
                self._overdue()
                raise Transient(
                    f"group {self.group_id}: the committed offset of {named} is not known yet",
                    hint="a checkpoint of a former owner is still under way, or the broker does "
                    "not answer; it is ended after transaction_timeout_ms",
                ) from error
            raise translated(error, f"asking for the committed offset of {named}") from error
        return {
            one.partition: Committed(one.offset, one.metadata or "") if one.offset >= 0 else None
            for one in told
        }

    def commit(self, offsets: Mapping[int, Committed]) -> None:
        """Commit positions without a transaction; raises the client's own errors."""
        told = self._consumer.commit(
            offsets=[
                VendorPartition(*self._assigned(partition), at.offset, at.metadata)
                for partition, at in offsets.items()
            ],
            asynchronous=False,
        )
        for one in told:
            if one.error is not None:
                raise KafkaException(one.error)

    def stable(self) -> bool:
        known = self._identity
        return (
            known is not None
            and not self._rounds.notes
            and known == self._rounds.identity
            and known.generation_id >= 0
            and self._consumer is not None
            and Identity.of(self._consumer) == known
        )

    @property
    def identity(self) -> Identity | None:
        """Who this member was in the group right after the last poll."""
        return self._identity

    def goes_by(self, identity: Identity) -> bool:
        """Whether the client knows itself by this identity still."""
        return (
            self._consumer is not None
            and Identity.of(self._consumer).member_id == identity.member_id
        )

    def owns(self, partitions: Iterable[int]) -> bool:
        """Whether all of these are assigned to this member, and have been without a break.

        The broker does not ask: it takes offsets of any partition from any member.
        """
        wanted, name = set(partitions), self._identity.member_id if self._identity else None
        return self._owned >= wanted and all(self._gained_as.get(p) == name for p in wanted)

    def displaced(self, by: Fatal) -> None:
        """Let every later poll raise."""
        self._displaced = by

    def _assigned(self, partition: int) -> TopicPartition:
        if partition not in self._owned:
            raise ValueError(f"{self.topic}[{partition}] is not assigned to this member")
        return TopicPartition(self.topic, partition)


OVERDUE = frozenset(
    {
        KafkaError.UNSTABLE_OFFSET_COMMIT,
        KafkaError._TIMED_OUT,  # noqa: SLF001 - the vendor's own errors are named so
        KafkaError._TIMED_OUT_QUEUE,  # noqa: SLF001
        KafkaError._WAIT_COORD,  # noqa: SLF001
    }
)
