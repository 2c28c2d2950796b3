"""Records without a checkpoint around them, for clients of Kafka."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from stream_update.errors import Fatal, StreamUpdateError, Transient
from stream_update.events import Record
from stream_update.log.spread import Partitions
from stream_update.protocols import Appender

__all__ = ["DELIVERY_MS", "BoundedAppender"]

DELIVERY_MS = 60_000
LIMIT_BYTES = 16 * 1024 * 1024
LIMIT_RECORDS = 10_000
RECORD_OVERHEAD = 100


class BoundedAppender(Appender):
    """See :class:`stream_update.protocols.Appender`; each client has a subclass.

    Idempotent, so a retry neither repeats nor reorders. What is in flight is bounded here,
    whatever the client allows. After a failure the next record gets a new producer.
    """

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions
        self._producer: Any = None
        self._flying: deque[tuple[Record, Any, int]] = deque()
        self._flying_bytes = 0

    # -- what each client does in its own way

    def _new_producer(self) -> Any:
        raise NotImplementedError

    def _discard(self, producer: Any) -> None:
        """Close a producer, whatever it still holds."""
        raise NotImplementedError

    def _send(self, producer: Any, record: Record, partition: int | None) -> Any:
        """Hand a record to the client; what will tell where it has landed."""
        raise NotImplementedError

    def _flushed(self, producer: Any) -> bool:
        """Wait until all is acknowledged; whether it was, in time."""
        raise NotImplementedError

    def _failure(self, record: Record, flight: Any) -> StreamUpdateError | None:
        """Wait for one record, and say why it is not in the log if it is not."""
        raise NotImplementedError

    # -- what they share

    def close(self) -> None:
        """Give up what is not in the log yet; :meth:`flush` first."""
        self._flying.clear()
        self._flying_bytes = 0
        producer, self._producer = self._producer, None
        if producer is not None:
            self._discard(producer)

    def append(self, records: Iterable[Record]) -> int:
        count = 0
        for record in records:
            partition = self._partitions.partition(record)
            if self._producer is None:
                self._producer = self._new_producer()
            size = len(record.value or b"") + len(record.key or b"") + RECORD_OVERHEAD
            while self._flying and (
                self._flying_bytes + size > LIMIT_BYTES or len(self._flying) >= LIMIT_RECORDS
            ):
                self._land()
            self._flying.append((record, self._send(self._producer, record, partition), size))
            self._flying_bytes += size
            count += 1
        return count

    def flush(self) -> None:
        if self._producer is None:
            return
        if not self._flushed(self._producer):
            raise Transient(
                f"{len(self._flying)} records are not acknowledged after "
                f"{DELIVERY_MS / 1000:.0f} s",
                hint="is the broker up?",
            )
        while self._flying:
            self._land()

    def _land(self) -> None:
        """See the oldest record in the log."""
        record, flight, size = self._flying.popleft()
        self._flying_bytes -= size
        failure = self._failure(record, flight)
        if failure is not None:
            behind = len(self._flying)
            self.close()
            raise Fatal(
                f"{failure}; of {behind} records handed over after it, nobody looked which are "
                "in the log",
                hint=failure.hint or "is the broker up?",
            ) from failure
