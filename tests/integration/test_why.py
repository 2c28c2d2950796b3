"""For every event of the source one can ask what became of it, and what was predicted."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stream_update import assemble
from stream_update.assemble import Trainer
from stream_update.config import Config, load
from stream_update.errors import ConfigError, LineageMismatch, LogGap, NoModelYet
from stream_update.events import Outcomes, Record, TopicPartition
from stream_update.log.embedded import EmbeddedLog
from stream_update.proof import Answer, held_snapshots, why
from stream_update.protocols import Log
from stream_update.slots import Slot
from stream_update.topics import create_topics
from tests.programs import call, configure, elec2

EVENTS = 600
EVERY_CHECKPOINT = "[snapshot]\nmax_overhead = 1.0"
FRAGILE = '''
from river import base, linear_model


class Fragile(base.Classifier):
    """Breaks half way through learning one event, and cannot predict another."""

    def __init__(self):
        self.inner = linear_model.LogisticRegression()

    def predict_proba_one(self, x):
        if x["number"] == 222:
            raise ValueError("no idea")
        return self.inner.predict_proba_one(x)

    def learn_one(self, x, y):
        self.inner.learn_one(x, y)
        if x["number"] in {333, 590}:
            raise ValueError("too much")


def model():
    return Fragile()
'''


class Setting:
    """A lineage that notes down what it really predicted, event by event."""

    def __init__(
        self, folder: Path, *, log: str = "", app: str = "why", lanes: str = "per-partition"
    ) -> None:
        self.url = log or f"sqlite:///{folder / 'why.db'}"
        self.partitions = 1 if lanes == "per-partition" else 2
        self.path = configure(
            folder,
            self.url,
            app,
            partitions=self.partitions,
            checkpoint=100,
            top=f'lanes = "{lanes}"',
            source='id = "id"\nduplicate_window = 50\nfeatures = ["nswprice", "number"]',
            extra=EVERY_CHECKPOINT,
        )
        self.path.write_text(self.path.read_text().replace('features = "*"\n', ""))
        self.config: Config = load(self.path)
        self.log: Log = assemble.open_log(self.config)
        create_topics(self.config, self.log)
        self.said: dict[tuple[int, int], tuple[Any, Any, Any]] = {}
        with self.log.appender() as appender:
            appender.append(
                Record(
                    self.config.source.topic,
                    self.value(number, event),
                    partition=number % self.partitions,
                )
                for number, event in enumerate(elec2(EVENTS))
            )
            appender.flush()

    @staticmethod
    def value(number: int, event: dict[str, Any]) -> bytes:
        event = {**event, "number": number, "id": number}
        if number % 100 == 50:
            event["class"] = None
        elif number % 100 == 60:
            event["id"] = number - 2
        elif number % 100 == 70:
            event["class"] = "maybe"
        return json.dumps(event).encode()

    def learn(self, **options: Any) -> None:
        def note(outcomes: Outcomes) -> None:
            values, probabilities = outcomes.predictions
            for index, offset in enumerate(outcomes.offsets):
                self.said[outcomes.partition, offset] = (
                    outcomes.labels[index],
                    values[index],
                    probabilities[index] if probabilities else None,
                )

        def watch(slot: Slot) -> None:
            slot.lane.taps.append(note)

        Trainer(self.config, self.log, on_slot=watch, **options).run()

    def why(self, offset: int, partition: int = 0) -> Answer:
        return why(self.config, self.log, partition, offset)


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    made = Setting(tmp_path)
    made.learn(max_events=250)
    made.learn(until_end=True)
    yield made
    made.log.close()


def check(setting: Setting, answer: Answer) -> None:
    said = setting.said[answer.partition, answer.offset]
    assert answer.fate == "learned"
    assert (answer.label, answer.prediction, answer.probabilities) == said


def test_the_prediction_is_the_one_that_was_made(setting: Setting, tmp_path: Path) -> None:
    with setting.log.reader() as reader:
        held = {s.manifest.seq: s.manifest for s in held_snapshots(setting.config, reader, 0)}
    for offset in (0, 1, 149, 249, 399, 588, 599):
        answer = setting.why(offset)
        check(setting, answer)
        assert answer.first is not None
        assert answer.proven is True
        seq = answer.first.manifest.seq
        assert held[seq].positions[0] > offset
        assert seq == 1 or held[seq - 1].positions[0] <= offset
        assert (answer.base.manifest.seq if answer.base else 0) == seq - 1
        assert not answer.earlier_lost
    out, _ = call("why", "399", "-c", setting.path, "--json", cwd=tmp_path)
    found = json.loads(out)
    label, value, probabilities = setting.said[0, 399]
    assert (found["fate"], found["label"], found["prediction"]) == ("learned", label, value)
    assert found["probabilities"] == {str(k).lower(): p for k, p in probabilities.items()}
    assert found["proven"] is True
    out, _ = call("why", "399", "-c", setting.path, cwd=tmp_path)
    assert f"predicted    {value} (" in out
    assert f"in snapshot  {found['first']}, which is what the replay comes to" in out


def test_events_that_were_not_learned(setting: Setting, tmp_path: Path) -> None:
    fates = {offset: setting.why(offset) for offset in (250, 360, 470)}
    assert [answer.fate for answer in fates.values()] == ["unlabelled", "duplicate", "rejected"]
    assert fates[470].reason == "label-type"
    assert "maybe" in fates[470].detail
    assert {answer.proven for answer in fates.values()} == {True}
    assert not fates.keys() & {offset for _, offset in setting.said}
    out, _ = call("why", "470", "-c", setting.path, cwd=tmp_path)
    assert "label-type" in out


def test_what_no_snapshot_has_yet(setting: Setting) -> None:
    config = load(setting.path, ["snapshot.every=1000"])
    with setting.log.appender() as appender:
        appender.append(
            Record("why.labelled", setting.value(1000 + number, event), partition=0)
            for number, event in enumerate(elec2(160))
        )
    with pytest.raises(NoModelYet, match=r"offset 700 has not been processed yet.*600"):
        setting.why(700)
    setting.config = config
    with setting.log.reader() as reader:
        before = held_snapshots(config, reader, 0)[-1].manifest

    def stop(worker: Any) -> None:
        # As a crash does: nothing is drained, so no last snapshot is made.
        if worker.slots and worker.slots[0].committed[0] == 760:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        setting.learn(on_progress=stop)
    answer = setting.why(700)
    check(setting, answer)
    assert answer.first is None
    assert answer.proven is None
    assert answer.base is not None
    assert answer.base.manifest.seq == before.seq
    assert setting.why(670).fate == "rejected"


def test_there_has_to_be_such_an_event(setting: Setting, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ends before offset 600"):
        setting.why(600)
    with pytest.raises(ConfigError, match="has 1 partitions"):
        setting.why(0, 1)
    call("why", "600", "-c", setting.path, cwd=tmp_path, code=2)
    assert isinstance(setting.log, EmbeddedLog)
    setting.log.delete_before("why.labelled", 0, 320)
    with pytest.raises(LogGap, match=r"no longer holds why.labelled.0. offset 300"):
        setting.why(300)
    kept = setting.why(599)
    check(setting, kept)
    # This one is there, but the way to it from the snapshot before is not.
    position = next(
        offset
        for offset in range(320, 600)
        if (first := _first_past(setting, 320)) and offset < first
    )
    with pytest.raises(LogGap, match="not the events between"):
        setting.why(position)
    _, said = call("why", str(position), "-c", setting.path, cwd=tmp_path, code=3)
    assert "retention" in said


def _first_past(setting: Setting, offset: int) -> int:
    with setting.log.reader() as reader:
        ends = [s.manifest.positions[0] for s in held_snapshots(setting.config, reader, 0)]
    return next(end for end in ends if end > offset)


def test_an_answer_that_the_log_does_not_bear_out_is_said_to_be_one(
    setting: Setting, tmp_path: Path
) -> None:
    value = setting.value(420, elec2(EVENTS)[420])
    with sqlite3.connect(tmp_path / "why.db") as sql:
        changed = value.replace(b'"class": 0', b'"class": 2').replace(b'"class": 1', b'"class": 0')
        changed = changed.replace(b'"class": 2', b'"class": 1')
        assert sql.execute(
            "UPDATE records SET value = ? WHERE value = ?", (changed, value)
        ).rowcount
    sql.close()
    assert setting.why(430).proven is False
    out, said = call("why", "430", "-c", setting.path, cwd=tmp_path, code=3)
    assert "learned" in out
    assert "may not be what happened" in said.replace("\n", " ")
    assert setting.why(150).proven is True
    with pytest.raises(LineageMismatch, match="seed"):
        why(load(setting.path, ["seed=3"]), setting.log, 0, 150)


def test_a_hole_in_the_log_is_no_event(setting: Setting, tmp_path: Path) -> None:
    value = setting.value(420, elec2(EVENTS)[420])
    with sqlite3.connect(tmp_path / "why.db") as sql:
        assert sql.execute("DELETE FROM records WHERE value = ?", (value,)).rowcount == 1
    sql.close()
    with pytest.raises(ConfigError, match="offset 420 is no event"):
        setting.why(420)


def test_a_gap_and_what_was_before_the_lineage(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    assert isinstance(setting.log, EmbeddedLog)
    setting.log.delete_before("why.labelled", 0, 40)
    setting.learn(max_events=200)
    setting.log.delete_before("why.labelled", 0, 300)
    setting.learn(until_end=True, accept_gap=True)
    gap = setting.why(270)
    assert gap.fate == "gap"
    assert "240 to 299" in gap.detail
    assert gap.first is not None
    assert gap.first.manifest.gaps == [(0, 240, 300)]
    assert setting.why(10).fate == "before-lineage"
    check(setting, setting.why(301))
    assert setting.why(301).proven is True
    setting.log.close()


def test_a_lane_over_several_partitions(tmp_path: Path) -> None:
    setting = Setting(tmp_path, lanes="single")
    setting.learn(max_events=250)
    setting.learn(until_end=True)
    for partition, offset in ((0, 3), (1, 3), (0, 174), (1, 299), (1, 120)):
        answer = setting.why(offset, partition)
        check(setting, answer)
        assert answer.proven is True
    assert setting.why(125).fate == "unlabelled"
    assert setting.why(130).fate == "duplicate"
    setting.log.close()


def test_events_that_broke_the_learner(tmp_path: Path) -> None:
    (tmp_path / "fragile.py").write_text(FRAGILE)
    setting = Setting(tmp_path)
    text = setting.path.read_text()
    start, end = text.index("[learner]"), text.index("[[monitor]]")
    learner = 'factory = "fragile:model"\nallow = ["fragile:Fragile"]\n'
    setting.path.write_text(f"{text[:start]}[learner]\n{learner}{text[end:]}")
    for events in ("300", "300"):
        call("run", "-c", setting.path, "--max-events", events, cwd=tmp_path)

    def ask(offset: int) -> dict[str, Any]:
        out, _ = call("why", str(offset), "-c", setting.path, "--json", cwd=tmp_path)
        found: dict[str, Any] = json.loads(out)
        assert found["proven"] is True
        return found

    poison, after, rejected = ask(333), ask(334), ask(222)
    assert (poison["fate"], poison["reason"]) == ("poison", "learner-failed")
    assert poison["detail"] == "ValueError: too much"
    assert after["fate"] == "learned"
    assert (rejected["fate"], rejected["detail"]) == ("rejected", "ValueError: no idea")
    setting.log.close()


def test_a_twin_and_a_forest_that_react(tmp_path: Path) -> None:
    setting = Setting(tmp_path)
    text = setting.path.read_text().replace('reaction = "alert"', 'reaction = "swap"')
    start, end = text.index("[learner]"), text.index("[[monitor]]")
    learner = 'use = "river.forest:ARFClassifier"\nn_models = 2'
    setting.path.write_text(f"{text[:start]}[learner]\n{learner}\n{text[end:]}")
    setting.config = load(setting.path)
    setting.learn(until_end=True)
    for offset in (0, 255, 577):
        answer = setting.why(offset)
        check(setting, answer)
        assert answer.proven is True
    setting.log.close()


def test_on_both_logs(tmp_path: Path, log_url: str, app: str) -> None:
    setting = Setting(tmp_path, log=log_url, app=app)
    with pytest.raises(NoModelYet, match="no snapshot"):
        setting.why(0)
    setting.learn(max_events=250)
    with setting.log.member(setting.config.trainer_group, setting.config.source.topic) as member:
        while not member.poll(0.2).gained:
            pass
        with pytest.raises(NoModelYet, match="not been processed yet"):
            setting.why(500)
        # Who asks does not join the group: nothing moves in it.
        for _ in range(5):
            poll = member.poll(0.2)
            assert not poll.lost
            assert not poll.gained
            assert member.stable()
    setting.learn(until_end=True)
    for offset in (0, 333, 599):
        answer = setting.why(offset)
        check(setting, answer)
        assert answer.proven is True
    assert setting.why(560).fate == "duplicate"
    with setting.log.reader() as reader:
        where = TopicPartition(setting.config.source.topic, 0)
        end = reader.end_offsets([where])[where]
    with pytest.raises(ConfigError, match="there is no"):
        setting.why(end)
    setting.log.close()
