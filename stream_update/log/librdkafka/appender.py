"""Records without a checkpoint around them."""

from __future__ import annotations

import time
from typing import Any

from stream_update.errors import Fatal, StreamUpdateError, Transient
from stream_update.events import Record
from stream_update.log.appending import DELIVERY_MS, BoundedAppender
from stream_update.log.librdkafka.connect import Connect, Heard
from stream_update.log.librdkafka.sending import Landing, Spread, close_producer, landed

__all__ = ["LibrdkafkaAppender"]

TURN_S = 0.05


class LibrdkafkaAppender(BoundedAppender):
    """See :class:`stream_update.protocols.Appender`.

    The client's own bound is for all topics, and far higher.
    """

    def __init__(self, connect: Connect, spread: Spread) -> None:
        super().__init__(spread)
        self._connect = connect
        self._spread = spread

    def _new_producer(self) -> Any:
        return self._connect.producer(
            Heard(), **{"batch.size": 256 * 1024, "delivery.timeout.ms": DELIVERY_MS}
        )

    def _discard(self, producer: Any) -> None:
        close_producer(producer)

    def _send(self, producer: Any, record: Record, partition: int | None) -> Landing:
        return self._spread.send(producer, record, partition)

    def _flushed(self, producer: Any) -> bool:
        return not producer.flush(DELIVERY_MS / 1000)

    def _failure(self, record: Record, flight: Landing) -> StreamUpdateError | None:
        deadline = time.monotonic() + DELIVERY_MS / 1000
        while not flight.done() and time.monotonic() < deadline:
            self._producer.poll(TURN_S)
        try:
            landed([record], [flight], self._connect.options.max_request_size)
        except (Fatal, Transient) as error:
            return error
        return None
