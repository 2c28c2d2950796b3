"""Records without a checkpoint around them."""

from __future__ import annotations

from typing import Any

from kafka import errors as vendor

from stream_update.errors import StreamUpdateError
from stream_update.events import Record
from stream_update.log.appending import DELIVERY_MS, BoundedAppender
from stream_update.log.kafka.connect import Connect
from stream_update.log.kafka.refusals import translated
from stream_update.log.kafka.sending import Spread, close_producer, rejected

__all__ = ["KafkaAppender"]


class KafkaAppender(BoundedAppender):
    """See :class:`stream_update.protocols.Appender`.

    The client has no bound of its own: 150 MB were accepted in 0.1 s while the broker stood
    still. And the broker's refusal of one record makes an idempotent producer fail for ever.
    """

    def __init__(self, connect: Connect, spread: Spread) -> None:
        super().__init__(spread)
        self._connect = connect
        self._spread = spread

    def _new_producer(self) -> Any:
        return self._connect.producer(
            batch_size=256 * 1024, delivery_timeout_ms=DELIVERY_MS, enable_idempotence=True
        )

    def _discard(self, producer: Any) -> None:
        close_producer(producer)

    def _send(self, producer: Any, record: Record, partition: int | None) -> Any:
        try:
            return self._spread.send(producer, record, partition)
        except vendor.KafkaError as error:
            self.close()
            raise translated(error, f"writing to topic {record.topic}") from error

    def _flushed(self, producer: Any) -> bool:
        try:
            producer.flush(timeout=DELIVERY_MS / 1000)
        except vendor.KafkaTimeoutError:
            return False
        return True

    def _failure(self, record: Record, flight: Any) -> StreamUpdateError | None:
        try:
            flight.get(timeout=DELIVERY_MS / 1000)
        except vendor.KafkaError as error:
            return rejected(record, error, self._connect.max_request_size)
        return None
