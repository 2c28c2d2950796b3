"""What is unpacked is measured before it is built."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from stream_update.bounds import Limits, measure, unpack
from stream_update.errors import CorruptSnapshot

TREES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=70_000)
    | st.binary(max_size=300),
    lambda inner: (
        st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=40), inner, max_size=20)
    ),
    max_leaves=40,
)


def size_of(tree: Any) -> int:
    if isinstance(tree, dict):
        return 1 + sum(1 + size_of(value) for value in tree.values())
    return 1 + sum(map(size_of, tree)) if isinstance(tree, list) else 1


def depth_of(tree: Any) -> int:
    if isinstance(tree, dict):
        tree = list(tree.values())
    return 1 + max(map(depth_of, tree), default=0) if isinstance(tree, list) else 0


def refused(packed: bytes, **limits: int) -> str:
    with pytest.raises(CorruptSnapshot) as caught:
        measure(packed, Limits(**limits))
    return caught.value.reason


@given(TREES)
def test_every_value_is_counted_and_every_level(tree: Any) -> None:
    packed = msgspec.msgpack.encode(tree)
    nodes, depth = size_of(tree), depth_of(tree)
    assert measure(packed, Limits(max_nodes=nodes, max_depth=max(1, depth))) == nodes
    if nodes > 1:
        assert refused(packed, max_nodes=nodes - 1) == "too-many-nodes"
    if depth > 1:
        assert refused(packed, max_depth=depth - 1) == "too-deep"


@given(st.binary(max_size=60))
def test_what_is_measured_can_be_built(packed: bytes) -> None:
    try:
        nodes = measure(packed, Limits(max_nodes=1000))
    except CorruptSnapshot:
        return
    assert nodes <= len(packed)
    # Text that is no UTF-8, keys that cannot be keys: nothing large was built.
    with contextlib.suppress(msgspec.MsgspecError, ValueError, TypeError):
        assert size_of(msgspec.msgpack.decode(packed)) <= nodes


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        (b"", "bad-state"),
        (b"\x92\x00", "bad-state"),
        (b"\xa5abc", "bad-state"),
        (b"\x00\x00", "bad-state"),
        (b"\xc7\x01\x00\x00", "bad-state"),
        (b"\xdd\x00\x00\xff\xff", "bad-state"),
        (b"\xdd\xff\xff\xff\xff", "too-many-nodes"),
        (b"\xdf\xff\xff\xff\xff", "too-many-nodes"),
        (b"\x91" * 1_000_000 + b"\x00", "too-deep"),
    ],
)
def test_what_is_announced_is_not_believed(packed: bytes, reason: str) -> None:
    assert refused(packed) == reason


def test_a_bomb_is_left_when_it_is_larger_than_it_says() -> None:
    bomb = zstandard.compress(bytes(100_000_000))
    with pytest.raises(CorruptSnapshot) as caught:
        unpack(bomb, 10_000)
    assert caught.value.reason == "too-large"
    assert unpack(zstandard.compress(b"abc"), 3) == b"abc"
    with pytest.raises(CorruptSnapshot):
        unpack(b"abc", 3)


def test_sizes_and_their_ratio() -> None:
    limits = Limits(max_bytes=1 << 26, max_unpacked_bytes=1 << 28, max_ratio=10)
    limits.check(1 << 26, 1 << 28)
    limits.check(1, 1 << 24)
    for size, unpacked, reason in (
        ((1 << 26) + 1, 0, "too-large"),
        (1 << 26, (1 << 28) + 1, "too-large"),
        (1 << 24, (10 << 24) + 1, "bad-ratio"),
    ):
        with pytest.raises(CorruptSnapshot) as caught:
            limits.check(size, unpacked)
        assert caught.value.reason == reason
