"""What a publisher and an appender have in common: where a record goes, and why it did not."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

from kafka import errors as vendor

from stream_update.errors import Fatal, StreamUpdateError, Transient
from stream_update.events import Record, TopicInfo
from stream_update.log.kafka.refusals import translated
from stream_update.log.spread import Partitions

__all__ = ["Spread", "close_producer", "rejected"]

CLOSE_S = 1.0
KNOWN_S = 15.0
"""How soon a client learns of a partition that its broker has told us of."""

TOO_LARGE = (vendor.MessageSizeTooLargeError, vendor.RecordListTooLargeError)


class Spread(Partitions):
    """Sends records to the partitions that they are given."""

    def __init__(self, describe: Callable[[str], TopicInfo], max_request_size: int) -> None:
        super().__init__(describe)
        self._max_request_size = max_request_size

    def send(self, producer: Any, record: Record, partition: int | None) -> Any:
        """Hand a record to the client; its future."""
        while True:
            try:
                return producer.send(
                    record.topic,
                    record.value,
                    record.key,
                    [*record.headers],
                    partition,
                    record.timestamp_ms,
                )
            except (TypeError, ValueError, *TOO_LARGE) as error:
                if partition is None or partition in producer.partitions_for(record.topic):
                    raise rejected(record, error, self._max_request_size) from error
            # The topic has it, and the client asks only every few minutes.
            _make_known(producer, record.topic, partition)


def _make_known(producer: Any, topic: str, partition: int) -> None:
    deadline = time.monotonic() + KNOWN_S
    while partition not in producer.partitions_for(topic):
        if time.monotonic() > deadline:
            raise Transient(
                f"the client does not learn of partition {partition} of topic {topic}",
                hint="was it added just now? Start again",
            )
        heard = threading.Event()
        asked = producer._metadata.request_update()  # noqa: SLF001
        asked.add_both(lambda *_, heard=heard: heard.set())
        producer._sender.wakeup()  # noqa: SLF001
        heard.wait(1.0)


def close_producer(producer: Any) -> None:
    """Close a producer, whatever it still holds, within about three times CLOSE_S.

    Always: one that is only dropped disables the logging of its whole module. And to
    the end: the client's own close gives up half-way when it cannot deliver what it
    holds, and leaves its thread running.
    """
    try:
        producer.close(timeout=CLOSE_S)
    except vendor.KafkaError:
        sender = producer._sender  # noqa: SLF001
        sender.force_close()
        sender.join(CLOSE_S)
        with contextlib.suppress(vendor.KafkaError):
            producer.close(timeout=CLOSE_S)


def rejected(record: Record, error: Exception, max_request_size: int) -> StreamUpdateError:
    """Our error for a record that is not in the log because of ``error``."""
    size = len(record.value or b"") + len(record.key or b"")
    what = f"a record of {size} bytes for topic {record.topic}"
    if isinstance(error, TOO_LARGE):
        return Fatal(
            f"{what} is too large",
            hint=f"the producer's max_request_size is {max_request_size}; the topic's "
            "max.message.bytes (or the broker's message.max.bytes) has to allow as much",
        )
    if isinstance(error, vendor.RetriableError):
        return Transient(f"{what} was not acknowledged in time: {error}")
    if isinstance(error, vendor.KafkaError):
        return translated(error, f"writing {what}")
    return Fatal(f"{what} cannot be sent: {error}", hint="a record needs a value or a key")
