"""Atomic checkpoints: one Kafka transaction each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from kafka import errors as vendor
from kafka.structs import OffsetAndMetadata
from kafka.structs import TopicPartition as VendorPartition

from stream_update.errors import ConfigError, Fatal, Refused, StreamUpdateError, Transient
from stream_update.events import Committed, Record
from stream_update.log.checkpoints import Checkpoints, Sends
from stream_update.log.kafka.connect import Connect
from stream_update.log.kafka.member import KafkaMember
from stream_update.log.kafka.refusals import NEEDS_A_PERSON, STALE_MEMBER, translated
from stream_update.log.kafka.sending import Spread, close_producer, rejected
from stream_update.log.watchdog import Call

__all__ = ["KafkaPublisher"]


class KafkaPublisher(Checkpoints):
    """See :class:`stream_update.protocols.Publisher`.

    A producer is used again only after a success: after a refusal the client would send
    the refused offsets once more.
    """

    members = KafkaMember
    failures = vendor.KafkaError

    def __init__(
        self, group_id: str, connect: Connect, spread: Spread, topics: Iterable[str] = ()
    ) -> None:
        self._connect = connect
        self._spread = spread
        self._lines: Collection[Any] = ()
        super().__init__(group_id, connect.step_s, topics)

    def _partition(self, record: Record) -> int | None:
        return self._spread.partition(record)

    def _positions(self, topic: str, offsets: Mapping[int, Committed]) -> Mapping[Any, Any]:
        return {
            VendorPartition(topic, partition): OffsetAndMetadata(at.offset, at.metadata, -1)
            for partition, at in offsets.items()
        }

    def _made(self, transactional_id: str) -> Any:
        return self._connect.producer(transactional_id=transactional_id)

    def _initialise(self, producer: Any) -> None:
        producer.init_transactions()

    def _look_up(self, producer: Any, topic: str) -> None:
        producer.partitions_for(topic)

    def _has_kept_its_connections(self, producer: Any) -> bool:  # noqa: ARG002 - noted before
        return not any(line.closed for line in self._lines)

    def _succeeded(self, producer: Any) -> None:
        # The client has no public way to tell that one was lost and made again.
        self._lines = list(producer._sender._client._manager._conns.values())  # noqa: SLF001

    def _discard(self, producer: Any) -> None:
        close_producer(producer)

    def _send_offsets(self, producer: Any, positions: Any, identity: Any) -> None:
        producer.send_offsets_to_transaction(positions, identity)

    def _abort(self, producer: Any) -> None:
        producer.abort_transaction()

    def _commit(self, producer: Any) -> None:
        producer.commit_transaction()

    def _translated(self, error: Exception, doing: str) -> StreamUpdateError:
        return translated(error, doing)

    def _deliver(self, call: Call[list[int]], producer: Any, sends: Sends) -> list[int]:
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
        if isinstance(error, vendor.FencedInstanceIdError):
            return self._displaced()
        if isinstance(error, ConfigError | Fatal):
            return error
        if isinstance(error, NEEDS_A_PERSON):
            return translated(error, "publishing a checkpoint")
        if isinstance(error, STALE_MEMBER):
            return Refused(f"group {self._group_id} has gone on without this member: {error}")
        if isinstance(error, vendor.RetriableError | Transient):
            return Refused(f"the checkpoint did not reach the log in time: {error}")
        return translated(error, "publishing a checkpoint")
