from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.admin import MemberToRemove
from kafka.record import default_records

from stream_update.errors import ConfigError, Doubt, Fatal, LogGap, Refused, Transient
from stream_update.events import Committed, Record, TopicPartition, TopicSpec
from stream_update.log.kafka import KafkaLog
from stream_update.log.kafka import member as member_module
from stream_update.log.kafka.member import KafkaMember
from stream_update.log.kafka.publisher import KafkaPublisher
from stream_update.log.kafka.reader import KafkaReader
from tests.broker import Broker

PATIENCE_S = 40.0


class Setting:
    """A log with a source of three partitions, an output topic, and a group, all its own."""

    def __init__(self, bootstrap: str, **options: Mapping[str, Any]) -> None:
        self.bootstrap = bootstrap
        tag = uuid.uuid4().hex[:8]
        self.source, self.output, self.group = f"source-{tag}", f"output-{tag}", f"group-{tag}"
        self.options = options
        self._open: list[Any] = []
        self.log = self.keep(KafkaLog(f"kafka://{bootstrap}", **options))
        self.log.create_topics([TopicSpec(self.source, 3), TopicSpec(self.output)])

    def keep(self, closing: Any) -> Any:
        self._open.append(closing)
        return closing

    def close(self) -> None:
        for closing in reversed(self._open):
            closing.close()

    def another_log(self, **options: Mapping[str, Any]) -> KafkaLog:
        log: KafkaLog = self.keep(KafkaLog(f"kafka://{self.bootstrap}", **options))
        return log

    def member(self, log: KafkaLog | None = None, *, single: bool = False) -> KafkaMember:
        made: KafkaMember = self.keep(
            (log or self.log).member(self.group, self.source, single=single)
        )
        return made

    def publisher(self, log: KafkaLog | None = None) -> KafkaPublisher:
        made: KafkaPublisher = self.keep((log or self.log).publisher(self.group))
        return made

    def reader(self) -> KafkaReader:
        made: KafkaReader = self.keep(self.log.reader())
        return made

    def fill(self, count: int, **fields: Any) -> None:
        with self.log.appender() as appender:
            appender.append(
                Record(fields.pop("topic", self.source), b"%d" % i, **{"partition": 0, **fields})
                for i in range(count)
            )
            appender.flush()

    def outputs(self) -> list[bytes | None]:
        """Everything committed in the output topic."""
        reader = self.reader()
        where = TopicPartition(self.output, 0)
        end = reader.end_offsets([where])[where]
        reader.seek({where: 0})
        found: list[bytes | None] = []
        until(lambda: found.extend(v for b in reader.poll(0.1) for v in b.values)
              or reader.position(where) >= end)
        return found

    def evict(self, member: KafkaMember) -> None:
        self.admin().remove_group_members(
            self.group, [MemberToRemove(member_id=member.identity.member_id)]
        )

    def admin(self) -> KafkaAdminClient:
        return self.keep(KafkaAdminClient(bootstrap_servers=self.bootstrap))


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"


class Owned:
    """Members polled in turn, with what each owns by its own reports."""

    def __init__(self, *members: KafkaMember) -> None:
        self.by: dict[KafkaMember, set[int]] = {member: set() for member in members}

    def turn(self) -> None:
        for member, owned in self.by.items():
            poll = member.poll(0.05)
            owned -= set(poll.lost)
            assert not owned & set(poll.gained)
            owned |= set(poll.gained)

    def until(self, *sizes: int) -> None:
        """Poll until each member owns so many partitions, and all together have each once."""

        def settled() -> bool:
            self.turn()
            return [len(owned) for owned in self.by.values()] == [*sizes] and all(
                member.stable() for member in self.by
            )

        until(settled)
        together = [partition for owned in self.by.values() for partition in owned]
        assert sorted(together) == sorted(set(together))


def joined(member: KafkaMember, partitions: int = 3) -> KafkaMember:
    Owned(member).until(partitions)
    return member


@pytest.fixture
def setting(kafka_bootstrap: str) -> Iterator[Setting]:
    made = Setting(kafka_bootstrap)
    yield made
    made.close()


# -- publishing


def test_records_and_offsets_become_visible_together(setting: Setting) -> None:
    member, publisher = joined(setting.member()), setting.publisher()
    records = [Record(setting.output, b"%d" % i, b"k", headers=[("h", b"x")]) for i in range(3)]
    given = publisher.publish(records, {0: Committed(5, "note"), 2: Committed(7)}, member)
    assert given == [0, 1, 2]
    assert member.committed([0, 1, 2]) == {0: Committed(5, "note"), 1: None, 2: Committed(7, "")}
    assert setting.outputs() == [b"0", b"1", b"2"]


def test_an_evicted_member_is_refused_and_leaves_nothing(setting: Setting) -> None:
    slow = setting.another_log(consumer={"heartbeat_interval_ms": 9_000})
    member, publisher = joined(setting.member(slow)), setting.publisher()
    publisher.publish([Record(setting.output, b"first")], {0: Committed(1)}, member)
    setting.evict(member)
    assert member.stable(), "it cannot know yet, so the broker has to refuse"
    with pytest.raises(Refused, match="gone on without"):
        publisher.publish(
            [Record(setting.output, b"refused")], {0: Committed(2), 1: Committed(9)}, member
        )
    assert setting.outputs() == [b"first"]
    owned, evicted = Owned(member), member.identity.member_id
    owned.by[member] = {0, 1, 2}
    until(lambda: owned.turn() or (member.stable() and member.identity.member_id != evicted))
    owned.until(3)
    publisher.publish([Record(setting.output, b"second")], {0: Committed(2)}, member)
    assert setting.outputs() == [b"first", b"second"]
    # What was refused must not ride along with the next checkpoint.
    assert member.committed([0, 1]) == {0: Committed(2, ""), 1: None}


def test_a_member_that_knows_that_it_is_out_is_refused_locally(setting: Setting) -> None:
    fast = setting.another_log(consumer={"heartbeat_interval_ms": 100})
    member, publisher = joined(setting.member(fast)), setting.publisher()
    setting.evict(member)
    until(lambda: not member.stable())
    with pytest.raises(Refused, match="rebalance"):
        publisher.publish([Record(setting.output, b"x")], {0: Committed(2)}, member)
    assert setting.outputs() == []


def test_a_partition_that_went_elsewhere_cannot_be_published(setting: Setting) -> None:
    first, publisher = setting.member(), setting.publisher()
    owned = Owned(first)
    owned.until(3)
    second = setting.member()
    owned.by[second] = set()
    until(lambda: owned.turn() or (owned.by[second] and first.stable() and second.stable()))
    (moved, *_) = owned.by[second]
    with pytest.raises(Refused, match="not all assigned"):
        publisher.publish([Record(setting.output, b"x")], {moved: Committed(2)}, first)
    kept = min(owned.by[first])
    publisher.publish([Record(setting.output, b"y")], {kept: Committed(2)}, first)
    assert setting.outputs() == [b"y"]


def test_a_checkpoint_needs_offsets_and_its_own_group(setting: Setting) -> None:
    member = joined(setting.member())
    with pytest.raises(Refused, match="without offsets"):
        setting.publisher().publish([Record(setting.output, b"x")], {}, member)
    with setting.log.publisher("other") as other, pytest.raises(TypeError, match="of that group"):
        other.publish([Record(setting.output, b"x")], {0: Committed(1)}, member)


def test_a_record_that_is_too_large_is_named_and_nothing_of_its_checkpoint_stays(
    setting: Setting,
) -> None:
    small = f"{setting.output}-small"
    setting.log.create_topics([TopicSpec(small, configs={"max.message.bytes": "1000"})])
    member, publisher = joined(setting.member()), setting.publisher()
    for topic, size in ((small, 5_000), (setting.output, 2_000_000)):
        records = [Record(setting.output, b"before"), Record(topic, b"x" * size)]
        with pytest.raises(Fatal, match=f"{size} bytes for topic {topic} is too large") as error:
            publisher.publish(records, {0: Committed(1)}, member)
        assert "max.message.bytes" in error.value.hint
    assert setting.outputs() == []
    assert member.committed([0]) == {0: None}
    assert publisher.publish([Record(setting.output, b"y")], {0: Committed(1)}, member) == [2]


def test_a_topic_or_partition_that_does_not_exist_is_named_at_once(setting: Setting) -> None:
    member, publisher = joined(setting.member()), setting.publisher()
    for record, said in (
        (Record("nowhere", b"x"), "topic nowhere does not exist"),
        (Record(setting.source, b"x", partition=3), "has no partition 3: it has 3"),
    ):
        with pytest.raises(ConfigError, match=said):
            publisher.publish([record], {0: Committed(1)}, member)
    where = TopicPartition("nowhere", 0)
    reader = setting.reader()
    for ask in (
        lambda: setting.log.member("g", "nowhere"),
        lambda: reader.seek({where: 0}),
        lambda: reader.end_offsets([where]),
        lambda: reader.offsets_for_times({where: 0}),
        lambda: reader.beginning_offsets([TopicPartition(setting.source, -1)]),
    ):
        with pytest.raises(ConfigError, match=r"does not exist|has no partition"):
            ask()


def test_two_processes_with_one_instance_id(setting: Setting) -> None:
    options = {"group_instance_id": "one", "heartbeat_interval_ms": 9_000}
    first = joined(setting.member(setting.another_log(consumer=options)))
    second = setting.member(setting.another_log(consumer=options))
    joined(second)
    with pytest.raises(Refused, match="same group_instance_id"):
        setting.publisher().publish([Record(setting.output, b"x")], {0: Committed(1)}, first)
    with pytest.raises(Fatal, match="same group_instance_id"):
        first.poll(0)
    setting.publisher().publish([Record(setting.output, b"y")], {0: Committed(1)}, second)
    assert setting.outputs() == [b"y"]


IMPATIENT = {"delivery_timeout_ms": 2_000, "request_timeout_ms": 1_000, "max_block_ms": 2_000}


@pytest.mark.slow
@pytest.mark.parametrize("step", ["send", "send_offsets_to_transaction", "commit_transaction"])
def test_a_frozen_broker_brings_doubt_and_not_a_hang(
    private_broker: Broker, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = Setting(private_broker.bootstrap, producer=IMPATIENT)
    member, publisher = joined(setting.member()), setting.publisher()
    publisher.publish([Record(setting.output, b"a")], {0: Committed(1)}, member)
    producer = publisher._producer
    original = getattr(producer, step)

    def frozen(*arguments: Any) -> Any:
        private_broker.freeze()
        return original(*arguments)

    monkeypatch.setattr(producer, step, frozen)
    started = time.monotonic()
    with pytest.raises(Doubt, match="nobody can tell"):
        publisher.publish([Record(setting.output, b"b")], {0: Committed(2)}, member)
    with pytest.raises(Doubt):
        publisher.publish([Record(setting.output, b"c")], {0: Committed(3)}, member)
    assert time.monotonic() - started < 20
    private_broker.thaw()
    # The log knows: all of the checkpoint is there, or nothing.
    fresh = setting.member(setting.another_log())
    now: dict[int, Committed | None] = {}

    def answered() -> bool:
        try:
            now.update(fresh.committed([0]))
        except Transient:
            return False
        return True

    until(answered)
    expected = {1: [b"a"], 2: [b"a", b"b"]}
    assert now[0] is not None
    assert setting.outputs() == expected[now[0].offset]
    setting.close()


@pytest.mark.slow
def test_a_late_answer_about_committed_offsets_is_not_believed(
    private_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member_module, "ASK_MS", 500)
    setting = Setting(private_broker.bootstrap)
    owner, publisher = joined(setting.member()), setting.publisher()
    publisher.publish([], {0: Committed(1)}, owner)
    asker = setting.member(setting.another_log())
    assert asker.committed([0]) == {0: Committed(1, "")}
    private_broker.freeze()
    with pytest.raises(Transient, match="not known yet"):
        asker.committed([0])
    private_broker.thaw()
    monkeypatch.setattr(member_module, "ASK_MS", 10_000)
    publisher.publish([], {0: Committed(2)}, owner)
    assert asker.committed([0]) == {0: Committed(2, "")}
    setting.close()


# -- reading


def test_a_reader_passes_over_what_is_not_committed(setting: Setting) -> None:
    member, publisher = joined(setting.member()), setting.publisher()
    for i in range(3):
        publisher.publish([Record(setting.output, b"%d" % i)], {0: Committed(i)}, member)
    reader, where = setting.reader(), TopicPartition(setting.output, 0)
    end = reader.end_offsets([where])[where]
    reader.seek({where: 0})
    offsets: list[int] = []
    until(lambda: offsets.extend(o for b in reader.poll(0.1) for o in b.offsets)
          or reader.position(where) >= end)
    assert offsets == [0, 2, 4], "each transaction ends with a marker of its own"
    assert end == 6


def test_seeking_to_the_same_place_keeps_what_was_fetched_ahead(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting.fill(100)
    reader, where = setting.reader(), TopicPartition(setting.source, 0)
    reader.seek({where: 0})
    values: list[bytes | None] = []
    seeks: list[int] = []
    original = reader._consumer.seek
    monkeypatch.setattr(
        reader._consumer, "seek", lambda tp, offset: (seeks.append(offset), original(tp, offset))
    )

    def read() -> bool:
        reader.seek({where: reader.position(where)})
        values.extend(v for b in reader.poll(0.1, 7) for v in b.values)
        return len(values) == 100

    until(read)
    assert values == [b"%d" % i for i in range(100)]
    assert seeks == []
    reader.seek({where: 50})
    assert seeks == [50]
    until(lambda: [b.offsets[0] for b in reader.poll(0.1, 1)] == [50])


def test_only_the_partitions_of_the_last_seek_are_read(setting: Setting) -> None:
    setting.fill(3, partition=0)
    setting.fill(3, partition=1)
    reader = setting.reader()
    zero, one = TopicPartition(setting.source, 0), TopicPartition(setting.source, 1)
    found: set[int] = set()
    reader.seek({zero: 0, one: 0})
    until(lambda: found.update(b.partition for b in reader.poll(0.1)) or found == {0, 1})
    reader.seek({one: 1})
    until(lambda: [b.offsets for b in reader.poll(0.1)] == [[1, 2]])
    with pytest.raises(ValueError, match="is not being read"):
        reader.position(zero)
    reader.seek({})
    assert reader.poll(0) == []


@pytest.mark.parametrize(("offset", "why"), [(1, "retention"), (99, "created again")])
def test_an_offset_that_the_log_does_not_hold(setting: Setting, offset: int, why: str) -> None:
    setting.fill(5)
    where = TopicPartition(setting.source, 0)
    setting.admin().delete_records({where: 3})
    reader, member = setting.reader(), joined(setting.member())
    assert reader.beginning_offsets([where]) == {where: 3}
    reader.seek({where: offset})
    member.resume_at(0, offset)
    for poll in (reader.poll, member.poll):
        with pytest.raises(LogGap, match=f"no offset {offset}: it holds 3 to 5") as error:
            until(lambda poll=poll: poll(0.1) is None)
        assert why in error.value.hint
    reader.seek({where: 3})
    until(lambda: [b.offsets for b in reader.poll(0.1)] == [[3, 4]])


def test_a_topic_that_is_created_again_while_it_is_read(setting: Setting) -> None:
    setting.fill(5)
    reader, where = setting.reader(), TopicPartition(setting.source, 0)
    reader.seek({where: 0})
    until(lambda: reader.poll(0.1))
    admin = setting.admin()
    admin.delete_topics([setting.source])

    def created() -> bool:
        reader.poll(0.05)
        return bool(setting.log.create_topics([TopicSpec(setting.source, 3)]))

    with pytest.raises(LogGap, match="deleted and created again"):  # noqa: PT012 - at any moment
        until(created)
        setting.fill(10)
        until(lambda: reader.poll(0.1) is None)


def test_a_batch_that_cannot_be_decoded_stops_the_reader_instead_of_hanging_it(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    compressing = setting.another_log(producer={"compression_type": "zstd"})
    setting.fill(2)
    with compressing.appender() as appender:
        appender.append([Record(setting.source, b"x" * 100, partition=0)] * 5)
        appender.flush()
    reader, where = setting.reader(), TopicPartition(setting.source, 0)
    monkeypatch.setattr(default_records.codecs, "has_zstd", lambda: False)
    reader.seek({where: 2})
    said = rf"{setting.source}\[0\] at offset 2 cannot be read: UnsupportedCodecError"
    for _ in range(2):
        with pytest.raises(Fatal, match=said) as error:
            until(lambda: reader.poll(0.1))
        assert "kafka-python[lz4,snappy,zstd]" in error.value.hint


# -- groups


def test_partitions_stay_where_they_are_when_members_come_and_go(setting: Setting) -> None:
    setting.fill(10, partition=0)
    first = setting.member()
    owned = Owned(first)
    owned.until(3)
    second = setting.member()
    owned.by[second] = set()
    until(lambda: owned.turn() or (
        sorted(map(len, owned.by.values())) == [1, 2] and first.stable() and second.stable()
    ))
    kept = set(owned.by[first])
    second.close()
    del owned.by[second]
    owned.until(3)
    assert kept <= owned.by[first]


def test_a_gained_partition_waits_and_a_flowing_one_can_be_set_back(setting: Setting) -> None:
    setting.fill(10)
    member = joined(setting.member())
    assert member.poll(0.3).batches == []
    with pytest.raises(ValueError, match="does not flow"):
        member.position(0)
    for start in (4, 8, 0):
        member.resume_at(0, start)
        assert member.position(0) == start
        offsets: list[int] = []
        until(lambda start=start, offsets=offsets: offsets.extend(
            o for b in member.poll(0.1).batches for o in b.offsets) or len(offsets) == 10 - start)
        assert offsets == [*range(start, 10)]
        assert member.position(0) == 10
    with pytest.raises(ValueError, match="is not assigned"):
        member.resume_at(7, 0)


def test_a_single_owner_stays_and_the_standbys_take_over(setting: Setting) -> None:
    first = setting.member(single=True)
    owned = Owned(first)
    owned.until(3)
    second, third = setting.member(single=True), setting.member(single=True)
    owned.by |= {second: set(), third: set()}
    generation = first.identity.generation_id
    until(lambda: owned.turn() or (
        first.identity.generation_id > generation and all(m.stable() for m in owned.by)
    ))
    owned.until(3, 0, 0)
    first.close()
    del owned.by[first]
    until(lambda: owned.turn() or {0, 1, 2} in owned.by.values())
    heir = next(member for member, parts in owned.by.items() if parts)
    returned = setting.member(single=True)
    owned.by[returned] = set()
    generation = heir.identity.generation_id
    until(lambda: owned.turn() or (
        heir.identity.generation_id > generation and all(m.stable() for m in owned.by)
    ))
    assert owned.by[heir] == {0, 1, 2}
    assert heir.committed([0, 1, 2]) == {0: None, 1: None, 2: None}


def test_a_single_owner_gets_new_partitions(setting: Setting) -> None:
    watching = setting.another_log(client={"metadata_max_age_ms": 300})
    members = [setting.member(watching, single=True) for _ in range(2)]
    owned = Owned(*members)
    until(lambda: owned.turn() or {0, 1, 2} in owned.by.values())
    owner = next(member for member, parts in owned.by.items() if parts)
    setting.admin().create_partitions({setting.source: 5})
    until(lambda: owned.turn() or owned.by[owner] == {0, 1, 2, 3, 4})


def test_a_group_of_two_minds_is_a_configuration_error(setting: Setting) -> None:
    joined(setting.member())
    with pytest.raises(ConfigError, match="InconsistentGroupProtocol") as error:
        until(lambda: setting.member(single=True).poll(0.1).gained)
    assert "lanes" in error.value.hint


# -- appending, and the log itself


def test_records_without_a_key_go_round_and_those_with_one_stay_together(setting: Setting) -> None:
    with setting.log.appender() as appender:
        assert appender.append(Record(setting.source, b"%d" % i) for i in range(9)) == 9
        appender.append(Record(setting.source, b"k", key=b"fraud") for _ in range(5))
        appender.flush()
    reader = setting.reader()
    ends = reader.end_offsets([TopicPartition(setting.source, p) for p in range(3)])
    assert sorted(ends.values()) == [3, 3, 8]


def test_a_refused_record_is_named_and_the_appender_goes_on(setting: Setting) -> None:
    small = f"{setting.output}-small"
    setting.log.create_topics([TopicSpec(small, configs={"max.message.bytes": "1000"})])
    with setting.log.appender() as appender:
        appender.append([Record(small, b"x" * 5_000)])
        with pytest.raises(Fatal, match=f"5000 bytes for topic {small} is too large"):
            appender.flush()
        appender.append([Record(small, b"good")])
        appender.flush()
        with pytest.raises(Fatal, match="cannot be sent"):
            appender.append([Record(small, None)])
    where = TopicPartition(small, 0)
    assert setting.reader().end_offsets([where]) == {where: 1}


@pytest.mark.slow
def test_an_appender_waits_for_room_when_the_broker_stands_still(
    private_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = Setting(private_broker.bootstrap)
    appender = setting.keep(setting.log.appender())
    appender.append([Record(setting.output, b"warm")])
    appender.flush()
    monkeypatch.setattr("stream_update.log.kafka.appender.DELIVERY_MS", 1_000)
    private_broker.freeze()
    handed = 0

    def endless() -> Iterator[Record]:
        nonlocal handed
        while True:
            handed += 1
            yield Record(setting.output, b"x" * 100_000)

    with pytest.raises(Fatal, match="not acknowledged in time"):
        appender.append(endless())
    assert handed < 200
    private_broker.thaw()
    setting.close()


def test_topics_are_created_once_and_described(setting: Setting) -> None:
    name = f"{setting.output}-compacted"
    spec = TopicSpec(name, 2, configs={"cleanup.policy": "compact"})
    assert setting.log.create_topics([spec, TopicSpec(setting.output)]) == [name]
    assert setting.log.create_topics([spec]) == []
    assert setting.log.create_topics([]) == []
    joined(setting.member())
    topics = setting.log.topics()
    assert topics[name].partitions == 2
    assert str(uuid.UUID(topics[name].topic_id)) == topics[name].topic_id
    assert not any(topic.startswith("__") for topic in topics)
    with pytest.raises(ConfigError, match="InvalidReplicationFactor") as error:
        setting.log.create_topics([TopicSpec(f"{name}-3", replication_factor=3)])
    assert "fewer brokers" in error.value.hint


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "ECONNREFUSED"),
        ({"security_protocol": "SSL"}, "ECONNREFUSED"),
    ],
)
def test_a_dead_address_is_named_with_the_likely_causes(
    options: dict[str, Any], said: str
) -> None:
    url = "kafka://127.0.0.1:1"
    log = KafkaLog(url, client={"bootstrap_timeout_ms": 500, **options})
    for call in (log.topics, log.reader, lambda: log.create_topics([TopicSpec("t")])):
        with pytest.raises(ConfigError, match=f"127.0.0.1:1.*{said}") as error:
            call()
        for cause in ("broker up", "advertised.listeners", "password", "TLS"):
            assert cause in error.value.hint


def test_a_listener_of_another_kind_is_told_apart(setting: Setting) -> None:
    log = KafkaLog(
        f"kafka://{setting.bootstrap}",
        client={"bootstrap_timeout_ms": 1_000, "security_protocol": "SSL"},
    )
    with pytest.raises(ConfigError, match="Handshake failed"):
        log.topics()
