"""Torch lanes killed, rebalanced and taken over, on both logs: parameters equal bit for bit.

What is left in the end is compared with a lane that has learned the same events in one go,
by the digest of the whole state: weights, moments, buffer, monitors, the half-filled batch.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from stream_update.assemble import Trainer, open_log
from stream_update.config import Config, load
from stream_update.events import Record, Run
from stream_update.restore import newest
from stream_update.snapshot import Manifest
from stream_update.topics import create_topics
from tests.fault.gold import Gold
from tests.programs import call, configure, elec2, report_of, start

pytest.importorskip("torch")
pytest.importorskip("safetensors")

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(400)]

ROWS = 3000
KILLS = 3
NETWORK = """
use = "torch"
module = { use = "mlp", hidden = [16], dropout = 0.1 }
optimizer = { use = "adam", lr = 0.01 }
batch = 32
"""
REPLAY = """
[[wrap]]
use = "replay"
buffer = "class-balanced"
max_events = 200
"""
PATIENCE_S = 150.0


@pytest.fixture(params=["mlp", "replay"])
def learner(request: pytest.FixtureRequest) -> str:
    return NETWORK + (REPLAY if request.param == "replay" else "")


class Setting:
    """An application with Elec2 in its source topic, partition by partition."""

    def __init__(self, folder: Path, url: str, app: str, partitions: int, **options: Any) -> None:
        self.path = configure(folder, url, app, partitions=partitions, **options)
        self.folder = folder
        self.config: Config = load(self.path)
        self.lines = [
            [json.dumps(event).encode() for event in elec2(ROWS)[p::partitions]]
            for p in range(partitions)
        ]
        with open_log(self.config) as log:
            create_topics(self.config, log)
            with log.appender() as appender:
                for partition, lines in enumerate(self.lines):
                    appender.append(
                        Record(self.config.source.topic, line, partition=partition)
                        for line in lines
                    )

    def finish(self) -> None:
        """Let one more trainer go to the end, and seal what nobody has."""
        with open_log(self.config) as log:
            Trainer(self.config, log, until_end=True).run()

    def learned(self, number: int) -> Manifest:
        with open_log(self.config) as log, log.reader() as reader:
            topic = self.config.topic("snapshots")
            found = newest(reader, topic, number, self.config.lineage_name)
        assert found is not None
        return found.manifest

    def undisturbed(self, runs: Sequence[Run]) -> str:
        """The digest of a lane that learns these in one go."""
        with open_log(self.config) as log, log.reader() as reader:
            lane = Gold(self.config, sorted({run.partition for run in runs}), reader)
            for partition, first, count in runs:
                lane.advance(partition, first + count)
            return lane.digest()

    def until_committed(self, events: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        topic = self.config.source.topic
        with open_log(self.config) as log:
            while True:
                at = log.committed(self.config.trainer_group, topic)
                if sum(one.offset for one in at.values()) >= events:
                    return
                assert time.monotonic() < deadline, at
                time.sleep(0.05)


def test_killed_at_any_moment(tmp_path: Path, log_url: str, app: str, learner: str) -> None:
    setting = Setting(tmp_path, log_url, app, 1, learner=learner, checkpoint=130)
    chance = random.Random(7)
    for _ in range(KILLS):
        process = start("run", "-c", setting.path, cwd=tmp_path)
        time.sleep(chance.uniform(2.0, 8.0 if log_url.startswith("kafka") else 5.0))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    setting.finish()
    assert setting.learned(0).positions == {0: ROWS}
    assert setting.learned(0).digest == setting.undisturbed([Run(0, 0, ROWS)])


def test_three_trainers_one_killed(tmp_path: Path, log_url: str, app: str, learner: str) -> None:
    partitions = 6
    setting = Setting(tmp_path, log_url, app, partitions, learner=learner, checkpoint=200)
    options = ("run", "-c", setting.path, "--until-end", "--json")
    trainers = [start(*options, cwd=tmp_path) for _ in range(3)]
    setting.until_committed(100)
    trainers[0].send_signal(signal.SIGKILL)
    trainers[0].communicate()
    for trainer in trainers[1:]:
        report_of(trainer)
    setting.finish()
    for number, lines in enumerate(setting.lines):
        assert setting.learned(number).positions == {number: len(lines)}
        assert setting.learned(number).digest == setting.undisturbed([Run(number, 0, len(lines))])


def test_single_lane_and_its_standby(tmp_path: Path, log_url: str, app: str, learner: str) -> None:
    setting = Setting(
        tmp_path, log_url, app, 3, learner=learner, checkpoint=150, top='lanes = "single"'
    )
    call("run", "-c", setting.path, "--max-events", "500", cwd=tmp_path)
    owner = start("run", "-c", setting.path, cwd=tmp_path)
    standby = start("run", "-c", setting.path, "--until-end", "--json", cwd=tmp_path)
    setting.until_committed(700)
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    report_of(standby)
    setting.finish()
    out, _ = call("journal", "-c", setting.path, "--json", cwd=tmp_path)
    runs = [Run(*json.loads(line)) for line in out.splitlines()]
    assert sum(run.count for run in runs) == ROWS
    assert setting.learned(0).digest == setting.undisturbed(runs)
