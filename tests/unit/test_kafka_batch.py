from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_update.log.kafka.batch import RecordsBatch


class Fetched(NamedTuple):
    offset: int
    value: bytes | None
    key: bytes | None
    timestamp: int
    headers: list[tuple[str, bytes | None]]


def records(count: int) -> list[Fetched]:
    return [Fetched(3 * i, b"v%d" % i, b"k%d" % i, 1000 + i, [("n", None)]) for i in range(count)]


def columns(batch: Any) -> list[Any]:
    return [batch.offsets, batch.values, batch.keys, batch.timestamps, batch.headers]


def test_columns() -> None:
    batch = RecordsBatch("topic", 2, records(2))
    assert (batch.topic, batch.partition, len(batch)) == ("topic", 2, 2)
    assert columns(batch) == [
        [0, 3],
        [b"v0", b"v1"],
        [b"k0", b"k1"],
        [1000, 1001],
        [[("n", b"")], [("n", b"")]],
    ]


def test_nothing_but_offsets_and_values_is_computed_before_it_is_asked_for() -> None:
    batch = RecordsBatch("topic", 0, records(3)).slice(1, 3)
    assert isinstance(batch, RecordsBatch)
    assert (batch._keys, batch._timestamps, batch._headers) == ((), (), ())
    assert batch.keys is batch.keys
    assert (batch._timestamps, batch._headers) == ((), ())


@given(st.integers(0, 6), st.integers(0, 7), st.integers(0, 7))
def test_a_slice_slices_every_column(count: int, start: int, stop: int) -> None:
    batch = RecordsBatch("topic", 2, records(count))
    part = batch.slice(start, stop)
    assert (part.topic, part.partition) == ("topic", 2)
    assert columns(part) == [column[start:stop] for column in columns(batch)]


def test_a_batch_has_no_room_for_other_attributes() -> None:
    with pytest.raises(AttributeError):
        RecordsBatch("topic", 0, records(1)).offset = 3  # type: ignore[attr-defined]
