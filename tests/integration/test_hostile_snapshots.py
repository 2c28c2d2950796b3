"""What stands on a snapshot topic and is not taken: each with its word, the model stays.

The worst case is the one that is tried: whoever writes these has the key that followers
trust, wherever a signature alone would stop them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pickle
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, get_args

import msgspec
import pytest
import zstandard
from msgspec.structs import replace

from stream_update import ModelSubscriber
from stream_update import snapshot as container
from stream_update.assemble import Trainer
from stream_update.bounds import Limits
from stream_update.config import load
from stream_update.errors import Fatal, NoModelYet, Transient
from stream_update.events import Record, TopicPartition
from stream_update.heartbeat import Heartbeat, heartbeat_record
from stream_update.log.embedded import EmbeddedLog
from stream_update.refusals import REASONS
from stream_update.restore import read_range, survey
from stream_update.serving import Follow, Serving
from stream_update.signing import SigningKey
from stream_update.snapshot import (
    Assembler,
    Manifest,
    ServingManifest,
    Snapshot,
    records,
)
from stream_update.topics import create_topics
from tests.programs import configure, elec2

APP, TOPIC = "hostile", "hostile.snapshots"
EVENT = {"nswprice": 0.1, "nswdemand": 0.4}
LIMITS = Limits(max_bytes=10_000_000, max_unpacked_bytes=50_000_000, max_nodes=500_000)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Attacker:
    """Has the log, a genuine snapshot, and the key that signed it."""

    def __init__(self, log: EmbeddedLog, key: SigningKey, followed: Follow = "snapshots") -> None:
        self.log = log
        self.key = key
        self.followed: Follow = followed
        self.topic = f"{APP}.{followed}"
        kind = Manifest if followed == "snapshots" else ServingManifest
        with log.reader() as reader:
            where = TopicPartition(self.topic, 0)
            found = survey(reader, where, Assembler(APP, kind=kind)).snapshot
            assert found is not None
            self.genuine: Snapshot = found
            end = reader.end_offsets([where])[where]
            self.all = [
                Record(TOPIC, value, key, 0, headers)
                for batch in read_range(reader, where, 0, end)
                for value, key, headers in zip(batch.values, batch.keys, batch.headers, strict=True)
            ]

    def forge(self, packed: bytes | None = None, **changes: Any) -> Snapshot:
        """The next snapshot, in good order but for these changes of its manifest."""
        manifest = self.genuine.manifest
        packed = packed or zstandard.decompress(
            self.genuine.payload, max_output_size=manifest.unpacked_size
        )
        payload = changes.pop("payload", None) or zstandard.compress(packed)
        facts = {
            "seq": manifest.seq + 1,
            "digest": sha256(packed),
            "sha256": sha256(payload),
            "size": len(payload),
            "unpacked_size": len(packed),
            "chunks": max(1, -(-len(payload) // container.CHUNK_BYTES)),
        }
        identity = replace(manifest.identity, **changes.pop("identity", {}))
        made = replace(manifest, **{**facts, **changes}, identity=identity)
        return Snapshot(made, sha256(msgspec.json.encode(made)), payload)

    def signed(self, packed: bytes | None = None, **changes: Any) -> list[Record]:
        return records(self.forge(packed, **changes), TOPIC, self.key)

    def state(self) -> Any:
        return self.genuine.state()

    def with_parameter(self, name: str, value: float) -> bytes:
        """The model's state, with one attribute of one kind of object set to a value."""
        state = self.state()
        for group in state["learner"]["groups"]:
            if name in group.get("attributes", ()):
                group["columns"][group["attributes"].index(name)] = [value] * group["count"]
        return msgspec.msgpack.encode(state)

    def with_weights(self, value: float) -> bytes:
        state = self.state()
        for group in state["learner"]["groups"]:
            if group["kind"] == "vector":
                group["columns"][2] = [value] * len(group["columns"][2])
        return msgspec.msgpack.encode(state)


def headed(record: Record, **changed: bytes | None) -> Record:
    headers = {**dict(record.headers), **{k.replace("_", "-"): v for k, v in changed.items()}}
    return record._replace(headers=[(k, v) for k, v in headers.items() if v is not None])


def nested(depth: int) -> bytes:
    return b"\x81\xa7learner" + b"\x91" * depth + b"\0"


def swapped(made: list[Record]) -> list[Record]:
    """The chunks are there, each under another's number."""
    return [headed(made[0], i=b"1"), headed(made[1], i=b"0"), *made[2:]]


HOSTILE: dict[str, tuple[str, Callable[[Attacker], Sequence[Record]]]] = {
    "a pickle": (
        "not-a-snapshot",
        lambda _: [Record(TOPIC, pickle.dumps(print), b"k", 0)],
    ),
    "a pickle with the headers of a manifest": (
        "bad-signature",
        lambda a: [headed(a.signed()[-1])._replace(value=pickle.dumps(print))],
    ),
    "a pickle for a state": (
        "bad-state",
        lambda a: a.signed(pickle.dumps(os.system)),
    ),
    "no signature": ("unsigned", lambda a: records(a.forge(), TOPIC)),
    "a key of their own": (
        "untrusted-key",
        lambda a: records(a.forge(), TOPIC, SigningKey(os.urandom(32))),
    ),
    "a wrong signature": (
        "bad-signature",
        lambda a: [*(made := a.signed())[:-1], headed(made[-1], signature=bytes(64))],
    ),
    "no signature to speak of": (
        "bad-signature",
        lambda a: [*(made := a.signed())[:-1], headed(made[-1], signature=b"x")],
    ),
    "replayed": ("rollback", lambda a: a.all),
    "older": ("rollback", lambda a: a.signed(seq=1)),
    "of another app": ("other-app", lambda a: a.signed(identity={"app": "other"})),
    "of another app, disguised": (
        "other-app",
        lambda a: [headed(r, app=APP.encode()) for r in a.signed(identity={"app": "other"})],
    ),
    "of another lineage, disguised": (
        "bad-headers",
        lambda a: [
            headed(r, lineage=APP.encode()) for r in a.signed(identity={"lineage": "other"})
        ],
    ),
    "of another partition": (
        "other-partition",
        lambda a: [r._replace(partition=0) for r in a.signed(partition=1)],
    ),
    "of another learner": ("other-version", lambda a: a.signed(identity={"learner": "os:path"})),
    "of another river": (
        "other-version",
        lambda a: a.signed(identity={"versions": {"river": "0.1.0"}}),
    ),
    "of another format": ("other-format", lambda a: a.signed(format=99)),
    "a truncated manifest": ("truncated", lambda a: [_cut_and_signed(a)]),
    "a truncated chunk": (
        "truncated",
        lambda a: [(made := a.signed())[0]._replace(value=(made[0].value or b"")[:-9]), *made[1:]],
    ),
    "chunks changed for one another": ("bad-chunks", lambda a: swapped(a.signed(_big(a)))),
    "chunks out of order": (
        "bad-chunks",
        lambda a: [(made := a.signed(_big(a)))[1], made[0], *made[2:]],
    ),
    "a chunk missing": ("bad-chunks", lambda a: a.signed(_big(a))[1:]),
    "the manifest before its chunks": ("bad-chunks", lambda a: list(reversed(a.signed()))),
    "a chunk of somebody else": (
        "bad-chunks",
        lambda a: [a.signed()[0]._replace(value=bytes(a.forge().manifest.size)), a.signed()[-1]],
    ),
    "a bomb": ("bad-ratio", lambda a: a.signed(bytes(40_000_000))),
    "a bomb that lies": (
        "too-large",
        lambda a: a.signed(payload=zstandard.compress(bytes(40_000_000)), unpacked_size=1000),
    ),
    "more bytes than allowed": ("too-large", lambda a: a.signed(bytes(60_000_000))),
    "too deep": ("too-deep", lambda a: a.signed(nested(101))),
    "much too deep": ("too-deep", lambda a: a.signed(nested(1_000_000))),
    "too many values": (
        "too-many-nodes",
        lambda a: a.signed(msgspec.msgpack.encode([0] * 600_000)),
    ),
    "a list that is announced and not there": (
        "too-many-nodes",
        lambda a: a.signed(b"\xdd\xff\xff\xff\xff"),
    ),
    "another digest": ("bad-digest", lambda a: a.signed(digest="0" * 64)),
    "no model": ("bad-state", lambda a: a.signed(msgspec.msgpack.encode({"learner": {}}))),
    "a model for another task": (
        "bad-state",
        lambda a: a.signed(identity={"task": "regression"}),
    ),
    "weights that are NaN": ("non-finite", lambda a: a.signed(a.with_weights(float("nan")))),
    "weights that are infinite": ("non-finite", lambda a: a.signed(a.with_weights(float("inf")))),
    "an intercept that is NaN": (
        "non-finite",
        lambda a: a.signed(a.with_parameter("intercept", float("nan"))),
    ),
    "expired": ("expired", lambda a: a.signed(expires_ms=a.genuine.manifest.created_ms)),
    "an older heartbeat": (
        "rollback",
        lambda a: [_beat(a, time_ms=2_000_000), _beat(a, time_ms=1_000_000)],
    ),
    "of the other kind": ("not-a-snapshot", lambda a: _other_kind(a)),  # noqa: PLW0108
    "a heartbeat for a snapshot that is not ours": (
        "bad-digest",
        lambda a: [_beat(a, time_ms=3_000_000, sha256="0" * 64)],
    ),
    "an unsigned heartbeat": (
        "unsigned",
        lambda a: [headed(_beat(a, time_ms=int(time.time() * 1000)), signature=None)],
    ),
}


def _big(attacker: Attacker) -> bytes:
    """A state of three chunks."""
    return msgspec.msgpack.encode({**attacker.state(), "more": os.urandom(2_000_000)})


def _cut_and_signed(attacker: Attacker) -> Record:
    manifest = attacker.signed()[-1]
    value = (manifest.value or b"")[:100]
    return headed(manifest, signature=attacker.key.sign(value))._replace(value=value)


def _beat(attacker: Attacker, **changes: Any) -> Record:
    genuine = attacker.genuine
    facts = {
        "app": APP, "lineage": APP, "partition": 0, "seq": genuine.manifest.seq,
        "sha256": genuine.origin,
    }  # fmt: skip
    return heartbeat_record(Heartbeat(**{**facts, **changes}), TOPIC, attacker.key)


def _other_kind(attacker: Attacker) -> list[Record]:
    """The next snapshot where what is made of it is due, or the other way round."""
    made = attacker.forge()
    if attacker.followed == "snapshots":
        made = Serving(TOPIC, "float32").seal(made, attacker.state()["learner"])
    else:
        facts = {name: getattr(made.manifest, name) for name in Manifest.__struct_fields__}
        made = Snapshot(Manifest(**facts), "", made.payload)
    return records(made, TOPIC, attacker.key)


@pytest.fixture
def attacker(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Attacker]:
    followed: Follow = getattr(request, "param", "snapshots")
    private = os.urandom(32)
    (tmp_path / "key").write_bytes(base64.b64encode(private))
    with EmbeddedLog(f"sqlite:///{tmp_path / 'hostile.db'}") as log:
        path = configure(tmp_path, log.url, APP, checkpoint=200)
        options = [f"snapshot.signing_key=file:{tmp_path / 'key'}"]
        if followed == "serving":
            options.append("snapshot.serving=float32")
        config = load(path, options)
        create_topics(config, log)
        with log.appender() as appender:
            for event in elec2(600):
                appender.append(
                    [Record(config.source.topic, json.dumps(event).encode(), partition=0)]
                )
        Trainer(config, log, until_end=True).run()
        yield Attacker(log, SigningKey(private), followed)


def follow(attacker: Attacker, key: SigningKey, **options: Any) -> ModelSubscriber:
    public = base64.b64encode(key.public).decode()
    return ModelSubscriber(
        APP,
        log=attacker.log,
        follow=attacker.followed,
        trusted_keys=[public],
        limits=LIMITS,
        poll_s=0.01,
        **options,
    )


def append(attacker: Attacker, made: Sequence[Record]) -> None:
    with attacker.log.appender() as appender:
        appender.append(record._replace(topic=attacker.topic) for record in made)


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("attacker", get_args(Follow), indirect=True)
def test_each_is_refused_with_its_word_and_the_model_stays(attacker: Attacker) -> None:
    seen = set()
    with follow(attacker, attacker.key) as model:
        model.wait(30)
        version, answer = model.version, model.predict_proba_one(EVENT)
        for name, (reason, make) in HOSTILE.items():
            before = dict(model.refused)
            append(attacker, make(attacker))
            until(lambda: model.refused != before)  # noqa: B023 - called before it changes
            changed = {word for word, count in model.refused.items() if count != before.get(word)}
            assert changed == {reason}, name
            assert (model.version, model.predict_proba_one(EVENT)) == (version, answer), name
            seen.add(reason)
        assert seen == REASONS.keys()
        # After all of it, the next one that is in order is taken.
        append(attacker, attacker.signed())
        until(lambda: model.version == f"{APP}@{attacker.genuine.manifest.seq + 1}")


@pytest.mark.parametrize(
    "name",
    [name for name, (reason, _) in HOSTILE.items() if reason not in {"rollback", "bad-headers"}],
)
def test_what_is_there_already_is_refused_too(attacker: Attacker, name: str) -> None:
    reason, make = HOSTILE[name]
    append(attacker, make(attacker))
    with follow(attacker, attacker.key) as model:
        model.wait(30)
        assert model.version == f"{APP}@{attacker.genuine.manifest.seq}"
        until(lambda: model.refused)
        assert set(model.refused) == {reason}


class Flaky:
    """A log whose readers lose their connection when told to."""

    def __init__(self, log: EmbeddedLog) -> None:
        self._log = log
        self.lost = threading.Event()

    def reader(self) -> Any:
        return FlakyReader(self._log.reader(), self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


class FlakyReader:
    def __init__(self, reader: Any, log: Flaky) -> None:
        self._reader = reader
        self._log = log

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def poll(self, timeout_s: float, max_records: int = 500) -> Any:
        if self._log.lost.is_set():
            self._log.lost.clear()
            raise Transient("the test takes the connection away")
        return self._reader.poll(timeout_s, max_records)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)


def test_a_lost_connection_counts_nothing_twice(attacker: Attacker) -> None:
    log: Any = Flaky(attacker.log)
    public = base64.b64encode(attacker.key.public).decode()
    hostile = ["no signature", "a model for another task", "a bomb", "older"]
    append(attacker, HOSTILE[hostile[0]][1](attacker))
    with ModelSubscriber(APP, log=log, trusted_keys=[public], poll_s=0.01) as model:
        model.wait(30)
        for name in hostile[1:]:
            append(attacker, HOSTILE[name][1](attacker))
        expected = dict.fromkeys([HOSTILE[name][0] for name in hostile], 1)
        until(lambda: model.refused == expected)
        log.lost.set()
        until(lambda: not log.lost.is_set())
        append(attacker, attacker.signed(seq=attacker.genuine.manifest.seq + 2))
        until(lambda: model.version == f"{APP}@{attacker.genuine.manifest.seq + 2}")
        assert model.refused == expected


def test_without_a_model_the_reason_is_said(attacker: Attacker) -> None:
    with follow(attacker, SigningKey(os.urandom(32))) as model:
        until(lambda: model.refused)
        with pytest.raises(NoModelYet, match="untrusted-key"):
            model.wait(0)


def test_the_words_are_documented() -> None:
    page = (Path(__file__).parents[2] / "deploy" / "snapshots.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `([a-z-]+)` \| (.+) \|$", page, re.MULTILINE))
    assert table == dict(REASONS)


def test_a_trainer_publishes_nothing_that_is_larger_than_its_limits(tmp_path: Path) -> None:
    with EmbeddedLog(f"sqlite:///{tmp_path / 'grown.db'}") as log:
        path = configure(tmp_path, log.url, APP, checkpoint=200)
        config = load(path, ["snapshot.limits.max_bytes=1000"])
        create_topics(config, log)
        with log.appender() as appender:
            for event in elec2(300):
                appender.append(
                    [Record(config.source.topic, json.dumps(event).encode(), partition=0)]
                )
        with pytest.raises(Fatal, match=r"grown too large.*snapshot\.limits\.max_bytes"):
            Trainer(config, log, until_end=True).run()
        assert Trainer(load(path), log, until_end=True).run()["learned"] == 300
