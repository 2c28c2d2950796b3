"""What can be told of the client librdkafka without a broker."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from stream_update import plugins
from stream_update.errors import ConfigError, Fatal, Overtaken, Transient, Unreadable
from stream_update.events import TopicInfo, TopicPartition

pytest.importorskip("confluent_kafka")

from confluent_kafka import KafkaError, KafkaException, Message

from stream_update.log.librdkafka.connect import Connect
from stream_update.log.librdkafka.fetching import Fetching
from stream_update.log.librdkafka.member import LibrdkafkaMember
from stream_update.log.librdkafka.refusals import translated
from stream_update.log.librdkafka.rounds import Identity

URL = "kafka://127.0.0.1:9092"
END = KafkaError._PARTITION_EOF


def connect(**given: Any) -> Connect:
    return Connect(
        URL, given.get("client", {}), given.get("consumer", {}), given.get("producer", {})
    )


# -- options


def test_options_are_taken_in_the_spelling_of_the_other_client() -> None:
    made = connect(
        client={
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_plain_username": "u",
            "sasl_plain_password": "p",
            "ssl_cafile": "ca.pem",
            "ssl_check_hostname": False,
        },
        consumer={"session_timeout_ms": 6000, "partition_assignment_strategy": ["range"]},
        producer={"compression_type": "zstd", "request_timeout_ms": 4000},
    )
    for options in (made._member, made._reader, made._producer):
        assert options["security.protocol"] == "SASL_SSL"
        assert options["sasl.username"] == "u"
        assert options["ssl.ca.location"] == "ca.pem"
        assert options["ssl.endpoint.identification.algorithm"] == "none"
    assert made._member["session.timeout.ms"] == 6000
    assert made._member["partition.assignment.strategy"] == "range"
    assert made.is_eager()
    assert made.chose_strategy()
    assert "session.timeout.ms" not in made._reader, "it is in no group"
    assert made._producer["compression.type"] == "zstd"
    assert made._producer["request.timeout.ms"] == made._producer["socket.timeout.ms"] == 4000
    assert not connect().is_eager()


@pytest.mark.parametrize(
    ("given", "said", "hint"),
    [
        ({"client": {"sesion_timeout": 1}}, "does not exist", "did you mean"),
        ({"consumer": {"auto_offset_reset": "latest"}}, "cannot be set", "leave it out"),
        ({"client": {"socks5_proxy": "x"}}, "does nothing with client", "other client"),
        ({"consumer": {"partition_assignment_strategy": "sticky"}}, "'sticky' cannot", "range"),
        ({"consumer": {"partition_assignment_strategy": "roundrobin"}}, "cannot be", "single"),
        ({"producer": {"transaction_timeout_ms": 90_000}}, "too long", "at most"),
    ],
)
def test_what_cannot_be_is_a_configuration_error(
    given: dict[str, Any], said: str, hint: str
) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        connect(**given)
    assert hint in error.value.hint


def test_the_client_is_chosen_by_name() -> None:
    with plugins.open_log(URL, {"client": "librdkafka"}) as log:
        assert type(log).__name__ == "LibrdkafkaLog"
    with plugins.open_log(URL, {"client": "kafka-python"}) as log:
        assert type(log).__name__ == "KafkaLog"
    with pytest.raises(ConfigError, match="there is no 'sarama'") as error:
        plugins.open_log(URL, {"client": "sarama"})
    assert "kafka-python, librdkafka" in error.value.hint


def test_who_has_not_installed_it_is_told_how(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*sys.modules]:
        if name.startswith("stream_update.log.librdkafka"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(ConfigError, match="needs confluent-kafka") as error:
        plugins.open_log(URL, {"client": "librdkafka"})
    assert "pip install 'stream-update[fast]'" in error.value.hint


def test_errors_become_ours() -> None:
    for code, kind in (
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, ConfigError),
        (KafkaError._TIMED_OUT, Transient),
        (KafkaError.FENCED_LEADER_EPOCH, Transient),
        (KafkaError.FENCED_INSTANCE_ID, Fatal),
        (KafkaError._BAD_MSG, Fatal),
    ):
        assert type(translated(KafkaException(KafkaError(code)), "trying")) is kind


# -- rounds of a group


def packed(generation: int, member: str) -> bytes:
    return b"CGMDv2:" + struct.pack("=i", generation) + b"group\0" + member.encode() + b"\0\1"


class Joining:
    """A consumer in a group, as far as a member sees of it."""

    def __init__(self) -> None:
        self.now = packed(-1, "")
        self.due: list[Callable[[], None]] = []
        self.closed = False

    def subscribe(self, _: list[str], **listener: Callable[[Any, list[Any]], None]) -> None:
        self.listener = listener

    def consume(self, *_: Any) -> list[Any]:
        while self.due:
            self.due.pop(0)()
        return []

    def consumer_group_metadata(self) -> bytes:
        return self.now

    def assign(self, partitions: list[Any]) -> None:
        assert partitions == [], "it reads nothing"

    def incremental_assign(self, partitions: list[Any]) -> None:
        assert partitions == []

    incremental_unassign = incremental_assign

    def unassign(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def round(self, generation: int, member: str, *partitions: int) -> None:
        """Let the next poll bring a round in which these are assigned."""

        def happen() -> None:
            self.now = packed(generation, member)
            self.listener["on_assign"](self, [TopicPartition("t", p) for p in partitions])

        self.due.append(happen)

    def loses(self, what: str, *partitions: int) -> None:
        self.due.append(
            lambda: self.listener[what](self, [TopicPartition("t", p) for p in partitions])
        )


def message(offset: int, partition: int = 0, code: int | None = None) -> Message:
    error = None if code is None else KafkaError(code)
    if not hasattr(Message, "set_error"):
        pytest.skip("this release makes messages only itself")
    return Message(topic="t", partition=partition, offset=offset, value=b"v", error=error)


class Reading:
    """A consumer that is in no group, with what it will hand over."""

    def __init__(self) -> None:
        self.waiting: list[Message] = []
        self.assigned: dict[int, int] = {}

    def list_topics(self, topic: str, timeout: float) -> None:
        assert topic == "t"

    def incremental_assign(self, partitions: list[Any]) -> None:
        for one in partitions:
            assert one.partition not in self.assigned
            self.assigned[one.partition] = one.offset

    def incremental_unassign(self, partitions: list[Any]) -> None:
        for one in partitions:
            del self.assigned[one.partition]
        self.waiting = [one for one in self.waiting if one.partition() in self.assigned]

    def consume(self, count: int, _: float) -> list[Message]:
        given, self.waiting = self.waiting[:count], self.waiting[count:]
        return given

    def close(self) -> None:
        pass


class Holding:
    """A log whose partitions hold 5 to 20."""

    def first_offsets(self, where: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(where, 5)

    def end_offsets(self, where: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(where, 20)

    def describing(self, _: str) -> Future[Any]:
        return Future()


def fetching(reading: Reading, behind: int | None = None) -> Fetching:
    return Fetching(reading, Holding(), lambda *_: behind, 1e9)  # type: ignore[arg-type]


def member(*joining: Joining, single: bool) -> LibrdkafkaMember:
    consumers = iter(joining)
    return LibrdkafkaMember(
        lambda: next(consumers),
        fetching(Reading()),
        "group",
        TopicInfo("t", "id", 3),
        eager=single,
        partitions=(lambda: 3) if single else None,
        breathe_s=1.0,
        overdue=lambda: None,
    )


def told(of: LibrdkafkaMember) -> tuple[list[int], list[int]]:
    poll = of.poll(0)
    return [*poll.gained], [*poll.lost]


def test_the_identity_is_read_out_of_what_the_client_hands_to_producers() -> None:
    joining = Joining()
    assert Identity.of(joining)[:2] == (-1, "")
    joining.now = packed(7, "me-1")
    assert Identity.of(joining) == (7, "me-1", joining.now)
    joining.now = b"something new"
    with pytest.raises(Fatal, match="identity"):
        Identity.of(joining)


def test_shared_partitions_come_and_go_by_name() -> None:
    joining = Joining()
    with member(joining, single=False) as one:
        assert told(one) == ([], [])
        assert not one.stable()
        joining.round(1, "me", 0, 1)
        assert told(one) == ([0, 1], [])
        assert one.stable()
        assert one.owns([0, 1])
        joining.loses("on_revoke", 1)
        assert told(one) == ([], [1])
        assert not one.stable(), "the round is not over"
        joining.round(2, "me")
        assert told(one) == ([], [])
        assert one.stable()
        assert one.owns([0])
        assert not one.owns([1])
        joining.now = packed(3, "me")
        assert not one.stable(), "the client knows of a round that has not been told"
        # Evicted, and given the same again under another name.
        joining.loses("on_lost", 0)
        joining.round(5, "me again", 0)
        assert told(one) == ([0], [0])
        assert one.owns([0])


def test_who_is_first_owns_all_and_keeps_it_over_rounds_that_follow_each_other() -> None:
    joining = Joining()
    with member(joining, single=True) as one:
        joining.round(1, "me", 0, 2)
        assert told(one) == ([0, 1, 2], [])
        joining.loses("on_revoke", 0, 2)
        assert told(one) == ([], []), "nobody else can have them yet"
        assert not one.stable()
        joining.round(2, "me", 0)
        assert told(one) == ([], [])
        assert one.stable()
        assert one.owns([0, 1, 2])
        joining.loses("on_revoke", 0)
        joining.round(4, "me", 0)
        assert told(one) == ([0, 1, 2], [0, 1, 2]), "somebody may have had them in round 3"
        joining.loses("on_revoke", 0)
        joining.round(5, "me", 1)
        assert told(one) == ([], [0, 1, 2])
        assert not joining.closed


def test_an_owner_that_was_evicted_comes_back_as_the_youngest() -> None:
    joining, again = Joining(), Joining()
    with member(joining, again, single=True) as one:
        joining.round(1, "me", 0)
        assert told(one) == ([0, 1, 2], [])
        joining.loses("on_lost", 0)
        assert told(one) == ([], [0, 1, 2])
        assert joining.closed
        again.round(7, "me, younger")
        assert told(one) == ([], [])
        assert one.stable()
        assert not one.owns([0])


# -- fetching

ZERO, ONE = TopicPartition("t", 0), TopicPartition("t", 1)


def test_the_position_goes_where_the_client_says_that_the_partition_ends() -> None:
    reading = Reading()
    reads = fetching(reading)
    reads.flow({ZERO: 5, ONE: 8})
    reading.waiting = [message(5), message(9, 1), message(7), message(9, code=END)]
    batches = reads.poll(0, 500)
    assert [(b.partition, b.offsets) for b in batches] == [(0, [5, 7]), (1, [9])]
    assert reads.positions == {ZERO: 9, ONE: 10}
    reading.waiting = [message(8 + n) for n in range(3)]
    assert [b.offsets for b in reads.poll(0, 2)] == [[8, 9]]
    reads.flow({ZERO: 6})
    assert reading.assigned == {0: 6, 1: 8}
    assert reads.poll(0, 2) == []
    assert reads.positions[ZERO] == 6
    reads.rest([ZERO])
    assert reading.assigned == {1: 8}


def test_what_came_before_a_gap_comes_before_it() -> None:
    reading = Reading()
    reads = fetching(reading)
    reads.flow({ZERO: 1, ONE: 6})
    gap = KafkaError._AUTO_OFFSET_RESET
    reading.waiting = [message(6, 1), message(1, code=gap), message(7, 1)]
    assert [b.offsets for b in reads.poll(0, 500)] == [[6]]
    with pytest.raises(Overtaken, match="no offset 1: it holds 5 to 20") as error:
        reads.poll(0, 500)
    assert (error.value.partition, error.value.wanted, error.value.first) == (0, 1, 5)
    assert [b.offsets for b in reads.poll(0, 500)] == [[7]]


def test_an_offset_that_is_there_after_all_is_read_on() -> None:
    reading = Reading()
    reads = fetching(reading)
    reads.flow({ZERO: 6})
    reading.waiting = [message(6), message(7, code=KafkaError.OFFSET_OUT_OF_RANGE)]
    assert [b.offsets for b in reads.poll(0, 500)] == [[6]]
    assert reading.assigned == {0: 7}


@pytest.mark.parametrize("behind", [None, 12])
def test_a_damaged_batch_is_left_behind_if_it_is_damaged_for_both(behind: int | None) -> None:
    reading = Reading()
    reads = fetching(reading, behind)
    reads.flow({ZERO: 6})
    reading.waiting = [message(6), message(7, code=KafkaError._BAD_MSG), message(1 << 50)]
    assert [b.offsets for b in reads.poll(0, 500)] == [[6]]
    assert reads.positions == {ZERO: 7}
    if behind is None:
        assert reading.assigned == {0: 7}
        return
    with pytest.raises(Unreadable, match=r"t\[0\] offsets 7 to 11 cannot be read"):
        reads.poll(0, 500)
    assert reading.assigned == {0: 12}
    assert reads.positions == {ZERO: 12}
