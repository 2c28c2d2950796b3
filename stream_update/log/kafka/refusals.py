"""The vendor's errors become ours, here and nowhere else."""

from __future__ import annotations

from kafka import errors as vendor

from stream_update.errors import ConfigError, Fatal, StreamUpdateError, Transient

__all__ = ["NEEDS_A_PERSON", "STALE_MEMBER", "translated"]

NEEDS_A_PERSON = (
    vendor.AuthorizationError,
    vendor.GroupMaxSizeReachedError,
    vendor.InconsistentGroupProtocolError,
    vendor.InvalidConfigurationError,
    vendor.InvalidGroupIdError,
    vendor.InvalidPartitionsError,
    vendor.InvalidReplicationFactorError,
    vendor.InvalidSessionTimeoutError,
    vendor.InvalidTopicError,
    vendor.InvalidTransactionTimeoutError,
    vendor.KafkaConfigurationError,
    vendor.PolicyViolationError,
    vendor.SaslAuthenticationFailedError,
    vendor.SecurityDisabledError,
    vendor.UnsupportedSaslMechanismError,
    vendor.UnsupportedVersionError,
)
"""What the broker says when no retry and no restart can help."""

STALE_MEMBER = (
    vendor.CommitFailedError,
    vendor.IllegalGenerationError,
    vendor.RebalanceInProgressError,
    vendor.UnknownMemberIdError,
)
"""What the broker says to a member that the group has gone on without."""

HINTS: dict[type[Exception], str] = {
    vendor.GroupAuthorizationFailedError: "allow READ on the consumer group",
    vendor.TopicAuthorizationFailedError: "allow this user to use the topic",
    vendor.TransactionalIdAuthorizationFailedError: (
        "allow WRITE on the transactional ids that start with the group's name"
    ),
    vendor.ClusterAuthorizationFailedError: "allow IDEMPOTENT_WRITE on the cluster",
    vendor.SaslAuthenticationFailedError: "check sasl_plain_username and sasl_plain_password",
    vendor.InconsistentGroupProtocolError: (
        "all members of a group must agree on `lanes` and on partition_assignment_strategy: "
        "stop the others, or use another group_id"
    ),
    vendor.InvalidReplicationFactorError: "the cluster has fewer brokers than that",
    vendor.InvalidSessionTimeoutError: (
        "session_timeout_ms must lie between the broker's group.min.session.timeout.ms "
        "and group.max.session.timeout.ms"
    ),
    vendor.InvalidTransactionTimeoutError: (
        "transaction_timeout_ms must not exceed the broker's transaction.max.timeout.ms"
    ),
}


def translated(error: Exception, doing: str) -> StreamUpdateError:
    """Our error for one of kafka-python; ``doing`` completes "while ..."."""
    said = f"{error} while {doing}"
    if isinstance(error, StreamUpdateError):
        return error
    if isinstance(error, NEEDS_A_PERSON):
        return ConfigError(said, hint=HINTS.get(type(error), "see the broker's log"))
    if isinstance(error, vendor.FencedInstanceIdError):
        return Fatal(said, hint="another process runs with the same group_instance_id: stop one")
    if isinstance(error, vendor.RetriableError | OSError):
        return Transient(said, hint="is the broker up? The same call may succeed later")
    return Fatal(said, hint="start again; if it stays, the broker's log says more")
