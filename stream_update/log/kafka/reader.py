"""Committed records from positions that the caller chooses."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kafka import errors as vendor
from kafka.structs import TopicPartition as VendorPartition

from stream_update.errors import ConfigError
from stream_update.events import Batch, TopicInfo, TopicPartition
from stream_update.log.kafka.janitor import Janitor
from stream_update.log.kafka.polling import ASK_MS, Polling
from stream_update.log.kafka.refusals import translated
from stream_update.protocols import Closing

__all__ = ["KafkaReader"]


class KafkaReader(Closing):
    """Reads outside any group; see :class:`stream_update.protocols.Reader`."""

    def __init__(
        self, consumer: Any, describe: Callable[[str], TopicInfo], janitor: Janitor
    ) -> None:
        self._consumer = consumer
        self._janitor = janitor
        self._unmoved: dict[tuple[str, TopicPartition], tuple[int, float]] = {}
        self._polling = Polling(consumer)
        self._describe = describe
        self._topics: dict[str, TopicInfo] = {}
        self._seen: dict[str, VendorPartition] = {}
        self._closed = False

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._consumer.close(autocommit=False, timeout_ms=2_000)

    def beginning_offsets(self, where: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return self._offsets(self._consumer.beginning_offsets, where, "first")

    def end_offsets(self, where: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        ends = self._offsets(self._consumer.end_offsets, where, "end")
        self._watch_for_standstill("end", ends)
        return ends

    def _offsets(
        self, ask: Callable[..., Any], where: Iterable[TopicPartition], which: str
    ) -> dict[TopicPartition, int]:
        asked = self._existing(where)
        found: dict[VendorPartition, Any] = {}
        if asked:
            with _asking(f"the {which} offsets", asked):
                try:
                    found = ask([*asked.values()], timeout_ms=ASK_MS)
                except KeyError:
                    # Together with others, the client has no answer for a partition whose
                    # leader it does not know yet; for one alone it waits until it does.
                    for theirs in asked.values():
                        found |= ask([theirs], timeout_ms=ASK_MS)
        return {ours: int(found[theirs]) for ours, theirs in asked.items()}

    def offsets_for_times(
        self, times_ms: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, int | None]:
        asked = self._existing(times_ms)
        # The client refuses times before 1970, where no record can be anyway.
        times = {theirs: max(0, times_ms[ours]) for ours, theirs in asked.items()}
        found = {}
        if asked:
            with _asking("offsets by time", asked):
                found = self._consumer.offsets_for_times(times, timeout_ms=ASK_MS)
                for theirs in [one for one, answer in found.items() if answer is None]:
                    # No such record, or no leader known yet: see above.
                    found |= self._consumer.offsets_for_times(
                        {theirs: times[theirs]}, timeout_ms=ASK_MS
                    )
        return {
            ours: None if found[theirs] is None else int(found[theirs].offset)
            for ours, theirs in asked.items()
        }

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        asked = self._existing(positions)
        if not asked:
            self._consumer.unsubscribe()
            self._polling.watch([])
            return
        fresh = {one.topic: theirs for one, theirs in asked.items() if one.topic not in self._seen}
        if fresh:
            # The client forgets what it knows of a topic when it is assigned only others,
            # and asks again at most every 100 ms: assigned all at once, it forgets none.
            self._seen |= fresh
            self._consumer.assign([*{*asked.values(), *self._seen.values()}])
        self._consumer.assign([*asked.values()])
        self._polling.watch(self._topics[one.topic] for one in asked)
        for ours, theirs in asked.items():
            # What was fetched ahead stays good where the position does not change.
            if self._fetch_position(theirs) != positions[ours]:
                self._consumer.seek(theirs, positions[ours])

    def poll(self, timeout_s: float, max_records: int = 500) -> list[Batch]:
        batches = self._polling.poll(timeout_s, max_records)
        if not batches:
            self._watch_for_standstill("position", self._behind())
        return batches

    def position(self, where: TopicPartition) -> int:
        theirs = VendorPartition(*where)
        if theirs not in self._consumer.assignment():
            raise ValueError(f"{where.topic}[{where.partition}] is not being read")
        return self._polling.position(theirs)

    def _behind(self) -> dict[TopicPartition, int]:
        """Where the log goes on behind the position, but nothing arrives."""
        behind = {}
        for theirs in self._consumer.assignment():
            position, end = self._fetch_position(theirs), self._consumer.highwater(theirs)
            if position is not None and end is not None and position < end:
                behind[TopicPartition(*theirs)] = position
        return behind

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

    def _fetch_position(self, where: VendorPartition) -> int | None:
        # position() would ask the broker for one that was never set.
        state = self._consumer._subscription.assignment[where]  # noqa: SLF001
        return state.position.offset if state.has_valid_position else None

    def _existing(self, where: Iterable[TopicPartition]) -> dict[TopicPartition, VendorPartition]:
        """The client's names for partitions that exist; it waits for others in silence."""
        found = {}
        for one in where:
            known = self._topics.get(one.topic)
            if known is None or one.partition >= known.partitions:
                known = self._topics[one.topic] = self._describe(one.topic)
            if not 0 <= one.partition < known.partitions:
                raise ConfigError(
                    f"topic {one.topic} has no partition {one.partition}: it has "
                    f"{known.partitions}",
                    hint="partitions are numbered from 0",
                )
            found[one] = VendorPartition(*one)
        return found


@contextmanager
def _asking(what: str, where: Iterable[TopicPartition]) -> Iterator[None]:
    try:
        yield
    except vendor.KafkaError as error:
        raise translated(error, f"asking for {what} of {_names(where)}") from error


def _names(where: Iterable[TopicPartition]) -> str:
    return ", ".join(f"{one.topic}[{one.partition}]" for one in where)
