"""From the bytes of a fetch to records, in fewer steps than the client takes.

What a record costs in Python is what reading a topic costs: the client makes two objects of
each, one with a property for everything and one for the caller, and measures the sizes
of their parts. Here one loop goes over the bytes of a batch. What the client knows about
batches (checksums, aborted transactions, control records, compression) stays its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from kafka import errors as vendor
from kafka.consumer.fetcher import Fetcher, IsolationLevel
from kafka.record.util import decode_varint

__all__ = ["install"]

NEW_FORMAT = 2
"""Of batches, since Kafka 0.11."""


class Parsed(NamedTuple):
    """What is asked of a record."""

    offset: int
    value: bytes | None
    key: bytes | None
    timestamp: int
    headers: list[tuple[str, bytes | None]]


class Parsing(Fetcher.PartitionRecords):  # type: ignore[misc]
    """The records of one partition in one fetch, in place of the client's own class."""

    def _unpack_records(self, _tp: Any, records: Any, *_deserializers: Any) -> Iterator[Parsed]:
        # The name, `self` and `batch` are what a damaged batch is known by.
        while (batch := records.next_batch()) is not None:
            if self.check_crcs and not batch.validate_crc():
                raise vendor.CorruptRecordError(
                    f"the batch at offset {batch.base_offset} does not have its checksum"
                )
            if batch.magic != NEW_FORMAT:
                yield from self._old_records(batch)
                continue
            self.leader_epoch = batch.leader_epoch
            if not self._is_void(batch) and not batch.is_control_batch:
                for record in _records(batch):
                    self.next_fetch_offset = record.offset + 1
                    yield record
                self.bytes_read += batch.size_in_bytes
                self.records_read += batch.records_count
            # Compaction may have taken the last records of a batch, and not their offsets.
            self.next_fetch_offset = batch.next_offset
        self.drain()

    def _is_void(self, batch: Any) -> bool:
        """Whether its transaction was aborted."""
        if self.isolation_level != IsolationLevel.READ_COMMITTED or not batch.has_producer_id():
            return False
        self._consume_aborted_transactions_up_to(batch.last_offset)
        if self._contains_abort_marker(batch):
            self.aborted_producer_ids.discard(batch.producer_id)
            return True
        return bool(self._is_batch_aborted(batch))

    def _old_records(self, batch: Any) -> Iterator[Parsed]:
        for record in batch:
            if self.check_crcs and not record.validate_crc():
                raise vendor.CorruptRecordError(
                    f"the record at offset {record.offset} does not have its checksum"
                )
            self.next_fetch_offset = record.offset + 1
            self.bytes_read += record.size_in_bytes
            self.records_read += 1
            yield Parsed(record.offset, record.value, record.key, record.timestamp, record.headers)


def _records(batch: Any) -> Iterator[Parsed]:
    """The records of a batch, as they follow on each other.

    Each is its length, attributes, the differences of its timestamp and offset to the batch's
    first, key, value and headers; all numbers are of variable length (KIP-98).
    """
    iter(batch)  # lets the client uncompress it
    buffer, at = bytes(batch._buffer), batch._pos  # noqa: SLF001
    first_offset, first_time = batch.base_offset, batch.first_timestamp
    appended = batch.timestamp_type == batch.LOG_APPEND_TIME
    try:
        for _ in range(batch.records_count):
            length, at = decode_varint(buffer, at)
            end = at + length
            time, at = decode_varint(buffer, at + 1)
            number, at = decode_varint(buffer, at)
            size, at = decode_varint(buffer, at)
            key = None
            if size >= 0:
                key, at = buffer[at : at + size], at + size
            size, at = decode_varint(buffer, at)
            value = None
            if size >= 0:
                value, at = buffer[at : at + size], at + size
            count, at = decode_varint(buffer, at)
            headers: list[tuple[str, bytes | None]] = []
            if count:
                headers, at = _read_headers(buffer, at, count)
            if at != end or end > len(buffer):
                raise ValueError(f"a record of {length} bytes ends {end - at} bytes off")
            yield Parsed(
                first_offset + number,
                value,
                key,
                batch.max_timestamp if appended else first_time + time,
                headers,
            )
    except (ValueError, IndexError) as error:
        raise vendor.CorruptRecordError(f"a record cannot be read: {error}") from error
    if at != len(buffer):
        raise vendor.CorruptRecordError(f"{len(buffer) - at} bytes follow on the last record")


def _read_headers(buffer: bytes, at: int, count: int) -> tuple[list[tuple[str, bytes | None]], int]:
    """The headers, and where they end; none if the name of one is no text, which is no reason
    to lose the whole batch, and all that librdkafka tells. Raises :class:`ValueError`.
    """
    if count < 0:
        raise ValueError(f"{count} headers")
    raw: list[tuple[bytes, bytes | None]] = []
    for _ in range(count):
        size, at = decode_varint(buffer, at)
        if size < 0:
            raise ValueError("a header without a name")
        name, at = buffer[at : at + size], at + size
        size, at = decode_varint(buffer, at)
        value = None
        if size >= 0:
            value, at = buffer[at : at + size], at + size
        raw.append((name, value))
    try:
        return [(name.decode(), value) for name, value in raw], at
    except UnicodeDecodeError:
        return [], at


def install(consumer: Any) -> None:
    """Let a consumer parse in this way: its ``poll`` returns lists of :class:`Parsed`."""
    consumer._fetcher.PartitionRecords = Parsing  # noqa: SLF001
