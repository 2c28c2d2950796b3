from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
from kafka import KafkaProducer
from kafka import errors as vendor
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType
from kafka.structs import OffsetAndMetadata
from kafka.structs import TopicPartition as VendorPartition

from stream_update.errors import Transient
from stream_update.events import Committed, Record, TopicPartition
from stream_update.log.kafka import KafkaLog
from stream_update.log.kafka import member as member_module
from stream_update.log.kafka.janitor import OFFSETS, Ending, Janitor, partition_of_group
from tests.broker import PASSWORD, SETTINGS, USER, Broker, Unavailable
from tests.kafka_setting import Setting, until

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.kafka]

PATIENCE_S = 0.5
TIMEOUT_MS = 5_000


@pytest.fixture(scope="module")
def unverified() -> Iterator[Broker]:
    """A broker that takes records into transactions its coordinator does not know of."""
    try:
        own = Broker(settings={"transaction.partition.verification.enable": "false"}).__enter__()
    except Unavailable as error:
        pytest.skip(f"no Kafka broker: {error}")
    try:
        yield own
    finally:
        own.stop()


@pytest.fixture
def setting(unverified: Broker) -> Iterator[Setting]:
    made = Setting(unverified.bootstrap)
    yield made
    made.close()


class Writer:
    """A producer that can write without telling the coordinator."""

    def __init__(self, setting: Setting, name: str = "") -> None:
        self.setting = setting
        self.name = name or f"{setting.group}.0123456789abcdef"
        self.producer: Any = KafkaProducer(
            bootstrap_servers=setting.bootstrap,
            transactional_id=self.name,
            transaction_timeout_ms=TIMEOUT_MS,
        )
        self.producer.init_transactions()

    def begin(self) -> None:
        self.producer.begin_transaction()

    def write(self, topic: str, value: bytes, partition: int = 0, *, secret: bool = False) -> None:
        if secret:
            self.producer._transaction_manager._partitions_in_transaction.add(
                VendorPartition(topic, partition)
            )
        sent = self.producer.send(topic, value, partition=partition)
        self.producer.flush(5)
        assert sent.succeeded()

    def transact(self, end: str, secret: bytes | None = None) -> None:
        """One transaction that the coordinator knows in the source topic only."""
        self.begin()
        self.write(self.setting.source, b"known")
        if secret is not None:
            self.write(self.setting.output, secret, secret=True)
        getattr(self.producer, f"{end}_transaction")()


@pytest.fixture
def writer(setting: Setting) -> Iterator[Writer]:
    made = Writer(setting)
    yield made
    made.producer.close(timeout=1)


def janitor(setting: Setting, patience_s: float = PATIENCE_S) -> Janitor:
    connect = setting.log._connect
    return Janitor(setting.admin, connect.consumer, patience_s)


def is_open(setting: Setting, topic: str, partition: int = 0) -> bool:
    where = VendorPartition(topic, partition)
    state = setting.admin().describe_producers([where])[where]
    return any(one.current_transaction_start_offset >= 0 for one in state.active_producers)


def settled(setting: Setting, state: str) -> None:
    name = f"{setting.group}.0123456789abcdef"
    admin = setting.admin()
    until(lambda: admin.describe_transactions([name])[name].state.value == state)


def tend(one: Janitor, setting: Setting, ending: Ending) -> None:
    def ended() -> bool:
        one.tend([(setting.output, 0)])
        return one.ended[ending] > 0

    until(ended)


def test_what_was_committed_is_committed(
    setting: Setting, writer: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    for value in (b"a", b"b"):
        writer.transact("commit", value)
    settled(setting, "CompleteCommit")
    assert is_open(setting, setting.output)
    assert setting.outputs() == {}
    one = janitor(setting)
    tend(one, setting, Ending.COMMIT)
    assert setting.outputs() == {0: b"a", 1: b"b"}
    assert not is_open(setting, setting.output)
    assert one.ended == {Ending.COMMIT: 1}
    (said,) = [line.getMessage() for line in caplog.records if line.levelno == logging.ERROR]
    assert f"{setting.output}[0]" in said
    assert "offset 0 on was left hanging" in said
    assert "committed now" in said


def test_what_was_aborted_is_aborted(setting: Setting, writer: Writer) -> None:
    writer.transact("commit")
    writer.transact("abort", b"never")
    settled(setting, "CompleteAbort")
    one = janitor(setting)
    tend(one, setting, Ending.ABORT)
    with setting.log.appender() as appender:
        appender.append([Record(setting.output, b"next")])
        appender.flush()
    assert [*setting.outputs().values()] == [b"next"]


def test_what_was_never_begun_is_aborted(setting: Setting, writer: Writer) -> None:
    writer.begin()
    writer.write(setting.output, b"never", secret=True)
    settled(setting, "Empty")
    tend(janitor(setting), setting, Ending.ABORT)
    assert setting.outputs() == {}
    assert not is_open(setting, setting.output)


def test_the_aborted_one_after_a_committed_one_is_told_from_it(
    setting: Setting, writer: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    writer.transact("commit", b"committed")
    settled(setting, "CompleteCommit")
    # As long as a broker needs to come back, at least.
    resume = time.monotonic() + 2.5
    until(lambda: time.monotonic() > resume)
    writer.transact("abort")
    settled(setting, "CompleteAbort")
    one = janitor(setting)
    tend(one, setting, Ending.DOUBT)
    one.tend([(setting.output, 0)])
    assert is_open(setting, setting.output)
    (said,) = [line.getMessage() for line in caplog.records if line.levelno == logging.ERROR]
    assert f"--topic {setting.output} --partition 0 --start-offset 0" in said


def test_an_ongoing_transaction_is_left_alone(setting: Setting, writer: Writer) -> None:
    writer.begin()
    writer.write(setting.output, b"slow")
    one = janitor(setting, patience_s=0.0)
    for _ in range(5):
        one.tend([(setting.output, 0)])
    assert is_open(setting, setting.output)
    assert not one.ended
    writer.producer.commit_transaction()
    until(lambda: [*setting.outputs().values()] == [b"slow"])


def test_a_young_one_is_left_alone(setting: Setting, writer: Writer) -> None:
    writer.transact("commit", b"young")
    settled(setting, "CompleteCommit")
    one = janitor(setting, patience_s=3600.0)
    one.tend([(setting.output, 0)])
    assert is_open(setting, setting.output)
    assert not one.ended


def test_another_programs_commit_is_left_alone(setting: Setting) -> None:
    foreign = Writer(setting, f"somebody-{setting.group}")
    foreign.transact("commit", b"theirs")
    one = janitor(setting)
    tend(one, setting, Ending.DOUBT)
    assert is_open(setting, setting.output)
    foreign.producer.close(timeout=1)


def test_a_broker_that_does_not_answer_is_no_failure(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    one = janitor(setting)
    one.tend([("no-such-topic", 0)])
    assert "cannot look for hanging transactions now" in caplog.text


def test_a_reader_that_stands_still_has_it_ended(setting: Setting, writer: Writer) -> None:
    writer.transact("commit", b"x")
    setting.log._janitor.patience_s = PATIENCE_S
    reader, where = setting.reader(), TopicPartition(setting.output, 0)
    reader.seek({where: 0})
    found: list[bytes | None] = []

    def arrived() -> bool:
        for batch in reader.poll(0.1):
            found.extend(batch.values)
        return bool(found)

    until(arrived)
    assert found == [b"x"]


def test_a_reader_that_asks_for_the_end_has_it_ended(setting: Setting, writer: Writer) -> None:
    writer.transact("commit", b"x")
    setting.log._janitor.patience_s = PATIENCE_S
    reader, where = setting.reader(), TopicPartition(setting.output, 0)
    until(lambda: reader.end_offsets([where])[where] == 2)


@pytest.fixture
def guarded() -> Iterator[Broker]:
    """An unverified broker that lets the user with the password do nothing."""
    rules = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "transaction.partition.verification.enable": "false",
    }
    try:
        own = Broker(settings=rules).__enter__()
    except Unavailable as error:
        pytest.skip(f"no Kafka broker: {error}")
    try:
        yield own
    finally:
        own.stop()


def test_missing_rights_are_named_and_nothing_is_done(
    guarded: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.ExitStack() as closing:
        setting = Setting(guarded.bootstrap)
        closing.callback(setting.close)
        writer = Writer(setting)
        closing.callback(writer.producer.close, timeout=1)
        writer.transact("commit", b"x")
        settled(setting, "CompleteCommit")
        low = KafkaLog(
            f"kafka://{guarded.secured}",
            client={
                "security_protocol": "SASL_PLAINTEXT",
                "sasl_mechanism": "PLAIN",
                "sasl_plain_username": USER,
                "sasl_plain_password": PASSWORD,
            },
        )
        closing.callback(low.close)
        one = Janitor(low._asking, low._connect.consumer, PATIENCE_S)

        def says(text: str) -> None:
            def said() -> bool:
                one.tend([(setting.output, 0)])
                return text in caplog.text

            until(said)
            assert is_open(setting, setting.output)

        def allow(kind: ResourceType, name: str, operation: ACLOperation) -> None:
            rule = ACL(
                principal=f"User:{USER}",
                host="*",
                operation=operation,
                permission_type=ACLPermissionType.ALLOW,
                resource_pattern=ResourcePattern(kind, name),
            )
            setting.admin().create_acls([rule])

        allow(ResourceType.TOPIC, setting.output, ACLOperation.READ)
        says("TopicAuthorizationFailedError: topic __transaction_state")
        allow(ResourceType.TOPIC, "__transaction_state", ACLOperation.DESCRIBE)
        says("its producer is unknown, or not ours to see")
        allow(ResourceType.TRANSACTIONAL_ID, writer.name, ACLOperation.DESCRIBE)
        says("should be committed")
        allow(ResourceType.CLUSTER, "kafka-cluster", ACLOperation.ALTER)
        tend(one, setting, Ending.COMMIT)
        assert setting.outputs() == {0: b"x"}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("committed", [True, False])
def test_a_take_over_after_the_broker_was_killed(
    private_broker: Broker, committed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kill the broker until a transaction hangs, then ask for the committed offsets."""
    setting = Setting(private_broker.bootstrap)
    try:
        for count in range(1, 6):
            writer = Writer(setting, f"{setting.group}.{count:016x}")
            writer.begin()
            writer.write(setting.output, b"%d" % count)
            writer.producer.send_offsets_to_transaction(
                {VendorPartition(setting.source, 0): OffsetAndMetadata(count, "", -1)},
                setting.group,
            )
            if committed:
                writer.producer.commit_transaction()
            private_broker.kill()
            writer.producer.close(timeout=1)
            private_broker.start()
            if hangs(setting, writer):
                break
        else:
            pytest.skip("the broker ended its transactions in five of five kills")
        monkeypatch.setattr(member_module, "ASK_MS", 2_000)
        heir = setting.another_log(
            producer={
                "transaction_timeout_ms": TIMEOUT_MS,
                "delivery_timeout_ms": 2_000,
                "request_timeout_ms": 1_000,
            }
        )
        heir.publisher(setting.group, [setting.output]).close()
        member = setting.member(heir)
        now: dict[int, Committed | None] = {}

        def answered() -> bool:
            try:
                now.update(member.committed([0]))
            except Transient:
                return False
            return True

        until(answered)
        done = count if committed else count - 1
        assert now[0] == (Committed(done, "") if committed else None)
        assert [*setting.outputs().values()] == (
            [b"%d" % number for number in range(1, count + 1)] if committed else []
        )
    finally:
        setting.close()


def hangs(setting: Setting, writer: Writer) -> bool:
    """Whether the group's offsets stay pending although the coordinator is done."""
    name = writer.name
    admin = setting.admin()

    def complete() -> bool:
        # The transaction coordinator comes back later than the broker's other parts.
        with contextlib.suppress(vendor.RetriableError):
            state = admin.describe_transactions([name])[name].state.value
            return bool(state.startswith("Complete"))
        return False

    until(complete)
    partition = partition_of_group(setting.group, int(SETTINGS["offsets.topic.num.partitions"]))
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        if not is_open(setting, OFFSETS, partition):
            return False
    return True
