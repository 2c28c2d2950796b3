"""Records without a checkpoint around them."""

from __future__ import annotations

from collections.abc import Iterable

from stream_update.events import Record
from stream_update.log.embedded.store import Store
from stream_update.log.embedded.writing import Writing
from stream_update.protocols import Appender

__all__ = ["EmbeddedAppender"]

LIMIT_RECORDS = 1000
LIMIT_BYTES = 8 * 1024 * 1024
WAIT_S = 60.0


class EmbeddedAppender(Appender):
    """See :class:`stream_update.protocols.Appender`. Writes 1000 records, or 8 MiB, at once.

    What could not be written because of :class:`~stream_update.errors.Transient` is
    kept, and the next :meth:`flush` tries again.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._writing = Writing(store)
        self._waiting: list[Record] = []
        self._waiting_bytes = 0

    def close(self) -> None:
        """Give up what is not in the log yet; :meth:`flush` first."""
        self._waiting.clear()
        self._store.close()

    def append(self, records: Iterable[Record]) -> int:
        count = 0
        for record in records:
            self._writing.check(record)
            if len(self._waiting) >= LIMIT_RECORDS or self._waiting_bytes >= LIMIT_BYTES:
                self.flush()
            self._waiting.append(record)
            self._waiting_bytes += len(record.value or b"")
            count += 1
        return count

    def flush(self) -> None:
        if not self._waiting:
            return
        with self._store.writing(f"{len(self._waiting)} records", WAIT_S) as sql:
            self._writing.write(sql, self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
