"""Learning the past again under another lineage, and handing over to it; on both logs."""

from __future__ import annotations

import base64
import json
import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from stream_update import ModelSubscriber
from stream_update.assemble import Trainer, backfill_config, open_control
from stream_update.backfill import backfill, estimate, planned
from stream_update.components import components, fresh_lane
from stream_update.config import Config, load
from stream_update.control import control_record
from stream_update.errors import ConfigError, LineageMismatch, Transient
from stream_update.events import Alarm, DeadLetter, Record, TopicPartition
from stream_update.plugins import open_log
from stream_update.promotion import Promotion, promote
from stream_update.proof import verify
from stream_update.restore import newest, read_range
from stream_update.signing import SigningKey
from stream_update.snapshot import Manifest, state_digest
from stream_update.topics import create_topics
from tests.programs import call, configure, elec2, start
from tests.warm import Started

EVENTS = 3000
TREE = 'use = "river.tree:HoeffdingAdaptiveTreeClassifier"\ngrace_period = 50'
PATIENCE_S = 60.0


class Reference(NamedTuple):
    """One lane that learned a partition in one go, and all that it said."""

    digest: str
    alarms: list[Alarm]
    letters: list[DeadLetter]


class Setting:
    """An application on a log with some events, every 97th of them bad."""

    def __init__(self, folder: Path, url: str, app: str, **options: Any) -> None:
        self.app = app
        self.folder = folder
        self.partitions = options.pop("partitions", 2)
        self.path = configure(
            folder, url, app, partitions=self.partitions, checkpoint=200, **options
        )
        self.opened = ExitStack()
        self.config = load(self.path)
        self.log = self.opened.enter_context(open_log(url, self.config.kafka))
        create_topics(self.config, self.log)
        self.produced = 0
        # Not long ago, or a broker's retention takes them.
        self.since = int(time.time()) - 10_000
        self.events = elec2(2 * EVENTS)

    def produce(self, count: int) -> None:
        first, self.produced = self.produced, self.produced + count
        with self.log.appender() as appender:
            appender.append(
                Record(
                    f"{self.app}.labelled",
                    b"{" if number % 97 == 1 else json.dumps(self.events[number]).encode(),
                    partition=number % self.partitions,
                    timestamp_ms=(self.since + number) * 1000,
                )
                for number in range(first, first + count)
            )

    def learn(self, **options: Any) -> dict[str, Any]:
        return Trainer(self.config, self.log, until_end=True, **options).run()

    def backfill(
        self, name: str = "v2", config: Config | None = None, since: str = "", until: str = ""
    ) -> Config:
        own = backfill_config(config or self.config, name)
        backfill(own, self.log, planned(own, self.log, since, until)).run()
        return own

    def promote(self, name: str = "v2", **options: Any) -> Promotion:
        return promote(self.config, self.log, name, **options)

    def rows(self, kind: str) -> list[dict[str, Any]]:
        topic = kind if "." in kind else f"{self.app}.{kind}"
        found = []
        with self.log.reader() as reader:
            for partition in range(self.log.topics()[topic].partitions):
                where = TopicPartition(topic, partition)
                end = reader.end_offsets([where])[where]
                for batch in read_range(reader, where, 0, end):
                    found += [
                        json.loads(value) | {"_headers": dict(headers)}
                        for value, headers in zip(batch.values, batch.headers, strict=True)
                        if value and value[:1] == b"{" and value != b"{"
                    ]
        return found

    def letters(self, topic: str | None = None) -> list[tuple[int, int]]:
        """The places of the events that are dead letters."""
        topic, found = topic or f"{self.app}.dead-letters", []
        with self.log.reader() as reader:
            for partition in range(self.log.topics()[topic].partitions):
                where = TopicPartition(topic, partition)
                end = reader.end_offsets([where])[where]
                for batch in read_range(reader, where, 0, end):
                    found += [
                        (int(headers["partition"]), int(headers["offset"]))
                        for headers in map(dict, batch.headers)
                    ]
        return sorted(found)

    def newest(self, lineage: str, partition: int = 0) -> Manifest:
        with self.log.reader() as reader:
            found = newest(reader, f"{self.app}.snapshots", partition, lineage)
        assert found is not None
        return found.manifest

    def reference(
        self, partition: int, config: Config | None = None, first: int = 0, end: int = 1 << 60
    ) -> Reference:
        config = config or self.config
        kit = fresh_lane(config, components(config), {partition: first})
        alarms, letters = [], []
        where = TopicPartition(f"{self.app}.labelled", partition)
        with self.log.reader() as reader:
            end = min(end, reader.end_offsets([where])[where])
            for batch in read_range(reader, where, first, end):
                said = kit.lane.feed(kit.decode(batch))
                alarms += said.alarms
                letters += said.dead_letters
        return Reference(state_digest(kit.lane.freeze()), alarms, letters)


@pytest.fixture
def made(tmp_path: Path, log_url: str, app: str) -> Iterator[Setting]:
    setting = Setting(tmp_path, log_url, app)
    setting.produce(EVENTS)
    yield setting
    setting.opened.close()


def test_a_backfill_equals_what_was_learned_live(made: Setting) -> None:
    made.learn(max_events=700)
    made.learn()
    before = {kind: len(made.rows(kind)) for kind in ("metrics", "drift", "dead-letters")}
    own = backfill_config(made.config, "v2")
    stretch = planned(own, made.log)
    made.produce(500)
    backfill(own, made.log, stretch, max_events=1100).run()
    assert planned(own, made.log) == stretch, "the end stays where it was at the start"
    report = backfill(own, made.log, stretch).run()
    assert report["events"] == EVENTS
    for partition in (0, 1):
        first, second = made.newest(made.app, partition), made.newest("v2", partition)
        assert second.digest == first.digest == made.reference(partition, end=1500).digest
        assert second.positions == first.positions == {partition: 1500}
    assert {kind: len(made.rows(kind)) for kind in before} == before
    assert made.letters(f"{made.app}.v2.dead-letters") == made.letters()
    assert {row["lineage"] for row in made.rows(f"{made.app}.v2.metrics")} == {"v2"}


def moment(setting: Setting, seconds: int, hours: int = 0) -> str:
    """So many seconds after the first event, as people write it so many hours east of Greenwich."""
    zone = timezone(timedelta(hours=hours))
    return datetime.fromtimestamp(setting.since + seconds, zone).isoformat()


def test_from_a_time_to_a_time(made: Setting) -> None:
    since = moment(made, 1000).removesuffix("+00:00")
    config = made.backfill(since=since, until=moment(made, 1000, hours=1))
    assert [made.newest("v2", p).events for p in (0, 1)] == [0, 0], "both name the same moment"
    made.backfill("v3", since=since, until=moment(made, 2200, hours=-5))
    for partition in (0, 1):
        manifest = made.newest("v3", partition)
        assert manifest.start == {str(partition): 500}
        assert manifest.next == {str(partition): 1100}
        assert manifest.digest == made.reference(partition, first=500, end=1100).digest
        assert {one.ok for one in verify(backfill_config(made.config, "v3"), made.log, partition)}
    with pytest.raises(ConfigError, match=f"was begun with --from {since}"):
        planned(config, made.log, "beginning")
    with pytest.raises(ConfigError, match="no date or time"):
        planned(backfill_config(made.config, "v4"), made.log, "yesterday")
    with pytest.raises(ConfigError, match="lineage of the live trainers"):
        backfill_config(made.config, made.app)
    with pytest.raises(ConfigError, match="cannot be the name"):
        backfill_config(made.config, "a/b")


def test_an_estimate_says_nothing_to_anybody(made: Setting) -> None:
    own = backfill_config(made.config, "v2")
    found = estimate(own, made.log, planned(own, made.log, record=False))
    assert (found.events, found.sample) == (EVENTS, EVENTS)
    assert found.events_per_s > 0
    with open_control(made.config, made.log) as control:
        assert control.stretches == {}
    assert f"{made.app}.v2.metrics" not in made.log.topics()


@contextmanager
def running(setting: Setting) -> Iterator[Started]:
    """A live trainer; it is drained at the end."""
    process = start("run", "-c", setting.path, cwd=setting.folder)
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    finally:
        process.kill()
        process.communicate()


@contextmanager
def flowing(setting: Setting, count: int, every: int = 20) -> Iterator[None]:
    """Events come in, a few at a time, until the block has ended and all are there."""
    enough = threading.Event()

    def fill() -> None:
        for _ in range(0, count, every):
            setting.produce(every)
            enough.wait(0.02)

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


def until_learned(setting: Setting, events: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        at = setting.log.committed(setting.app, f"{setting.app}.labelled")
        if sum(one.offset for one in at.values()) >= events:
            return
        assert time.monotonic() < deadline, at
        time.sleep(0.1)


@contextmanager
def followed(setting: Setting) -> Iterator[list[set[str]]]:
    """The lineages whose models answered, for each of many questions."""
    answered: list[set[str]] = []
    enough = threading.Event()

    def ask(model: ModelSubscriber) -> None:
        model.wait(PATIENCE_S)
        while not enough.wait(0.01):
            ((*models,),) = model.answer([{"nswprice": 0.1}]).models
            answered.append({one.manifest.identity.lineage for one in models})

    with ModelSubscriber(setting.app, log=setting.log) as model:
        thread = threading.Thread(target=ask, args=(model,))
        thread.start()
        try:
            yield answered
            deadline = time.monotonic() + PATIENCE_S
            while model.lineage != "v2" or model.learned_up_to != {
                p: setting.newest("v2", p).positions[p] for p in range(setting.partitions)
            }:
                assert time.monotonic() < deadline, model.version
                time.sleep(0.1)
        finally:
            enough.set()
            thread.join()


def spoken_once(setting: Setting, new: Config) -> None:
    """Up to some offset the old lineage has spoken, and from there on the new one."""
    metrics = [row for row in setting.rows("metrics") if row["app"] == setting.app]
    alarms = setting.rows("drift")
    for partition in range(setting.partitions):
        said = sorted(
            (row["next"][str(partition)], row["lineage"])
            for row in metrics
            if row["partition"] == partition
        )
        assert len({at for at, _ in said}) == len(said), "no stretch is spoken of twice"
        names = [name for _, name in said]
        assert names == sorted(names, key=[setting.app, "v2"].index)
        assert {*names} == {setting.app, "v2"}
        turn = max(at for at, name in said if name == setting.app)
        old, fresh = setting.reference(partition), setting.reference(partition, new)
        expected = [one.offset for one in old.alarms if one.offset < turn]
        expected += [one.offset for one in fresh.alarms if one.offset >= turn]
        assert sorted(row["offset"] for row in alarms if row["partition"] == partition) == sorted(
            expected
        )
        assert [at for p, at in setting.letters() if p == partition] == sorted(
            one.offset for one in fresh.letters
        )
        assert setting.newest("v2", partition).digest == fresh.digest


@pytest.mark.slow
def test_promoted_while_events_flow(made: Setting) -> None:
    """The live trainer reads its file again, for the new lineage is another learner's."""
    with followed(made) as answered, running(made):
        until_learned(made, 1000)
        with flowing(made, 1500):
            made.path.write_text(made.path.read_text().replace("lr = 0.01", "lr = 0.05"))
            new = made.config = load(made.path)
            made.backfill()
            done = made.promote(wait_s=PATIENCE_S)
            assert set(done.adopted) == {0, 1}
        until_learned(made, made.produced)
    made.config = load(made.path, ["learner.steps.1.optimizer.lr=0.01"])
    spoken_once(made, new)
    turn = answered.index({"v2"})
    assert all(one == {made.app} for one in answered[:turn]), "all partitions change at once"
    assert all(one == {"v2"} for one in answered[turn:])
    for partition in (0, 1):
        verdicts = list(verify(backfill_config(new, "v2"), made.log, partition))
        assert {one.ok for one in verdicts} == {True}


@pytest.mark.slow
def test_promoted_and_killed_again_and_again(made: Setting) -> None:
    """A new process goes on with what is promoted, and so does the way back."""
    made.learn(max_events=2000)
    made.backfill("v2")
    with pytest.raises(Transient, match="events behind what lineage v2 has learned"):
        made.promote(wait_s=0.2)
    made.learn()
    assert made.promote(wait_s=0.2).adopted == {}, "there is nobody to take it over yet"
    made.produce(400)
    for _ in range(3):
        process = start("run", "-c", made.path, cwd=made.folder)
        time.sleep(1.2)
        process.kill()
        process.communicate()
    report = made.learn()
    assert report["lineage"] == "v2"
    made.produce(100)
    assert made.promote(made.app).pointer.previous == "v2"
    assert made.learn()["lineage"] == made.app
    for partition in (0, 1):
        assert made.newest(made.app, partition).digest == made.reference(partition).digest
        assert made.newest("v2", partition).digest == made.reference(partition, end=1700).digest
    assert len(made.letters()) == len({*made.letters()}) == (made.produced + 95) // 97


@pytest.mark.slow
def test_one_lane_over_all_partitions_hands_over(tmp_path: Path, log_url: str, app: str) -> None:
    setting = Setting(tmp_path, log_url, app, top='lanes = "single"')
    setting.produce(EVENTS)
    with setting.opened:
        with running(setting):
            until_learned(setting, 1000)
            with flowing(setting, 600):
                setting.backfill()
                assert set(setting.promote(wait_s=PATIENCE_S).adopted) == {0, 1}
            until_learned(setting, setting.produced)
        manifest = setting.newest("v2")
        assert sum(manifest.positions.values()) >= setting.produced
        assert manifest.events == setting.produced
        verdicts = list(verify(backfill_config(setting.config, "v2"), setting.log, 0))
        assert {one.ok for one in verdicts} == {True}
        assert setting.letters() == sorted({*setting.letters()})


def test_what_cannot_be_promoted_says_why(made: Setting) -> None:
    made.learn()
    with pytest.raises(ConfigError, match="holds no snapshot of lineage v2"):
        made.promote()
    own = backfill_config(made.config, "v2")
    backfill(own, made.log, planned(own, made.log), max_events=1000).run()
    with pytest.raises(LineageMismatch, match="not complete: 2000 events are left"):
        made.promote()
    with made.log.member(own.trainer_group, own.source.topic) as other:
        while not other.poll(0.2).gained:
            pass
        backfill_left = planned(own, made.log)
        assert backfill_left.ends == {0: 1500, 1: 1500}
    made.backfill()
    other_learner = load(made.path, ["learner.steps.1.optimizer.lr=0.5"])
    with pytest.raises(LineageMismatch, match="lr"):
        promote(other_learner, made.log, "v2")
    with pytest.raises(ConfigError, match="is the live one already"):
        made.promote(made.app)
    assert made.learn()["lineage"] == made.app


def test_a_running_backfill_is_not_promoted(made: Setting) -> None:
    made.learn()
    own = made.backfill()
    with made.log.member(own.trainer_group, own.source.topic) as other:
        while not other.poll(0.2).gained:
            pass
        with pytest.raises(Transient, match="still running"):
            made.promote(wait_s=2.0)
    made.promote(wait_s=0.0)
    with pytest.raises(ConfigError, match="has been promoted"):
        made.backfill()
    with pytest.raises(ConfigError, match="has been promoted"):
        Trainer(load(made.path, ["lineage=v2"]), made.log)


def test_a_promotion_that_waited_counts_after_the_one_that_did_not(made: Setting) -> None:
    made.learn()
    own = made.backfill("v2")
    made.backfill("v3")
    done: list[Promotion] = []
    with made.log.member(own.trainer_group, own.source.topic) as other:
        while not other.poll(0.2).gained:
            pass
        waiting = threading.Thread(
            target=lambda: done.append(made.promote("v2", wait_s=PATIENCE_S))
        )
        waiting.start()
        assert made.promote("v3", wait_s=0.0).pointer.number == 1
        assert waiting.is_alive()
    waiting.join()
    assert (done[0].pointer.number, done[0].pointer.previous) == (2, "v3")
    assert made.learn()["lineage"] == "v2"


def test_a_trainer_that_does_not_fit_goes_on_as_before(
    made: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    made.learn()
    other = load(made.path, ["learner.steps.1.optimizer.lr=0.5"])
    trainer = Trainer(made.config, made.log)
    with caplog.at_level(logging.ERROR):
        thread = threading.Thread(target=trainer.run)
        thread.start()
        try:
            made.backfill(config=other)
            promote(other, made.log, "v2", wait_s=1.0)
            made.produce(200)
            until_learned(made, EVENTS + 200)
            deadline = time.monotonic() + PATIENCE_S
            while "cannot go on with it" not in caplog.text:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        finally:
            trainer.worker.stop()
            thread.join()
    assert "lr" in caplog.text
    assert trainer.worker.lineage == made.app
    with pytest.raises(LineageMismatch, match="lr"):
        made.learn()
    made.config = other
    assert made.learn()["lineage"] == "v2"
    for partition in (0, 1):
        assert made.newest("v2", partition).digest == made.reference(partition, other).digest


def test_a_changed_learner_takes_over_from_trainers_that_stand_still(made: Setting) -> None:
    """They are behind, and with the changed configuration they cannot catch up."""
    made.learn(max_events=1200)
    made.path.write_text(made.path.read_text().replace("lr = 0.01", "lr = 0.05"))
    made.config = load(made.path)
    with pytest.raises(LineageMismatch, match="lr"):
        made.learn()
    place = ("-c", made.path)
    call("backfill", *place, "--as", "v2", "--to", "committed", cwd=made.folder)
    made.promote(wait_s=0.0)
    assert made.learn()["lineage"] == "v2"
    for partition in (0, 1):
        assert made.newest("v2", partition).digest == made.reference(partition).digest
    assert made.letters() == sorted({*made.letters()})
    assert len(made.letters()) == (EVENTS + 95) // 97
    # The former lineage can still be looked at, and so can this one, by their names.
    for name in (made.app, "v2"):
        out, _ = call("snapshots", "list", *place, "--lineage", name, "--json", cwd=made.folder)
        assert {one["identity"]["lineage"] for one in json.loads(out)} == {name}
    call("snapshots", "verify", *place, "--lineage", "v2", cwd=made.folder)


def test_commands(made: Setting) -> None:
    made.learn()
    place = ("-c", made.path)
    said, _ = call("backfill", *place, "--as", "v2", "--dry-run", cwd=made.folder)
    assert "3,000 events at most" in said
    said, _ = call("backfill", *place, "--as", "v2", cwd=made.folder)
    assert "complete; to go on with it: stream-update promote v2" in said
    said, _ = call("promote", "v2", *place, "--wait", "1", cwd=made.folder)
    assert f"{made.app}: v2 is live now, in place of {made.app}" in said
    assert "no live trainer has taken it over yet" in said
    out, _ = call("run", *place, "--until-end", "--json", cwd=made.folder)
    assert json.loads(out)["lineage"] == "v2"
    out, _ = call("snapshots", "list", *place, "--json", cwd=made.folder)
    assert {one["identity"]["lineage"] for one in json.loads(out)} == {"v2"}
    call("snapshots", "verify", *place, cwd=made.folder)


def test_decisions_have_to_be_signed_where_keys_are_trusted(
    tmp_path: Path, app: str, caplog: pytest.LogCaptureFixture
) -> None:
    keys = []
    for name in ("ours", "theirs"):
        call("keys", "generate", tmp_path / name, cwd=tmp_path)
        keys.append(f"file:{tmp_path / name}")
    public = base64.b64encode(SigningKey.load(keys[0]).public).decode()
    setting = Setting(
        tmp_path,
        f"sqlite:///{tmp_path / 'log.db'}",
        app,
        extra=f'[snapshot]\nsigning_key = "{keys[0]}"\ntrusted_keys = ["{public}"]',
    )
    setting.produce(400)
    setting.learn()
    setting.backfill()
    pointer = setting.promote(wait_s=0.0).pointer
    later = {"number": 7, "lineage": "evil"}
    for signing in (None, SigningKey.load(keys[1])):
        forged = type(pointer)(**{**_fields(pointer), **later})
        with setting.log.appender() as appender:
            appender.append([control_record(forged, f"{app}.control", signing)])
    with setting.log.appender() as appender:
        old = type(pointer)(**{**_fields(pointer), "number": 0, "lineage": "old"})
        appender.append([control_record(old, f"{app}.control", SigningKey.load(keys[0]))])
        appender.append([Record(f"{app}.control", b"{", key=b"current/x", partition=0)])
    with open_control(setting.config, setting.log) as control:
        assert control.current(app) == "v2"
    assert "it is not signed" in caplog.text
    assert "which is not trusted" in caplog.text
    assert setting.learn()["lineage"] == "v2"
    setting.opened.close()


def _fields(pointer: Any) -> dict[str, Any]:
    return {name: getattr(pointer, name) for name in pointer.__struct_fields__}
