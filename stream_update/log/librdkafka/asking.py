"""Topics and offsets: questions to the brokers, each under a deadline."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
)
from confluent_kafka import TopicPartition as VendorPartition
from confluent_kafka.admin import OffsetSpec

from stream_update.errors import ConfigError
from stream_update.events import Committed, TopicInfo, TopicPartition
from stream_update.log.librdkafka.refusals import cause, is_passing, translated

__all__ = ["Asking"]

ANSWER_S = 10.0
PAUSE_S = 0.1

FIRST, END = OffsetSpec.earliest(), OffsetSpec.latest()
MISSING = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.UNKNOWN_TOPIC_ID})
UNASSIGNED = frozenset(
    {
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001 - the vendor's own errors are named so
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    }
)
"""What is said of a partition that exists, for a moment after it was made."""


class Asking:
    """Asks through the admin client that ``admin`` gives; ``url`` is for messages."""

    def __init__(self, admin: Callable[[], Any], url: str) -> None:
        self._admin = admin
        self._url = url

    def describe(self, topic: str) -> TopicInfo:
        """A topic as it is now; ConfigError if it does not exist."""
        try:
            return _info(self.describing(topic).result())
        except KafkaException as error:
            if cause(error).code() in MISSING:
                raise ConfigError(
                    f"topic {topic} does not exist at {self._url}",
                    hint="create it with `stream-update topics create`, or correct the name",
                ) from error
            raise translated(error, f"looking up topic {topic}") from error

    def describing(self, topic: str) -> Future[Any]:
        """The same, without waiting."""
        asked = self._admin().describe_topics(TopicCollection([topic]), request_timeout=ANSWER_S)
        return asked[topic]  # type: ignore[no-any-return]

    def topics(self) -> dict[str, TopicInfo]:
        admin, found = self._admin(), {}
        try:
            names = [*admin.list_topics(timeout=ANSWER_S).topics]
            asked = admin.describe_topics(TopicCollection(names), request_timeout=ANSWER_S)
            for name, future in asked.items() if names else ():
                try:
                    told = future.result()
                except KafkaException as error:
                    if cause(error).code() in MISSING:
                        continue  # deleted in between
                    raise
                if not told.is_internal:
                    found[name] = _info(told)
        except KafkaException as error:
            raise translated(error, "listing the topics") from error
        return found

    def offsets(
        self, which: Mapping[TopicPartition, OffsetSpec], doing: str
    ) -> dict[TopicPartition, int]:
        """The committed offset that each specification stands for; -1 if there is none."""
        found: dict[TopicPartition, int] = {}
        left = dict(which)
        deadline = time.monotonic() + ANSWER_S
        while left:
            asked = self._admin().list_offsets(
                {VendorPartition(*one): spec for one, spec in left.items()},
                isolation_level=IsolationLevel.READ_COMMITTED,
                request_timeout=ANSWER_S,
            )
            for theirs, future in asked.items():
                one = TopicPartition(theirs.topic, theirs.partition)
                try:
                    found[one] = int(future.result().offset)
                except KafkaException as error:
                    known = cause(error)
                    again = is_passing(known) or known.code() in UNASSIGNED
                    if not again or time.monotonic() > deadline:
                        place = f"{one.topic}[{one.partition}]"
                        raise translated(error, f"asking for {doing} of {place}") from error
                else:
                    del left[one]
            if left:
                time.sleep(PAUSE_S)
        return found

    def first_offsets(self, where: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return self.offsets(dict.fromkeys(where, FIRST), "the first offset")

    def end_offsets(self, where: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return self.offsets(dict.fromkeys(where, END), "the end offset")

    def committed(self, group_id: str, topic: str) -> dict[int, Committed]:
        """As :meth:`stream_update.protocols.Log.committed`, of a topic that exists."""
        deadline = time.monotonic() + ANSWER_S
        while True:
            (future,) = (
                self._admin()
                .list_consumer_group_offsets(
                    [ConsumerGroupTopicPartitions(group_id, None)], request_timeout=ANSWER_S
                )
                .values()
            )
            try:
                told = future.result().topic_partitions
                break
            except KafkaException as error:
                known = cause(error)
                if known.code() == KafkaError.GROUP_ID_NOT_FOUND:
                    return {}
                # A group's coordinator is made when the first one asks for it.
                if not is_passing(known) or time.monotonic() > deadline:
                    doing = f"asking for the offsets of group {group_id}"
                    raise translated(error, doing) from error
                time.sleep(PAUSE_S)
        return {
            one.partition: Committed(one.offset, one.metadata or "")
            for one in told
            if one.topic == topic and one.offset >= 0
        }


def topic_id(told: Any) -> str:
    """As kafka-python writes it, so that a snapshot fits whichever client reads it."""
    high, low = (
        part & 0xFFFFFFFFFFFFFFFF
        for part in (
            told.topic_id.get_most_significant_bits(),
            told.topic_id.get_least_significant_bits(),
        )
    )
    return str(uuid.UUID(int=high << 64 | low))


def _info(told: Any) -> TopicInfo:
    return TopicInfo(told.name, topic_id(told), len(told.partitions))
