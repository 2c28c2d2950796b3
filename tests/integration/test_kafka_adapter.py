from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from kafka.record import default_records

from stream_update.errors import ConfigError, Fatal, LogGap, Refused
from stream_update.events import Committed, Record, TopicPartition, TopicSpec
from stream_update.log.kafka import KafkaLog
from tests.kafka_setting import Crowd, Setting, until


@pytest.fixture
def setting(kafka_bootstrap: str) -> Iterator[Setting]:
    made = Setting(kafka_bootstrap)
    yield made
    made.close()


# -- publishing


def test_records_and_offsets_become_visible_together(setting: Setting) -> None:
    member, publisher = setting.joined(), setting.publisher()
    records = [Record(setting.output, b"%d" % i, b"k", headers=[("h", b"x")]) for i in range(3)]
    given = publisher.publish(records, {0: Committed(5, "note"), 2: Committed(7)}, member)
    assert given == [0, 1, 2]
    assert member.committed([0, 1, 2]) == {0: Committed(5, "note"), 1: None, 2: Committed(7, "")}
    assert setting.outputs() == {0: b"0", 1: b"1", 2: b"2"}


def test_a_producer_that_has_lost_a_connection_is_not_used_again(setting: Setting) -> None:
    member, publisher = setting.joined(), setting.publisher()
    used = []
    for number in range(1, 5):
        publisher.publish([Record(setting.output, b"%d" % number)], {0: Committed(number)}, member)
        used.append(publisher._producer)
        if number == 2:
            next(iter(publisher._lines)).close()
            until(lambda: any(line.closed for line in publisher._lines))
    assert used[0] is used[1] is not used[2] is used[3]
    assert [*setting.outputs().values()] == [b"1", b"2", b"3", b"4"]


def test_a_member_that_knows_that_it_is_out_is_refused_locally(setting: Setting) -> None:
    fast = setting.another_log(consumer={"heartbeat_interval_ms": 100})
    member, publisher = setting.joined(fast), setting.publisher()
    setting.evict(member)
    until(lambda: not member.stable())
    with pytest.raises(Refused, match="in a rebalance"):
        publisher.publish([Record(setting.output, b"x")], {0: Committed(2)}, member)
    assert setting.outputs() == {}
    assert member.committed([0]) == {0: None}


def test_a_partition_that_went_elsewhere_cannot_be_published(setting: Setting) -> None:
    first, publisher = setting.member(), setting.publisher()
    crowd = Crowd(first)
    crowd.settle(3)
    second = setting.member()
    crowd.add(second)
    crowd.settle(2, 1)
    moved = min(crowd.owned[second])
    with pytest.raises(Refused, match="not all assigned"):
        publisher.publish([Record(setting.output, b"x")], {moved: Committed(2)}, first)
    kept = min(crowd.owned[first])
    publisher.publish([Record(setting.output, b"y")], {kept: Committed(2)}, first)
    assert [*setting.outputs().values()] == [b"y"]


def test_a_checkpoint_needs_offsets_and_its_own_group(setting: Setting) -> None:
    member = setting.joined()
    with pytest.raises(Refused, match="without offsets"):
        setting.publisher().publish([Record(setting.output, b"x")], {}, member)
    with setting.log.publisher("other") as other, pytest.raises(TypeError, match="of that group"):
        other.publish([Record(setting.output, b"x")], {0: Committed(1)}, member)


def test_a_record_without_value_and_key_is_refused_with_its_topic(setting: Setting) -> None:
    member, publisher = setting.joined(), setting.publisher()
    with pytest.raises(Fatal, match=f"topic {setting.output} cannot be sent"):
        publisher.publish([Record(setting.output, None)], {0: Committed(1)}, member)
    assert setting.outputs() == {}
    with setting.log.appender() as appender, pytest.raises(Fatal, match="cannot be sent"):
        appender.append([Record(setting.output, None)])


def test_a_topic_or_partition_that_does_not_exist_is_named_at_once(setting: Setting) -> None:
    member, publisher, reader = setting.joined(), setting.publisher(), setting.reader()
    nowhere, below = TopicPartition("nowhere", 0), TopicPartition(setting.source, -1)
    missing, beyond = "topic nowhere does not exist", "has no partition"
    offsets = {0: Committed(1)}
    for said, call in (
        (missing, lambda: publisher.publish([Record("nowhere", b"x")], offsets, member)),
        (
            beyond,
            lambda: publisher.publish([Record(setting.source, b"x", None, 3)], offsets, member),
        ),
        (missing, lambda: setting.log.member("g", "nowhere")),
        (missing, lambda: reader.seek({nowhere: 0})),
        (missing, lambda: reader.end_offsets([nowhere])),
        (missing, lambda: reader.offsets_for_times({nowhere: 0})),
        (beyond, lambda: reader.beginning_offsets([below])),
    ):
        with pytest.raises(ConfigError, match=said):
            call()


# -- reading


def test_a_reader_passes_over_markers_and_reaches_the_end(setting: Setting) -> None:
    member, publisher = setting.joined(), setting.publisher()
    for i in range(3):
        publisher.publish([Record(setting.output, b"%d" % i)], {0: Committed(i)}, member)
    where = TopicPartition(setting.output, 0)
    # Each transaction ends with a marker that has an offset of its own.
    assert setting.reader().end_offsets([where]) == {where: 6}
    assert setting.outputs() == {0: b"0", 2: b"1", 4: b"2"}


def test_seeking_to_the_same_place_keeps_what_was_fetched_ahead(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting.fill(100)
    reader, where = setting.reader(), TopicPartition(setting.source, 0)
    reader.seek({where: 0})
    seeks: list[int] = []
    original = reader._consumer.seek

    def seek(partition: Any, offset: int) -> None:
        seeks.append(offset)
        original(partition, offset)

    monkeypatch.setattr(reader._consumer, "seek", seek)
    values: list[bytes | None] = []

    def read() -> bool:
        reader.seek({where: reader.position(where)})
        for batch in reader.poll(0.1, 7):
            values.extend(batch.values)
        return len(values) == 100

    until(read)
    assert values == [b"%d" % i for i in range(100)]
    assert seeks == []
    reader.seek({where: 50})
    assert seeks == [50]
    until(lambda: [batch.offsets for batch in reader.poll(0.1, 1)] == [[50]])


def test_only_the_partitions_of_the_last_seek_are_read(setting: Setting) -> None:
    setting.fill(3, partition=0)
    setting.fill(3, partition=1)
    reader = setting.reader()
    zero, one = TopicPartition(setting.source, 0), TopicPartition(setting.source, 1)
    reader.seek({zero: 0, one: 0})
    until(lambda: 0 in {batch.partition for batch in reader.poll(0.1)})
    reader.seek({one: 1})
    until(lambda: [batch.offsets for batch in reader.poll(0.1)] == [[1, 2]])
    with pytest.raises(ValueError, match="is not being read"):
        reader.position(zero)
    reader.seek({})
    assert reader.poll(0) == []


@pytest.mark.parametrize(("offset", "why"), [(1, "retention"), (99, "created again")])
def test_an_offset_that_the_log_does_not_hold(setting: Setting, offset: int, why: str) -> None:
    setting.fill(5)
    where = TopicPartition(setting.source, 0)
    setting.admin().delete_records({where: 3})
    reader, member = setting.reader(), setting.joined()
    assert reader.beginning_offsets([where]) == {where: 3}
    reader.seek({where: offset})
    member.resume_at(0, offset)
    said = f"no offset {offset}: it holds 3 to 5"
    with pytest.raises(LogGap, match=said) as error:
        until(lambda: reader.poll(0.1))
    assert why in error.value.hint
    with pytest.raises(LogGap, match=said):
        until(lambda: member.poll(0.1).batches)
    reader.seek({where: 3})
    until(lambda: [batch.offsets for batch in reader.poll(0.1)] == [[3, 4]])


def test_a_topic_that_is_created_again_while_it_is_read(setting: Setting) -> None:
    setting.fill(5)
    watching = setting.another_log(client={"metadata_max_age_ms": 300})
    reader, where = watching.reader(), TopicPartition(setting.source, 0)
    reader.seek({where: 0})
    until(lambda: reader.poll(0.1))
    setting.admin().delete_topics([setting.source])
    until(lambda: setting.log.create_topics([TopicSpec(setting.source, 3)]))
    setting.fill(10)
    with pytest.raises(LogGap, match="deleted and created again"):
        until(lambda: reader.poll(0.1) is None)
    reader.close()


def test_a_topic_that_is_deleted_while_it_is_read(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_update.log.kafka.polling.MISSING_S", 1.0)
    setting.fill(5)
    member = setting.joined(setting.another_log(client={"metadata_max_age_ms": 300}))
    member.resume_at(0, 0)
    until(lambda: member.poll(0.1).batches)
    setting.admin().delete_topics([setting.source])
    with pytest.raises(LogGap, match=f"{setting.source} is gone"):
        until(lambda: member.poll(0.1) is None)


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
    place = re.escape(f"{setting.source}[0] at offset 2")
    for _ in range(2):
        with pytest.raises(Fatal, match=f"{place} cannot be read: UnsupportedCodec") as error:
            until(lambda: reader.poll(0.1))
        assert "kafka-python[lz4,snappy,zstd]" in error.value.hint


# -- appending, and the log itself


def test_records_without_a_key_go_round_and_those_with_one_stay_together(setting: Setting) -> None:
    with setting.log.appender() as appender:
        assert appender.append(Record(setting.source, b"%d" % i) for i in range(9)) == 9
        appender.append(Record(setting.source, b"k", key=b"fraud") for _ in range(5))
        appender.flush()
    ends = setting.reader().end_offsets([TopicPartition(setting.source, p) for p in range(3)])
    assert sorted(ends.values()) == [3, 3, 8]


def test_topics_are_created_once_and_described(setting: Setting) -> None:
    name = f"{setting.output}-compacted"
    spec = TopicSpec(name, 2, configs={"cleanup.policy": "compact"})
    assert setting.log.create_topics([spec, TopicSpec(setting.output)]) == [name]
    assert setting.log.create_topics([spec]) == []
    assert setting.log.create_topics([]) == []
    setting.joined()
    topics = setting.log.topics()
    assert topics[name].partitions == 2
    assert str(uuid.UUID(topics[name].topic_id)) == topics[name].topic_id
    assert not any(topic.startswith("__") for topic in topics)
    with pytest.raises(ConfigError, match="InvalidReplicationFactor") as error:
        setting.log.create_topics([TopicSpec(f"{name}-3", replication_factor=3)])
    assert "fewer brokers" in error.value.hint


def test_times_are_looked_up(setting: Setting) -> None:
    where, empty = TopicPartition(setting.source, 0), TopicPartition(setting.source, 1)
    now = 1_700_000_000_000
    with setting.log.appender() as appender:
        appender.append(
            Record(setting.source, b"x", partition=0, timestamp_ms=now + i) for i in range(3)
        )
        appender.flush()
    reader = setting.reader()
    assert reader.offsets_for_times({where: -1, empty: 0}) == {where: 0, empty: None}
    assert reader.offsets_for_times({where: now + 2}) == {where: 2}
    assert reader.offsets_for_times({where: now + 3}) == {where: None}
    assert reader.offsets_for_times({}) == {}


def test_a_dead_address_is_named_with_the_likely_causes() -> None:
    log = KafkaLog("kafka://127.0.0.1:1", client={"bootstrap_timeout_ms": 500})
    for call in (log.topics, log.reader, lambda: log.create_topics([TopicSpec("t")])):
        with pytest.raises(ConfigError, match=r"127\.0\.0\.1:1 .*ECONNREFUSED") as error:
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


def test_options_that_the_broker_refuses_are_a_configuration_error(setting: Setting) -> None:
    log = setting.another_log(consumer={"session_timeout_ms": 10})
    with pytest.raises(ConfigError, match="InvalidSessionTimeout") as error:
        setting.joined(log)
    assert "group.min.session.timeout.ms" in error.value.hint
