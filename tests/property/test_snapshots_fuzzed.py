"""A follower among mutated, misplaced, forged and random records.

Each is refused with one of the fixed words or means what it meant before; no error
leaves the follower, nothing runs, and memory stays bounded. Two writers are tried: one
who can write to the topic, and one who can also sign.
"""

from __future__ import annotations

import base64
import os
import pickle
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Self

import msgspec
import pytest
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from river import compose, linear_model, preprocessing

from stream_update import ModelSubscriber
from stream_update import snapshot as container
from stream_update.bounds import Limits
from stream_update.errors import LearnerFailed
from stream_update.events import Batch, Record, TopicInfo, TopicPartition
from stream_update.heartbeat import Heartbeat, heartbeat_record
from stream_update.learners.river import RiverLearner
from stream_update.refusals import REASONS
from stream_update.serving import Follow, Serving
from stream_update.signing import SigningKey
from stream_update.snapshot import Identity, Snapshot, records, seal, tree_digest

APP, TOPIC = "fuzz", "fuzz.snapshots"
LIMITS = Limits(max_bytes=200_000, max_unpacked_bytes=2_000_000, max_nodes=50_000, max_depth=30)
MOST_MEMORY = 48 << 20
KEY = SigningKey(bytes(range(32)))
PUBLIC = base64.b64encode(KEY.public).decode()
EVENT = {"a": 0.5, "b": 1.0}
CHUNK = 600

BOUNDED = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

FORBIDDEN = {"os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "pickle.find_class"}
ran: list[str] = []


def watch(event: str, _arguments: object) -> None:
    if event in FORBIDDEN:
        ran.append(event)


sys.addaudithook(watch)


class Shelf:
    """A log with one partition of records; more of them can arrive while it is read."""

    url = "shelf://"

    def __init__(self, pieces: Iterable[Record]) -> None:
        self.pieces = list(pieces)
        self.at = 0
        self.reached = threading.Event()

    def topics(self) -> dict[str, TopicInfo]:
        return {name: TopicInfo(name, "id", 1) for name in (TOPIC, f"{APP}.serving")}

    def reader(self) -> Shelf:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """There is nothing to close."""

    def close(self) -> None:
        """Nor to let go of."""

    def beginning_offsets(self, where: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(where, 0)

    def end_offsets(self, where: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(where, len(self.pieces))

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        (self.at,) = positions.values()

    def position(self, where: TopicPartition) -> int:
        return self.at

    def poll(self, timeout_s: float, max_records: int = 500) -> list[Batch]:
        found = self.pieces[self.at : self.at + 3]
        if not found:
            self.reached.set()
            time.sleep(0.0005)
            return []
        offsets = list(range(self.at, self.at + len(found)))
        self.at += len(found)
        return [
            Batch(TOPIC, 0, offsets, [r.value for r in found], headers=[r.headers for r in found])
        ]

    def read_by(self, model: ModelSubscriber) -> None:
        """Return when all of it has been read."""
        self.reached.clear()
        deadline = time.monotonic() + 20
        while not self.reached.wait(0.01):
            assert model._thread.is_alive(), model._failure
            assert time.monotonic() < deadline


def learner() -> RiverLearner:
    def make() -> Any:
        return compose.Pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression())

    return RiverLearner(make, "binary")


def genuine() -> list[Snapshot]:
    """Three snapshots of a model that goes on learning."""
    identity = Identity(
        app=APP, lineage=APP, task="binary", topic="t", topic_id="i", learner="river",
        fingerprint="", config={}, versions={"river": version("river")}, seed=0,
    )  # fmt: skip
    model, made = learner(), []
    for seq in (1, 2, 3):
        model.learn([{"a": seq * 0.3, "b": 1.0 - seq}] * 5, [True, False, True, True, False])
        state = {"learner": model.dump(), "padding": [os.urandom(8) for _ in range(100)]}
        made.append(
            seal(
                state, identity, partition=0, seq=seq, parent="", next={"0": seq * 5},
                events=5, learned=5, rejected=0, unlabelled=0, recent_loss=0.5, event_time=None,
                created_ms=seq, key_id=KEY.key_id,
            )
        )  # fmt: skip
    return made


@pytest.fixture(scope="module", autouse=True)
def small_chunks() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(container, "CHUNK_BYTES", CHUNK)
        yield


with pytest.MonkeyPatch.context() as small:
    small.setattr(container, "CHUNK_BYTES", CHUNK)
    GENUINE = genuine()
    RECORDS = [records(one, TOPIC, KEY) for one in GENUINE]
BEATS = [
    heartbeat_record(
        Heartbeat(app=APP, lineage=APP, partition=0, seq=one.manifest.seq, sha256=one.sha256,
                  time_ms=one.manifest.seq), TOPIC, KEY,
    )
    for one in GENUINE
]  # fmt: skip
MEANING = {one.sha256: msgspec.msgpack.encode(one.state()["learner"]) for one in GENUINE}
with pytest.MonkeyPatch.context() as small:
    small.setattr(container, "CHUNK_BYTES", CHUNK)
    SERVED = [Serving(TOPIC, "float32").seal(one, one.state()["learner"]) for one in GENUINE]
    SMALL = [records(one, TOPIC, KEY) for one in SERVED]
MEANING |= {one.sha256: MEANING[one.origin] for one in SERVED}
ALL = [record for made in (*RECORDS, *SMALL) for record in made] + BEATS


def follow(
    before: Sequence[Record], after: Sequence[Record], kind: Follow = "snapshots"
) -> ModelSubscriber:
    """A follower that has read all of this; what escaped from it is raised here."""
    ran.clear()
    tracemalloc.start()
    try:
        shelf = Shelf(before)
        log: Any = shelf
        with ModelSubscriber(
            APP, log=log, follow=kind, trusted_keys=[PUBLIC], limits=LIMITS, poll_s=0
        ) as it:
            shelf.read_by(it)
            shelf.pieces += after
            shelf.read_by(it)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MOST_MEMORY
    assert not ran
    assert it.refused.keys() <= REASONS.keys()
    return it


def check_genuine(model: ModelSubscriber) -> None:
    for one in model._serving.models.values():
        assert isinstance(one.learner, RiverLearner)
        assert msgspec.msgpack.encode(one.learner.dump()) == MEANING[model._serving._digests[0]]


# -- one who can write to the topic

WORDS = st.sampled_from(
    [b"", b"chunk", b"manifest", b"heartbeat", b"fuzz", b"other", b"-1", b"0", b"1", b"2", b"99",
     b"9" * 30, b"\xff\xfe", KEY.key_id.encode(), pickle.dumps(os.system)]
)  # fmt: skip
NAMES = st.sampled_from(["kind", "app", "lineage", "seq", "i", "key-id", "signature", "other"])
RANDOM = st.builds(
    lambda value, headers: Record(TOPIC, value, b"k", 0, list(headers.items())),
    st.none() | st.binary(max_size=200) | WORDS,
    st.dictionaries(NAMES, WORDS | st.binary(max_size=70), max_size=7),
)


@st.composite
def mutated(draw: st.DrawFn) -> Record:
    record = draw(st.sampled_from(ALL))
    value, headers = record.value or b"", dict(record.headers)
    for _ in range(draw(st.integers(0, 3))):
        match draw(st.sampled_from(["flip", "cut", "insert", "header", "drop", "splice", "take"])):
            case "flip" if value:
                at = draw(st.integers(0, len(value) - 1))
                byte = value[at] ^ draw(st.integers(1, 255))
                value = value[:at] + bytes([byte]) + value[at + 1 :]
            case "cut":
                value = value[: draw(st.integers(0, len(value)))]
            case "insert":
                at = draw(st.integers(0, len(value)))
                value = value[:at] + draw(st.binary(max_size=20)) + value[at:]
            case "header":
                headers[draw(NAMES)] = draw(WORDS | st.binary(max_size=70))
            case "drop":
                headers.pop(draw(NAMES), None)
            case "splice":
                headers |= dict(draw(st.sampled_from(ALL)).headers)
            case _:
                value = draw(st.sampled_from(ALL)).value or b""
    return record._replace(value=value, headers=list(headers.items()))


STREAMS = st.lists(
    mutated() | RANDOM | st.sampled_from([*RECORDS, *SMALL]).flatmap(st.permutations),
    max_size=12,
).map(lambda parts: [r for part in parts for r in ([part] if isinstance(part, Record) else part)])


@BOUNDED
@given(STREAMS, STREAMS)
@example([r for made in RECORDS for r in made], [])
@example([], [*BEATS, *(r for made in RECORDS for r in made), *BEATS])
def test_who_cannot_sign_changes_nothing(before: list[Record], after: list[Record]) -> None:
    check_genuine(follow(before, after))


@BOUNDED
@given(STREAMS, STREAMS)
@example([r for made in (*RECORDS, *SMALL) for r in made], [*BEATS])
@example([], [*(r for made in (*SMALL, *RECORDS) for r in made), *BEATS])
def test_nor_for_those_who_follow_what_is_for_serving(
    noise: list[Record], more: list[Record]
) -> None:
    check_genuine(follow(noise, more, "serving"))


@BOUNDED
@given(STREAMS, STREAMS)
def test_a_genuine_snapshot_is_found_in_it(noise: list[Record], more: list[Record]) -> None:
    """Whatever was written before it; and afterwards no older one takes its place."""
    model = follow([*noise, *RECORDS[2]], [])
    assert model.version == f"{APP}@3"
    check_genuine(model)
    model = follow(noise, [*RECORDS[2], *more])
    assert model.version == f"{APP}@3"


# -- one who can also sign

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = st.sampled_from([*Snapshot.__struct_fields__, *SERVED[0].manifest.__struct_fields__])
IDENTITY = st.sampled_from(Identity.__struct_fields__)


@BOUNDED
@given(
    st.dictionaries(FIELDS, JSON | st.integers(-2, 2**70), max_size=2),
    st.dictionaries(IDENTITY, JSON | st.sampled_from(["os:path", "twin(river)", "a" * 999]),
                    max_size=1),
)  # fmt: skip
@example({"recent_loss": -1e-9}, {})
@example({}, {"learner": "a" * 999})
@example({"next": {"0": 2**80, "x": 1}}, {})
@example({}, {"learner": "twin(" * 30 + "river" + ")" * 30})
@example({}, {"versions": {"": "1", "../river": "0"}})
@example({"precision": "float8"}, {})
@example({"snapshot": 7}, {})
def test_a_signed_manifest_with_other_fields(
    changes: dict[str, Any], identity: dict[str, Any]
) -> None:
    for made, kind in ((RECORDS, "snapshots"), (SMALL, "serving")):
        _check_changed(made, kind, changes, identity)


def _check_changed(
    genuine: Sequence[Sequence[Record]], kind: Any, changes: dict[str, Any], identity: Any
) -> None:
    *chunks, manifest = genuine[2]
    fields = msgspec.json.decode(manifest.value or b"")
    fields |= changes
    if isinstance(fields["identity"], dict):
        fields["identity"] |= identity
    value = msgspec.json.encode(fields)
    headers = {**dict(manifest.headers), "signature": KEY.sign(value)}
    made = [*chunks, manifest._replace(value=value, headers=list(headers.items()))]
    for before, after in ((made, []), ([], made), (genuine[1], made)):
        use(follow(before, after, kind))


@st.composite
def packed(draw: st.DrawFn) -> bytes:
    """The bytes of a state, with some of them changed."""
    value = zstandard.decompress(GENUINE[2].payload, max_output_size=1_000_000)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(value) - 1))
        piece = draw(st.binary(min_size=1, max_size=9) | st.sampled_from(SHARP))
        value = value[:at] + piece + value[at + draw(st.integers(0, 9)) :]
    return value


RARELY = st.sampled_from([0, 0, 0, 0, 0, 0, -7, 7])
SHARP = [
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\x91" * 200,
    b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
    b"\xa9os:system",
    b"\x90" * 3000,
]


@BOUNDED
@given(packed() | st.binary(max_size=50), RARELY, RARELY.map(lambda lie: not lie))
@example(b"\xdd\xff\xff\xff\xff", 0, True)
@example(b"\x91" * 100_000, 0, False)
@example(bytes(1_900_000), 0, True)
@example(pickle.dumps(os.system), 0, True)
def test_a_signed_state_of_other_bytes(state: bytes, lie: int, honest: bool) -> None:
    payload = zstandard.compress(state)
    manifest = replace(
        GENUINE[2].manifest,
        digest=tree_digest(state) if honest else "0" * 64,
        sha256=tree_digest(payload),
        size=len(payload),
        unpacked_size=max(0, len(state) + lie),
        chunks=max(1, -(-len(payload) // CHUNK)),
    )
    sealed = Snapshot(manifest, "", payload)
    use(follow(RECORDS[1], records(sealed, TOPIC, KEY)))


def use(model: ModelSubscriber) -> None:
    """What was adopted, if anything was, answers or says that it cannot."""
    if model._serving.models:
        try:
            model.predict_one(EVENT)
        except LearnerFailed as error:
            assert error.phase == "predict"  # noqa: PT017 - it need not be raised
        assert not ran
