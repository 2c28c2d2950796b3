"""Atomic checkpoints: one Kafka transaction each."""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from kafka import errors as vendor
from kafka.structs import OffsetAndMetadata
from kafka.structs import TopicPartition as VendorPartition

from stream_update.errors import ConfigError, Doubt, Fatal, Refused, StreamUpdateError, Transient
from stream_update.events import Committed, Record
from stream_update.log.kafka.connect import Connect
from stream_update.log.kafka.member import KafkaMember
from stream_update.log.kafka.refusals import NEEDS_A_PERSON, STALE_MEMBER, translated
from stream_update.log.kafka.sending import Spread, close_producer, rejected
from stream_update.log.watchdog import Call, Overdue, Watchdog
from stream_update.protocols import Closing, Member, Publication

__all__ = ["KafkaPublisher"]

logger = logging.getLogger(__name__)

ABORT_S = 5.0
AHEAD_S = 30.0
"""Making a producer: some requests, each with the client's own limit."""


class KafkaPublisher(Closing):
    """See :class:`stream_update.protocols.Publisher`.

    Each producer has a transactional id that was never used before: with one that
    outlives the process, a former process can abort a checkpoint of this one, and what
    the broker left open at a crash can become committed. What fences is the
    generation of the group, in the offsets. A producer is used again only after a
    success: after a refusal the client would send the refused offsets once more. And
    only if no connection was lost since: a broker that was killed may have lost the end
    of the last transaction, and then the end of the next one, whatever it is, would be
    that of both.
    """

    def __init__(
        self, group_id: str, connect: Connect, spread: Spread, topics: Iterable[str] = ()
    ) -> None:
        self._group_id = group_id
        self._connect = connect
        self._spread = spread
        self._step_s = connect.step_s
        self._watchdog = Watchdog(f"checkpoints of {group_id}")
        self._producer: Any = None
        self._doubt: Doubt | None = None
        self._working: Any = None
        self._lines: Collection[Any] = ()
        self._last: Call[Any] = self._watchdog.start(lambda call: self._make_ready(call, [*topics]))

    def close(self) -> None:
        with contextlib.suppress(Exception):  # whoever began it has been told, or is gone
            self._last.result()
        producer, self._producer = self._producer, None
        if producer is not None:
            close_producer(producer)
        self._watchdog.close()

    def begin(
        self, records: Sequence[Record], offsets: Mapping[int, Committed], member: Member
    ) -> Publication:
        if self._doubt is not None:
            raise self._doubt
        if not isinstance(member, KafkaMember) or member.group_id != self._group_id:
            raise TypeError(f"a publisher of group {self._group_id} needs a member of that group")
        self._check(offsets, member)
        identity = member.identity
        positions = {
            VendorPartition(member.topic, partition): OffsetAndMetadata(at.offset, at.metadata, -1)
            for partition, at in offsets.items()
        }
        sends = [(record, self._spread.partition(record)) for record in records]
        self._last = self._watchdog.start(
            lambda call: self._transact(call, sends, positions, identity), AHEAD_S
        )
        return self._publication(self._last, offsets, member)

    def publish(
        self, records: Sequence[Record], offsets: Mapping[int, Committed], member: Member
    ) -> list[int]:
        return self.begin(records, offsets, member).result()

    def _publication(
        self,
        call: Call[list[int]],
        offsets: Mapping[int, Committed],  # noqa: ARG002 - the transaction has them
        member: KafkaMember,
    ) -> Publication:
        return KafkaPublication(call, self._in_doubt, member)

    def _check(self, offsets: Mapping[int, Committed], member: KafkaMember) -> None:
        """What the broker would let pass."""
        if not offsets:
            raise Refused("a checkpoint without offsets would not be fenced")
        if not member.stable():
            raise Refused(f"group {self._group_id} is in a rebalance")
        if not member.owns(offsets):
            raise Refused(
                f"partitions {sorted(offsets)} of {member.topic} are not all assigned to this "
                f"member of group {self._group_id}"
            )

    def _make_ready(self, call: Call[None], topics: Sequence[str]) -> None:
        """Do ahead what would delay the first checkpoint by a quarter of a second."""
        call.step("starting the transactions", AHEAD_S)
        try:
            producer = self._new_producer()
            try:
                for topic in topics:
                    producer.partitions_for(topic)
            except BaseException:
                close_producer(producer)
                raise
        except (StreamUpdateError, vendor.KafkaError) as error:
            # The first checkpoint finds the same, and says it to those who wait for it.
            logger.debug("cannot prepare the checkpoints of %s: %s", self._group_id, error)
        else:
            self._producer = producer

    def _new_producer(self) -> Any:
        producer = self._connect.producer(
            transactional_id=f"{self._group_id}.{secrets.token_hex(8)}"
        )
        try:
            producer.init_transactions()
        except vendor.KafkaError as error:
            close_producer(producer)
            raise translated(error, f"starting the transactions of {self._group_id}") from error
        except BaseException:
            close_producer(producer)
            raise
        return producer

    def _transact(
        self,
        call: Call[list[int]],
        sends: Sequence[tuple[Record, int | None]],
        positions: Mapping[Any, Any],
        identity: Any,
    ) -> list[int]:
        call.step("starting the transactions", AHEAD_S)
        # Put back only after a success; see above.
        producer, self._producer = self._producer, None
        if producer is not None and any(line.closed for line in self._lines):
            close_producer(producer)
            producer = None
        producer = producer or self._new_producer()
        self._working = producer
        try:
            given = self._write(call, producer, sends, positions, identity)
        except BaseException:
            close_producer(producer)
            raise
        self._producer = producer
        self._lines = _connections(producer)
        return given

    def _write(
        self,
        call: Call[list[int]],
        producer: Any,
        sends: Sequence[tuple[Record, int | None]],
        positions: Mapping[Any, Any],
        identity: Any,
    ) -> list[int]:
        call.step("begin_transaction", self._step_s)
        try:
            producer.begin_transaction()
        except vendor.KafkaError as error:
            raise _Uncertain(f"begin_transaction failed: {error}") from error
        try:
            given = self._deliver(call, producer, sends)
            # Last, so that it is also the proof that the coordinator has not given up this
            # transaction meanwhile: commit alone reports success for one that timed out.
            call.step("send_offsets_to_transaction", self._step_s)
            producer.send_offsets_to_transaction(positions, identity)
        except Exception as error:
            call.step("abort_transaction", ABORT_S)
            try:
                producer.abort_transaction()
            except vendor.KafkaError as second:
                raise _Uncertain(f"{error}; then abort_transaction failed: {second}") from error
            raise self._verdict(error) from error
        call.step("commit_transaction", self._step_s)
        try:
            producer.commit_transaction()
        except vendor.KafkaError as error:
            raise _Uncertain(f"commit_transaction failed: {error}") from error
        return given

    def _deliver(
        self, call: Call[list[int]], producer: Any, sends: Sequence[tuple[Record, int | None]]
    ) -> list[int]:
        """Send, and see every record acknowledged: commit alone does not tell of losses."""
        call.step("send", self._step_s + self._step_s)
        futures = [self._spread.send(producer, record, partition) for record, partition in sends]
        call.step("flush", self._step_s + 1)
        producer.flush(timeout=self._step_s)
        given = []
        for (record, _), future in zip(sends, futures, strict=True):
            if not future.succeeded():
                raise rejected(
                    record,
                    future.exception or vendor.KafkaTimeoutError("no answer"),
                    self._connect.max_request_size,
                )
            if future.value.offset < 0:
                raise vendor.KafkaTimeoutError(f"the broker gave no offset in {record.topic}")
            given.append(int(future.value.offset))
        return given

    def _verdict(self, error: Exception) -> StreamUpdateError:
        """Our error for a transaction that was begun and is certainly aborted."""
        if isinstance(error, vendor.FencedInstanceIdError):
            return _Displaced(
                f"another process of group {self._group_id} runs with the same group_instance_id",
                hint="give each process its own group_instance_id, or leave it out",
            )
        if isinstance(error, ConfigError | Fatal):
            return error
        if isinstance(error, NEEDS_A_PERSON):
            return translated(error, "publishing a checkpoint")
        if isinstance(error, STALE_MEMBER):
            return Refused(f"group {self._group_id} has gone on without this member: {error}")
        if isinstance(error, vendor.RetriableError | Transient):
            return Refused(f"the checkpoint did not reach the log in time: {error}")
        return translated(error, "publishing a checkpoint")

    def _in_doubt(self, what: str) -> Doubt:
        self._doubt = Doubt(
            f"group {self._group_id}: nobody can tell whether a checkpoint was committed: {what}",
            hint="start again: the log knows, and the start asks it",
        )
        if self._working is not None:
            close_producer(self._working)
        return self._doubt


def _connections(producer: Any) -> Collection[Any]:
    """The client has no public way to tell that one was lost and made again."""
    return list(producer._sender._client._manager._conns.values())  # noqa: SLF001


class KafkaPublication:
    """See :class:`stream_update.protocols.Publication`."""

    def __init__(
        self, call: Call[list[int]], in_doubt: Callable[[str], Doubt], member: KafkaMember
    ) -> None:
        self._call = call
        self._in_doubt = in_doubt
        self._member = member
        self._identity = member.identity

    def done(self) -> bool:
        return self._call.done()

    def result(self) -> list[int]:
        try:
            return self._call.result()
        except (Overdue, _Uncertain) as error:
            raise self._in_doubt(str(error)) from error
        except _Displaced as error:
            if not self._member.goes_by(self._identity):
                # It was evicted and is on its way back in: what displaced it is itself.
                raise Refused("the group has gone on without this member") from error
            self._member.displaced(Fatal(str(error), hint=error.hint))
            raise


class _Uncertain(Exception):
    """The transaction may or may not be committed, or may still be open."""


class _Displaced(Refused):
    """Refused, and so will be all that come."""
