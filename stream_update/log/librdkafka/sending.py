"""What a publisher and an appender have in common: where a record goes, and why it did not."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from stream_update.errors import Fatal, StreamUpdateError, Transient
from stream_update.events import Record, TopicInfo
from stream_update.log.librdkafka.refusals import cause, is_passing, translated
from stream_update.log.spread import Partitions

__all__ = ["Landing", "Spread", "close_producer", "landed", "rejected"]

KNOWN_S = 15.0
"""How soon a client learns of a partition that its broker has told us of."""

ROOM_S = 60.0
TRY_S = 1.0
TURN_S = 0.05

ANY = -1
TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})
UNKNOWN = KafkaError._UNKNOWN_PARTITION  # noqa: SLF001 - the vendor's own errors are named so


class Landing:
    """What becomes of one record: its offset, or the error."""

    __slots__ = ("error", "offset")

    def __init__(self) -> None:
        self.offset: int | None = None
        self.error: KafkaError | None = None

    def __call__(self, error: KafkaError | None, message: Any) -> None:
        if error is None:
            self.offset = message.offset()
        else:
            self.error = error

    def done(self) -> bool:
        return self.offset is not None or self.error is not None


class Spread(Partitions):
    """Sends records to the partitions that they are given."""

    def __init__(self, describe: Callable[[str], TopicInfo], max_request_size: int) -> None:
        super().__init__(describe)
        self._max_request_size = max_request_size

    def send(self, producer: Any, record: Record, partition: int | None) -> Landing:
        """Hand a record to the client, when it has room."""
        if record.value is None and record.key is None:
            raise rejected(record, None, self._max_request_size)
        landing = Landing()
        deadline = 0.0
        while True:
            try:
                producer.produce(
                    record.topic,
                    value=record.value,
                    key=record.key,
                    partition=ANY if partition is None else partition,
                    on_delivery=landing,
                    timestamp=record.timestamp_ms or 0,
                    headers=[*record.headers],
                )
                return landing
            except BufferError:
                deadline = deadline or time.monotonic() + ROOM_S
                if time.monotonic() > deadline:
                    raise Transient(
                        f"the client had no room for a record of topic {record.topic} for "
                        f"{ROOM_S:.0f} s",
                        hint="is the broker up?",
                    ) from None
                producer.poll(TURN_S)
            except KafkaException as error:
                if cause(error).code() != UNKNOWN:
                    raise rejected(record, cause(error), self._max_request_size) from error
                # The topic has it, and the client asks only every few seconds.
                deadline = deadline or time.monotonic() + KNOWN_S
                if time.monotonic() > deadline:
                    raise Transient(
                        f"the client does not learn of partition {partition} of topic "
                        f"{record.topic}",
                        hint="was it added just now? Start again",
                    ) from error
                _make_known(producer, record.topic)
            except (TypeError, ValueError) as error:
                raise Fatal(
                    f"{_what(record)} cannot be sent: {error}",
                    hint="values, keys and headers are bytes",
                ) from error


def _make_known(producer: Any, topic: str) -> None:
    try:
        producer.list_topics(topic, timeout=TRY_S)
    except KafkaException as error:
        if not is_passing(cause(error)):
            raise translated(error, f"looking up topic {topic}") from error
    producer.poll(TURN_S)


def close_producer(producer: Any) -> None:
    """Give up what a producer still holds; its threads end when nobody refers to it.

    Its own close would first wait, without a limit, until everything is delivered.
    """
    producer.purge()


def landed(
    records: Sequence[Record], landings: Sequence[Landing], max_request_size: int
) -> list[int]:
    """The offset of each record; raises for the first that is not in the log."""
    given = []
    for record, landing in zip(records, landings, strict=True):
        if landing.offset is None or landing.offset < 0:
            late = KafkaError(KafkaError._MSG_TIMED_OUT)  # noqa: SLF001
            raise rejected(record, landing.error or late, max_request_size)
        given.append(landing.offset)
    return given


def rejected(record: Record, error: KafkaError | None, max_request_size: int) -> StreamUpdateError:
    """Our error for a record that is not in the log because of ``error``."""
    what = _what(record)
    if error is None:
        return Fatal(f"{what} cannot be sent: it is empty", hint="a record needs a value or a key")
    if error.code() in TOO_LARGE:
        return Fatal(
            f"{what} is too large",
            hint=f"the producer's max_request_size is {max_request_size}; the topic's "
            "max.message.bytes (or the broker's message.max.bytes) has to allow as much",
        )
    if is_passing(error):
        return Transient(f"{what} was not acknowledged in time: {error.str()}")
    return translated(error, f"writing {what}")


def _what(record: Record) -> str:
    size = len(record.value or b"") + len(record.key or b"")
    return f"a record of {size} bytes for topic {record.topic}"
