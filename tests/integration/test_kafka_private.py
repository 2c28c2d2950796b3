from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

from stream_update.errors import ConfigError, Doubt, Fatal, Transient
from stream_update.events import Committed, Record
from stream_update.log.kafka import KafkaLog
from stream_update.log.kafka import member as member_module
from tests.broker import PASSWORD, USER, Broker
from tests.kafka_setting import Setting, until

pytestmark = [pytest.mark.fault, pytest.mark.slow]

IMPATIENT = {"delivery_timeout_ms": 2_000, "request_timeout_ms": 1_000, "max_block_ms": 2_000}


@pytest.fixture
def setting(private_broker: Broker) -> Iterator[Setting]:
    made = Setting(private_broker.bootstrap, producer=IMPATIENT)
    yield made
    private_broker.thaw()
    made.close()


@pytest.mark.parametrize("step", ["send", "send_offsets_to_transaction", "commit_transaction"])
def test_a_frozen_broker_brings_doubt_and_not_a_hang(
    private_broker: Broker, setting: Setting, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    member, publisher = setting.joined(), setting.publisher()
    publisher.publish([Record(setting.output, b"a")], {0: Committed(1)}, member)
    producer = publisher._producer
    original = getattr(producer, step)

    def frozen(*arguments: Any) -> Any:
        private_broker.freeze()
        return original(*arguments)

    monkeypatch.setattr(producer, step, frozen)
    with pytest.raises(Doubt, match="nobody can tell"):
        publisher.publish([Record(setting.output, b"b")], {0: Committed(2)}, member)
    with pytest.raises(Doubt):
        publisher.publish([Record(setting.output, b"c")], {0: Committed(3)}, member)
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
    assert now[0] is not None
    assert [*setting.outputs().values()] == [b"a", b"b"][: now[0].offset]


def test_a_late_answer_about_committed_offsets_is_not_believed(
    private_broker: Broker, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, publisher = setting.joined(), setting.publisher()
    publisher.publish([], {0: Committed(1)}, owner)
    asker = setting.member(setting.another_log())
    assert asker.committed([0]) == {0: Committed(1, "")}
    private_broker.freeze()
    monkeypatch.setattr(member_module, "ASK_MS", 500)
    with pytest.raises(Transient, match="not known yet"):
        asker.committed([0])
    private_broker.thaw()
    monkeypatch.setattr(member_module, "ASK_MS", 10_000)
    publisher.publish([], {0: Committed(2)}, owner)
    answers: list[Any] = []

    def answered() -> bool:
        # A broker that stood still may need more than one question on a slow machine.
        with contextlib.suppress(Transient):
            answers.append(asker.committed([0]))
        return bool(answers)

    until(answered)
    assert answers == [{0: Committed(2, "")}]


def test_a_wrong_password_is_named(private_broker: Broker) -> None:
    def log(password: str) -> KafkaLog:
        return KafkaLog(
            f"kafka://{private_broker.secured}",
            client={
                "bootstrap_timeout_ms": 5_000,
                "security_protocol": "SASL_PLAINTEXT",
                "sasl_mechanism": "PLAIN",
                "sasl_plain_username": USER,
                "sasl_plain_password": password,
            },
        )

    with log(PASSWORD) as right:
        assert right.topics() == {}

    def named() -> bool:
        with log("wrong") as wrong, pytest.raises(ConfigError) as error:
            wrong.topics()
        return "Invalid username or password" in str(error.value)

    # Under load the client may see only that the connection ended.
    until(named)


def test_an_appender_waits_for_room_when_the_broker_stands_still(
    private_broker: Broker, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    with setting.log.appender() as appender:
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


def test_everything_closes_while_the_broker_stands_still(
    private_broker: Broker, setting: Setting
) -> None:
    member, publisher, reader = setting.joined(), setting.publisher(), setting.reader()
    publisher.publish([Record(setting.output, b"a")], {0: Committed(1)}, member)
    appender = setting.log.appender()
    appender.append([Record(setting.output, b"b")])
    appender.flush()
    private_broker.freeze()
    appender.append([Record(setting.output, b"never acknowledged")])
    started = time.monotonic()
    for closing in (appender, publisher, reader, member, setting.log):
        closing.close()
    # A bound against hanging for ever, not a measurement.
    assert time.monotonic() - started < 30
