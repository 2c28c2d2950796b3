from __future__ import annotations

import time

import pytest
from kafka.partitioner import murmur2

from stream_update.errors import LogGap
from stream_update.events import Committed, Record, TopicPartition
from stream_update.protocols import Reader
from tests.contract.seats import gather, settle, until
from tests.contract.stage import Stage


def test_records_come_back_as_they_went_in(stage: Stage) -> None:
    stage.create()
    now = int(time.time() * 1000)
    headers = [("name", b"value"), ("name", b"\xff\x00"), ("empty", b"")]
    stage.append(
        [
            Record(stage.output, b"all", b"key", 0, headers, now - 5),
            Record(stage.output, b"", b""),
            Record(stage.output, None, b"tombstone"),
            Record(stage.output, bytes(range(256))),
        ]
    )
    rows = stage.rows(stage.output)
    assert [row.offset for row in rows] == [0, 1, 2, 3]
    assert [row.value for row in rows] == [b"all", b"", None, bytes(range(256))]
    assert [row.key for row in rows] == [b"key", b"", b"tombstone", None]
    assert [row.headers for row in rows] == [headers, [], [], []]
    assert rows[0].timestamp == now - 5
    assert all(now <= row.timestamp <= time.time() * 1000 for row in rows[1:])


def test_a_batch_has_columns_of_one_length_and_can_be_cut(stage: Stage) -> None:
    stage.create()
    start = int(time.time() * 1000) - 60_000
    stage.append(
        Record(stage.source, b"%d" % i, b"k%d" % i, 0, [("h", b"%d" % i)], start + i)
        for i in range(10)
    )
    reader, where = stage.reader(), TopicPartition(stage.source, 0)
    reader.seek({where: 0})
    whole = gather(lambda: reader.poll(0.1), 10)[0]
    assert (whole.topic, whole.partition, whole.offsets[0]) == (stage.source, 0, 0)
    size = len(whole)
    cut = whole.slice(1, size - 1)
    for batch in (cut, whole):
        columns = (batch.offsets, batch.values, batch.keys, batch.timestamps, batch.headers)
        assert {len(column) for column in columns} == {len(batch)}
        for offset, value, key, timestamp, headers in zip(*columns, strict=True):
            number = b"%d" % offset
            assert (value, key, timestamp) == (number, b"k" + number, start + offset)
            assert [*headers] == [("h", number)]
    assert [*cut.offsets] == [*range(1, size - 1)]
    assert len(whole.slice(size, size)) == 0
    assert [*cut.slice(1, 3).keys] == [b"k2", b"k3"]


def test_records_of_a_partition_keep_their_order(stage: Stage) -> None:
    stage.create(source=2)
    with stage.log.appender() as appender:
        handed = sum(
            appender.append(Record(stage.source, b"%d" % (7 * j + i), b"key") for i in range(7))
            for j in range(400)
        )
        appender.flush()
    assert handed == 2_800
    values = stage.values(stage.source, 0) + stage.values(stage.source, 1)
    assert values == [b"%d" % i for i in range(2_800)]


def test_a_key_is_in_the_partition_that_kafka_gives_it(stage: Stage) -> None:
    stage.create(source=5, output=5)
    keys = [b"", b"a", b"ab", b"abc", b"key-%d" % 17, b"\xff" * 9, *(b"%d" % i for i in range(50))]
    stage.append(Record(stage.source, b"x", key) for key in keys)
    seat = stage.seat()
    settle([seat], 5)
    records = [Record(stage.output, b"x", key) for key in keys]
    seat.publisher.publish(records, {0: Committed(0)}, seat.member)
    for topic in (stage.source, stage.output):
        stage.wait_for(len(keys), topic, range(5))
        for partition in range(5):
            for row in stage.rows(topic, partition):
                assert row.key is not None
                assert (murmur2(row.key) & 0x7FFFFFFF) % 5 == partition


def test_records_without_a_key_go_round(stage: Stage) -> None:
    stage.create(source=3)
    stage.append(Record(stage.source, b"%d" % i) for i in range(12))
    assert [len(stage.values(stage.source, partition)) for partition in range(3)] == [4, 4, 4]


def test_a_named_partition_comes_before_the_key(stage: Stage) -> None:
    stage.create(source=3)
    stage.append(Record(stage.source, b"x", b"key", partition) for partition in (0, 1, 2, 1))
    assert [len(stage.values(stage.source, partition)) for partition in range(3)] == [1, 2, 1]


def test_a_reader_reads_what_it_was_told_to_and_no_more(stage: Stage) -> None:
    stage.create(source=3)
    stage.fill(10, partitions=3)
    reader = stage.reader()
    first, second = TopicPartition(stage.source, 0), TopicPartition(stage.source, 1)
    for positions in ({first: 4, second: 8}, {second: 0}, {first: 10}):
        reader.seek(positions)
        assert {where: reader.position(where) for where in positions} == positions
        read: dict[TopicPartition, list[int]] = {where: [] for where in positions}

        def at_end(
            positions: dict[TopicPartition, int] = positions,
            read: dict[TopicPartition, list[int]] = read,
        ) -> bool:
            batches = reader.poll(0.1)
            places = [TopicPartition(batch.topic, batch.partition) for batch in batches]
            assert len(set(places)) == len(places), "at most one batch for a partition"
            for where, batch in zip(places, batches, strict=True):
                assert [*batch.values] == [b"%d" % offset for offset in batch.offsets]
                read[where] += batch.offsets
                assert reader.position(where) == batch.offsets[-1] + 1
            return all(reader.position(where) == 10 for where in positions)

        until(at_end)
        assert read == {where: [*range(start, 10)] for where, start in positions.items()}
    reader.seek({})
    assert reader.poll(0.1) == []
    with pytest.raises(ValueError, match=r"\[0\] is not being read"):
        reader.position(first)


def test_a_poll_brings_no_more_than_was_asked_for(stage: Stage) -> None:
    stage.create(source=2)
    stage.fill(50, partitions=2)
    reader, seat = stage.reader(), stage.seat()
    places = [TopicPartition(stage.source, partition) for partition in range(2)]
    reader.seek(dict.fromkeys(places, 0))
    sizes: list[int] = []

    def reader_at_end() -> bool:
        sizes.append(sum(map(len, reader.poll(0.1, 7))))
        return sum(sizes) == 100

    until(reader_at_end)
    assert max(sizes) <= 7
    until(lambda: len(seat.member.poll(0.1).gained) == 2)
    for partition in range(2):
        seat.member.resume_at(partition, 0)
    sizes.clear()

    def member_at_end() -> bool:
        sizes.append(sum(map(len, seat.member.poll(0.1, 7).batches)))
        return sum(sizes) == 100

    until(member_at_end)
    assert max(sizes) <= 7


def test_what_is_appended_later_is_read_by_a_reader_at_the_end(stage: Stage) -> None:
    stage.create()
    reader, where = stage.reader(), TopicPartition(stage.source, 0)
    reader.seek({where: 0})
    assert reader.poll(0.05) == []
    with stage.log.appender() as appender:
        for i in range(3):
            appender.append([Record(stage.source, b"%d" % i)])
            appender.flush()
            (batch,) = gather(lambda: reader.poll(0.1), 1)
            assert [*batch.values] == [b"%d" % i]


def test_the_position_moves_over_the_end_of_checkpoints(stage: Stage) -> None:
    stage.create()
    seat = stage.seat()
    settle([seat], 1)
    for i in range(5):
        assert seat.commit({0: i}, [(stage.output, str(i))]) == ""
    assert stage.wait_for(5, stage.output) == [b"%d" % i for i in range(5)]
    where, reader = TopicPartition(stage.output, 0), stage.reader()
    offsets = [row.offset for row in stage.rows(stage.output)]
    reader.seek({where: offsets[-1] + 1})
    end = stage.end(stage.output)
    assert end > offsets[-1]
    until(lambda: reader.poll(0.1) == [] and reader.position(where) == end)


def test_a_time_is_found_among_times_that_do_not_rise(stage: Stage) -> None:
    stage.create()
    start = int(time.time() * 1000) - 100_000
    times = [0, 10, 20, 15, 40, 35, 60]
    for t in times:
        stage.append([Record(stage.source, b"x", timestamp_ms=start + t)])
    reader, where = stage.reader(), TopicPartition(stage.source, 0)
    for asked, found in ((-50, 0), (0, 0), (1, 1), (20, 2), (21, 4), (41, 6), (60, 6), (61, None)):
        assert reader.offsets_for_times({where: start + asked}) == {where: found}
    assert reader.offsets_for_times({}) == {}


@pytest.mark.parametrize("position", [3, 21])
def test_a_position_that_the_log_does_not_hold_is_a_gap(stage: Stage, position: int) -> None:
    stage.create()
    stage.fill(20)
    stage.delete_before(stage.source, 8)
    reader, where = stage.reader(), TopicPartition(stage.source, 0)
    assert reader.beginning_offsets([where]) == {where: 8}
    assert stage.values(stage.source) == [b"%d" % i for i in range(8, 20)]
    reader.seek({where: position})
    with pytest.raises(LogGap, match=rf"no offset {position}: it holds 8 to 20"):
        until(lambda: reader.poll(0.1))
    seat = stage.seat()
    until(lambda: seat.member.poll(0.1).gained)
    seat.member.resume_at(0, position)
    with pytest.raises(LogGap, match=rf"no offset {position}: it holds 8 to 20"):
        until(lambda: seat.member.poll(0.1).batches)


def test_a_topic_that_is_created_again_under_a_reader_is_a_gap(stage: Stage) -> None:
    stage.create()
    stage.fill(5)
    with stage.log.reader() as reader:
        where = TopicPartition(stage.source, 0)
        reader.seek({where: 2})
        until(lambda: reader.poll(0.1))
        stage.delete_topic(stage.source)
        until(stage.create_source)
        stage.fill(20)
        with pytest.raises(LogGap, match="deleted"):
            gather(lambda: reader.poll(0.1), 100)


def test_several_objects_read_and_write_side_by_side(stage: Stage) -> None:
    stage.create()
    first, second = stage.log.reader(), stage.log.reader()
    one, two = stage.log.appender(), stage.log.appender()
    with first, second, one, two:
        for appender, name in ((one, b"1"), (two, b"2"), (one, b"3")):
            appender.append([Record(stage.output, name)])
            appender.flush()
        where = TopicPartition(stage.output, 0)
        for reader, start in ((first, 0), (second, 1)):
            reader.seek({where: start})
            read: list[bytes | None] = []

            def at_end(reader: Reader = reader, read: list[bytes | None] = read) -> bool:
                for batch in reader.poll(0.1):
                    read += batch.values
                return reader.position(where) == 3

            until(at_end)
            assert read == [b"1", b"2", b"3"][start:]


def test_a_with_block_ends_with_everything_in_the_log(stage: Stage) -> None:
    stage.create()
    with stage.log.appender() as appender:
        appender.append(Record(stage.source, b"%d" % i) for i in range(3))
    assert stage.values(stage.source) == [b"0", b"1", b"2"]
