"""Small snapshots beside the large ones, on both logs: what they are, and who follows them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from stream_update import ModelSubscriber
from stream_update.assemble import Trainer, backfill_config, open_log
from stream_update.backfill import backfill, planned
from stream_update.config import Config, load
from stream_update.errors import ConfigError, NoModelYet
from stream_update.events import Record, TopicPartition
from stream_update.promotion import promote
from stream_update.protocols import Log
from stream_update.restore import read_range
from stream_update.signing import SigningKey
from stream_update.snapshot import Manifest, ServingManifest, read_manifest
from stream_update.topics import create_topics
from tests.programs import call, configure, elec2

NETWORK = """
use = "torch"
module = { use = "mlp", hidden = [64] }
optimizer = { use = "adam", lr = 0.01 }
batch = 16
"""
EVENT = {key: value for key, value in elec2(1200)[-1].items() if key != "class"}
PATIENCE_S = 60.0


class Setting:
    """An application on a log, with events in two partitions."""

    def __init__(self, folder: Path, url: str, app: str, serving: str, **options: Any) -> None:
        extra = "\n".join(
            [
                "[snapshot]",
                f'serving = "{serving}"' if serving else "",
                "heartbeat_s = 0.2",
                "[score]",
                f'follow = "{"serving" if serving else "snapshots"}"',
            ]
        )
        self.path = configure(
            folder, url, app, partitions=2, checkpoint=200, extra=extra, **options
        )
        self.app = app
        self.opened = ExitStack()
        self.config: Config = load(self.path)
        self.log: Log = self.opened.enter_context(open_log(self.config))
        create_topics(self.config, self.log)
        self._events = elec2(2000)
        self._produced = 0

    def produce(self, count: int) -> None:
        first, self._produced = self._produced, self._produced + count
        with self.log.appender() as appender:
            appender.append(
                Record(
                    f"{self.app}.labelled", json.dumps(self._events[i]).encode(), partition=i % 2
                )
                for i in range(first, first + count)
            )

    def learn(self, config: Config | None = None) -> dict[str, Any]:
        return Trainer(config or self.config, self.log, until_end=True).run()

    def follow(self, follow: Any, **options: Any) -> ModelSubscriber:
        return ModelSubscriber(self.app, log=self.log, follow=follow, poll_s=0.02, **options)

    def manifests(self, topic: str, kind: type[Manifest]) -> list[tuple[Manifest, str, int]]:
        """Each with its SHA-256, and the bytes of the record and its chunks."""
        found, size = [], 0
        with self.log.reader() as reader:
            for partition in range(2):
                where = TopicPartition(f"{self.app}.{topic}", partition)
                end = reader.end_offsets([where])[where]
                for batch in read_range(reader, where, 0, end):
                    for value, headers in zip(batch.values, batch.headers, strict=True):
                        what = dict(headers)["kind"]
                        size += len(value or b"") if what != b"heartbeat" else 0
                        if what == b"manifest" and value:
                            sha256 = hashlib.sha256(value).hexdigest()
                            found.append((read_manifest(value, kind), sha256, size))
                            size = 0
        return found


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def torch_setting(folder: Path, url: str, app: str, serving: str = "bfloat16") -> Setting:
    pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    return Setting(folder, url, app, serving, learner=NETWORK)


@pytest.fixture
def made(tmp_path: Path, log_url: str, app: str) -> Iterator[Setting]:
    """A network that has learned 1,000 events."""
    setting = torch_setting(tmp_path, log_url, app)
    with setting.opened:
        setting.produce(1000)
        setting.learn()
        yield setting


def test_one_beside_each_and_they_answer_alike(made: Setting) -> None:
    full = made.manifests("snapshots", Manifest)
    small = made.manifests("serving", ServingManifest)
    assert len(full) > 2
    assert [(m.partition, m.seq, m.events, m.learned, m.next) for m, _, _ in small] == [
        (m.partition, m.seq, m.events, m.learned, m.next) for m, _, _ in full
    ]
    named = [m.snapshot for m, _, _ in small if isinstance(m, ServingManifest)]
    assert named == [sha256 for _, sha256, _ in full]
    assert sum(m.size for m, _, _ in small) < 0.4 * sum(m.size for m, _, _ in full)
    with made.follow("snapshots") as one, made.follow("serving") as two:
        until(lambda: len(one._serving.models) == len(two._serving.models) == 2)
        assert (one.version, one.learned_up_to) == (two.version, two.learned_up_to)
        for key in ("a", "b", "c"):
            expected = one.predict_proba_one(EVENT, key=key)
            found = two.predict_proba_one(EVENT, key=key)
            assert expected is not None
            assert found is not None
            assert found != expected
            assert found[True] == pytest.approx(expected[True], abs=0.02)
        assert not two.refused


def test_heartbeats_vouch_for_them(made: Setting) -> None:
    class Clock:
        ahead = 0.0

        def __call__(self) -> float:
            return time.time() + self.ahead

    clock = Clock()
    with made.follow("serving", max_age=300, when_stale="refuse", clock=clock) as model:
        until(lambda: len(model._serving.models) == 2)
        assert model.age < 300
        created = {p: one.manifest.created_ms for p, one in model._serving.models.items()}
        worker = Trainer(made.config, made.log)
        thread = threading.Thread(target=worker.run)
        thread.start()
        try:
            until(
                lambda: all((model._serving.freshness.at(p) or 0) > at for p, at in created.items())
            )
        finally:
            worker.worker.stop()
            thread.join()
        assert not model.refused
        clock.ahead = 1000.0
        assert model.stale


def test_score_follows_them(made: Setting) -> None:
    out, _ = call("score", "-c", made.path, "--until-end", "--json", cwd=made.path.parent)
    report = json.loads(out)
    assert report["predictions"] == 1000
    assert report["refused"] == {}
    out, _ = call("snapshots", "list", "--serving", "--json", "-c", made.path, cwd=made.path.parent)
    listed = json.loads(out)
    assert {one["precision"] for one in listed} == {"bfloat16"}
    out, _ = call("snapshots", "show", "--serving", "-c", made.path, cwd=made.path.parent)
    full, _ = call("snapshots", "show", "-c", made.path, cwd=made.path.parent)
    assert json.loads(out)["seq"] == json.loads(full)["seq"]
    assert json.loads(out)["size"] < json.loads(full)["size"]


def test_signed_like_snapshots(tmp_path: Path, app: str) -> None:
    pytest.importorskip("cryptography")
    setting = torch_setting(tmp_path, f"sqlite:///{tmp_path / 'log.db'}", app)
    for name in ("key", "other"):
        (tmp_path / name).write_bytes(base64.b64encode(os.urandom(32)))
    public = [
        base64.b64encode(SigningKey.load(f"file:{tmp_path / name}").public).decode()
        for name in ("key", "other")
    ]
    with setting.opened:
        setting.produce(300)
        setting.learn(load(setting.path, [f"snapshot.signing_key=file:{tmp_path / 'key'}"]))
        with setting.follow("serving", trusted_keys=[public[0]]) as model:
            model.wait()
        with setting.follow("serving", trusted_keys=[public[1]]) as model:
            until(lambda: model.refused)
            assert set(model.refused) == {"untrusted-key"}


def test_turned_on_later_and_off_again(tmp_path: Path, log_url: str, app: str) -> None:
    setting = torch_setting(tmp_path, log_url, app, "")
    with setting.opened:
        setting.produce(400)
        setting.learn()
        assert f"{app}.serving" not in setting.log.topics()
        with setting.follow("serving") as model, pytest.raises(NoModelYet):
            model.wait(0.5)
        setting.produce(400)
        setting.learn(load(setting.path, ["snapshot.serving=float16"]))
        small = setting.manifests("serving", ServingManifest)
        assert {m.positions[m.partition] for m, _, _ in small} >= {400}
        assert all(m.positions[m.partition] > 200 for m, _, _ in small)
        with setting.follow("serving") as model:
            until(lambda: len(model._serving.models) == 2)
            version = model.version
            setting.produce(200)
            assert setting.learn()["learned"] >= 960
            assert model.version == version
        with pytest.raises(ConfigError, match="neither of"):
            setting.follow("served")


def test_promoted_lineages_are_followed(tmp_path: Path, log_url: str, app: str) -> None:
    setting = Setting(tmp_path, log_url, app, "float32")
    with setting.opened:
        setting.produce(600)
        setting.learn()
        with setting.follow("serving") as model:
            model.wait()
            assert model.lineage == app
            own = backfill_config(setting.config, "v2")
            backfill(own, setting.log, planned(own, setting.log, "", "")).run()
            promote(setting.config, setting.log, "v2", wait_s=0.2)
            until(lambda: model.lineage == "v2")
            setting.produce(400)
            setting.learn()
            until(lambda: model.learned_up_to == {0: 500, 1: 500})
            assert not model.refused
        full = setting.manifests("snapshots", Manifest)
        small = setting.manifests("serving", ServingManifest)
        assert [(m.identity.lineage, m.seq) for m, _, _ in small] == [
            (m.identity.lineage, m.seq) for m, _, _ in full
        ]
