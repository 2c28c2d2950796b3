"""The log itself: its topics, and the makers of readers, members and writers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import NewPartitions, NewTopic

from stream_update.errors import ConfigError, Transient, Unreadable
from stream_update.events import Committed, TopicInfo, TopicPartition, TopicSpec
from stream_update.log.kafka import KafkaLog
from stream_update.log.kafka.janitor import Janitor
from stream_update.log.librdkafka.appender import LibrdkafkaAppender
from stream_update.log.librdkafka.asking import ANSWER_S, PAUSE_S, Asking
from stream_update.log.librdkafka.connect import Connect, Heard
from stream_update.log.librdkafka.fetching import Fetching
from stream_update.log.librdkafka.member import LibrdkafkaMember
from stream_update.log.librdkafka.publisher import LibrdkafkaPublisher
from stream_update.log.librdkafka.reader import LibrdkafkaReader
from stream_update.log.librdkafka.refusals import cause, translated
from stream_update.log.librdkafka.sending import Spread
from stream_update.log.librdkafka.unfenced import UnfencedPublisher
from stream_update.protocols import Closing, Delivery

__all__ = ["LibrdkafkaLog"]

READER_GROUP = "stream-update-reader"
READER_WAIT_MS = 20
GROW_S = 10.0


class LibrdkafkaLog(Closing):
    """A Kafka cluster; see :class:`stream_update.protocols.Log`.

    ``url`` is ``kafka://host:port``, with further brokers after commas. ``client``,
    ``consumer`` and ``producer`` hold options under kafka-python's names, for all clients,
    for those that read, and for those that write: ``security_protocol``,
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
        self._given = {"client": client, "consumer": consumer, "producer": producer}
        self._connect = Connect(url, client or {}, consumer or {}, producer or {})
        self._asking = Asking(self._connect.admin, url)
        self._lock = threading.Lock()
        self._sweeping: Any = None
        options = self._connect.options
        self._janitor = Janitor(self._sweeper, options.consumer, options.patience_s)
        self._written: set[str] = set()

    def close(self) -> None:
        self._connect.close()
        with self._lock:
            sweeper, self._sweeping = self._sweeping, None
        if sweeper is not None:
            sweeper.close()

    def create_topics(self, topics: Sequence[TopicSpec]) -> list[str]:
        if not topics:
            return []
        asked = self._connect.admin().create_topics(
            [
                NewTopic(
                    topic.name,
                    num_partitions=topic.partitions,
                    replication_factor=topic.replication_factor,
                    config=dict(topic.configs),
                )
                for topic in topics
            ],
            request_timeout=ANSWER_S,
        )
        created = []
        for name, future in asked.items():
            try:
                future.result()
            except KafkaException as error:
                if cause(error).code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise translated(error, f"creating topic {name}") from error
            else:
                created.append(name)
        deadline = time.monotonic() + GROW_S
        for topic in topics:
            while not self._is_known(topic.name):
                if time.monotonic() > deadline:
                    raise Transient(f"topic {topic.name} was created and is not there yet")
                time.sleep(PAUSE_S)
        return created

    def _is_known(self, topic: str) -> bool:
        try:
            self._asking.describe(topic)
        except ConfigError:
            return False
        return True

    def add_partitions(self, topic: str, total: int) -> None:
        if self._asking.describe(topic).partitions >= total:
            return
        (future,) = (
            self._connect.admin()
            .create_partitions([NewPartitions(topic, total)], request_timeout=ANSWER_S)
            .values()
        )
        try:
            future.result()
        except KafkaException as error:
            # Somebody else may have done it at the same moment.
            if cause(error).code() != KafkaError.INVALID_PARTITIONS:
                raise translated(error, f"adding partitions to topic {topic}") from error
        deadline = time.monotonic() + GROW_S
        while self._asking.describe(topic).partitions < total:
            if time.monotonic() > deadline:
                raise Transient(f"topic {topic} does not have {total} partitions yet")
            time.sleep(PAUSE_S)

    def topics(self) -> dict[str, TopicInfo]:
        return self._asking.topics()

    def committed(self, group_id: str, topic: str) -> dict[int, Committed]:
        self._asking.describe(topic)
        return self._asking.committed(group_id, topic)

    def reader(self) -> LibrdkafkaReader:
        # Readers restore: they seek often, and a seek waits for the fetch under way.
        consumer = self._connect.reader(READER_GROUP, **{"fetch.wait.max.ms": READER_WAIT_MS})
        return LibrdkafkaReader(self._fetching(consumer), self._asking, self._janitor)

    def member(self, group_id: str, topic: str, *, single: bool = False) -> LibrdkafkaMember:
        if single and self._connect.chose_strategy():
            raise ConfigError(
                'partition_assignment_strategy cannot be chosen with lanes = "single": all '
                "partitions go to one member by a rule of our own",
                hint="leave partition_assignment_strategy out",
            )
        found = self._asking.describe(topic)

        def join() -> Any:
            return self._connect.member(group_id, Heard(), **(self._as_single() if single else {}))

        reading = self._connect.reader(group_id)
        return LibrdkafkaMember(
            join,
            self._fetching(reading),
            group_id,
            found,
            eager=single or self._connect.is_eager(),
            partitions=(lambda: self._asking.describe(topic).partitions) if single else None,
            breathe_s=self._connect.options.breathe_s,
            overdue=lambda: self._janitor.tend_group(group_id, self._written),
        )

    def _as_single(self) -> dict[str, Any]:
        """Options by which one member is the first of its group, and stays it.

        The client takes no assignor of ours. Its roundrobin gives the first partition to the
        first member by name, and a broker lets names begin with the client's id: with the
        time in front, the oldest is first. No other strategy of this package is called so,
        and the broker turns away a member with another one.
        """
        return {
            "partition.assignment.strategy": "roundrobin",
            "client.id": f"{time.time_ns():020d}-{self._connect.client_id()}",
        }

    def publisher(
        self, group_id: str, topics: Iterable[str] = (), *, delivery: Delivery = "exactly-once"
    ) -> LibrdkafkaPublisher:
        written = [*topics]
        self._written.update(written)
        kind = LibrdkafkaPublisher if delivery == "exactly-once" else UnfencedPublisher
        return kind(group_id, self._connect, self._spread(), written)

    def appender(self) -> LibrdkafkaAppender:
        return LibrdkafkaAppender(self._connect, self._spread())

    def _fetching(self, consumer: Any) -> Fetching:
        return Fetching(consumer, self._asking, self._behind, self._connect.look_s)

    def _behind(self, where: TopicPartition, offset: int) -> int | None:
        """Asked of the other client, which takes batches apart where it can be watched."""
        deadline = time.monotonic() + ANSWER_S
        with KafkaLog(self.url, **self._given) as other, other.reader() as reader:
            reader.seek({where: offset})
            while time.monotonic() < deadline:
                try:
                    if reader.poll(PAUSE_S, 1):
                        return None
                except Unreadable as damage:
                    return damage.first
        raise Transient(f"{where.topic}[{where.partition}] at offset {offset} cannot be looked at")

    def _spread(self) -> Spread:
        return Spread(self._asking.describe, self._connect.options.max_request_size)

    def _sweeper(self) -> Any:
        """The janitor's client: librdkafka has no requests for what it does."""
        with self._lock:
            if self._sweeping is None:
                self._sweeping = self._connect.options.admin()
            return self._sweeping
