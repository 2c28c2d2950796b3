"""A follower never goes back, knows when it is stale, and tells a quiet trainer from a dead one."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stream_update import ModelSubscriber
from stream_update.assemble import ScorerProcess, Trainer
from stream_update.config import Config, load
from stream_update.errors import NoModelYet, Refused, StaleModel
from stream_update.events import Record, TopicPartition, TopicSpec
from stream_update.follower import Model
from stream_update.heartbeat import read_heartbeat
from stream_update.log.embedded import EmbeddedLog
from stream_update.plugins import open_log
from stream_update.proof import verify
from stream_update.protocols import Log
from stream_update.restore import read_range
from stream_update.topics import create_topics
from tests.programs import call, configure, elec2

APP = "fresh"
QUESTIONS = TopicSpec("fresh.questions", 1, 1)
EVENT = {"nswprice": 0.1, "nswdemand": 0.4}


class Setting:
    def __init__(self, folder: Path, log: Log, app: str = APP) -> None:
        self.folder = folder
        self.log = log
        self.app = app
        self.path = configure(folder, log.url, app, checkpoint=200)
        self.events = iter(elec2(3000))
        create_topics(self.config(), log)

    def config(self, *overrides: str) -> Config:
        return load(self.path, ["score.topic=fresh.questions", *overrides])

    def append(self, count: int, topic: str = "") -> None:
        topic = topic or f"{self.app}.labelled"
        with self.log.appender() as appender:
            for _ in range(count):
                value = json.dumps(next(self.events)).encode()
                appender.append([Record(topic, value, partition=0)])

    def learn(self, *overrides: str) -> dict[str, Any]:
        return Trainer(self.config(*overrides), self.log, until_end=True).run()

    @contextmanager
    def living(self, *overrides: str) -> Iterator[Trainer]:
        """A trainer that waits for events."""
        trainer = Trainer(self.config("snapshot.heartbeat_s=0.05", *overrides), self.log)
        thread = threading.Thread(target=trainer.run)
        thread.start()
        try:
            yield trainer
        finally:
            trainer.worker.stop()
            thread.join(60)
        assert not thread.is_alive()

    def read(self, kind: str) -> list[Record]:
        where = TopicPartition(f"{self.app}.{kind}", 0)
        with self.log.reader() as reader:
            end = reader.end_offsets([where])[where]
            return [
                Record(where.topic, value, key, 0, headers)
                for batch in read_range(reader, where, 0, end)
                for value, key, headers in zip(batch.values, batch.keys, batch.headers, strict=True)
            ]

    def kinds(self) -> list[str]:
        return [dict(record.headers)["kind"].decode() for record in self.read("snapshots")]

    def follow(self, **options: Any) -> ModelSubscriber:
        return ModelSubscriber(self.app, log=self.log, poll_s=0.01, **options)


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    with EmbeddedLog(f"sqlite:///{tmp_path / 'fresh.db'}") as log:
        yield Setting(tmp_path, log)


@pytest.fixture
def anywhere(tmp_path: Path, log_url: str, app: str) -> Iterator[Setting]:
    with open_log(log_url) as log:
        yield Setting(tmp_path, log, app)


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Clock:
    """Ours, moved by hand."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def test_a_quiet_trainer_is_told_from_a_dead_one(anywhere: Setting) -> None:
    setting = anywhere
    setting.append(400)
    clock = Clock()
    with setting.living() as trainer, setting.follow(max_age=60, clock=clock) as model:
        model.wait(60)
        until(lambda: model.learned_up_to == {0: 400})
        version, before = model.version, setting.kinds().count("heartbeat")
        until(lambda: setting.kinds().count("heartbeat") >= before + 3)
        heard = model._serving.freshness.at(0)
        until(lambda: (model._serving.freshness.at(0) or 0) > (heard or 0))
        assert model.version == version
        assert not model.stale
        assert not model.refused
        seq = trainer.worker.slots[0].seq
    records = setting.read("snapshots")
    beats = [r for r in records if dict(r.headers)["kind"] == b"heartbeat"]
    assert {r.key for r in beats} == {f"{setting.app}/heartbeat".encode()}
    newest = read_heartbeat(beats[-1].value or b"")
    assert (newest.lineage, newest.partition, newest.seq) == (setting.app, 0, seq)
    # Nobody speaks any more: the same model grows old.
    clock.ahead = 61
    assert model.stale


def test_heartbeats_are_in_nobodys_way(anywhere: Setting) -> None:
    setting = anywhere
    setting.append(400)
    with setting.living():
        until(lambda: setting.kinds().count("heartbeat") >= 5)
    report = setting.learn()
    assert report["learned"] == 400
    setting.append(400)
    report = setting.learn()
    assert report["learned"] == report["events"] == 800
    config = setting.config()
    verdicts = list(verify(config, setting.log, 0))
    assert [verdict.ok for verdict in verdicts] == [True] * report["snapshots"]
    listed, _ = call("snapshots", "list", "-c", setting.path, "--json", cwd=setting.folder)
    assert [one["seq"] for one in json.loads(listed)] == list(range(1, report["snapshots"] + 1))


def test_who_is_not_the_owner_does_not_speak(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting.append(400)
    monkeypatch.setattr("stream_update.cadence.AGAIN_S", 0.01)
    with setting.living() as trainer:
        until(lambda: trainer.worker.slots and trainer.worker.slots[0].seq)
        asked: list[str] = []

        def refuse(*_: Any) -> Any:
            asked.append("publisher")
            raise Refused("another generation")

        def stable() -> bool:
            asked.append("member")
            return False

        with monkeypatch.context() as patch:
            patch.setattr(trainer.worker._publisher, "begin", refuse)
            until(lambda: asked.count("publisher") > 3)
            before = setting.kinds()
            until(lambda: asked.count("publisher") > 6)
            patch.setattr(trainer.worker._member, "stable", stable)
            until(lambda: asked.count("member") > 6)
            assert setting.kinds() == before
        # What could not be said is said when it can be.
        until(lambda: len(setting.kinds()) > len(before))


def test_never_back_whatever_becomes_of_the_trainer(setting: Setting) -> None:
    seen: list[int] = []

    def note(model: Model) -> None:
        seen.append(model.manifest.seq)

    setting.append(400)
    setting.learn()
    old = setting.read("snapshots")
    with setting.follow(on_model=note) as model:
        model.wait(60)
        for _ in range(3):
            setting.append(200)
            report = setting.learn()
            until(lambda: model.learned_up_to == {0: report["events"]})  # noqa: B023
            with setting.log.appender() as appender:
                appender.append(old)
            until(lambda: model.refused)
            assert model.learned_up_to == {0: report["events"]}
        assert seen == sorted(set(seen))
        assert set(model.refused) == {"rollback"}
        assert model.version == f"{APP}@{report['snapshots']}"


def test_a_new_follower_believes_the_heartbeat_and_no_replay(setting: Setting) -> None:
    setting.append(400)
    setting.learn()
    old = setting.read("snapshots")[:2]
    setting.append(400)
    with setting.living():
        until(lambda: setting.kinds().count("heartbeat") >= 2)
        with setting.log.appender() as appender:
            appender.append(old)
        until(lambda: setting.kinds()[-1] == "heartbeat")
    with setting.follow() as model:
        model.wait(60)
        assert model.learned_up_to == {0: 800}


def test_what_stale_models_say(setting: Setting, caplog: pytest.LogCaptureFixture) -> None:
    setting.append(400)
    setting.learn()
    clock = Clock()
    with (
        setting.follow(max_age=60, clock=clock) as warns,
        setting.follow(max_age=60, when_stale="flag", clock=clock) as flags,
        setting.follow(max_age=60, when_stale="refuse", clock=clock) as refuses,
    ):
        for model in (warns, flags, refuses):
            model.wait(60)
        answers = [model.answer([EVENT]) for model in (warns, flags, refuses)]
        assert [answer.stale for answer in answers] == [False] * 3
        caplog.clear()
        clock.ahead = 100
        assert warns.stale
        assert flags.stale
        assert refuses.stale
        for _ in range(3):
            assert warns.answer([EVENT]) == answers[0]._replace(stale=True)
            assert flags.answer([EVENT]) == answers[1]._replace(stale=True)
            with pytest.raises(StaleModel, match=r"fresh@2 is stale: .* max_age = 60 s"):
                refuses.predict_one(EVENT)
        assert [r.levelname for r in caplog.records if "is stale" in r.message] == ["WARNING"]
        assert warns.age > 60
        # A new snapshot, and all is well. One that is ahead of our clock is not younger for it.
        clock.ahead = -1000
        setting.append(200)
        setting.learn()
        until(lambda: refuses.learned_up_to == {0: 600})
        clock.ahead = -930
        assert refuses.stale
        clock.ahead = -950
        assert not refuses.answer([EVENT]).stale


def predictions(setting: Setting) -> list[dict[str, Any]]:
    return [json.loads(record.value or b"") for record in setting.read("predictions")]


@pytest.mark.parametrize("when", ["warn", "flag"])
def test_a_scorer_marks_or_warns(setting: Setting, when: str) -> None:
    setting.append(400)
    setting.learn()
    setting.log.create_topics([QUESTIONS])
    setting.append(50, QUESTIONS.name)
    config = setting.config("score.max_age=0.001", f"score.when_stale={when}")
    report = ScorerProcess(config, setting.log, until_end=True).run()
    assert (report["predictions"], report["stale"], report["refused"]) == (50, 50, {})
    marks = [one["model"].get("stale") for one in predictions(setting)]
    assert marks == [True if when == "flag" else None] * 50


def test_a_scorer_stops_answering_until_its_model_is_fresh(setting: Setting) -> None:
    setting.append(400)
    setting.learn()
    setting.log.create_topics([QUESTIONS])
    setting.append(300, QUESTIONS.name)
    waiting = setting.config("score.max_age=0.001", "score.when_stale=refuse", "score.wait_s=0.3")
    with pytest.raises(StaleModel):
        ScorerProcess(waiting, setting.log, until_end=True).run()
    assert not predictions(setting)
    said = call(
        "score", "-c", setting.path, "-s", "score.topic=fresh.questions", "-s", "score.wait_s=0.3",
        "--until-end", "--max-age", "0.001", "--when-stale", "refuse", cwd=setting.folder, code=5,
    )[1]  # fmt: skip
    assert "is stale" in said.replace("\n", " ")
    assert not predictions(setting)

    config = setting.config("score.max_age=1", "score.when_stale=refuse", "score.batch=20")
    with setting.follow(max_age=1) as model:
        model.wait(60)
        until(lambda: model.stale)
    process = ScorerProcess(config, setting.log, max_events=300)
    thread = threading.Thread(target=process.run)
    thread.start()
    until(lambda: process.scorer._waiting_since is not None)
    assert not predictions(setting)
    with setting.living():
        thread.join(60)
    assert not thread.is_alive()
    assert [one["offset"] for one in predictions(setting)] == list(range(300))


def test_a_heartbeat_renews_what_would_expire(setting: Setting) -> None:
    setting.append(400)
    clock = Clock()
    with setting.living("snapshot.expires_s=600"):
        until(lambda: setting.kinds().count("heartbeat") >= 1)
        with setting.follow(clock=clock) as first:
            first.wait(60)
            created = next(iter(first._serving.models.values())).manifest.created_ms
            until(lambda: (first._serving.freshness.at(0) or 0) > created)
    first_expiry = next(iter(first._serving.models.values())).manifest.expires_ms
    assert first_expiry == created + 600_000
    with setting.follow() as model:
        model.wait(60)
        renewed = model._serving.freshness._signs[0].expires_ms
        assert renewed is not None
        assert renewed > first_expiry
        assert not model.stale
    # After the manifest's own time and before the heartbeat's.
    with setting.follow(clock=lambda: (first_expiry + renewed) / 2000) as model:
        model.wait(60)
        assert not model.stale
    with setting.follow(clock=lambda: renewed / 1000) as model:
        until(lambda: "expired" in model.refused)
        with pytest.raises(NoModelYet, match="expired"):
            model.wait(0)
    # One that is in use when its time comes is stale, whatever its age.
    clock.ahead = renewed / 1000 - time.time() + 1
    assert first.stale
