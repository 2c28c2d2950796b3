from __future__ import annotations

import pytest

from stream_update.errors import ConfigError, Refused
from stream_update.events import Committed, Record, TopicPartition
from tests.contract.seats import settle, until
from tests.contract.stage import Stage


def test_records_and_positions_are_there_together(stage: Stage) -> None:
    stage.create(source=3)
    seat = stage.seat()
    settle([seat], 3)
    records = [Record(stage.output, b"%d" % i, b"k", headers=[("h", b"x")]) for i in range(3)]
    offsets = {0: Committed(5, "a note, ä"), 2: Committed(7)}
    given = seat.publisher.publish(records, offsets, seat.member)
    assert seat.member.committed(range(3)) == {**offsets, 1: None}
    assert stage.wait_for(3, stage.output) == [b"0", b"1", b"2"]
    rows = stage.rows(stage.output)
    assert [row.offset for row in rows] == given
    assert rows[0].key == b"k"
    assert rows[0].headers == [("h", b"x")]


def test_offsets_are_those_of_each_record_in_its_own_partition(stage: Stage) -> None:
    stage.create(output=2)
    seat = stage.seat()
    settle([seat], 1)
    stage.append([Record(stage.output, b"before", partition=1)])
    where = [1, 0, 1, 1, 0]
    records = [Record(stage.output, b"%d" % i, partition=p) for i, p in enumerate(where)]
    given = seat.publisher.publish(records, {0: Committed(1)}, seat.member)
    stage.wait_for(6, stage.output, (0, 1))
    for i, (partition, offset) in enumerate(zip(where, given, strict=True)):
        values = {row.offset: row.value for row in stage.rows(stage.output, partition)}
        assert values[offset] == b"%d" % i


def test_a_checkpoint_may_have_no_records_but_never_no_positions(stage: Stage) -> None:
    stage.create()
    seat = stage.seat()
    settle([seat], 1)
    assert seat.publisher.publish([], {0: Committed(4, "note")}, seat.member) == []
    assert seat.member.committed([0]) == {0: Committed(4, "note")}
    with pytest.raises(Refused, match="without offsets"):
        seat.publisher.publish([Record(stage.output, b"x")], {}, seat.member)
    assert stage.values(stage.output) == []


def test_a_checkpoint_may_be_on_its_way_while_the_member_reads_on(stage: Stage) -> None:
    stage.create()
    seat = stage.seat()
    settle([seat], 1)
    for number in range(1, 4):
        stage.append([Record(stage.source, b"%d" % number)])
        records = [Record(stage.output, b"%d" % number)]
        publication = seat.publisher.begin(records, {0: Committed(number)}, seat.member)
        until(lambda number=number: seat.has_read(number), "the next event")  # type: ignore[misc]
        (offset,) = publication.result()
        assert publication.done()
        assert publication.result() == [offset]
        assert seat.member.committed([0]) == {0: Committed(number)}
    assert stage.wait_for(3, stage.output) == [b"1", b"2", b"3"]


def test_a_large_checkpoint_is_one_checkpoint(stage: Stage) -> None:
    stage.create()
    seat = stage.seat()
    settle([seat], 1)
    chunks = [bytes([i]) * 900_000 for i in range(12)]
    given = seat.publisher.publish(
        [Record(stage.output, chunk) for chunk in chunks], {0: Committed(1)}, seat.member
    )
    assert len(set(given)) == 12
    assert stage.wait_for(12, stage.output) == chunks


def test_nobody_publishes_for_a_partition_of_another(stage: Stage) -> None:
    stage.create(source=2)
    first, second = stage.seat(), stage.seat()
    # Nobody has joined yet, so nobody owns anything.
    assert first.commit({0: 1}, [(stage.output, "early")])
    settle([first, second], 1, 1)
    (own,), (foreign,) = first.owned, second.owned
    for positions in ({foreign: 9}, {own: 9, foreign: 9}, {own: 9, 2: 9}):
        assert first.commit(positions, [(stage.output, "refused")])
    assert first.member.committed([0, 1]) == {0: None, 1: None}
    # What was refused is nowhere, and the publisher is as good as before.
    assert first.commit({own: 3}, [(stage.output, "first")]) == ""
    assert second.commit({foreign: 4}, [(stage.output, "second")]) == ""
    assert stage.wait_for(2, stage.output) == [b"first", b"second"]
    assert first.member.committed([0, 1]) == {own: Committed(3), foreign: Committed(4)}


def test_positions_can_be_seen_from_outside_the_group(stage: Stage) -> None:
    stage.create(source=3)
    assert stage.log.committed(stage.group, stage.source) == {}
    seat = stage.seat()
    settle([seat], 3)
    offsets = {0: Committed(5, "a note, ä"), 2: Committed(7)}
    seat.publisher.publish([], offsets, seat.member)
    until(lambda: stage.log.committed(stage.group, stage.source) == offsets, "the positions")
    assert stage.log.committed(stage.group, stage.output) == {}
    with pytest.raises(ConfigError, match="does not exist"):
        stage.log.committed(stage.group, "no-such-topic")


def test_a_publisher_is_for_the_members_of_its_group(stage: Stage) -> None:
    stage.create()
    seat = stage.seat()
    settle([seat], 1)
    with stage.log.publisher("other") as other, pytest.raises(TypeError, match="of that group"):
        other.publish([Record(stage.output, b"x")], {0: Committed(1)}, seat.member)


def test_positions_outlive_the_member_that_committed_them(stage: Stage) -> None:
    stage.create(source=2)
    stage.fill(10, partitions=2)
    first = stage.seat()
    settle([first], 2)
    assert first.commit({0: 4, 1: 10}) == ""
    first.close()
    second = stage.seat()
    settle([second], 2)
    assert second.member.committed([0, 1]) == {0: Committed(4), 1: Committed(10)}
    until(lambda: second.has_read(6))
    assert second.read == [(0, offset) for offset in range(4, 10)]


def test_groups_do_not_see_each_other(stage: Stage) -> None:
    stage.create()
    seat = stage.seat()
    settle([seat], 1)
    assert seat.commit({0: 4}) == ""
    with stage.log.member(f"{stage.group}-other", stage.source) as other:
        until(lambda: other.poll(0.1).gained)
        assert other.committed([0]) == {0: None}


def test_two_processes_that_publish_at_once_lose_nothing(stage: Stage) -> None:
    stage.create()
    count = 40
    seats = {}
    for tag in ("one", "two"):
        seat = stage.remote(tag)
        settle([seat], 1)
        seats[tag] = seat
    for tag, seat in seats.items():
        seat.tell("many", stage.output, tag, count)
    for seat in seats.values():
        assert [seat.hear() for _ in range(count + 1)] == [*range(count), "done"]
    values = stage.wait_for(4 * count, stage.output)
    for tag in seats:
        own = [value for value in values if value is not None and value.startswith(tag.encode())]
        expected = [f"{tag}-{i}-{part}".encode() for i in range(count) for part in "ab"]
        assert own == expected
    assert len(values) == 4 * count


@pytest.mark.fault
def test_a_publisher_killed_at_any_moment_leaves_whole_checkpoints(stage: Stage) -> None:
    stage.create()
    remote = stage.remote()
    settle([remote], 1)
    remote.tell("many", stage.output, "x", 10_000)
    assert [remote.hear() for _ in range(25)] == [*range(25)]
    remote.kill()
    seat = stage.seat()
    settle([seat], 1)
    committed = seat.member.committed([0])[0]
    assert committed is not None
    assert committed.offset >= 25
    values = stage.wait_for(2 * committed.offset, stage.output)
    assert values == [f"x-{i}-{part}".encode() for i in range(committed.offset) for part in "ab"]
    where = TopicPartition(stage.output, 0)
    assert stage.reader().position(where) == stage.end(stage.output)
