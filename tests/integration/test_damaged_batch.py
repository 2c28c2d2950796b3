"""A batch that is damaged on the broker's disk is a dead letter, and nothing else is lost."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from stream_update.assemble import ScorerProcess, Trainer
from stream_update.config import Config, load
from stream_update.errors import Unreadable
from stream_update.events import Record, TopicPartition
from stream_update.plugins import open_log
from stream_update.proof import verify
from stream_update.protocols import Log
from stream_update.restore import read_range
from stream_update.topics import create_topics
from tests.broker import Broker
from tests.kafka_setting import until
from tests.programs import configure, elec2

pytestmark = [pytest.mark.fault, pytest.mark.slow]

BATCHES, EACH = 12, 50
DAMAGED = 7


class Setting:
    """A topic of some batches in one partition (or spread), of which one is damaged later."""

    def __init__(self, folder: Path, broker: Broker, lanes: str) -> None:
        self.broker = broker
        path = configure(
            folder,
            f"kafka://{broker.bootstrap}",
            "damage",
            checkpoint=100,
            top=f'lanes = "{lanes}"',
            extra="[snapshot]\nmax_overhead = 1.0",
        )
        self.config: Config = load(path, ["max_poll_records=40"])
        self.log: Log = open_log(self.config.log, self.config.kafka)
        create_topics(self.config, self.log)
        events = elec2(BATCHES * EACH)
        # What is to be damaged is one batch, however slow the machine is.
        patient = load(path, ["kafka.producer.linger_ms=2000"])
        with open_log(patient.log, patient.kafka) as waiting:
            for number in range(BATCHES):
                with (waiting if number == DAMAGED else self.log).appender() as appender:
                    appender.append(
                        Record("damage.labelled", json.dumps(event).encode(), key=b"<%d>" % number)
                        for event in events[number * EACH : (number + 1) * EACH]
                    )

    def damage(self) -> None:
        (segment,) = self.broker.folder.rglob("damage.labelled-0/*.log")
        with segment.open("r+b") as file:
            at = file.read().index(b"<%d>" % DAMAGED)
            file.seek(at)
            file.write(b"!")

    def values(self, topic: str) -> list[tuple[bytes | None, dict[str, bytes]]]:
        where = TopicPartition(topic, 0)
        with self.log.reader() as reader:
            end = reader.end_offsets([where])[where]
            return [
                (value, dict(headers))
                for batch in read_range(reader, where, 0, end)
                for value, headers in zip(batch.values, batch.headers, strict=True)
            ]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("lanes", ["per-partition", "single"])
def test_the_trainer_goes_on_behind_it(tmp_path: Path, private_broker: Broker, lanes: str) -> None:
    setting = Setting(tmp_path, private_broker, lanes)
    with contextlib.closing(setting.log):
        setting.damage()
        Trainer(setting.config, setting.log, max_events=120).run()
        report = Trainer(setting.config, setting.log, until_end=True).run()
        assert report["events"] == (BATCHES - 1) * EACH
        first, after = DAMAGED * EACH, (DAMAGED + 1) * EACH
        assert report["lanes"][0]["gaps"] == [[0, first, after]]
        ((value, headers),) = setting.values("damage.dead-letters")
        assert not value
        assert headers["offset"] == b"%d" % first
        assert headers["reason"] == b"undecodable-batch"
        assert b"offsets %d to %d cannot be read" % (first, after - 1) in headers["detail"]
        verdicts = list(verify(setting.config, setting.log, 0))
        assert len(verdicts) > 3
        assert {one.ok for one in verdicts} == {True}
        # What is learned again in silence meets it too, and says nothing of it again.
        again = load(Path(tmp_path / "damage.toml"), ["lineage=again"])
        Trainer(again, setting.log, until_end=True).run()
        assert len(setting.values("damage.dead-letters")) == 2
        where = TopicPartition("damage.labelled", 0)
        with setting.log.reader() as reader:
            reader.seek({where: first})
            with pytest.raises(Unreadable) as caught:
                until(lambda: reader.poll(1.0))
            assert (caught.value.wanted, caught.value.first) == (first, after)
            while not (batches := reader.poll(1.0)):
                pass
            assert batches[0].offsets[0] == after, "the reader goes on behind it"


@pytest.mark.timeout(180)
def test_the_scorer_goes_on_behind_it(tmp_path: Path, private_broker: Broker) -> None:
    setting = Setting(tmp_path, private_broker, "per-partition")
    with contextlib.closing(setting.log):
        Trainer(setting.config, setting.log, until_end=True).run()
        setting.damage()
        report = ScorerProcess(setting.config, setting.log, until_end=True).run()
        assert report["predictions"] == (BATCHES - 1) * EACH
        assert report["dead_letters"] == 1
        assert len(setting.values("damage.predictions")) == report["predictions"]
