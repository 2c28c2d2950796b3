"""What only a real broker can tell of either client, beyond the contract of logs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stream_update.errors import Fatal, Refused
from stream_update.events import Committed, Record, TopicPartition, TopicSpec
from tests.kafka_setting import Crowd, Setting


@pytest.fixture(params=["kafka-python", "librdkafka"])
def setting(kafka_bootstrap: str, request: pytest.FixtureRequest) -> Iterator[Setting]:
    if request.param == "librdkafka":
        pytest.importorskip("confluent_kafka")
    made = Setting(kafka_bootstrap, request.param)
    yield made
    made.close()


def test_an_evicted_member_is_refused_and_leaves_nothing(setting: Setting) -> None:
    slow = setting.another_log(consumer={"heartbeat_interval_ms": 9_000})
    member, publisher = setting.joined(slow), setting.publisher()
    publisher.publish([Record(setting.output, b"first")], {0: Committed(1)}, member)
    setting.evict(member)
    assert member.stable(), "it cannot know yet, so the broker has to refuse"
    with pytest.raises(Refused, match="gone on without"):
        publisher.publish(
            [Record(setting.output, b"refused")], {0: Committed(2), 1: Committed(9)}, member
        )
    assert [*setting.outputs().values()] == [b"first"]
    crowd, evicted = Crowd(member), member.identity.member_id
    crowd.owned[member] = {0, 1, 2}
    crowd.until(
        lambda: (
            member.identity is not None
            and member.identity.member_id != evicted
            and crowd.owned[member]
        )
    )
    publisher.publish([Record(setting.output, b"second")], {0: Committed(2)}, member)
    assert [*setting.outputs().values()] == [b"first", b"second"]
    # What was refused must not ride along with the next checkpoint.
    assert member.committed([0, 1]) == {0: Committed(2, ""), 1: None}


def test_a_record_that_is_too_large_takes_its_whole_checkpoint_with_it(setting: Setting) -> None:
    small = f"{setting.output}-small"
    setting.log.create_topics([TopicSpec(small, configs={"max.message.bytes": "1000"})])
    member, publisher = setting.joined(), setting.publisher()
    for topic, size in ((small, 5_000), (setting.output, 2_000_000)):
        records = [Record(setting.output, b"before"), Record(topic, b"x" * size)]
        with pytest.raises(Fatal, match=f"{size} bytes for topic {topic} is too large") as error:
            publisher.publish(records, {0: Committed(1)}, member)
        assert "max.message.bytes" in error.value.hint
    assert setting.outputs() == {}
    assert member.committed([0]) == {0: None}
    publisher.publish([Record(setting.output, b"y")], {0: Committed(1)}, member)
    assert [*setting.outputs().values()] == [b"y"]


def test_a_refused_record_is_named_and_the_appender_goes_on(setting: Setting) -> None:
    small = f"{setting.output}-small"
    setting.log.create_topics([TopicSpec(small, configs={"max.message.bytes": "1000"})])
    with setting.log.appender() as appender:
        appender.append([Record(small, b"x" * 5_000)])
        with pytest.raises(Fatal, match=f"5000 bytes for topic {small} is too large"):
            appender.flush()
        appender.append([Record(small, b"good")])
        appender.flush()
    where = TopicPartition(small, 0)
    assert setting.reader().end_offsets([where]) == {where: 1}
