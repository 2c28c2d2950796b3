from __future__ import annotations

import pytest

from stream_update.errors import ConfigError, StreamUpdateError
from stream_update.events import Committed, Record, TopicPartition, TopicSpec
from stream_update.protocols import Appender
from tests.contract.seats import settle, until
from tests.contract.stage import Stage


def test_created_topics_are_listed_with_their_partitions(stage: Stage) -> None:
    created = stage.log.create_topics([TopicSpec(stage.source, 3), TopicSpec(stage.output)])
    assert sorted(created) == sorted([stage.source, stage.output])
    topics = stage.log.topics()
    assert topics[stage.source].name == stage.source
    assert [topics[name].partitions for name in (stage.source, stage.output)] == [3, 1]
    assert topics[stage.source].topic_id != topics[stage.output].topic_id
    assert [stage.end(stage.source, partition) for partition in range(3)] == [0, 0, 0]


def test_creating_again_changes_nothing_and_says_so(stage: Stage) -> None:
    stage.create(source=3)
    stage.fill(2)
    before = stage.log.topics()[stage.source]
    new = f"{stage.source}-2"
    assert stage.log.create_topics([TopicSpec(stage.source, 5), TopicSpec(new)]) == [new]
    assert stage.log.topics()[stage.source] == before
    assert stage.end(stage.source) == 2
    assert stage.log.create_topics([]) == []


def test_a_topic_that_was_created_again_is_another_one(stage: Stage) -> None:
    stage.create()
    stage.fill(5)
    seat = stage.seat()
    settle([seat], 1)
    assert seat.commit({0: 3}) == ""
    seat.close()
    before = stage.log.topics()[stage.source]
    stage.delete_topic(stage.source)
    assert stage.source not in stage.log.topics()
    until(stage.create_source)
    assert stage.log.topics()[stage.source].topic_id != before.topic_id
    assert stage.end(stage.source) == 0
    with stage.log.member(stage.group, stage.source) as member:
        assert member.committed([0]) == {0: None}


@pytest.mark.parametrize(
    "spec", [TopicSpec("no spaces"), TopicSpec(""), TopicSpec("x" * 250), TopicSpec("none", 0)]
)
def test_an_impossible_topic_is_a_config_error(stage: Stage, spec: TopicSpec) -> None:
    with pytest.raises(ConfigError):
        stage.log.create_topics([spec])


def test_a_topic_that_does_not_exist_is_named_with_the_way_to_create_it(stage: Stage) -> None:
    stage.create()
    nowhere = f"{stage.source}-missing"
    where = TopicPartition(nowhere, 0)
    reader, seat, appender = stage.reader(), stage.seat(), stage.log.appender()
    settle([seat], 1)
    with appender:
        for call in (
            lambda: stage.log.member(stage.group, nowhere),
            lambda: reader.seek({where: 0}),
            lambda: reader.end_offsets([where]),
            lambda: reader.beginning_offsets([where]),
            lambda: reader.offsets_for_times({where: 0}),
            lambda: appender.append([Record(nowhere, b"x")]),
            lambda: seat.publisher.publish(
                [Record(stage.output, b"x"), Record(nowhere, b"x")], {0: Committed(1)}, seat.member
            ),
        ):
            with pytest.raises(ConfigError, match=f"topic {nowhere} does not exist") as error:
                call()
            assert "stream-update topics create" in error.value.hint
    assert stage.values(stage.output) == []


def test_a_partition_that_does_not_exist_is_named_with_what_there_is(stage: Stage) -> None:
    stage.create(source=2)
    reader, seat, appender = stage.reader(), stage.seat(), stage.log.appender()
    settle([seat], 2)
    with appender:
        for partition in (2, -1):
            where = TopicPartition(stage.source, partition)
            record = Record(stage.source, b"x", partition=partition)
            for call in (
                lambda where=where: reader.seek({where: 0}),
                lambda where=where: reader.end_offsets([where]),
                lambda record=record: appender.append([record]),
                lambda record=record: seat.publisher.publish(
                    [record], {0: Committed(1)}, seat.member
                ),
            ):
                with pytest.raises(ConfigError, match=f"no partition {partition}: it has 2"):
                    call()


def append_nothing(appender: Appender, topic: str) -> None:
    appender.append([Record(topic, None)])
    appender.flush()


def test_a_record_with_neither_value_nor_key_is_no_record(stage: Stage) -> None:
    stage.create()
    with stage.log.appender() as appender, pytest.raises(StreamUpdateError, match=stage.output):
        append_nothing(appender, stage.output)
    assert stage.end(stage.output) == 0


def test_partitions_can_be_added_under_a_group(stage: Stage) -> None:
    stage.create(source=2)
    stage.fill(2, partitions=2)
    first, second = stage.seat(), stage.seat()
    settle([first, second], 1, 1)
    before = [set(first.owned), set(second.owned)]
    for _ in range(2):
        stage.log.add_partitions(stage.source, 4)
        stage.log.add_partitions(stage.source, 3)
        assert stage.log.topics()[stage.source].partitions == 4
    settle([first, second], 2, 2)
    assert all(old <= seat.owned for old, seat in zip(before, (first, second), strict=True))
    stage.append([Record(stage.source, b"new", partition=3)])
    assert stage.wait_for(1, stage.source, [3]) == [b"new"]
    assert stage.values(stage.source) == [b"0", b"1"]
    owner = first if 3 in first.owned else second
    assert owner.commit({3: 1}, [(stage.output, "of the new one")]) == ""
    positions = {3: Committed(1)}
    until(lambda: stage.log.committed(stage.group, stage.source) == positions, "the position")
    with pytest.raises(ConfigError, match="does not exist"):
        stage.log.add_partitions("no-such-topic", 2)


def test_who_writes_already_writes_to_a_partition_that_was_added(stage: Stage) -> None:
    stage.create(source=1)
    with stage.log.appender() as appender:
        appender.append([Record(stage.source, b"0", partition=0)])
        appender.flush()
        stage.log.add_partitions(stage.source, 3)
        appender.append([Record(stage.source, b"2", partition=2)])
    assert stage.end(stage.source, 2) == 1


def test_a_reader_finds_the_offsets_of_partitions_that_were_added(stage: Stage) -> None:
    """Whatever it has asked before; it must not take one it has not heard of for empty."""
    stage.create(source=1)
    stage.fill(1)
    first, *added = (TopicPartition(stage.source, p) for p in range(3))
    with stage.log.reader() as reader:
        assert reader.end_offsets([first]) == {first: 1}
        stage.log.add_partitions(stage.source, 3)
        times = dict.fromkeys((first, *added), 0)
        assert reader.offsets_for_times(times) == {first: 0, added[0]: None, added[1]: None}
    with stage.log.reader() as reader:
        assert reader.end_offsets([first]) == {first: 1}
        stage.log.add_partitions(stage.source, 4)
        every = [first, *added, TopicPartition(stage.source, 3)]
        assert reader.beginning_offsets(every) == dict.fromkeys(every, 0)


def test_a_reader_finds_records_by_time_in_a_partition_that_was_added(stage: Stage) -> None:
    stage.create(source=1)
    stage.fill(1)
    with stage.log.reader() as reader, stage.log.appender() as appender:
        first, added = TopicPartition(stage.source, 0), TopicPartition(stage.source, 1)
        assert reader.end_offsets([first]) == {first: 1}
        stage.log.add_partitions(stage.source, 2)
        appender.append([Record(stage.source, b"new", partition=1)])
        appender.flush()
        assert reader.offsets_for_times({first: 0, added: 0}) == {first: 0, added: 0}
