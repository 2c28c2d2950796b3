"""Committed records from positions that the caller chooses."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from confluent_kafka.admin import OffsetSpec

from stream_update.errors import ConfigError
from stream_update.events import Batch, TopicInfo, TopicPartition
from stream_update.log.kafka.janitor import Janitor
from stream_update.log.librdkafka.asking import Asking
from stream_update.log.librdkafka.fetching import Fetching
from stream_update.protocols import Closing

__all__ = ["LibrdkafkaReader"]


class LibrdkafkaReader(Closing):
    """Reads outside any group; see :class:`stream_update.protocols.Reader`."""

    def __init__(self, fetching: Fetching, asking: Asking, janitor: Janitor) -> None:
        self._fetching = fetching
        self._asking = asking
        self._janitor = janitor
        self._unmoved: dict[tuple[str, TopicPartition], tuple[int, float]] = {}
        self._topics: dict[str, TopicInfo] = {}
        self._closed = False

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._fetching.close()

    def beginning_offsets(self, where: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return self._asking.first_offsets(self._existing(where))

    def end_offsets(self, where: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        ends = self._asking.end_offsets(self._existing(where))
        self._watch_for_standstill("end", ends)
        return ends

    def offsets_for_times(
        self, times_ms: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, int | None]:
        # Times below zero have a meaning of their own to the broker; no record is as old.
        found = self._asking.offsets(
            {
                one: OffsetSpec.for_timestamp(max(0, times_ms[one]))
                for one in self._existing(times_ms)
            },
            "the offset by time",
        )
        return {one: None if offset < 0 else offset for one, offset in found.items()}

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        wanted = self._existing(positions)
        now_at = self._fetching.positions
        # What was fetched ahead stays good where the position does not change.
        moved = {one: positions[one] for one in wanted if now_at.get(one) != positions[one]}
        self._fetching.rest([one for one in now_at if one not in positions])
        self._fetching.watch(self._topics[one.topic] for one in wanted)
        if moved:
            self._fetching.flow(moved)

    def poll(self, timeout_s: float, max_records: int = 500) -> list[Batch]:
        batches = self._fetching.poll(timeout_s, max_records)
        if not batches:
            self._watch_for_standstill("position", self._fetching.behind())
        return batches

    def position(self, where: TopicPartition) -> int:
        if where not in self._fetching.positions:
            raise ValueError(f"{where.topic}[{where.partition}] is not being read")
        return self._fetching.positions[where]

    def _watch_for_standstill(self, what: str, now_at: Mapping[TopicPartition, int]) -> None:
        """Have the partitions looked at that have not moved for longer than is normal."""
        now, still = time.monotonic(), []
        for where, offset in now_at.items():
            before, since = self._unmoved.get((what, where), (None, now))
            if before != offset:
                self._unmoved[what, where] = offset, now
            elif now - since > self._janitor.patience_s:
                still.append(where)
                self._unmoved[what, where] = offset, now
        if still:
            self._janitor.tend(still)

    def _existing(self, where: Iterable[TopicPartition]) -> list[TopicPartition]:
        """These partitions, which exist; the client would wait for others in silence."""
        found = [TopicPartition(*one) for one in where]
        for one in found:
            known = self._topics.get(one.topic)
            if known is None or one.partition >= known.partitions:
                known = self._topics[one.topic] = self._asking.describe(one.topic)
            if not 0 <= one.partition < known.partitions:
                raise ConfigError(
                    f"topic {one.topic} has no partition {one.partition}: it has "
                    f"{known.partitions}",
                    hint="partitions are numbered from 0",
                )
        return found
