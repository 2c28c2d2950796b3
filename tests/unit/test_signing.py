"""Signatures: who may publish a snapshot that a reader takes."""

from __future__ import annotations

import base64
import os

import pytest

from stream_update.errors import ConfigError
from stream_update.heartbeat import Heartbeat, heartbeat_record
from stream_update.signing import SigningKey, TrustedKeys
from stream_update.snapshot import Assembler, Identity, Snapshot, records, seal

IDENTITY = Identity(
    app="a", lineage="a", task="binary", topic="t", topic_id="", learner="river",
    fingerprint="", config={}, versions={}, seed=0,
)  # fmt: skip


def made() -> Snapshot:
    return seal(
        {"x": 1}, IDENTITY, partition=0, seq=1, parent="", next={"0": 1}, events=1, learned=1,
        rejected=0, unlabelled=0, recent_loss=0.0, event_time=None, created_ms=1,
    )  # fmt: skip


def key() -> SigningKey:
    return SigningKey(os.urandom(32))


def taken(signing: SigningKey | None, trusted: TrustedKeys, flip: bool = False) -> list[str]:
    """The refusals; empty if the snapshot came out whole."""
    assembler = Assembler("a", trusted)
    for record in records(made(), "s", signing):
        value = record.value
        assert value is not None
        if flip and dict(record.headers)["kind"] == b"manifest":
            value = value.replace(b'"events":1', b'"events":2')
        assembler.add(value, record.headers)
    if not assembler.refused:
        found = assembler.complete(1)
        assert found is not None
        assert found.state() == {"x": 1}
    else:
        assert not assembler.manifests
    return [refusal.reason for refusal in assembler.refused]


def test_both_keys_of_a_rotation_count() -> None:
    old, new = key(), key()
    trusted = TrustedKeys([old.public, new.public])
    assert taken(old, trusted) == taken(new, trusted) == []


def test_unsigned_foreign_and_changed_manifests_are_refused() -> None:
    ours = key()
    trusted = TrustedKeys([ours.public])
    assert taken(None, trusted) == ["unsigned"]
    assert taken(key(), trusted) == ["untrusted-key"]
    assert taken(ours, trusted, flip=True) == ["bad-signature"]


def test_a_signature_for_one_purpose_is_none_for_another() -> None:
    ours = key()
    beat = Heartbeat(app="a", lineage="a", partition=0, seq=1, sha256="", time_ms=1)
    record = heartbeat_record(beat, "s", ours)
    assembler = Assembler("a", TrustedKeys([ours.public]))
    headers = {**dict(record.headers), "kind": b"manifest"}
    assembler.add(record.value, tuple(headers.items()))
    assert [refusal.reason for refusal in assembler.refused] == ["bad-signature"]
    assembler.add(record.value, record.headers)
    assert assembler.heartbeat == beat


def test_a_key_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K", base64.b64encode(bytes(32)).decode())
    assert SigningKey.load("env:K").key_id == SigningKey(bytes(32)).key_id
    monkeypatch.setenv("K", "c2hvcnQ=")
    with pytest.raises(ConfigError, match="has 5 bytes"):
        SigningKey.load("env:K")
