"""Atomic checkpoints: one Kafka transaction each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka import TopicPartition as VendorPartition

from stream_update.errors import ConfigError, Fatal, Refused, StreamUpdateError, Transient
from stream_update.events import Committed, Record
from stream_update.log.checkpoints import ABORT_S, Checkpoints, Sends
from stream_update.log.librdkafka.connect import Connect, Heard
from stream_update.log.librdkafka.member import LibrdkafkaMember
from stream_update.log.librdkafka.refusals import (
    FENCED,
    NEEDS_A_PERSON,
    STALE_MEMBER,
    cause,
    is_passing,
    translated,
)
from stream_update.log.librdkafka.rounds import Identity
from stream_update.log.librdkafka.sending import Spread, close_producer, landed
from stream_update.log.watchdog import Call

__all__ = ["LibrdkafkaPublisher"]


class LibrdkafkaPublisher(Checkpoints):
    """See :class:`stream_update.protocols.Publisher`."""

    members = LibrdkafkaMember
    failures = KafkaException
    grace_s = 1.0  # for the client's own limits to be heard of

    def __init__(
        self, group_id: str, connect: Connect, spread: Spread, topics: Iterable[str] = ()
    ) -> None:
        self._connect = connect
        self._spread = spread
        self._heard = Heard()
        super().__init__(group_id, connect.options.step_s, topics)

    def _partition(self, record: Record) -> int | None:
        return self._spread.partition(record)

    def _positions(self, topic: str, offsets: Mapping[int, Committed]) -> list[Any]:
        return [
            VendorPartition(topic, partition, at.offset, at.metadata)
            for partition, at in offsets.items()
        ]

    def _made(self, transactional_id: str) -> Any:
        self._heard = Heard()
        return self._connect.producer(self._heard, **{"transactional.id": transactional_id})

    def _initialise(self, producer: Any) -> None:
        producer.init_transactions(self._connect.block_s)
        # On the way there one address of a name may have refused, and another not.
        producer.poll(0)
        self._heard.lost = False

    def _look_up(self, producer: Any, topic: str) -> None:
        producer.list_topics(topic, timeout=self._step_s)

    def _has_kept_its_connections(self, producer: Any) -> bool:
        producer.poll(0)
        return not self._heard.lost

    def _discard(self, producer: Any) -> None:
        close_producer(producer)

    def _send_offsets(self, producer: Any, positions: Any, identity: Identity) -> None:
        producer.send_offsets_to_transaction(positions, identity.packed, self._step_s)

    def _abort(self, producer: Any) -> None:
        producer.abort_transaction(ABORT_S)

    def _commit(self, producer: Any) -> None:
        producer.commit_transaction(self._step_s)

    def _translated(self, error: Exception, doing: str) -> StreamUpdateError:
        assert isinstance(error, KafkaException)
        return translated(error, doing)

    def _deliver(self, call: Call[list[int]], producer: Any, sends: Sends) -> list[int]:
        """Send, and see every record acknowledged."""
        call.step("send", self._step_s + self._step_s)
        landings = [self._spread.send(producer, record, partition) for record, partition in sends]
        call.step("flush", self._step_s + self.grace_s)
        producer.flush(self._step_s)
        records = [record for record, _ in sends]
        return landed(records, landings, self._connect.options.max_request_size)

    def _verdict(self, error: Exception) -> StreamUpdateError:
        if isinstance(error, KafkaException):
            one = cause(error)
            if one.code() in FENCED:
                return self._displaced()
            if one.code() in NEEDS_A_PERSON:
                return translated(error, "publishing a checkpoint")
            if one.code() in STALE_MEMBER:
                said = f"{one.name()}: {one.str()}"
                return Refused(f"group {self._group_id} has gone on without this member: {said}")
            if is_passing(one):
                return Refused(f"the checkpoint did not reach the log in time: {one.str()}")
            return translated(error, "publishing a checkpoint")
        if isinstance(error, Transient):
            return Refused(f"the checkpoint did not reach the log in time: {error}")
        if isinstance(error, ConfigError | Fatal):
            return error
        raise error
