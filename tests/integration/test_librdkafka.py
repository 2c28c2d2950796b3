"""What only a real broker can tell of the client librdkafka, beyond the contract of logs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("confluent_kafka")

from stream_update.errors import ConfigError, Doubt, Refused, Transient, Unreadable
from stream_update.events import Committed, Record, TopicPartition, TopicSpec
from stream_update.log.librdkafka import LibrdkafkaLog
from stream_update.log.watchdog import Call
from tests.broker import Broker, Unavailable
from tests.kafka_setting import Crowd, Setting, until

CLIENT = "librdkafka"
IMPATIENT = {"delivery_timeout_ms": 2_000, "request_timeout_ms": 1_000, "max_block_ms": 2_000}


@pytest.fixture
def setting(kafka_bootstrap: str) -> Iterator[Setting]:
    made = Setting(kafka_bootstrap, CLIENT)
    yield made
    made.close()


class NoText(str):
    """A name that another program has written in an encoding of its own."""

    __slots__ = ()

    def encode(self, *_: Any) -> bytes:
        return b"\xe4"


@pytest.mark.parametrize("client", ["kafka-python", CLIENT])
def test_headers_with_a_name_that_is_no_text_are_none(setting: Setting, client: str) -> None:
    names = ["name", NoText("x"), "name"] * 40  # a call that is often made is made differently
    with setting.another_log(by="kafka-python").appender() as appender:
        appender.append(Record(setting.output, b"", b"k", headers=[(name, b"")]) for name in names)
    found: list[Any] = []
    reader = setting.another_log(by=client).reader()
    reader.seek({TopicPartition(setting.output, 0): 0})

    def all_there() -> bool:
        for batch in reader.poll(0.1):
            found.extend(map(list, batch.headers))
        return len(found) >= len(names)

    with reader:
        until(all_there)
    assert found == [[("name", b"")], [], [("name", b"")]] * 40


# -- publishing


def test_a_producer_that_has_lost_a_connection_is_not_used_again(setting: Setting) -> None:
    member, publisher = setting.joined(), setting.publisher()
    used: list[Any] = []
    for number in range(1, 5):
        publisher.publish([Record(setting.output, b"%d" % number)], {0: Committed(number)}, member)
        used.append(publisher._producer)
        if number == 2:
            publisher._heard.lost = True  # type: ignore[attr-defined]
    assert used[0] is used[1] is not used[2] is used[3]
    assert [*setting.outputs().values()] == [b"1", b"2", b"3", b"4"]


def test_at_least_once(setting: Setting) -> None:
    with setting.log.publisher(setting.group, delivery="at-least-once") as publisher:
        member, record = setting.joined(), Record(setting.output, b"x")
        for number in range(1, 4):
            at = {0: Committed(number, "a note")}
            (offset,) = publisher.publish([record], at, member)
            assert offset == number - 1, "a transaction would have left a marker in between"
            assert member.committed([0]) == at
        publication = publisher.begin(
            [record],
            {0: Committed(9)},
            member,
        )
        until(publication.done)
        setting.evict(member)
        with pytest.raises(Refused):
            publication.result()
        assert setting.joined(setting.another_log()).committed([0]) == {0: Committed(3, "a note")}


# -- both clients on one topic


def test_both_clients_give_a_topic_the_same_id_and_a_group_the_same_offsets(
    setting: Setting,
) -> None:
    other = setting.another_log(by="kafka-python")
    assert other.topics()[setting.source] == setting.log.topics()[setting.source]
    member = setting.joined()
    setting.publisher().publish([], {0: Committed(5, '{"seq": 1}')}, member)
    expected = {0: Committed(5, '{"seq": 1}')}
    until(lambda: other.committed(setting.group, setting.source) == expected)
    assert other.member(setting.group, setting.source).committed([0]) == expected
    member.close()
    heir = setting.joined(other)
    assert heir.committed([0]) == expected
    with other.publisher(setting.group) as publisher:
        publisher.publish([], {0: Committed(6, '{"seq": 2}')}, heir)
    until(lambda: setting.log.committed(setting.group, setting.source)[0].offset == 6)
    assert setting.member().committed([0]) == {0: Committed(6, '{"seq": 2}')}


def test_members_of_both_clients_share_a_group(setting: Setting) -> None:
    ours, theirs = setting.member(), setting.member(setting.another_log(by="kafka-python"))
    crowd = Crowd(ours)
    crowd.settle(3)
    crowd.add(theirs)
    crowd.settle(1, 2)
    for member, owned in crowd.owned.items():
        partition = min(owned)
        log = setting.log if member is ours else setting.another_log(by="kafka-python")
        with log.publisher(setting.group) as publisher:
            publisher.publish([], {partition: Committed(4)}, member)
    crowd.leave(ours)
    crowd.settle(3)


def test_a_single_lane_of_the_other_client_is_turned_away(setting: Setting) -> None:
    owner = setting.member(single=True)
    Crowd(owner).settle(3)
    other = setting.member(setting.another_log(by="kafka-python"), single=True)
    with pytest.raises(ConfigError) as error:
        until(lambda: other.poll(0.1).gained)
    assert "group_id" in error.value.hint


# -- options


def test_a_dead_address_is_named_with_the_likely_causes() -> None:
    log = LibrdkafkaLog("kafka://127.0.0.1:1", client={"bootstrap_timeout_ms": 500})
    for call in (log.topics, log.reader, lambda: log.create_topics([TopicSpec("t")])):
        with pytest.raises(ConfigError, match=r"127\.0\.0\.1:1 .*Connection refused") as error:
            call()
        for cause in ("broker up", "advertised.listeners", "password", "TLS"):
            assert cause in error.value.hint


def test_options_that_the_broker_refuses_are_a_configuration_error(setting: Setting) -> None:
    log = setting.another_log(consumer={"session_timeout_ms": 10})
    with pytest.raises(ConfigError, match="INVALID_SESSION_TIMEOUT") as error:
        setting.joined(log)
    assert "group.min.session.timeout.ms" in error.value.hint


# -- a broker that stands still, or has a damaged disk


@pytest.fixture(scope="module")
def own_broker(pytestconfig: pytest.Config) -> Iterator[Broker]:
    try:
        with Broker() as broker:
            yield broker
    except Unavailable as error:
        pytest.skip(f"no Kafka broker: {error}")


@pytest.fixture
def frozen_soon(own_broker: Broker) -> Iterator[Setting]:
    made = Setting(own_broker.bootstrap, CLIENT, producer=IMPATIENT)
    yield made
    own_broker.thaw()
    made.close()


@pytest.mark.fault
@pytest.mark.kafka
@pytest.mark.xdist_group("librdkafka-broker")
def test_a_damaged_batch_is_told_once_and_left_behind(own_broker: Broker) -> None:
    setting = Setting(own_broker.bootstrap, CLIENT, producer={"linger_ms": 2_000})
    with contextlib.closing(setting):
        for number in range(4):
            with setting.log.appender() as appender:
                appender.append(
                    Record(setting.source, b"%d" % i, b"<%d>" % number, 0) for i in range(50)
                )
        (segment,) = own_broker.folder.rglob(f"{setting.source}-0/*.log")
        with segment.open("r+b") as file:
            at = file.read().index(b"<2>")
            file.seek(at)
            file.write(b"!")
        reader, where = setting.reader(), TopicPartition(setting.source, 0)
        reader.seek({where: 20})
        read: list[int] = []
        told: list[Unreadable] = []
        positions: list[int] = []

        def at_end() -> bool:
            try:
                for batch in reader.poll(0.1):
                    read.extend(batch.offsets)
            except Unreadable as damage:
                told.append(damage)
                positions.append(reader.position(where))
            return reader.position(where) == 200

        until(at_end)
        assert read == [*range(20, 100), *range(150, 200)]
        assert [(one.wanted, one.first) for one in told] == [(100, 150)]
        assert positions == [150]
        assert "CRC32C" in str(told[0])


@pytest.mark.fault
@pytest.mark.kafka
@pytest.mark.xdist_group("librdkafka-broker")
@pytest.mark.slow
def test_a_frozen_broker_brings_doubt_and_not_a_hang(
    own_broker: Broker, frozen_soon: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = frozen_soon
    member, publisher = setting.joined(), setting.publisher()
    publisher.publish([Record(setting.output, b"a")], {0: Committed(1)}, member)
    original = Call.step

    def stepping(call: Any, name: str, limit_s: float) -> None:
        if name == "commit_transaction":
            own_broker.freeze()
        original(call, name, limit_s)

    monkeypatch.setattr(Call, "step", stepping)
    with pytest.raises(Doubt, match="nobody can tell"):
        publisher.publish([Record(setting.output, b"b")], {0: Committed(2)}, member)
    with pytest.raises(Doubt):
        publisher.publish([Record(setting.output, b"c")], {0: Committed(3)}, member)
    own_broker.thaw()
    # The log knows: all of the checkpoint is there, or nothing.
    fresh = setting.member(setting.another_log())
    now: dict[int, Committed | None] = {}

    def answered() -> bool:
        with contextlib.suppress(Transient):
            now.update(fresh.committed([0]))
        return bool(now)

    until(answered)
    assert now[0] is not None
    assert [*setting.outputs().values()] == [b"a", b"b"][: now[0].offset]
    own_broker.freeze()
    started = time.monotonic()
    for closing in (publisher, member, fresh, setting.log):
        closing.close()
    # A bound against hanging for ever, not a measurement.
    assert time.monotonic() - started < 30
