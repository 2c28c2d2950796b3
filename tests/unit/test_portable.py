"""A snapshot in a file: what went in comes out, and nothing else does."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stream_update.bounds import Limits
from stream_update.errors import ConfigError, CorruptSnapshot, LineageMismatch, StreamUpdateError
from stream_update.exchange.portable import read_snapshot, write_snapshot
from stream_update.exported import LENGTHS, MAGIC
from stream_update.proof.held import Held, republished
from stream_update.refusals import REASONS
from stream_update.signing import SigningKey, TrustedKeys
from stream_update.snapshot import CHUNK_BYTES, Identity, Snapshot, records, seal

KEY = SigningKey(bytes(range(32)))
TRUSTED = TrustedKeys([KEY.public])
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


def held_of(state: Any, *, key: SigningKey | None = KEY, **changed: Any) -> Held:
    made = seal(
        state,
        ME,
        partition=0,
        seq=3,
        parent="",
        next={"0": 30},
        events=30,
        learned=30,
        rejected=0,
        unlabelled=0,
        recent_loss=0.5,
        event_time=None,
        created_ms=1,
    )
    manifest = msgspec.structs.replace(made.manifest, **changed)
    last = records(Snapshot(manifest, made.sha256, made.payload), "s", key)[-1]
    sha256 = hashlib.sha256(last.value or b"").hexdigest()
    return Held(Snapshot(manifest, sha256, made.payload), last.value or b"", last.headers)


GENUINE = held_of({"weights": [0.25] * 20})


def parts(path: Path) -> tuple[bytes, bytes, bytes]:
    """Headers, manifest, payload."""
    raw = path.read_bytes()[len(MAGIC) :]
    sizes, raw = LENGTHS.unpack(raw[: LENGTHS.size]), raw[LENGTHS.size :]
    return raw[: sizes[0]], raw[sizes[0] : sizes[0] + sizes[1]], raw[sizes[0] + sizes[1] :]


def join(*pieces: bytes) -> bytes:
    return b"".join((MAGIC, LENGTHS.pack(*map(len, pieces)), *pieces))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_snapshot(tmp_path / "one", GENUINE)
    return tmp_path / "one"


@pytest.mark.parametrize("size", [1, 2 * CHUNK_BYTES + 7])
@pytest.mark.parametrize("key", [KEY, None])
def test_there_and_back(tmp_path: Path, size: int, key: SigningKey | None) -> None:
    held = held_of({"raw": os.urandom(size)}, key=key)
    length = write_snapshot(tmp_path / "one", held)
    assert (tmp_path / "one").stat().st_size == length
    found = read_snapshot(tmp_path / "one", "a", TRUSTED if key else None)
    assert found.manifest == held.manifest
    assert list(found.headers) == list(held.headers)
    assert found.snapshot == held.snapshot
    assert found.snapshot.state() == held.snapshot.state()
    assert [entry.name for entry in tmp_path.iterdir()] == ["one"]


def test_nothing_is_written_over(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="exists"):
        write_snapshot(path, held_of("other"))
    assert path.read_bytes() == before
    assert len(list(path.parent.iterdir())) == 1
    with pytest.raises(ConfigError, match="cannot be written"):
        write_snapshot(path / "below", GENUINE)


def test_every_cut_is_refused_and_every_changed_byte_changes_nothing(path: Path) -> None:
    whole = path.read_bytes()
    target = path.with_name("two")
    for length in range(len(whole)):
        target.write_bytes(whole[:length])
        with pytest.raises(CorruptSnapshot):
            read_snapshot(target, "a", TRUSTED)
    for index in range(len(whole)):
        changed = bytearray(whole)
        changed[index] ^= 1
        target.write_bytes(changed)
        try:
            found = read_snapshot(target, "a", TRUSTED)
        except (CorruptSnapshot, LineageMismatch):
            continue
        # Headers that nobody has signed are not believed, and not published again either.
        assert republished(found, "s") == republished(GENUINE, "s")


@given(st.binary(max_size=300), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
@example(b"", 2**32 - 1, 2**64 - 1)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_noise_is_refused(tmp_path: Path, noise: bytes, short: int, long: int) -> None:
    for raw in (
        noise,
        MAGIC + noise,
        MAGIC + LENGTHS.pack(short, short, long) + noise,
        join(noise, noise, noise),
        join(msgspec.msgpack.encode([("lineage", b"a"), ("kind", b"manifest")]), noise, b""),
    ):
        (tmp_path / "noise").write_bytes(raw)
        with pytest.raises(StreamUpdateError):
            read_snapshot(tmp_path / "noise", "a", None)


def test_without_a_key_what_is_not_signed_is_taken_but_not_with_one(tmp_path: Path) -> None:
    write_snapshot(tmp_path / "one", held_of(1, key=None))
    assert read_snapshot(tmp_path / "one", "a", None).snapshot.state() == 1
    with pytest.raises(CorruptSnapshot, match="not signed"):
        read_snapshot(tmp_path / "one", "a", TRUSTED)
    other = TrustedKeys([SigningKey(b"x" * 32).public])
    write_snapshot(tmp_path / "two", GENUINE)
    with pytest.raises(CorruptSnapshot, match="not trusted"):
        read_snapshot(tmp_path / "two", "a", other)


def test_another_lineage(path: Path) -> None:
    with pytest.raises(LineageMismatch, match="something of 'a'"):
        read_snapshot(path, "b", TRUSTED)
    headers, manifest, payload = parts(path)
    renamed = msgspec.msgpack.encode(
        [(k, b"b" if k == "lineage" else v) for k, v in GENUINE.headers]
    )
    path.write_bytes(join(renamed, manifest, payload))
    with pytest.raises(CorruptSnapshot, match="headers disagree"):
        read_snapshot(path, "b", TRUSTED)
    assert headers != renamed


def test_reasons_are_the_fixed_words(tmp_path: Path, path: Path) -> None:
    headers, manifest, payload = parts(path)
    deep = b'{"identity":' + b'{"a":' * 100_000
    plain = msgspec.msgpack.encode([(k, v) for k, v in GENUINE.headers if k != "signature"])
    for raw, trusted, reason in (
        (b"hello", TRUSTED, "not-a-snapshot"),
        (path.read_bytes()[:-1], TRUSTED, "truncated"),
        (join(plain, manifest, payload), TRUSTED, "unsigned"),
        (join(headers, manifest + b" ", payload), TRUSTED, "bad-signature"),
        (join(headers, manifest, payload[:-1] + b"?"), TRUSTED, "bad-digest"),
        (join(b"?", manifest, payload), TRUSTED, "bad-headers"),
        (join(plain, deep, payload), None, "too-deep"),
        (join(headers, bytes(2 << 20), payload), TRUSTED, "too-large"),
    ):
        (tmp_path / "bad").write_bytes(raw)
        with pytest.raises(CorruptSnapshot) as caught:
            read_snapshot(tmp_path / "bad", "a", trusted)
        assert (caught.value.reason, reason in REASONS) == (reason, True)
    with pytest.raises(CorruptSnapshot, match=r"snapshot\.limits\.max_bytes"):
        read_snapshot(path, "a", TRUSTED, Limits(max_bytes=10))


def test_nothing_is_decompressed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(zstandard, "ZstdDecompressor", never)
    read_snapshot(path, "a", TRUSTED)


def test_a_payload_of_another_length_is_not_even_read(tmp_path: Path, path: Path) -> None:
    """Not for want of a signature: this one is by a trusted key."""
    headers, manifest, payload = parts(path)
    path.write_bytes(join(headers, manifest, payload + bytes(1000)))
    with pytest.raises(CorruptSnapshot, match="manifest describes"):
        read_snapshot(path, "a", TRUSTED)
    write_snapshot(tmp_path / "lying", held_of("x", chunks=3))
    with pytest.raises(CorruptSnapshot, match="in 3 chunks"):
        read_snapshot(tmp_path / "lying", "a", TRUSTED)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ".", "none"):
        with pytest.raises(ConfigError):
            read_snapshot(tmp_path / name, "a", TRUSTED)
