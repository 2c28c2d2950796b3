"""kafka-python's names of options as librdkafka's: a configuration fits both clients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from stream_update.errors import ConfigError

__all__ = ["of_admin", "of_consumer", "of_producer", "only_known"]

CLIENT = {
    "client_id": "client.id",
    "connections_max_idle_ms": "connections.max.idle.ms",
    "metadata_max_age_ms": "topic.metadata.refresh.interval.ms",
    "receive_buffer_bytes": "socket.receive.buffer.bytes",
    "receive_message_max_bytes": "receive.message.max.bytes",
    "reconnect_backoff_max_ms": "reconnect.backoff.max.ms",
    "reconnect_backoff_ms": "reconnect.backoff.ms",
    "request_timeout_ms": "socket.timeout.ms",
    "retry_backoff_ms": "retry.backoff.ms",
    "sasl_kerberos_service_name": "sasl.kerberos.service.name",
    "sasl_mechanism": "sasl.mechanism",
    "sasl_plain_password": "sasl.password",
    "sasl_plain_username": "sasl.username",
    "security_protocol": "security.protocol",
    "send_buffer_bytes": "socket.send.buffer.bytes",
    "ssl_cafile": "ssl.ca.location",
    "ssl_certfile": "ssl.certificate.location",
    "ssl_check_hostname": "ssl.endpoint.identification.algorithm",
    "ssl_ciphers": "ssl.cipher.suites",
    "ssl_crlfile": "ssl.crl.location",
    "ssl_keyfile": "ssl.key.location",
    "ssl_password": "ssl.key.password",
}
CONSUMER = {
    "check_crcs": "check.crcs",
    "client_rack": "client.rack",
    "fetch_max_bytes": "fetch.max.bytes",
    "fetch_max_wait_ms": "fetch.wait.max.ms",
    "fetch_min_bytes": "fetch.min.bytes",
    "group_instance_id": "group.instance.id",
    "heartbeat_interval_ms": "heartbeat.interval.ms",
    "max_partition_fetch_bytes": "max.partition.fetch.bytes",
    "max_poll_interval_ms": "max.poll.interval.ms",
    "partition_assignment_strategy": "partition.assignment.strategy",
    "session_timeout_ms": "session.timeout.ms",
}
PRODUCER = {
    "batch_size": "batch.size",
    "compression_type": "compression.type",
    "delivery_timeout_ms": "delivery.timeout.ms",
    "linger_ms": "linger.ms",
    "max_in_flight_requests_per_connection": "max.in.flight.requests.per.connection",
    "max_request_size": "message.max.bytes",
    "retries": "retries",
    "transaction_timeout_ms": "transaction.timeout.ms",
}
OURS = frozenset({"bootstrap_timeout_ms", "max_block_ms", "metrics_enabled"})
"""What this package reads itself, or what there is nothing to say about to librdkafka."""

IN_GROUP = frozenset(
    {
        "group_instance_id",
        "heartbeat_interval_ms",
        "max_poll_interval_ms",
        "partition_assignment_strategy",
        "session_timeout_ms",
    }
)


def only_known(kind: str, given: Iterable[str]) -> None:
    """ConfigError for an option that kafka-python has and librdkafka has not."""
    for name in given:
        if name not in OURS and name not in CLIENT | CONSUMER | PRODUCER:
            raise ConfigError(
                f'Kafka {kind} option {name} does nothing with client = "librdkafka"',
                hint="leave it out, or use the other client",
            )


def of_consumer(options: Mapping[str, Any], *, group: bool) -> dict[str, Any]:
    """For a consumer; those about groups only for a member of one."""
    found = _translated(options, CLIENT | CONSUMER, without=frozenset() if group else IN_GROUP)
    chosen = found.get("partition.assignment.strategy")
    if chosen is not None and not isinstance(chosen, str):
        several = chosen if isinstance(chosen, list | tuple) else [chosen]
        found["partition.assignment.strategy"] = ",".join(map(str, several))
    return found


def of_producer(options: Mapping[str, Any]) -> dict[str, Any]:
    found = _translated(options, CLIENT | PRODUCER)
    # One limit there, two here: for the answer to one request, and for the acknowledgement.
    if "socket.timeout.ms" in found:
        found["request.timeout.ms"] = found["socket.timeout.ms"]
    return found


def of_admin(options: Mapping[str, Any]) -> dict[str, Any]:
    return _translated(options, CLIENT)


def _translated(
    options: Mapping[str, Any],
    names: Mapping[str, str],
    without: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    found = {
        names[name]: value
        for name, value in options.items()
        if name in names and name not in without and value is not None
    }
    if "ssl.endpoint.identification.algorithm" in found:
        checked = found["ssl.endpoint.identification.algorithm"]
        found["ssl.endpoint.identification.algorithm"] = "https" if checked else "none"
    return found
