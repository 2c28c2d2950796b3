from __future__ import annotations

import pytest
from kafka import errors as vendor

from stream_update.errors import ConfigError, Fatal, StreamUpdateError, Transient
from stream_update.events import Record
from stream_update.log.kafka.refusals import HINTS, translated
from stream_update.log.kafka.sending import rejected


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (vendor.KafkaTimeoutError("late"), Transient),
        (vendor.NodeNotReadyError("1"), Transient),
        (ConnectionResetError("reset"), Transient),
        (vendor.GroupAuthorizationFailedError("g"), ConfigError),
        (vendor.SaslAuthenticationFailedError("no"), ConfigError),
        (vendor.InvalidReplicationFactorError("3"), ConfigError),
        (vendor.FencedInstanceIdError(), Fatal),
        (vendor.CorruptRecordError("crc"), Fatal),
    ],
)
def test_each_error_says_what_was_being_done(
    error: Exception, ours: type[StreamUpdateError]
) -> None:
    made = translated(error, "polling")
    assert type(made) is ours
    assert str(made).endswith("while polling")
    assert made.hint


def test_our_own_errors_pass() -> None:
    error = ConfigError("x")
    assert translated(error, "polling") is error


def test_every_hint_is_of_an_error_that_the_client_has() -> None:
    for kind, hint in HINTS.items():
        assert issubclass(kind, vendor.KafkaError)
        assert hint in translated(kind(), "x").hint


@pytest.mark.parametrize(
    ("error", "ours", "said"),
    [
        (vendor.MessageSizeTooLargeError(), Fatal, "5 bytes for topic t is too large"),
        (vendor.RecordListTooLargeError(), Fatal, "is too large"),
        (vendor.KafkaTimeoutError(), Transient, "was not acknowledged in time"),
        (vendor.TopicAuthorizationFailedError(), ConfigError, "writing a record of 5 bytes"),
        (vendor.InvalidTimestampError(), Fatal, "writing a record of 5 bytes"),
        (TypeError("headers must be list"), Fatal, "cannot be sent: headers must be list"),
    ],
)
def test_a_rejected_record_is_named(
    error: Exception, ours: type[StreamUpdateError], said: str
) -> None:
    made = rejected(Record("t", b"123", b"45"), error, 1000)
    assert type(made) is ours
    assert said in str(made)
