"""The log itself: its topics, and the makers of readers, members and writers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kafka import errors as vendor

from stream_update.errors import ConfigError, Transient
from stream_update.events import Committed, TopicInfo, TopicSpec
from stream_update.log.kafka.appender import KafkaAppender
from stream_update.log.kafka.assignor import SingleOwnerAssignor
from stream_update.log.kafka.connect import Connect
from stream_update.log.kafka.janitor import Janitor
from stream_update.log.kafka.member import KafkaMember
from stream_update.log.kafka.polling import note_of
from stream_update.log.kafka.publisher import KafkaPublisher
from stream_update.log.kafka.reader import KafkaReader
from stream_update.log.kafka.refusals import translated
from stream_update.log.kafka.sending import Spread
from stream_update.log.kafka.unfenced import UnfencedPublisher
from stream_update.protocols import Closing, Delivery

__all__ = ["KafkaLog"]

READER_WAIT_MS = 50
GROW_S = 10.0
ANSWER_S = 10.0
PAUSE_S = 0.1


class KafkaLog(Closing):
    """A Kafka cluster; see :class:`stream_update.protocols.Log`.

    ``url`` is ``kafka://host:port``, with further brokers after commas. ``client``,
    ``consumer`` and ``producer`` hold kafka-python's own options, for all clients, for
    those that read, and for those that write: ``security_protocol``,
    ``session_timeout_ms``, ``compression_type``. The first connection is made by the
    first call that needs one; if no broker answers within ``bootstrap_timeout_ms``
    (10 s) that call raises :class:`~stream_update.errors.ConfigError`.
    """

    def __init__(
        self,
        url: str,
        *,
        client: Mapping[str, Any] | None = None,
        consumer: Mapping[str, Any] | None = None,
        producer: Mapping[str, Any] | None = None,
    ) -> None:
        self.url = url
        self._connect = Connect(url, client or {}, consumer or {}, producer or {})
        self._lock = threading.Lock()
        self._admin: Any = None
        self._janitor = Janitor(self._asking, self._connect.consumer, self._connect.patience_s)
        self._written: set[str] = set()

    def close(self) -> None:
        with self._lock:
            admin, self._admin = self._admin, None
        if admin is not None:
            admin.close()

    def create_topics(self, topics: Sequence[TopicSpec]) -> list[str]:
        if not topics:
            return []
        wanted = {
            topic.name: {
                "num_partitions": topic.partitions,
                "replication_factor": topic.replication_factor,
                "configs": dict(topic.configs),
            }
            for topic in topics
        }
        try:
            admin = self._asking()
            answer = admin.create_topics(wanted, raise_errors=False)
            created = []
            for result in answer["topics"]:
                refusal = vendor.for_code(result["error_code"])
                if refusal is vendor.NoError:
                    created.append(result["name"])
                elif refusal is not vendor.TopicAlreadyExistsError:
                    raise refusal(f"topic {result['name']}: {result['error_message']}")
            admin.wait_for_topics([*wanted])
        except vendor.KafkaError as error:
            raise translated(error, "creating topics") from error
        return created

    def add_partitions(self, topic: str, total: int) -> None:
        if self._describe(topic).partitions >= total:
            return
        doing = f"adding partitions to topic {topic}"
        try:
            admin = self._asking()
            (result,) = admin.create_partitions({topic: total}, raise_errors=False).results
            refusal = vendor.for_code(result.error_code)
            # Somebody else may have done it at the same moment.
            if refusal not in {vendor.NoError, vendor.InvalidPartitionsError}:
                raise refusal(result.error_message)
            deadline = time.monotonic() + GROW_S
            while self._describe(topic).partitions < total:
                if time.monotonic() > deadline:
                    raise Transient(f"topic {topic} does not have {total} partitions yet")
                time.sleep(PAUSE_S)
        except vendor.KafkaError as error:
            raise translated(error, doing) from error

    def topics(self) -> dict[str, TopicInfo]:
        try:
            found = self._asking().describe_topics()
        except vendor.KafkaError as error:
            raise translated(error, "listing the topics") from error
        return {
            topic["name"]: _info(topic)
            for topic in found
            if not topic["is_internal"] and topic["error_code"] == 0
        }

    def committed(self, group_id: str, topic: str) -> dict[int, Committed]:
        self._describe(topic)
        deadline = time.monotonic() + ANSWER_S
        while True:
            try:
                found = self._asking().list_group_offsets([group_id])[group_id]
                break
            except vendor.GroupIdNotFoundError:
                return {}
            except vendor.KafkaError as error:
                # A group's coordinator is made when the first one asks for it.
                if isinstance(error, vendor.RetriableError) and time.monotonic() < deadline:
                    time.sleep(PAUSE_S)
                    continue
                raise translated(error, f"asking for the offsets of group {group_id}") from error
        return {
            where.partition: Committed(at.offset, note_of(at))
            for where, at in found.items()
            if where.topic == topic and at.offset >= 0
        }

    def reader(self) -> KafkaReader:
        # Readers restore: they seek often, and a seek waits for the fetch under way.
        consumer = self._connect.consumer(fetch_max_wait_ms=READER_WAIT_MS)
        return KafkaReader(consumer, self._describe, self._janitor)

    def member(self, group_id: str, topic: str, *, single: bool = False) -> KafkaMember:
        if single and self._connect.chose_assignors():
            raise ConfigError(
                'partition_assignment_strategy cannot be chosen with lanes = "single": all '
                "partitions go to one member by an assignor of our own",
                hint="leave partition_assignment_strategy out",
            )
        found = self._describe(topic)
        assignors = [SingleOwnerAssignor()] if single else self._connect.assignors()
        consumer = self._connect.consumer(
            group_id=group_id, partition_assignment_strategy=assignors
        )
        return KafkaMember(
            consumer,
            group_id,
            found,
            assignors,
            breathe_s=self._connect.breathe_s,
            overdue=lambda: self._janitor.tend_group(group_id, self._written),
        )

    def publisher(
        self, group_id: str, topics: Iterable[str] = (), *, delivery: Delivery = "exactly-once"
    ) -> KafkaPublisher:
        written = [*topics]
        self._written.update(written)
        kind = KafkaPublisher if delivery == "exactly-once" else UnfencedPublisher
        return kind(group_id, self._connect, self._spread(), written)

    def appender(self) -> KafkaAppender:
        return KafkaAppender(self._connect, self._spread())

    def _spread(self) -> Spread:
        return Spread(self._describe, self._connect.max_request_size)

    def _describe(self, topic: str) -> TopicInfo:
        """A topic as it is now; ConfigError if it does not exist."""
        try:
            (found,) = self._asking().describe_topics([topic])
        except vendor.KafkaError as error:
            raise translated(error, f"looking up topic {topic}") from error
        refusal = vendor.for_code(found["error_code"])
        if refusal is vendor.UnknownTopicOrPartitionError:
            raise ConfigError(
                f"topic {topic} does not exist at {self.url}",
                hint="create it with `stream-update topics create`, or correct the name",
            )
        if refusal is not vendor.NoError:
            raise translated(refusal(), f"looking up topic {topic}")
        return _info(found)

    def _asking(self) -> Any:
        with self._lock:
            if self._admin is None:
                self._admin = self._connect.admin()
            return self._admin


def _info(topic: Mapping[str, Any]) -> TopicInfo:
    return TopicInfo(topic["name"], str(topic["topic_id"]), len(topic["partitions"]))
