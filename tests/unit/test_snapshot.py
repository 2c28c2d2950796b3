"""Snapshots on a log: sealed, cut, put together again, found from the end, refused."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from stream_update import snapshot as module
from stream_update.errors import CorruptSnapshot, LineageMismatch
from stream_update.events import Batch, Record, TopicPartition
from stream_update.objects import freeze, thaw
from stream_update.restore import newest
from stream_update.snapshot import (
    Assembler,
    Identity,
    Snapshot,
    changed_sources,
    check_identity,
    records,
    seal,
    state_digest,
)

ME = Identity(
    app="a",
    lineage="a",
    task="binary",
    topic="t",
    topic_id="id-1",
    learner="river",
    fingerprint="f",
    config={"learner": {"lr": 0.1}},
    versions={"river": "0.26.1"},
    seed=0,
)


def sealed(seq: int, state: Any, identity: Identity = ME) -> Snapshot:
    return seal(
        state,
        identity,
        partition=0,
        seq=seq,
        parent="",
        next={"0": seq * 10},
        events=1,
        learned=1,
        rejected=0,
        unlabelled=0,
        recent_loss=0.5,
        event_time=None,
        created_ms=seq,
    )


trees = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=20,
)


@given(trees, st.randoms(use_true_random=False))
def test_chunks_read_in_any_order_give_the_state_back(state: Any, order: Any) -> None:
    made = sealed(3, {"state": state, "filling": bytes(range(256)) * 9000})
    pieces = records(made, "s")
    assert len(pieces) == made.manifest.chunks + 1
    placed = list(enumerate(pieces))
    order.shuffle(placed)
    assembler = Assembler("a")
    for offset, piece in placed:
        assembler.add(piece.value, piece.headers, offset)
    found = assembler.complete(3)
    assert found is not None
    assert msgspec.msgpack.encode(found.state()["state"]) == msgspec.msgpack.encode(state)


def test_chunks_are_bounded_and_a_missing_one_is_not_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 100)
    made = sealed(1, [hashlib.sha256(bytes([i])).digest() for i in range(60)])
    pieces = records(made, "s")
    assert made.manifest.chunks == len(pieces) - 1 > 3
    assert max(len(piece.value or b"") for piece in pieces[:-1]) == 100
    assembler = Assembler("a")
    for piece in [*pieces[:1], *pieces[2:]]:
        assembler.add(piece.value, piece.headers)
    assert assembler.complete(1) is None


@given(st.integers(0, 200), st.integers(1, 255))
def test_a_changed_byte_is_noticed(position: int, change: int) -> None:
    made = sealed(1, list(range(100)))
    payload = bytearray(made.payload)
    payload[position % len(payload)] ^= change
    with pytest.raises(CorruptSnapshot):
        module.open_payload(made.manifest, bytes(payload))


@given(st.sets(st.text(max_size=4) | st.integers(), min_size=1), st.randoms())
def test_the_order_of_a_set_is_no_part_of_the_digest(members: set[Any], order: Any) -> None:
    """Nor is that of one inside of something else; what is in it is."""
    shuffled = list(members)
    order.shuffle(shuffled)
    # One that has grown and shrunk hands out its members in an order of its own.
    passing = {(number,) for number in range(100)}
    other = (passing | {*shuffled}) - passing
    states = [{"a": [{"learner": freeze({"known": one})}], "b": 1.5} for one in (members, other)]
    assert state_digest(states[0]) == state_digest(states[1])
    for state in states:
        found = sealed(1, state).state()
        assert state_digest(found) == state_digest(state)
        assert thaw(found["a"][0]["learner"]) == {"known": members}
    lacking = members - {shuffled[0]}
    assert state_digest({**states[0], "a": [{"learner": freeze({"known": lacking})}]}) != (
        state_digest(states[0])
    )


def test_a_digest_with_the_order_of_sets_is_taken_as_well() -> None:
    """Which is what snapshots had once."""
    grown = {f"{number}" for number in range(1000)} - {f"{number}" for number in range(30, 1000)}
    state = {"learner": freeze(grown)}
    made = sealed(1, state)
    exact = hashlib.sha256(module.pack(state)).hexdigest()
    assert made.manifest.digest != exact
    for digest in (made.manifest.digest, exact):
        manifest = msgspec.structs.replace(made.manifest, digest=digest)
        assert module.open_payload(manifest, made.payload) == state
    with pytest.raises(CorruptSnapshot, match="not the one"):
        module.open_payload(msgspec.structs.replace(made.manifest, digest="0"), made.payload)


def test_a_bomb_stops_at_what_the_manifest_says() -> None:
    made = sealed(1, [0])
    bomb = zstandard.compress(bytes(50_000_000))
    lying = msgspec.structs.replace(
        made.manifest, size=len(bomb), sha256=hashlib.sha256(bomb).hexdigest()
    )
    with pytest.raises(CorruptSnapshot):
        module.open_payload(lying, bomb)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"topic_id": "id-2"}, ("id-1", "id-2", "created again")),
        ({"fingerprint": "g"}, ("code", "lineage")),
        ({"config": {"learner": {"lr": 0.2}}}, ("learner.lr: 0.1 -> 0.2",)),
        ({"versions": {"river": "0.27.0"}}, ("river 0.26.1 -> 0.27.0",)),
    ],
)
def test_mismatches_say_what_to_do(change: dict[str, Any], words: tuple[str, ...]) -> None:
    check_identity(sealed(1, 0).manifest, ME)
    with pytest.raises(LineageMismatch) as caught:
        check_identity(sealed(1, 0).manifest, msgspec.structs.replace(ME, **change))
    assert all(word in f"{caught.value} {caught.value.hint}" for word in words)
    assert "a-v2" in caught.value.hint


def test_other_source_is_named_and_not_refused() -> None:
    made = sealed(1, 0, msgspec.structs.replace(ME, sources={"mine": "a" * 64, "gone": "b"}))
    now = msgspec.structs.replace(ME, sources={"mine": "c" * 64, "new": "d"})
    check_identity(made.manifest, now)
    (change,) = changed_sources(made.manifest, now)
    assert "module mine" in change
    assert "a" * 16 in change
    assert "c" * 16 in change
    assert changed_sources(sealed(1, 0).manifest, now) == [], "it says nothing of its code"


class Shelf:
    """A reader of one partition, with holes between the offsets; counts what was read."""

    def __init__(self, pieces: Iterable[Record]) -> None:
        self.pieces = dict(zip(range(5, 10_000, 2), pieces, strict=False))
        self.at = 0
        self.read = 0

    def beginning_offsets(self, where: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(where, 5)

    def end_offsets(self, where: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(where, max(self.pieces, default=4) + 1)

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        (self.at,) = positions.values()

    def position(self, where: TopicPartition) -> int:
        return self.at

    def poll(self, timeout_s: float, max_records: int = 500) -> list[Batch]:
        offsets = [offset for offset in self.pieces if offset >= self.at][:3]
        if not offsets:
            return []
        self.at = offsets[-1] + 1
        found = [self.pieces[offset] for offset in offsets]
        self.read += len(found)
        return [
            Batch("s", 0, offsets, [r.value for r in found], headers=[r.headers for r in found])
        ]


def find(*pieces: Record) -> Snapshot | None:
    return newest(Shelf(pieces), "s", 0, "a")  # type: ignore[arg-type]


def test_the_newest_is_found_by_reading_little() -> None:
    pieces = [piece for seq in range(1, 400) for piece in records(sealed(seq, seq), "s")]
    shelf = Shelf(pieces)
    found = newest(shelf, "s", 0, "a")  # type: ignore[arg-type]
    assert found is not None
    assert found.state() == 399
    assert shelf.read < 12


def test_what_is_incomplete_damaged_or_of_others_is_passed_over() -> None:
    other = msgspec.structs.replace(ME, lineage="b")
    first, second = records(sealed(1, "one"), "s"), records(sealed(2, "two"), "s")
    foreign = records(sealed(9, "not ours", other), "s")
    junk = Record("s", b"\x80\x04junk", headers=(("kind", b"manifest"), ("lineage", b"a")))
    damaged = second[0]._replace(value=b"?" + (second[0].value or b"")[1:])
    for pieces in (
        [*first, *foreign, junk],
        [*first, second[1], *foreign],
        [*first, damaged, second[1]],
    ):
        found = find(*pieces)
        assert found is not None
        assert found.state() == "one"
    assert find(*foreign) is None
    assert find() is None
