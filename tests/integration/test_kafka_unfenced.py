"""Delivery at least once: no transactions, nothing lost, repeats that a reader can drop."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream_update.errors import Refused
from stream_update.events import Committed, Record, TopicPartition
from stream_update.log.kafka.member import KafkaMember
from stream_update.log.kafka.unfenced import UnfencedPublisher
from stream_update.plugins import open_log
from stream_update.repeats import Once
from stream_update.restore import read_range
from tests.integration.test_pipeline import ROWS, figures, pipeline, run
from tests.kafka_setting import Setting
from tests.programs import bare_loop, call, configure, elec2, start, write_jsonl


@pytest.fixture
def setting(kafka_bootstrap: str) -> Iterator[Setting]:
    made = Setting(kafka_bootstrap)
    yield made
    made.close()


@pytest.fixture
def publisher(setting: Setting) -> Iterator[UnfencedPublisher]:
    made = setting.log.publisher(setting.group, [setting.output], delivery="at-least-once")
    assert isinstance(made, UnfencedPublisher)
    yield made
    made.close()


def test_records_and_positions_without_a_transaction(
    setting: Setting, publisher: UnfencedPublisher
) -> None:
    member = setting.joined()
    for number in range(1, 4):
        at = {0: Committed(number, "a note")}
        (offset,) = publisher.publish([Record(setting.output, b"%d" % number)], at, member)
        assert offset == number - 1, "a transaction would have left a marker in between"
        assert member.committed([0]) == at
    assert [*setting.outputs().values()] == [b"1", b"2", b"3"]


def test_offsets_that_are_refused_leave_records_that_come_again(
    setting: Setting, publisher: UnfencedPublisher
) -> None:
    member = setting.joined()
    record = Record(setting.output, b"x")
    publication = publisher.begin([record], {0: Committed(1)}, member)
    while not publication.done():
        time.sleep(0.01)
    setting.evict(member)
    with pytest.raises(Refused):
        publication.result()
    assert [*setting.outputs().values()] == [b"x"]
    other = setting.joined(setting.another_log())
    assert other.committed([0]) == {0: None}
    publisher.publish([record], {0: Committed(1)}, other)
    assert [*setting.outputs().values()] == [b"x", b"x"]


@pytest.mark.fault
def test_killed_at_any_moment_nothing_is_lost(
    tmp_path: Path, kafka_bootstrap: str, app: str
) -> None:
    url = f"kafka://{kafka_bootstrap}"
    config = configure(
        tmp_path, url, app, checkpoint=100, top='delivery = "at-least-once"', partitions=1
    )
    events = [*elec2(ROWS)]
    for bad in range(0, ROWS, 100):
        events[bad] = {**events[bad], "nswprice": [1]}
    call("produce", write_jsonl(tmp_path / "events.jsonl", events), "-c", config, cwd=tmp_path)
    chance = random.Random(5)
    for _ in range(3):
        process = start("run", "-c", config, cwd=tmp_path)
        time.sleep(chance.uniform(1.0, 9.0))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    report = run(config)
    good = [event for number, event in enumerate(events) if number % 100]
    assert figures(report) == bare_loop(pipeline, good)
    assert report["dead_letters"] == ROWS // 100
    once, said = Once(), []
    where = TopicPartition(f"{app}.dead-letters", 0)
    with open_log(url) as log, log.reader() as reader:
        for batch in read_range(reader, where, 0, reader.end_offsets([where])[where]):
            for value, headers in zip(batch.values, batch.headers, strict=True):
                if once.is_new(value, headers):
                    said.append(int(dict(headers)["offset"]))
    assert said == [*range(0, ROWS, 100)]


def test_the_member_refuses_positions_of_others(setting: Setting) -> None:
    member: KafkaMember = setting.joined()
    with pytest.raises(ValueError, match="not assigned"):
        member.commit({7: Committed(1)})
