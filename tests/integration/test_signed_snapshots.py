"""A scorer that trusts a key takes what it signed, and nothing else."""

from __future__ import annotations

import json
import os
import pickle
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import zstandard

from stream_update import ModelSubscriber
from stream_update.errors import NoModelYet
from stream_update.events import Record, TopicPartition
from stream_update.log.embedded import EmbeddedLog
from stream_update.restore import read_range
from stream_update.signing import SigningKey
from tests.programs import call, configure


class Setting:
    """An application whose trainer signs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        said, _ = call("keys", "generate", "signing.key", cwd=folder)
        found = re.search(r"public key (\S+)", said)
        assert found
        self.public = found[1]
        self.log = EmbeddedLog(f"sqlite:///{folder / 'signed.db'}")
        keys = f'signing_key = "file:signing.key"\ntrusted_keys = ["{self.public}"]'
        self.config = configure(folder, self.log.url, "signed", extra=f"[snapshot]\n{keys}")
        call("produce", "elec2", "-c", self.config, "--limit", "3000", cwd=folder)

    def learn(self, *options: str) -> None:
        call("run", "-c", self.config, *options, cwd=self.folder)

    def snapshots(self) -> list[Record]:
        where = TopicPartition("signed.snapshots", 0)
        with self.log.reader() as reader:
            end = reader.end_offsets([where])[where]
            return [
                Record(where.topic, value, key, 0, headers)
                for batch in read_range(reader, where, 0, end)
                for value, key, headers in zip(batch.values, batch.keys, batch.headers, strict=True)
            ]

    def append(self, records: Sequence[Record]) -> None:
        with self.log.appender() as appender:
            appender.append(records)


@pytest.fixture
def setting(tmp_path: Path) -> Any:
    made = Setting(tmp_path)
    yield made
    made.log.close()


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def with_headers(record: Record, **changed: bytes | None) -> Record:
    headers = {**dict(record.headers), **{k.replace("_", "-"): v for k, v in changed.items()}}
    return record._replace(headers=[(k, v) for k, v in headers.items() if v is not None])


def test_signed_snapshots_are_followed_and_restored(setting: Setting) -> None:
    setting.learn("--max-events", "1500")
    with ModelSubscriber("signed", log=setting.log, trusted_keys=[setting.public]) as model:
        model.wait(30)
        first = model.learned_up_to
        assert first == {0: 1500}
        setting.learn("--until-end")
        until(lambda: model.learned_up_to == {0: 3000})
        assert not model.refused
    call("snapshots", "verify", "-c", setting.config, cwd=setting.folder)


def test_another_key_takes_none_of_them(setting: Setting) -> None:
    setting.learn("--until-end")
    said, _ = call("keys", "generate", "other.key", cwd=setting.folder)
    other = re.findall(r"public key (\S+)", said)
    with (
        ModelSubscriber("signed", log=setting.log, trusted_keys=other) as model,
        pytest.raises(NoModelYet),
    ):
        model.wait(1.0)
    # A trainer that trusts another key does not build on them either.
    _, said = call(
        "run", "-c", setting.config, "--until-end",
        "-s", f'snapshot.trusted_keys=["{other[0]}"]', "-s", "snapshot.signing_key=file:other.key",
        cwd=setting.folder, code=3,
    )  # fmt: skip
    assert "holds none" in said.replace("\n", " ")


@pytest.mark.parametrize("key", ["", "file:other.key"])
def test_who_would_not_take_what_he_writes_does_not_start(setting: Setting, key: str) -> None:
    call("keys", "generate", "other.key", cwd=setting.folder)
    for command in (["run", "--until-end"], ["backfill", "--as", "v2"]):
        _, said = call(
            *command, "-c", setting.config, "-s", f"snapshot.signing_key={key}",
            cwd=setting.folder, code=2,
        )  # fmt: skip
        assert "signing_key" in said
        assert "trusted_keys" in said
    assert not setting.snapshots()


def test_hostile_records_leave_the_model_as_it_is(setting: Setting) -> None:
    setting.learn("--until-end")
    genuine = setting.snapshots()
    manifest = next(r for r in reversed(genuine) if dict(r.headers)["kind"] == b"manifest")
    chunk = genuine[-2]
    value = json.loads(manifest.value or b"")
    forged = json.dumps({**value, "seq": 99, "next": {"0": 9999}}).encode()
    bomb = zstandard.ZstdCompressor().compress(bytes(50_000_000))
    hostile = {
        "pickle": [manifest._replace(value=pickle.dumps(print))],
        "not signed": [
            with_headers(manifest, seq=b"99", signature=None, key_id=None)._replace(value=forged)
        ],
        "wrong signature": [with_headers(manifest, seq=b"99")._replace(value=forged)],
        "unknown key": [with_headers(manifest, seq=b"99", key_id=b"0" * 16)._replace(value=forged)],
        "another lineage": [with_headers(manifest, lineage=b"other", seq=b"99")],
        "seq that is not its own": [with_headers(manifest, seq=b"98")],
        "replayed": [chunk, manifest],
        "truncated": [with_headers(manifest, seq=b"99")._replace(value=forged[:100])],
        "bomb": [with_headers(chunk, seq=b"99")._replace(value=bomb), manifest],
        "orphans": [
            with_headers(chunk, seq=str(seq).encode(), i=b"0") for seq in range(1000, 1100)
        ],
        "no number": [with_headers(chunk, i=b"-1"), with_headers(chunk, i=b"9999999999")],
        "empty": [manifest._replace(value=b"")],
    }
    with ModelSubscriber("signed", log=setting.log, trusted_keys=[setting.public]) as model:
        model.wait(30)
        version, answer = model.version, model.predict_one({"nswprice": 0.1, "nswdemand": 0.4})
        for name, records in hostile.items():
            setting.append(records)
            time.sleep(0.3)
            assert model.version == version, name
        until(lambda: sum(model.refused.values()) >= 6)
        assert {"unsigned", "bad-signature", "untrusted-key"} <= model.refused.keys()
        assert model.predict_one({"nswprice": 0.1, "nswdemand": 0.4}) == answer
        assert model.version == version


def test_a_manifest_of_another_app_or_partition_is_refused(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    setting.learn("--until-end")
    with ModelSubscriber("other", log=setting.log, lineage="signed") as model:
        create = configure(tmp_path, setting.log.url, "other")
        call("topics", "create", "-c", create, cwd=tmp_path)
        setting.append([r._replace(topic="other.snapshots") for r in setting.snapshots()])
        until(lambda: model.refused)
        assert set(model.refused) == {"other-app"}
        with pytest.raises(NoModelYet, match="could be taken: other-app"):
            model.wait(0.1)
    setting.log.close()


def test_a_key_is_never_written_over(tmp_path: Path) -> None:
    call("keys", "generate", "a.key", cwd=tmp_path)
    before = (tmp_path / "a.key").read_bytes()
    assert (tmp_path / "a.key").stat().st_mode & 0o077 == 0
    _, said = call("keys", "generate", "a.key", cwd=tmp_path, code=2)
    assert "exists" in said
    assert (tmp_path / "a.key").read_bytes() == before
    out, _ = call("keys", "show", "a.key", cwd=tmp_path)
    assert "trusted_keys" in out


def test_the_list_says_who_signed(setting: Setting) -> None:
    setting.learn("--until-end")
    own = SigningKey.load(f"file:{setting.folder / 'signing.key'}").key_id
    manifest = setting.snapshots()[-1]
    stranger = SigningKey(os.urandom(32))
    setting.append(
        [
            with_headers(manifest, signature=None, key_id=None),
            with_headers(manifest, signature=bytes(64)),
            with_headers(manifest, key_id=stranger.key_id.encode()),
        ]
    )
    said, _ = call("snapshots", "list", "-c", setting.config, "--json", cwd=setting.folder)
    newest = [
        one["signed"] for one in json.loads(said) if one["seq"] == json.loads(said)[-1]["seq"]
    ]
    assert newest == [
        own, "unsigned", f"bad-signature {own}", f"untrusted-key {stranger.key_id}",
    ]  # fmt: skip
    shown, _ = call("snapshots", "show", "-c", setting.config, cwd=setting.folder)
    assert json.loads(shown)["signed"] == json.loads(shown)["key_id"] == own
    shown, _ = call(
        "snapshots", "show", "-c", setting.config, "-s", "snapshot.trusted_keys=[]",
        cwd=setting.folder,
    )  # fmt: skip
    assert json.loads(shown)["signed"] == f"{stranger.key_id} (not checked)"
