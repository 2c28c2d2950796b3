"""Options in, clients out: what the user gave, what we insist on, and the first connection."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from stream_update.errors import ConfigError, Transient
from stream_update.log.kafka.connect import CAUSES
from stream_update.log.kafka.connect import Connect as Options
from stream_update.log.librdkafka import options as names

__all__ = ["Connect", "Heard"]

QUIET = 0
FIRST_MS = 250
STRATEGIES = ("cooperative-sticky", "range")

OUR_CONSUMER = {
    "allow.auto.create.topics": False,
    "auto.offset.reset": "error",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    "isolation.level": "read_committed",
    # What is fetched ahead: enough for a second of learning, and bounded.
    "queued.max.messages.kbytes": 32 * 1024,
    "queued.min.messages": 50_000,
    # Once that is there the client rests for a second by default, in which a fast learner has
    # learned all of it and waits.
    "fetch.queue.backoff.ms": 10,
}
OUR_PRODUCER = {
    "allow.auto.create.topics": False,
    "enable.idempotence": True,
    # A record's own partition comes first; this is the rule of Kafka's Java client.
    "partitioner": "murmur2_random",
}


class Heard:
    """What one client was told by its connections; any thread may ask."""

    def __init__(self) -> None:
        self.lost = False
        self.said = ""

    def __call__(self, error: KafkaError) -> None:
        self.lost = True
        # That all are down says nothing about why, and comes after the reason.
        if error.code() != KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001
            self.said = error.str()


class Connect:
    """Makes the clients of one log with the user's options, ours, and those we insist on.

    ``client`` holds options of all clients, ``consumer`` and ``producer`` those of one
    kind; all are kafka-python's own names. Raises :class:`ConfigError` for one that
    does not exist, that is not the user's to set, or that librdkafka knows nothing of.
    """

    def __init__(
        self,
        url: str,
        client: Mapping[str, Any],
        consumer: Mapping[str, Any],
        producer: Mapping[str, Any],
    ) -> None:
        self.options = Options(url, client, consumer, producer)
        for kind, given in (("client", client), ("consumer", consumer), ("producer", producer)):
            names.only_known(kind, given)
        self._chose = "partition_assignment_strategy" in self.options.consumer_options
        self._member = {
            "partition.assignment.strategy": STRATEGIES[0],
            **names.of_consumer(self.options.consumer_options, group=True),
        }
        _check_strategy(self._member["partition.assignment.strategy"])
        self._reader = names.of_consumer(self.options.consumer_options, group=False)
        self._producer = names.of_producer(self.options.producer_options)
        self._servers = ",".join(self.options.servers)
        self._lock = threading.Lock()
        self._admin: Any = None
        self._reached = False

    @property
    def block_s(self) -> float:
        """How long a producer may take to begin, in seconds."""
        return float(self.options.producer_options["max_block_ms"]) / 1000

    @property
    def look_s(self) -> float:
        """How often to look whether a topic that is read is still the same one."""
        return float(self.options.consumer_options["metadata_max_age_ms"]) / 1000

    def chose_strategy(self) -> bool:
        return self._chose

    def is_eager(self) -> bool:
        return bool(self._member["partition.assignment.strategy"] != STRATEGIES[0])

    def close(self) -> None:
        with self._lock:
            self._admin = None

    def admin(self) -> Any:
        """The one admin client; made, and the first connection with it, when asked for."""
        with self._lock:
            if self._admin is None:
                self._admin = self._reach()
            return self._admin

    def reader(self, group_id: str, **own: Any) -> Any:
        """A consumer that is in no group; ``group_id`` is only a name that it has to have."""
        self.admin()
        return self._made(
            Consumer, {**self._reader, **OUR_CONSUMER, "group.id": group_id, **own}, Heard()
        )

    def member(self, group_id: str, heard: Heard, **own: Any) -> Any:
        """A consumer that takes part in a group."""
        self.admin()
        return self._made(
            Consumer, {**self._member, **OUR_CONSUMER, "group.id": group_id, **own}, heard
        )

    def client_id(self) -> str:
        return str(self._member.get("client.id", "rdkafka"))

    def producer(self, heard: Heard, **own: Any) -> Any:
        self.admin()
        return self._made(Producer, {**self._producer, **OUR_PRODUCER, **own}, heard)

    def _made(self, kind: Any, options: Mapping[str, Any], heard: Heard) -> Any:
        try:
            return kind(
                {
                    **options,
                    "bootstrap.servers": self._servers,
                    "error_cb": heard,
                    # What matters comes out of the calls; else it would go to standard error.
                    "log_level": QUIET,
                }
            )
        except KafkaException as error:
            raise ConfigError(
                f"librdkafka does not accept these options: {error.args[0].str()}",
                hint="they stand under [kafka], in kafka-python's spelling",
            ) from error

    def _reach(self) -> Any:
        heard = Heard()
        admin = self._made(AdminClient, names.of_admin(self.options.consumer_options), heard)
        limit_s = float(self.options.consumer_options["bootstrap_timeout_ms"]) / 1000
        deadline = time.monotonic() + limit_s
        while True:
            left_s = max(0.01, deadline - time.monotonic())
            try:
                admin.list_topics(timeout=min(left_s, 1.0))
                break
            except KafkaException as error:
                admin.poll(0)
                if time.monotonic() < deadline:
                    time.sleep(min(left_s, FIRST_MS / 1000))
                    continue
                message = f"no Kafka broker answered at {self._servers.replace(',', ', ')}"
                if heard.said:
                    message += f" (the client was told: {heard.said})"
                kind = Transient if self._reached else ConfigError
                raise kind(message, hint=CAUSES) from error
        self._reached = True
        return admin


def _check_strategy(chosen: str) -> None:
    for one in chosen.split(","):
        if one not in STRATEGIES:
            raise ConfigError(
                f'partition_assignment_strategy: {one!r} cannot be used with client = "librdkafka"',
                hint=f'one of {", ".join(STRATEGIES)}; roundrobin is what lanes = "single" uses',
            )
