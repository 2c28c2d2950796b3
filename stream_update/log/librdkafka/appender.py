"""Records without a checkpoint around them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from stream_update.errors import Fatal, Transient
from stream_update.events import Record
from stream_update.log.librdkafka.connect import Connect, Heard
from stream_update.log.librdkafka.sending import Landing, Spread, close_producer, landed
from stream_update.protocols import Appender

__all__ = ["LibrdkafkaAppender"]

DELIVERY_MS = 60_000
LIMIT_BYTES = 16 * 1024 * 1024
LIMIT_RECORDS = 10_000
RECORD_OVERHEAD = 100
TURN_S = 0.05


class LibrdkafkaAppender(Appender):
    """See :class:`stream_update.protocols.Appender`.

    Idempotent, so a retry neither repeats nor reorders. What is in flight is bounded
    here, as the client's own bound is for all topics and far higher. After a failure the next
    record gets a new producer.
    """

    def __init__(self, connect: Connect, spread: Spread) -> None:
        self._connect = connect
        self._spread = spread
        self._producer: Any = None
        self._flying: deque[tuple[Record, Landing, int]] = deque()
        self._flying_bytes = 0

    def close(self) -> None:
        """Give up what is not in the log yet; :meth:`flush` first."""
        self._flying.clear()
        self._flying_bytes = 0
        producer, self._producer = self._producer, None
        if producer is not None:
            close_producer(producer)

    def append(self, records: Iterable[Record]) -> int:
        count = 0
        for record in records:
            partition = self._spread.partition(record)
            if self._producer is None:
                self._producer = self._new_producer()
            size = len(record.value or b"") + len(record.key or b"") + RECORD_OVERHEAD
            while self._flying and (
                self._flying_bytes + size > LIMIT_BYTES or len(self._flying) >= LIMIT_RECORDS
            ):
                self._land()
            landing = self._spread.send(self._producer, record, partition)
            self._flying.append((record, landing, size))
            self._flying_bytes += size
            count += 1
        return count

    def flush(self) -> None:
        if self._producer is None:
            return
        if self._producer.flush(DELIVERY_MS / 1000):
            raise Transient(
                f"{len(self._flying)} records are not acknowledged after "
                f"{DELIVERY_MS / 1000:.0f} s",
                hint="is the broker up?",
            )
        while self._flying:
            self._land()

    def _land(self) -> None:
        """See the oldest record in the log."""
        record, landing, size = self._flying.popleft()
        self._flying_bytes -= size
        deadline = time.monotonic() + DELIVERY_MS / 1000
        while not landing.done() and time.monotonic() < deadline:
            self._producer.poll(TURN_S)
        try:
            landed([(record, 0)], [landing], self._connect.options.max_request_size)
        except (Fatal, Transient) as error:
            behind = len(self._flying)
            self.close()
            raise Fatal(
                f"{error}; of {behind} records handed over after it, nobody looked which are "
                "in the log",
                hint=error.hint or "is the broker up?",
            ) from error

    def _new_producer(self) -> Any:
        return self._connect.producer(
            Heard(), **{"batch.size": 256 * 1024, "delivery.timeout.ms": DELIVERY_MS}
        )
