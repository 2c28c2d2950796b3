"""What a reader and a member have in common: fetching, and what can go wrong with it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from kafka import errors as vendor
from kafka.structs import TopicPartition as VendorPartition

from stream_update.errors import Fatal, LogGap, Overtaken, StreamUpdateError, Unreadable
from stream_update.events import Batch, TopicInfo
from stream_update.log.kafka.batch import RecordsBatch
from stream_update.log.kafka.refusals import NEEDS_A_PERSON, translated

__all__ = ["ASK_MS", "Polling", "note_of"]

ASK_MS = 10_000
"""How long a question to the broker may take."""

MISSING_S = 15.0
"""How long a topic may be missing from the metadata before it counts as deleted."""

_AFTER_ERROR_MS = 3_000
_SURVIVED = (
    *NEEDS_A_PERSON,
    vendor.FencedInstanceIdError,
    vendor.IllegalStateError,
    vendor.RebalanceInProgressError,
    vendor.RetriableError,
)


def note_of(committed: Any) -> str:
    """The note of a committed offset; confluent-kafka ends those that it writes with a zero."""
    return str(committed.metadata or "").removesuffix("\0")


class Polling:
    """Polls one consumer.

    After an error that the client is not known to survive it never polls again: with a
    batch that cannot be decoded the client's next poll spins for ever, whatever its
    timeout (measured with a missing codec and a raising deserialiser). A batch that is damaged
    is taken away from the client, so that who reads can go on behind it.
    """

    def __init__(self, consumer: Any) -> None:
        self.consumer = consumer
        self.broken: Fatal | None = None
        self._topic_ids: dict[str, str] = {}
        self._seen: set[str] = set()
        self._missing_since: dict[str, float] = {}

    def watch(self, topics: Iterable[TopicInfo]) -> None:
        """The topics that are read from now on, as they are known to be."""
        self._topic_ids = {topic.name: topic.topic_id for topic in topics}

    def poll(self, timeout_s: float, max_records: int) -> list[Batch]:
        if self.broken is not None:
            raise self.broken
        try:
            fetched: Mapping[Any, Any] = self.consumer.poll(
                timeout_ms=max(0, int(timeout_s * 1000)), max_records=max_records
            )
        except vendor.OffsetOutOfRangeError as error:
            raise self._gap(error.args[0]) from error
        except vendor.LogTruncationError as error:
            raise LogGap(
                f"the log was cut back behind a position that had been read: {error}",
                hint="an unclean leader election lost records; decide whether to go on "
                "without them",
            ) from error
        except _SURVIVED as error:
            raise translated(error, "polling") from error
        except Exception as error:
            damaged = self._step_over(error)
            if damaged is not None:
                raise damaged from error
            self.broken = self._undecodable(error)
            raise self.broken from error
        self._check_topics()
        return [
            RecordsBatch(where.topic, where.partition, records)
            for where, records in fetched.items()
        ]

    def position(self, where: VendorPartition) -> int:
        try:
            position = self.consumer.position(where, timeout_ms=ASK_MS)
        except vendor.KafkaError as error:
            raise translated(error, f"asking for the position in {_name(where)}") from error
        return int(position)

    def _check_topics(self) -> None:
        """An offset of a topic that is gone reads, silently, whatever came in its place."""
        for topic, topic_id in self._topic_ids.items():
            # No public method gives the id; the cluster's metadata has it for nothing.
            now = self.consumer._cluster.topic_id(topic)  # noqa: SLF001
            if now is not None and str(now) != topic_id:
                raise LogGap(
                    f"topic {topic} was deleted and created again while it was read "
                    f"(it had id {topic_id} and has {now})",
                    hint="offsets and snapshots of the old topic mean nothing in the new one: "
                    "start a new lineage",
                )
            if now is not None:
                self._seen.add(topic)
                self._missing_since.pop(topic, None)
            elif topic in self._seen and self._missing_for(topic) > MISSING_S:
                raise LogGap(
                    f"topic {topic} is gone: it was deleted while it was read",
                    hint="nothing can be read of it any more; what was learned is in the snapshots",
                )

    def _missing_for(self, topic: str) -> float:
        now = time.monotonic()
        return now - self._missing_since.setdefault(topic, now)

    def _gap(self, wanted: Mapping[Any, int]) -> StreamUpdateError:
        (where, offset), *_ = wanted.items()
        try:
            first = self.consumer.beginning_offsets([where], timeout_ms=_AFTER_ERROR_MS)[where]
            end = self.consumer.end_offsets([where], timeout_ms=_AFTER_ERROR_MS)[where]
        except vendor.KafkaError as error:
            return translated(error, f"asking what {_name(where)} holds instead of {offset}")
        message = f"{_name(where)} has no offset {offset}: it holds {first} to {end}"
        if offset < first:
            return Overtaken(
                message,
                partition=where.partition,
                wanted=offset,
                first=first,
                hint="retention or a deletion overtook it: the records before are gone; decide "
                "whether to go on without them",
            )
        return LogGap(
            message,
            hint="the topic was created again, or lost its end; decide whether to go on without "
            "what is missing",
        )

    def _step_over(self, error: Exception) -> Unreadable | None:
        """Go behind a damaged batch; None if that is not what happened, or not known where."""
        if isinstance(error, vendor.UnsupportedCodecError):
            return None  # every batch would be; what is missing is on this side
        found = _unpacking(error)
        if found is None:
            return None
        parsing, batch = found
        where, first = parsing.topic_partition, parsing.next_fetch_offset
        after = int(batch.next_offset)
        if after <= first:
            return None
        # No public way leads past it: the client would look at the same bytes again.
        fetcher = self.consumer._fetcher  # noqa: SLF001
        parsing.drain()
        if fetcher._next_partition_records is parsing:  # noqa: SLF001
            fetcher._next_partition_records = None  # noqa: SLF001
        fetcher._next_in_line_exception_metadata = None  # noqa: SLF001
        self.consumer.seek(where, after)
        return Unreadable(
            f"{_name(where)} offsets {first} to {after - 1} cannot be read: "
            f"{type(error).__name__}: {error}",
            partition=where.partition,
            wanted=first,
            first=after,
            hint="the batch is damaged on the broker's disk: restore it from a replica, or go on "
            "without it",
        )

    def _undecodable(self, error: Exception) -> Fatal:
        # The client has no public way to say which partition's data it is parsing.
        parsing = self.consumer._fetcher._next_partition_records  # noqa: SLF001
        suspects = [parsing.topic_partition] if parsing else sorted(self._flowing())
        places = ", ".join(f"{_name(where)} at offset {self._at(where)}" for where in suspects)
        return Fatal(
            f"the records of {places} cannot be read: {type(error).__name__}: {error}",
            hint="if a codec is missing, install kafka-python[lz4,snappy,zstd]; if the batch is "
            "damaged, move the group's offset past it (kafka-consumer-groups --reset-offsets)",
        )

    def _flowing(self) -> set[Any]:
        return set(self.consumer.assignment()) - set(self.consumer.paused())

    def _at(self, where: Any) -> str:
        try:
            return str(self.consumer.position(where, timeout_ms=_AFTER_ERROR_MS))
        except vendor.KafkaError:
            return "?"


def _unpacking(error: BaseException) -> tuple[Any, Any] | None:
    """The client's parser and its batch, from the place where it failed."""
    trace = error.__traceback__
    while trace is not None:
        names = trace.tb_frame.f_locals
        if trace.tb_frame.f_code.co_name == "_unpack_records" and names.get("batch") is not None:
            return names["self"], names["batch"]
        trace = trace.tb_next
    return None


def _name(where: Any) -> str:
    return f"{where.topic}[{where.partition}]"
