"""A corner of the shared Kafka broker for one test, and groups that are polled in turn."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

from kafka import KafkaAdminClient
from kafka.admin import MemberToRemove

from stream_update.events import Record, TopicPartition, TopicSpec
from stream_update.log.kafka import KafkaLog
from stream_update.log.kafka.member import KafkaMember
from stream_update.log.kafka.publisher import KafkaPublisher
from stream_update.log.kafka.reader import KafkaReader

__all__ = ["Crowd", "Setting", "until"]

PATIENCE_S = 40.0


def until(holds: Callable[[], object]) -> None:
    """Call it until it is true; fail after :data:`PATIENCE_S`."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"


class Setting:
    """A log with a source of three partitions, an output topic, and a group, all its own."""

    def __init__(self, bootstrap: str, client: str = "kafka-python", **options: Any) -> None:
        self.bootstrap = bootstrap
        self.client = client
        tag = uuid.uuid4().hex[:8]
        self.source, self.output, self.group = f"source-{tag}", f"output-{tag}", f"group-{tag}"
        self._open: list[Any] = []
        self.log = self.another_log(**options)
        self.log.create_topics([TopicSpec(self.source, 3), TopicSpec(self.output)])

    def close(self) -> None:
        for closing in reversed(self._open):
            closing.close()

    def another_log(self, *, by: str = "", **options: Any) -> KafkaLog:
        """One with other options, or by another client."""
        kind: type[Any] = KafkaLog
        if (by or self.client) == "librdkafka":
            from stream_update.log.librdkafka import LibrdkafkaLog as kind  # noqa: N813, PLC0415
        log: KafkaLog = kind(f"kafka://{self.bootstrap}", **options)
        self._open.append(log)
        return log

    def member(self, log: KafkaLog | None = None, *, single: bool = False) -> KafkaMember:
        member = (log or self.log).member(self.group, self.source, single=single)
        self._open.append(member)
        return member

    def joined(self, log: KafkaLog | None = None) -> KafkaMember:
        """A member that owns all partitions."""
        member = self.member(log)
        Crowd(member).settle(3)
        return member

    def publisher(self) -> KafkaPublisher:
        publisher = self.log.publisher(self.group)
        self._open.append(publisher)
        return publisher

    def reader(self) -> KafkaReader:
        reader = self.log.reader()
        self._open.append(reader)
        return reader

    def admin(self) -> KafkaAdminClient:
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        self._open.append(admin)
        return admin

    def evict(self, member: KafkaMember) -> None:
        self.admin().remove_group_members(
            self.group, [MemberToRemove(member_id=member.identity.member_id)]
        )

    def fill(self, count: int, partition: int = 0) -> None:
        with self.log.appender() as appender:
            appender.append(
                Record(self.source, b"%d" % i, partition=partition) for i in range(count)
            )
            appender.flush()

    def outputs(self) -> dict[int, bytes | None]:
        """Everything committed in the output topic, by offset."""
        reader, where = self.reader(), TopicPartition(self.output, 0)
        end = reader.end_offsets([where])[where]
        reader.seek({where: 0})
        found: dict[int, bytes | None] = {}

        def at_end() -> bool:
            for batch in reader.poll(0.1):
                found.update(zip(batch.offsets, batch.values, strict=True))
            return reader.position(where) >= end

        until(at_end)
        return found


def generation(member: KafkaMember) -> int:
    """Of the round that it is in; -1 for none."""
    return -1 if member.identity is None else int(member.identity.generation_id)


class Crowd:
    """Members polled in turn, with what each owns by its own reports."""

    def __init__(self, *members: KafkaMember) -> None:
        self.owned: dict[KafkaMember, set[int]] = {member: set() for member in members}

    def add(self, member: KafkaMember) -> None:
        self.owned[member] = set()

    def join(self, member: KafkaMember) -> None:
        """Add a member and wait until all others have taken notice."""
        before = {other: generation(other) for other in self.owned}
        self.add(member)
        self.until(lambda: all(generation(m) > g for m, g in before.items()))

    def leave(self, member: KafkaMember) -> None:
        member.close()
        del self.owned[member]

    def turn(self) -> None:
        for member, owned in self.owned.items():
            poll = member.poll(0.05)
            owned -= set(poll.lost)
            assert not owned & set(poll.gained), "gained twice without a loss"
            owned |= set(poll.gained)

    def until(self, holds: Callable[[], object]) -> None:
        """Poll all members in turn until it is true of a group at rest."""

        def at_rest() -> bool:
            self.turn()
            return bool(holds()) and all(member.stable() for member in self.owned)

        until(at_rest)
        together = [partition for owned in self.owned.values() for partition in owned]
        assert sorted(together) == sorted(set(together)), "owned by two members"

    def settle(self, *sizes: int) -> None:
        """Until so many partitions are owned, member by member in ascending order."""
        self.until(lambda: sorted(map(len, self.owned.values())) == sorted(sizes))

    def owner_of_all(self) -> KafkaMember:
        return max(self.owned, key=lambda member: len(self.owned[member]))
