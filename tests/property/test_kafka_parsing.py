"""What our parser makes of a fetch is what the client's own makes of it."""

from __future__ import annotations

import contextlib
import types
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st
from kafka import errors as vendor
from kafka.consumer.fetcher import Fetcher, IsolationLevel
from kafka.record import MemoryRecords
from kafka.record.memory_records import MemoryRecordsBuilder
from kafka.structs import TopicPartition

from stream_update.log.kafka.parsing import Parsing, install

WHERE = TopicPartition("topic", 3)

some_bytes = st.none() | st.binary(max_size=200)
some_records = st.lists(
    st.tuples(
        st.integers(0, 1 << 45),
        some_bytes,
        some_bytes,
        st.lists(st.tuples(st.text(max_size=5), some_bytes), max_size=3),
    ),
    min_size=1,
    max_size=6,
)


class Written(NamedTuple):
    """One batch: its format, compression, transaction's producer (or none), and records."""

    magic: int
    compression: int
    producer: int
    transactional: bool
    records: list[Any]


new = st.builds(
    Written, st.just(2), st.integers(0, 4), st.integers(-1, 3), st.booleans(), some_records
)
old = st.builds(
    Written, st.integers(0, 1), st.integers(0, 1), st.just(-1), st.just(False), some_records
)  # fmt: skip


def encoded(batches: list[Written]) -> bytes:
    offset, written = 0, b""
    for one in batches:
        builder = MemoryRecordsBuilder(
            one.magic,
            one.compression,
            1 << 20,
            offset=offset,
            transactional=one.transactional and one.producer >= 0,
            producer_id=one.producer,
            producer_epoch=0 if one.producer >= 0 else -1,
            base_sequence=0 if one.producer >= 0 else -1,
        )
        for timestamp, key, value, headers in one.records:
            builder.append(timestamp, key, value, headers if one.magic == 2 else [])
        offset = builder.next_offset()
        builder.close()
        written += bytes(builder.buffer())
    return written


def parsed(cls: Any, data: bytes, aborted: list[Any], start: int, step: int) -> list[Any]:
    """All that is seen of it: the records and the state behind each take, or the error."""
    part = cls(
        start,
        WHERE,
        MemoryRecords(data),
        isolation_level=IsolationLevel.READ_COMMITTED,
        aborted_transactions=aborted,
    )
    seen: list[Any] = []
    while part:
        try:
            taken = part.take(step)
        except vendor.KafkaError as error:
            return [*seen, type(error)]
        for one in taken:
            seen.append(
                (one.offset, one.timestamp, one.key, one.value, [tuple(h) for h in one.headers])
            )
            assert part.next_fetch_offset > taken[-1].offset
        seen.append((part.next_fetch_offset, part.leader_epoch))
    return seen


aborts = st.lists(
    st.builds(
        lambda producer, first: types.SimpleNamespace(producer_id=producer, first_offset=first),
        st.integers(0, 3),
        st.integers(0, 20),
    ),
    max_size=3,
)


@given(st.lists(new | old, min_size=1, max_size=4), aborts, st.integers(0, 6), st.integers(1, 9))
def test_as_the_client_does(
    batches: list[Written], aborted: list[Any], start: int, step: int
) -> None:
    data = encoded(batches)
    expected = parsed(Fetcher.PartitionRecords, data, aborted, start, step)
    assert parsed(Parsing, data, aborted, start, step) == expected


@given(st.lists(new, min_size=1, max_size=2), st.data())
def test_damage_is_found(batches: list[Written], data: st.DataObject) -> None:
    written = bytearray(encoded(batches))
    at = data.draw(st.integers(17, len(written) - 1))  # behind what says how long the batch is
    written[at] ^= data.draw(st.integers(1, 255))
    expected = parsed(Fetcher.PartitionRecords, bytes(written), [], 0, 3)
    assert parsed(Parsing, bytes(written), [], 0, 3) == expected


@given(new, st.integers(61, 200), st.integers(1, 255))
def test_without_checksums_damage_is_one_kind_of_error(one: Written, at: int, change: int) -> None:
    written = bytearray(encoded([one._replace(compression=0)]))
    written[at % (len(written) - 61) + 61] ^= change
    part = Parsing(0, WHERE, MemoryRecords(bytes(written)), check_crcs=False)
    with contextlib.suppress(vendor.CorruptRecordError):
        part.take(100)


class NoText(str):
    """A name that another program has written in an encoding of its own."""

    __slots__ = ()

    def encode(self, *_: Any) -> bytes:
        return b"\xe4"


def test_a_header_whose_name_is_no_text_costs_no_batch() -> None:
    records = [
        (5, None, b"one", [("name", b"1")]),
        (5, None, b"two", [("name", b"2"), (NoText("x"), b"3")]),
        (5, None, b"three", [("name", b"4")]),
    ]
    data = encoded([Written(2, 0, -1, False, records)])
    taken = Parsing(0, WHERE, MemoryRecords(data)).take(9)
    assert [(one.value, one.headers) for one in taken] == [
        (b"one", [("name", b"1")]),
        (b"two", []),
        (b"three", [("name", b"4")]),
    ]


def test_it_is_put_in_the_clients_place() -> None:
    consumer = types.SimpleNamespace(_fetcher=types.SimpleNamespace())
    install(consumer)
    assert consumer._fetcher.PartitionRecords is Parsing
