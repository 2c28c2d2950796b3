"""Columns over the records that the client returned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any

from stream_update.events import Batch, Headers

__all__ = ["RecordsBatch"]

_offset = attrgetter("offset")
_value = attrgetter("value")
_key = attrgetter("key")
_timestamp = attrgetter("timestamp")


class RecordsBatch(Batch):
    """A batch over kafka-python's ``ConsumerRecord`` tuples.

    Offsets and values are there at once; keys, timestamps and headers are taken
    out of the records when somebody asks.
    """

    __slots__ = ("_records",)

    def __init__(self, topic: str, partition: int, records: Sequence[Any]) -> None:
        super().__init__(topic, partition, [*map(_offset, records)], [*map(_value, records)])
        self._records = records

    @property
    def keys(self) -> Sequence[bytes | None]:
        if not self._keys:
            self._keys = [*map(_key, self._records)]
        return self._keys

    @property
    def timestamps(self) -> Sequence[int]:
        if not self._timestamps:
            self._timestamps = [*map(_timestamp, self._records)]
        return self._timestamps

    @property
    def headers(self) -> Sequence[Headers]:
        if not self._headers:
            self._headers = [_headers(record.headers) for record in self._records]
        return self._headers

    def slice(self, start: int, stop: int) -> Batch:
        return RecordsBatch(self.topic, self.partition, self._records[start:stop])


def _headers(headers: Iterable[tuple[str, bytes | None]]) -> Headers:
    # Kafka knows headers without a value; nobody above this module needs to.
    return [(name, value or b"") for name, value in headers]
