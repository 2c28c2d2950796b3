"""Options in, clients out: what the user gave, what we insist on, and the first connection."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka import errors as vendor
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from kafka.net.compat import KafkaNetClient

from stream_update.errors import ConfigError, Transient
from stream_update.log.kafka.parsing import install
from stream_update.log.kafka.refusals import translated

__all__ = ["Connect", "bootstrap_servers"]

T = TypeVar("T")

DEFAULT_PORT = 9092
HEARTBEAT_MS = 1_000
PORTS = range(1, 65536)

CLIENT = {
    "bootstrap_timeout_ms": 10_000,
    # The client's own 30 s make every recovery from a broker's restart as slow.
    "reconnect_backoff_max_ms": 1_000,
}
CONSUMER = {
    "check_crcs": True,
    # A seek waits for the fetch under way, which the broker holds this long at most.
    "fetch_max_wait_ms": 100,
    "fetch_min_bytes": 1,
    "max_partition_fetch_bytes": 4 * 1024 * 1024,
    "max_poll_interval_ms": 300_000,
    # How long a new partition, or a topic created again in an instant, can go unnoticed.
    "metadata_max_age_ms": 10_000,
    "metrics_enabled": False,
    "retry_backoff_ms": 20,
    "session_timeout_ms": 30_000,
}
PRODUCER = {
    "delivery_timeout_ms": 12_000,
    "linger_ms": 5,
    "max_block_ms": 10_000,
    "max_request_size": 1024 * 1024,
    "metrics_enabled": False,
    "request_timeout_ms": 5_000,
    # Also the wait after "the transaction before is not quite finished".
    "retry_backoff_ms": 5,
    "transaction_timeout_ms": 15_000,
}
PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
ADMIN = {"request_timeout_ms": 10_000}

OWNED = {
    "acks": "a checkpoint needs all replicas",
    "allow_auto_create_topics": "topics are created by `topics create`",
    "api_version": "it is asked of the broker",
    "auto_commit_interval_ms": "positions are committed with the checkpoint",
    "auto_offset_reset": "a position that the log no longer holds is an error, never a silent jump",
    "bootstrap_servers": "it is the host and port of `log`",
    "consumer_timeout_ms": "the worker says how long to wait",
    "default_offset_commit_callback": "positions are committed with the checkpoint",
    "enable_auto_commit": "positions are committed with the checkpoint",
    "enable_idempotence": "a checkpoint needs it",
    "group_id": "the group is named by the configuration's `group_id`",
    "isolation_level": "only committed records may be read",
    "key_deserializer": "the codec decodes, and a failing one makes the client hang",
    "key_serializer": "the codec encodes",
    "kafka_client": "the adapter was checked with the client's own",
    "max_poll_records": "the worker says how many records it takes",
    "transactional_id": "it has to be new for each process, or a former process can abort a "
    "checkpoint of this one",
    "value_deserializer": "the codec decodes, and a failing one makes the client hang",
    "value_serializer": "the codec encodes",
}
"""Options that are not the user's to set, and why."""

CONSUMER_TIMEOUTS = (
    ("heartbeat_interval_ms", 3, "session_timeout_ms", "two heartbeats may be late or lost"),
    ("fetch_max_wait_ms", 1, "request_timeout_ms", "the broker holds a fetch for that long"),
)
PRODUCER_TIMEOUTS = (
    ("request_timeout_ms", 1, "delivery_timeout_ms", "one try has to fit in"),
    (
        "delivery_timeout_ms",
        1,
        "transaction_timeout_ms",
        "the broker would abort a checkpoint that is still on its way",
    ),
)
"""Name, how often it has to fit into which other, and why."""

LONGEST_TRANSACTION_MS = 60_000
GRACE_S = 5.0

ASSIGNORS = {
    "cooperative-sticky": CooperativeStickyAssignor,
    "range": RangePartitionAssignor,
    "roundrobin": RoundRobinPartitionAssignor,
    "sticky": StickyPartitionAssignor,
}
"""Assignors by the names that the broker knows them by."""

CAUSES = (
    "is the broker up? Does its advertised.listeners name an address that this machine can "
    "reach? Do security_protocol, the TLS files and the sasl_* credentials fit that listener? "
    "(a wrong password can look like a broker that is down)"
)


def bootstrap_servers(url: str) -> list[str]:
    """``kafka://host:port,host2:port2`` as a list of ``host:port``."""
    parts = urlsplit(url)
    example = 'for example "kafka://127.0.0.1:9092" or "kafka://one:9092,two:9092"'
    if parts.scheme != "kafka" or not parts.netloc:
        raise ConfigError(f"log: {url!r} is no Kafka address", hint=example)
    if parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise ConfigError(
            f"log: {url!r} has more than hosts and ports",
            hint=f"{example}; credentials and options stand under [kafka]",
        )
    servers = []
    for server in parts.netloc.split(","):
        host, colon, port = server.rpartition(":")
        if not colon or server.endswith("]"):
            host, port = server, str(DEFAULT_PORT)
        if not host or not port.isdigit() or int(port) not in PORTS:
            raise ConfigError(f"log: {server!r} in {url!r} is no host:port", hint=example)
        servers.append(f"{host}:{port}")
    return servers


class Connect:
    """Makes the clients of one log with the user's options, ours, and those we insist on.

    ``client`` holds options of all clients, ``consumer`` and ``producer`` those of one
    kind; all are kafka-python's own names. Raises :class:`ConfigError` for one that
    does not exist or that is not the user's to set.
    """

    def __init__(
        self,
        url: str,
        client: Mapping[str, Any],
        consumer: Mapping[str, Any],
        producer: Mapping[str, Any],
    ) -> None:
        self.servers = bootstrap_servers(url)
        of_consumer, of_producer = (
            set(KafkaConsumer.DEFAULT_CONFIG),
            set(KafkaProducer.DEFAULT_CONFIG),
        )
        _check("client", client, of_consumer & of_producer, of_consumer | of_producer)
        _check("consumer", consumer, of_consumer, of_consumer | of_producer)
        _check("producer", producer, of_producer, of_consumer | of_producer)
        self._consumer = {**CLIENT, **CONSUMER, **client, **consumer}
        self._producer = {**CLIENT, **PRODUCER, **client, **producer}
        self._admin = {
            key: value
            for key, value in {**CLIENT, **ADMIN, **client}.items()
            if key in KafkaAdminClient.DEFAULT_CONFIG
        }
        _check_security(self._consumer)
        _check_security(self._producer)
        if "heartbeat_interval_ms" not in self._consumer:
            session_ms = int(self._consumer["session_timeout_ms"])
            self._consumer["heartbeat_interval_ms"] = min(HEARTBEAT_MS, max(1, session_ms // 4))
        _check_timeouts(self._consumer, "consumer", CONSUMER_TIMEOUTS)
        _check_timeouts(self._producer, "producer", PRODUCER_TIMEOUTS)
        self._reached = False
        _quieten()

    @property
    def consumer_options(self) -> Mapping[str, Any]:
        """All options of what reads, checked, with the defaults."""
        return self._consumer

    @property
    def producer_options(self) -> Mapping[str, Any]:
        """All options of what writes, checked, with the defaults."""
        return self._producer

    @property
    def breathe_s(self) -> float:
        """How often a member that is busy polls nevertheless, in seconds."""
        limits = (self._consumer["session_timeout_ms"], self._consumer["max_poll_interval_ms"])
        return float(min(limits)) / 4000

    @property
    def step_s(self) -> float:
        """How long one step of a checkpoint may take, in seconds."""
        return float(self._producer["delivery_timeout_ms"]) / 1000

    @property
    def patience_s(self) -> float:
        """After how many seconds without a change a transaction is no longer normal."""
        return float(self._producer["transaction_timeout_ms"]) / 1000 + GRACE_S

    @property
    def max_request_size(self) -> int:
        """The largest record that a producer accepts, in bytes."""
        return int(self._producer["max_request_size"])

    def admin(self) -> KafkaAdminClient:
        return self._reach(KafkaAdminClient, self._admin)

    def consumer(self, **own: Any) -> KafkaConsumer:
        options = {
            **self._consumer,
            "allow_auto_create_topics": False,
            "auto_offset_reset": "none",
            "enable_auto_commit": False,
            "isolation_level": "read_committed",
            **own,
        }
        if "group_id" not in own:
            options.pop("group_instance_id", None)  # the client takes it in a group only
        consumer = self._reach(KafkaConsumer, options)
        install(consumer)
        return consumer

    def producer(self, **own: Any) -> KafkaProducer:
        return self._reach(
            KafkaProducer, {**self._producer, "allow_auto_create_topics": False, **own}
        )

    def assignors(self) -> list[Any]:
        """What the user chose as ``partition_assignment_strategy``, or cooperative-sticky."""
        given = self._consumer.get("partition_assignment_strategy")
        if given is None:
            return [CooperativeStickyAssignor()]
        chosen = []
        for one in [given] if isinstance(given, str) else given:
            kind = ASSIGNORS.get(one) if isinstance(one, str) else one
            if kind is None:
                raise ConfigError(
                    f"partition_assignment_strategy: there is no {one!r}",
                    hint=f"one or more of {', '.join(ASSIGNORS)}",
                )
            chosen.append(kind() if isinstance(kind, type) else kind)
        return chosen

    def chose_assignors(self) -> bool:
        return "partition_assignment_strategy" in self._consumer

    def _reach(self, kind: Callable[..., T], options: Mapping[str, Any]) -> T:
        _overhear.said = ""
        try:
            client = _made(kind, {**options, "bootstrap_servers": self.servers})
        except vendor.KafkaTimeoutError as error:
            message = f"no Kafka broker answered at {', '.join(self.servers)}"
            if _overhear.said:
                message += f" (the client was told: {_overhear.said})"
            if self._reached:
                raise Transient(message, hint=CAUSES) from error
            raise ConfigError(message, hint=CAUSES) from error
        except (TypeError, ValueError, RuntimeError, OSError, ImportError) as error:
            raise ConfigError(
                f"kafka-python does not accept these options: {error}",
                hint="they stand under [kafka]; codecs need their package installed",
            ) from error
        except vendor.KafkaError as error:
            raise translated(error, f"connecting to {', '.join(self.servers)}") from error
        self._reached = True
        return client


def _check_timeouts(
    options: Mapping[str, Any], kind: str, relations: Iterable[tuple[str, int, str, str]]
) -> None:
    for name, times, limit, why in relations:
        inner, outer = options.get(name), options.get(limit)
        if not (isinstance(inner, int | float) and isinstance(outer, int | float)):
            continue  # the client says what is wrong with it
        if inner * times > outer:
            raise ConfigError(
                f"[kafka.{kind}] {name} = {inner} is too long for {limit} = {outer}: {why}",
                hint=f"{limit} has to be at least {'' if times == 1 else f'{times} times '}{name}",
            )
    longest = options.get("transaction_timeout_ms")
    if isinstance(longest, int | float) and longest > LONGEST_TRANSACTION_MS:
        raise ConfigError(
            f"[kafka.{kind}] transaction_timeout_ms = {longest} is too long: after a crash the "
            "partition's next owner waits until its last transaction has timed out",
            hint=f"at most {LONGEST_TRANSACTION_MS}; 15000 is the default",
        )


def _made(kind: Callable[..., T], options: Mapping[str, Any]) -> T:
    """A client; one that cannot be made leaves no thread behind that goes on trying."""
    begun: list[KafkaNetClient] = []

    def begin(**given: Any) -> KafkaNetClient:
        begun.append(KafkaNetClient(**given))
        return begun[-1]

    try:
        return kind(**options, kafka_client=begin)
    except BaseException:
        for half_made in begun:
            half_made.close()
        raise


def _check(kind: str, given: Mapping[str, Any], known: set[str], all_known: set[str]) -> None:
    for name in given:
        if name in OWNED:
            raise ConfigError(
                f"Kafka {kind} option {name} cannot be set: {OWNED[name]}", hint="leave it out"
            )
        if name in known:
            continue
        if name in all_known:
            other = "producer" if kind == "consumer" else "consumer"
            if kind == "client":
                other = "consumer" if name in KafkaConsumer.DEFAULT_CONFIG else "producer"
            raise ConfigError(
                f"Kafka {kind} option {name} does not exist: it is one of the {other}",
                hint=f"put it under [kafka.{other}]",
            )
        close = difflib.get_close_matches(name.replace(".", "_").replace("-", "_"), known, 3)
        raise ConfigError(
            f"Kafka {kind} option {name} does not exist",
            hint=f"did you mean {' or '.join(close)}?"
            if close
            else "the names are those of kafka-python's KafkaConsumer and KafkaProducer",
        )


def _check_security(options: Mapping[str, Any]) -> None:
    """The client takes any word it does not know for PLAINTEXT, in silence."""
    protocol = options.get("security_protocol", "PLAINTEXT")
    if protocol not in PROTOCOLS:
        raise ConfigError(
            f"security_protocol: {protocol!r} is none", hint=f"one of {', '.join(PROTOCOLS)}"
        )
    for prefix, word in (("ssl_", "SSL"), ("sasl_", "SASL")):
        unused = sorted(name for name in options if name.startswith(prefix))
        if unused and word not in protocol:
            raise ConfigError(
                f"{unused[0]} is set, but security_protocol is {protocol}: it would not be used",
                hint=f"set security_protocol to {' or '.join(p for p in PROTOCOLS if word in p)}",
            )


class _Overhear(logging.Filter):
    """Keeps the most telling error that the client told only its logger."""

    def __init__(self) -> None:
        super().__init__()
        self.said = ""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.args[-1] if isinstance(record.args, tuple) and record.args else None
        telling = isinstance(error, Exception) and not isinstance(error, vendor.KafkaTimeoutError)
        # A refused password ends the connection, and the last try ends with the time: that
        # says nothing, and must not hide what an earlier try was told.
        vague = isinstance(error, vendor.RequestTimedOutError) or any(
            word in str(error) for word in ("disconnected", "timed out")
        )
        if telling and not (self.said and vague):
            self.said = str(error)
        return logging.getLogger("kafka").level < logging.CRITICAL


_overhear = _Overhear()


def _quieten() -> None:
    """Keep what is normal for the client (a retry, a reconnect) out of the program's log.

    Nothing is lost: what matters comes out of its calls, and why it could not connect
    is overheard. Whoever has set the level of the logger ``kafka`` keeps it.
    """
    logger = logging.getLogger("kafka")
    quiet = logger.level in {logging.NOTSET, logging.CRITICAL}
    logger.setLevel(logging.CRITICAL if quiet else logger.level)
    for name in ("kafka.net.connection", "kafka.net.manager"):
        connecting = logging.getLogger(name)
        connecting.addFilter(_overhear)
        if quiet:
            connecting.setLevel(logging.ERROR)
