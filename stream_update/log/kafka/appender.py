"""Records without a checkpoint around them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from kafka import errors as vendor

from stream_update.errors import Fatal, Transient
from stream_update.events import Record
from stream_update.log.kafka.connect import Connect
from stream_update.log.kafka.refusals import translated
from stream_update.log.kafka.sending import Spread, close_producer, rejected
from stream_update.protocols import Appender

__all__ = ["KafkaAppender"]

DELIVERY_MS = 60_000
LIMIT_BYTES = 16 * 1024 * 1024
LIMIT_RECORDS = 10_000
RECORD_OVERHEAD = 100


class KafkaAppender(Appender):
    """See :class:`stream_update.protocols.Appender`.

    Idempotent, so a retry neither repeats nor reorders. The client has no bound of
    its own (150 MB were accepted in 0.1 s while the broker stood still), so the bound
    is kept here. After a failure the next record gets a new producer: the
    broker's refusal of one record makes an idempotent one fail for ever.
    """

    def __init__(self, connect: Connect, spread: Spread) -> None:
        self._connect = connect
        self._spread = spread
        self._producer: Any = None
        self._flying: deque[tuple[Record, Any, int]] = deque()
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
            try:
                future = self._spread.send(self._producer, record, partition)
            except vendor.KafkaError as error:
                self.close()
                raise translated(error, f"writing to topic {record.topic}") from error
            self._flying.append((record, future, size))
            self._flying_bytes += size
            count += 1
        return count

    def flush(self) -> None:
        if self._producer is None:
            return
        try:
            self._producer.flush(timeout=DELIVERY_MS / 1000)
        except vendor.KafkaTimeoutError as error:
            raise Transient(
                f"{len(self._flying)} records are not acknowledged after "
                f"{DELIVERY_MS / 1000:.0f} s",
                hint="is the broker up?",
            ) from error
        while self._flying:
            self._land()

    def _land(self) -> None:
        """See the oldest record in the log."""
        record, future, size = self._flying.popleft()
        self._flying_bytes -= size
        try:
            future.get(timeout=DELIVERY_MS / 1000)
        except vendor.KafkaError as error:
            behind = len(self._flying)
            self.close()
            cause = rejected(record, error, self._connect.max_request_size)
            raise Fatal(
                f"{cause}; of {behind} records handed over after it, nobody looked which are "
                "in the log",
                hint=cause.hint or "is the broker up?",
            ) from error

    def _new_producer(self) -> Any:
        return self._connect.producer(
            batch_size=256 * 1024, delivery_timeout_ms=DELIVERY_MS, enable_idempotence=True
        )
