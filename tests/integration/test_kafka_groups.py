from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from stream_update.errors import ConfigError, Fatal, Refused
from stream_update.events import Committed, Record, TopicPartition
from tests.kafka_setting import Crowd, Setting, until


@pytest.fixture
def client() -> str:
    """What is not held against both clients is in the contract of logs for both."""
    return "kafka-python"


@pytest.fixture
def setting(kafka_bootstrap: str, client: str) -> Iterator[Setting]:
    if client == "librdkafka":
        pytest.importorskip("confluent_kafka")
    made = Setting(kafka_bootstrap, client)
    yield made
    made.close()


both = pytest.mark.parametrize("client", ["kafka-python", "librdkafka"])


def test_partitions_stay_where_they_are_when_members_come_and_go(setting: Setting) -> None:
    first = setting.member()
    crowd = Crowd(first)
    crowd.settle(3)
    second = setting.member()
    crowd.add(second)
    crowd.settle(2, 1)
    assert crowd.owned[first], "the first was there before and keeps what it can"
    kept = set(crowd.owned[first])
    crowd.leave(second)
    crowd.settle(3)
    assert kept < crowd.owned[first]


def test_a_gained_partition_waits_and_a_flowing_one_can_be_set_back(setting: Setting) -> None:
    setting.fill(10)
    member = setting.joined()
    assert member.poll(0.3).batches == []
    with pytest.raises(ValueError, match="does not flow"):
        member.position(0)
    with pytest.raises(ValueError, match="is not assigned"):
        member.resume_at(7, 0)

    def read_from(start: int) -> list[int]:
        member.resume_at(0, start)
        assert member.position(0) == start
        offsets: list[int] = []

        def at_end() -> bool:
            for batch in member.poll(0.1).batches:
                offsets.extend(batch.offsets)
            return member.position(0) == 10

        until(at_end)
        return offsets

    for start in (4, 8, 0):
        assert read_from(start) == [*range(start, 10)]


@both
def test_a_partition_that_comes_back_is_gained_again(setting: Setting) -> None:
    fast = setting.another_log(consumer={"heartbeat_interval_ms": 100})
    setting.fill(3)
    member = setting.joined(fast)
    member.resume_at(0, 0)
    setting.evict(member)
    until(lambda: not member.stable())
    lost: set[int] = set()
    gained: set[int] = set()

    def back() -> bool:
        poll = member.poll(0.1)
        lost.update(poll.lost)
        gained.update(poll.gained)
        return member.stable() and gained == {0, 1, 2}

    until(back)
    assert lost == {0, 1, 2}
    assert member.poll(0.3).batches == [], "it has to be resumed anew"
    member.resume_at(0, 1)
    until(lambda: [batch.offsets for batch in member.poll(0.1).batches] == [[1, 2]])


@pytest.mark.parametrize(
    ("strategy", "client"),
    [("range", "kafka-python"), ("sticky", "kafka-python"), ("range", "librdkafka")],
)
def test_the_assignment_strategy_can_be_chosen(setting: Setting, strategy: str) -> None:
    log = setting.another_log(consumer={"partition_assignment_strategy": [strategy]})
    first, second = setting.member(log), setting.member(log)
    crowd = Crowd(first, second)
    crowd.settle(2, 1)
    with pytest.raises(ConfigError, match='lanes = "single"'):
        log.member(setting.group, setting.source, single=True)


def test_a_single_owner_stays_and_the_standbys_take_over(setting: Setting) -> None:
    first = setting.member(single=True)
    crowd = Crowd(first)
    crowd.settle(3)
    crowd.join(setting.member(single=True))
    crowd.join(setting.member(single=True))
    assert crowd.owned[first] == {0, 1, 2}
    crowd.leave(first)
    crowd.settle(3, 0)
    heir = crowd.owner_of_all()
    crowd.join(setting.member(single=True))
    assert crowd.owned[heir] == {0, 1, 2}


def test_the_committed_offsets_of_partitions_of_others_can_be_asked(setting: Setting) -> None:
    crowd = Crowd(setting.member(single=True), setting.member(single=True))
    crowd.settle(3, 0)
    owner = crowd.owner_of_all()
    (standby,) = set(crowd.owned) - {owner}
    setting.publisher().publish([], {1: Committed(4, "note")}, owner)
    assert standby.committed([0, 1]) == {0: None, 1: Committed(4, "note")}


@both
def test_a_single_owner_gets_new_partitions(setting: Setting) -> None:
    watching = setting.another_log(client={"metadata_max_age_ms": 300})
    crowd = Crowd(*(setting.member(watching, single=True) for _ in range(2)))
    crowd.settle(3, 0)
    owner = crowd.owner_of_all()
    setting.admin().create_partitions({setting.source: 5})
    crowd.settle(5, 0)
    assert crowd.owned[owner] == {0, 1, 2, 3, 4}


def test_a_group_of_two_minds_is_a_configuration_error(setting: Setting) -> None:
    setting.joined()
    other = setting.member(single=True)
    with pytest.raises(ConfigError, match=r"(?i)inconsistent_?group_?protocol") as error:
        until(lambda: other.poll(0.1).gained)
    assert "lanes" in error.value.hint


@both
def test_two_processes_with_one_instance_id(setting: Setting) -> None:
    options = {"group_instance_id": "one", "heartbeat_interval_ms": 9_000}
    first = setting.joined(setting.another_log(consumer=options))
    second = setting.joined(setting.another_log(consumer=options))
    with pytest.raises(Refused, match="same group_instance_id"):
        setting.publisher().publish([Record(setting.output, b"x")], {0: Committed(1)}, first)
    with pytest.raises(Fatal, match="same group_instance_id"):
        first.poll(0)
    setting.publisher().publish([Record(setting.output, b"y")], {0: Committed(1)}, second)
    assert [*setting.outputs().values()] == [b"y"]


@both
def test_a_process_with_an_instance_id_reads_outside_its_group_too(setting: Setting) -> None:
    setting.fill(3)
    static = setting.another_log(consumer={"group_instance_id": "one"})
    where = TopicPartition(setting.source, 0)
    with static.reader() as reader:
        assert reader.end_offsets([where]) == {where: 3}


@both
def test_a_step_longer_than_every_limit_keeps_the_partitions(setting: Setting) -> None:
    setting.fill(700)
    strict = setting.another_log(
        consumer={
            "session_timeout_ms": 6000,
            "heartbeat_interval_ms": 500,
            # librdkafka takes none below the session's.
            "max_poll_interval_ms": 3000 if setting.client == "kafka-python" else 6000,
        }
    )
    member, publisher = setting.joined(strict), setting.publisher()
    member.resume_at(0, 0)
    read: list[int] = []

    def has_read(count: int) -> bool:
        polled = member.poll(0.1)
        assert (polled.gained, polled.lost) == ([], [])
        for batch in polled.batches:
            read.extend(batch.offsets)
        return len(read) >= count

    until(lambda: has_read(1))
    before = member.identity
    with member.busy():
        time.sleep(8)
    has_read(0)
    assert member.identity == before, "no rebalance has taken place"
    publisher.publish([], {0: Committed(len(read))}, member)
    until(lambda: has_read(700))
    assert read == [*range(700)], "what had been fetched before is not lost, nor read twice"


@both
def test_a_busy_member_takes_part_in_a_rebalance(setting: Setting) -> None:
    setting.fill(50)
    fast = setting.another_log(consumer={"heartbeat_interval_ms": 100, "session_timeout_ms": 6000})
    first = setting.joined(fast)
    for partition in range(3):
        first.resume_at(partition, 0)
    second = setting.member(fast)
    gained: list[int] = []

    def has_gained() -> bool:
        gained.extend(second.poll(0.1).gained)
        return bool(gained)

    with first.busy():
        until(has_gained)
    for partition in gained:
        first.hold(partition)
        first.resume_at(partition, 0)
    lost: list[int] = []

    def has_lost() -> bool:
        poll = first.poll(0.1)
        assert not {batch.partition for batch in poll.batches} & {*gained}
        lost.extend(poll.lost)
        return {*lost} >= {*gained}

    until(has_lost)


def test_a_member_that_is_evicted_while_it_rejoins_hears_of_its_loss(setting: Setting) -> None:
    first, idle = setting.member(), setting.member()
    crowd = Crowd(first, idle)
    crowd.settle(1, 2)
    had = {*crowd.owned[first]}
    newcomer = setting.member()
    coordinator = first._consumer._coordinator

    def rejoins() -> bool:
        newcomer.poll(0.05)
        assert not first.poll(0.05).lost
        return bool(coordinator.rejoining)

    # The group waits for the idle one meanwhile.
    until(rejoins)
    setting.evict(first)
    newcomer.close()
    lost: set[int] = set()

    def has_lost() -> bool:
        # Nobody else wants what it had, so it may be given that again.
        idle.poll(0.05)
        lost.update(first.poll(0.05).lost)
        return lost >= had

    until(has_lost)
