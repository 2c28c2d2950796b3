from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner import murmur2 as kafka_murmur2

from stream_update.partitions import murmur2, partition_for

# From the tests of Kafka's Java client, as unsigned numbers.
KNOWN = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize("key", KNOWN)
def test_is_what_the_java_client_computes(key: bytes) -> None:
    assert murmur2(key) == KNOWN[key] & 0xFFFFFFFF


@given(st.binary(max_size=40))
def test_is_what_kafka_python_computes(key: bytes) -> None:
    assert murmur2(key) == kafka_murmur2(key)


@given(st.binary(max_size=40), st.integers(1, 1000))
def test_a_partition_that_exists_and_the_one_that_kafka_python_chooses(
    key: bytes, partitions: int
) -> None:
    chosen = partition_for(key, partitions)
    assert 0 <= chosen < partitions
    assert chosen == (kafka_murmur2(key) & 0x7FFFFFFF) % partitions


def test_without_a_key_only_a_single_partition_is_certain() -> None:
    assert partition_for(None, 1) == 0
    with pytest.raises(ValueError, match="any of 3 partitions"):
        partition_for(None, 3)
