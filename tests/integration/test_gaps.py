"""Retention was faster than a lane: it stops with an alarm, or goes on if a person agrees."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stream_update.assemble import Trainer
from stream_update.config import Config, load
from stream_update.errors import Overtaken, Transient
from stream_update.events import Record, TopicPartition
from stream_update.log.embedded import EmbeddedLog
from stream_update.restore import newest, read_range
from stream_update.snapshot import Manifest
from stream_update.topics import create_topics
from stream_update.worker import Worker
from tests.integration.test_pipeline import pipeline
from tests.programs import bare_loop, call, configure, elec2

EVENTS = 1000


class Setting:
    """Two partitions with 500 events each, of which the second lane loses some."""

    def __init__(self, folder: Path, lanes: str = "per-partition") -> None:
        self.log = EmbeddedLog(f"sqlite:///{folder / 'gap.db'}")
        self.path = configure(
            folder, self.log.url, "gap", partitions=2, checkpoint=50, top=f'lanes = "{lanes}"'
        )
        self.config: Config = load(self.path, ["max_poll_records=40"])
        create_topics(self.config, self.log)
        self.events = elec2(EVENTS)
        with self.log.appender() as appender:
            appender.append(
                Record("gap.labelled", json.dumps(event).encode(), partition=number % 2)
                for number, event in enumerate(self.events)
            )

    def run(self, **options: Any) -> dict[str, Any]:
        return Trainer(self.config, self.log, **options).run()

    def learn_some(self) -> int:
        """Stop somewhere; the position of the second lane."""
        report = self.run(max_events=300)
        return int(report["lanes"][-1]["next"]["1"])

    def alarms(self) -> list[dict[str, Any]]:
        where = TopicPartition("gap.drift", 0)
        with self.log.reader() as reader:
            end = reader.end_offsets([where])[where]
            values = [
                json.loads(value or b"")
                for batch in read_range(reader, where, 0, end)
                for value in batch.values
            ]
        return [value for value in values if value["kind"] == "log-gap"]

    def manifest(self, lane: int) -> Manifest:
        with self.log.reader() as reader:
            snapshot = newest(reader, "gap.snapshots", lane, "gap")
        assert snapshot is not None
        return snapshot.manifest


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    made = Setting(tmp_path)
    yield made
    made.log.close()


def test_only_the_lane_with_the_gap_stops(setting: Setting, tmp_path: Path) -> None:
    position = setting.learn_some()
    setting.log.delete_before("gap.labelled", 1, position + 20)
    with pytest.raises(Overtaken, match=f"nothing before offset {position + 20}") as error:
        setting.run(until_end=True)
    assert "--accept-gap" in error.value.hint
    assert setting.manifest(0).positions == {0: 500}
    assert setting.manifest(1).positions == {1: position}
    (alarm, *_) = setting.alarms()
    assert (alarm["partition"], alarm["offset"], alarm["first"]) == (1, position, position + 20)
    assert alarm["accepted"] is False
    _, said = call("run", "-c", setting.path, "--until-end", cwd=tmp_path, code=3)
    assert "--accept-gap" in said


def test_an_accepted_gap_is_in_the_lineage(setting: Setting) -> None:
    position = setting.learn_some()
    setting.log.delete_before("gap.labelled", 1, position + 20)
    report = setting.run(until_end=True, accept_gap=True)
    assert report["learned"] == EVENTS - 20
    assert setting.manifest(1).gaps == [(1, position, position + 20)]
    assert setting.manifest(0).gaps == []
    assert [alarm["accepted"] for alarm in setting.alarms()] == [True]
    again = setting.run(until_end=True)
    assert again["metrics"] == report["metrics"]
    assert again["lanes"][1]["gaps"] == [[1, position, position + 20]]
    rest = setting.events[1::2]
    bare = bare_loop(pipeline, rest[:position] + rest[position + 20 :])
    assert report["lanes"][1]["metrics"]["accuracy"] == bare["accuracy"]


def test_what_was_agreed_to_outlives_the_process(setting: Setting) -> None:
    """It is in a snapshot as soon as it is committed, however rare snapshots are."""
    position = setting.learn_some()
    setting.log.delete_before("gap.labelled", 1, position + 20)
    setting.config = load(setting.path, ["snapshot.every=1000"])

    def die(worker: Worker) -> None:
        if worker.slots[1].committed[1] > position + 20:
            raise Transient("the end of this process")

    with pytest.raises(Transient, match="of this process"):
        setting.run(accept_gap=True, on_checkpoint=die)
    report = setting.run(until_end=True)
    assert report["learned"] == EVENTS - 20
    assert [alarm["accepted"] for alarm in setting.alarms()] == [True]


@pytest.mark.parametrize("accept", [True, False])
def test_a_gap_may_open_while_the_lane_runs(setting: Setting, accept: bool) -> None:
    opened: list[int] = []

    def delete(worker: Worker) -> None:
        if not opened and 1 in worker.slots:
            opened.append(worker.slots[1].lane.next[1])
            setting.log.delete_before("gap.labelled", 1, 450)

    if not accept:
        with pytest.raises(Overtaken):
            setting.run(until_end=True, on_progress=delete)
        assert setting.manifest(0).positions == {0: 500}
        return
    report = setting.run(until_end=True, accept_gap=True, on_progress=delete)
    assert opened[0] < 450
    assert setting.manifest(1).gaps == [(1, opened[0], 450)]
    assert report["learned"] == EVENTS - (450 - opened[0])


def test_a_lane_over_all_partitions_stops_as_a_whole(tmp_path: Path) -> None:
    setting = Setting(tmp_path, "single")
    report = setting.run(max_events=300)
    position = report["lanes"][0]["next"]["1"]
    setting.log.delete_before("gap.labelled", 1, position + 20)
    with pytest.raises(Overtaken):
        setting.run(until_end=True)
    assert setting.manifest(0).learned == 300
    assert setting.run(until_end=True, accept_gap=True)["learned"] == EVENTS - 20
    assert setting.manifest(0).gaps == [(1, position, position + 20)]
    setting.log.close()
