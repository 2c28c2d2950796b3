"""The vendor's errors become ours, here and nowhere else."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException

from stream_update.errors import ConfigError, Fatal, StreamUpdateError, Transient

__all__ = ["FENCED", "NEEDS_A_PERSON", "STALE_MEMBER", "cause", "is_passing", "translated"]

NEEDS_A_PERSON = frozenset(
    {
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.GROUP_MAX_SIZE_REACHED,
        KafkaError.INCONSISTENT_GROUP_PROTOCOL,
        KafkaError.INVALID_CONFIG,
        KafkaError.INVALID_GROUP_ID,
        KafkaError.INVALID_PARTITIONS,
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.INVALID_SESSION_TIMEOUT,
        KafkaError.INVALID_TRANSACTION_TIMEOUT,
        KafkaError.POLICY_VIOLATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.SECURITY_DISABLED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.UNSUPPORTED_VERSION,
        KafkaError._AUTHENTICATION,  # noqa: SLF001 - the vendor's own errors are named so
        KafkaError._INVALID_ARG,  # noqa: SLF001
        KafkaError._UNSUPPORTED_FEATURE,  # noqa: SLF001
    }
)
"""What the broker or the client says when no retry and no restart can help."""

STALE_MEMBER = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.UNKNOWN_MEMBER_ID,
    }
)
"""What the broker says to a member that the group has gone on without."""

FENCED = frozenset({KafkaError.FENCED_INSTANCE_ID})

PASSING = frozenset(
    {
        KafkaError.CONCURRENT_TRANSACTIONS,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.NOT_CONTROLLER,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.UNSTABLE_OFFSET_COMMIT,
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
        KafkaError._MSG_TIMED_OUT,  # noqa: SLF001
        KafkaError._RESOLVE,  # noqa: SLF001
        KafkaError._TIMED_OUT,  # noqa: SLF001
        KafkaError._TIMED_OUT_QUEUE,  # noqa: SLF001
        KafkaError._TRANSPORT,  # noqa: SLF001
        KafkaError._WAIT_COORD,  # noqa: SLF001
    }
)

HINTS = {
    KafkaError.GROUP_AUTHORIZATION_FAILED: "allow READ on the consumer group",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "allow this user to use the topic",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: (
        "allow WRITE on the transactional ids that start with the group's name"
    ),
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "allow IDEMPOTENT_WRITE on the cluster",
    KafkaError.SASL_AUTHENTICATION_FAILED: "check sasl_plain_username and sasl_plain_password",
    KafkaError._AUTHENTICATION: (  # noqa: SLF001
        "check sasl_plain_username and sasl_plain_password"
    ),
    KafkaError.INCONSISTENT_GROUP_PROTOCOL: (
        "all members of a group must agree on `lanes`, on partition_assignment_strategy and, "
        'with lanes = "single", on the client: stop the others, or use another group_id'
    ),
    KafkaError.INVALID_REPLICATION_FACTOR: "the cluster has fewer brokers than that",
    KafkaError.INVALID_SESSION_TIMEOUT: (
        "session_timeout_ms must lie between the broker's group.min.session.timeout.ms "
        "and group.max.session.timeout.ms"
    ),
    KafkaError.INVALID_TRANSACTION_TIMEOUT: (
        "transaction_timeout_ms must not exceed the broker's transaction.max.timeout.ms"
    ),
}


def cause(error: KafkaException | KafkaError) -> KafkaError:
    """What an exception of the client is about."""
    found = error.args[0] if isinstance(error, KafkaException) else error
    return found if isinstance(found, KafkaError) else KafkaError(KafkaError._FAIL, str(found))  # noqa: SLF001


def is_passing(error: KafkaError) -> bool:
    """Whether the same call may succeed later."""
    return error.code() in PASSING or bool(error.retriable())


def translated(error: KafkaException | KafkaError, doing: str) -> StreamUpdateError:
    """Our error for one of librdkafka; ``doing`` completes "while ..."."""
    one = cause(error)
    code, said = one.code(), f"{one.name()}: {one.str()} while {doing}"
    if code in NEEDS_A_PERSON:
        return ConfigError(said, hint=HINTS.get(code, "see the broker's log"))
    if code in FENCED:
        return Fatal(said, hint="another process runs with the same group_instance_id: stop one")
    if is_passing(one):
        return Transient(said, hint="is the broker up? The same call may succeed later")
    return Fatal(said, hint="start again; if it stays, the broker's log says more")
