"""The journal of a lane over several partitions: in which order it took their events.

Each checkpoint adds one entry. Whoever restores the lane, follows it as a stand-by, or verifies
it reads the entries, and the events again in that order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from stream_update.errors import LogGap, Transient, Unreadable
from stream_update.events import Batch, Record, Run, TopicPartition
from stream_update.protocols import Reader

__all__ = ["Cursor", "Journal", "JournalEntry", "RunReader", "journal_record"]

QUEUE_LIMIT = 20_000


class JournalEntry(msgspec.Struct, frozen=True):
    """One checkpoint of a lane over several partitions: the order it read them in."""

    number: int
    runs: list[tuple[int, int, int]]
    next: dict[str, int]


def journal_record(entry: JournalEntry, topic: str, lineage: str) -> Record:
    return Record(
        topic,
        msgspec.json.encode(entry),
        key=lineage.encode(),
        partition=0,
        headers=(("lineage", lineage.encode()),),
    )


class Journal:
    """Reads the journal of one lineage from a place on, in order, as it grows."""

    def __init__(self, reader: Reader, topic: str, lineage: str, number: int, offset: int) -> None:
        self._reader = reader
        self._where = TopicPartition(topic, 0)
        self._lineage = lineage.encode()
        self.number = number
        begin = reader.beginning_offsets([self._where])[self._where]
        reader.seek({self._where: max(offset, begin)})

    def close(self) -> None:
        self._reader.close()

    @property
    def offset(self) -> int:
        """Where the journal topic is to be read next."""
        return self._reader.position(self._where)

    def end(self) -> int:
        return self._reader.end_offsets([self._where])[self._where]

    def read(self, timeout_s: float) -> list[JournalEntry]:
        """The next entries; raises :class:`LogGap` if one is missing."""
        entries: list[JournalEntry] = []
        for batch in self._reader.poll(timeout_s):
            for value, headers in zip(batch.values, batch.headers, strict=True):
                if value is None or dict(headers).get("lineage") != self._lineage:
                    continue
                entry = msgspec.json.decode(value, type=JournalEntry)
                if entry.number < self.number:
                    continue
                if entry.number != self.number:
                    raise LogGap(
                        f"{self._where.topic} has no entry {self.number} of lineage "
                        f"{self._lineage.decode()}; the next one is {entry.number}",
                        hint="the journal topic lost records; rebuild under a new lineage",
                    )
                self.number += 1
                entries.append(entry)
        return entries


class RunReader:
    """Reads records of several partitions in the order that runs ask for.

    What arrives early waits in a queue for its partition; a partition whose queue is
    long is not read until it has been used.
    """

    def __init__(self, reader: Reader, topic: str) -> None:
        self._reader = reader
        self._topic = topic
        self._positions: dict[int, int] = {}
        self._queues: dict[int, deque[Batch]] = {}
        self._held: dict[int, int] = {}
        self._reading: frozenset[int] = frozenset()

    def take(self, run: Run, deadline_s: float = 30.0) -> Iterable[Batch]:
        """The batches of one run; raises :class:`LogGap` or :class:`Transient`."""
        if run.partition not in self._queues:
            self._queues[run.partition] = deque()
            self._held[run.partition] = 0
            self._positions[run.partition] = run.first_offset
        queue, left, quiet = self._queues[run.partition], run.count, 0.0
        while left:
            if not queue:
                if self._fill(run.partition):
                    quiet = 0.0
                elif not queue:
                    quiet += 1.0
                    if quiet > deadline_s:
                        raise Transient(
                            f"{self._topic}[{run.partition}] gave nothing for {deadline_s:.0f} s "
                            f"while {left} records of the journal were to be read again"
                        )
                continue
            batch = queue.popleft()
            if len(batch) > left:
                queue.appendleft(batch.slice(left, len(batch)))
                batch = batch.slice(0, left)
            if left == run.count and batch.offsets[0] != run.first_offset:
                raise LogGap(
                    f"{self._topic}[{run.partition}] starts at offset {batch.offsets[0]} where "
                    f"the journal says {run.first_offset}",
                    hint="records were deleted; rebuild under a new lineage",
                )
            self._held[run.partition] -= len(batch)
            left -= len(batch)
            yield batch

    def _fill(self, needed: int) -> bool:
        wanted = frozenset(
            partition
            for partition in self._queues
            if partition == needed or self._held[partition] < QUEUE_LIMIT
        )
        if wanted != self._reading:
            self._reader.seek(
                {TopicPartition(self._topic, p): self._positions[p] for p in sorted(wanted)}
            )
            self._reading = wanted
        try:
            batches = self._reader.poll(1.0)
        except Unreadable as damaged:
            # Who wrote the journal went on behind it too.
            self._positions[damaged.partition] = damaged.first
            self._reading = frozenset()
            return True
        for batch in batches:
            self._queues[batch.partition].append(batch)
            self._held[batch.partition] += len(batch)
            self._positions[batch.partition] = batch.offsets[-1] + 1
        return bool(batches)

    def close(self) -> None:
        self._reader.close()


class Cursor:
    """How far a lane has got in its journal; the readers to go on with are opened when needed.

    ``number`` and ``offset`` are of the next entry, ``reaches`` the positions that the last one
    that was followed has come to.
    """

    def __init__(
        self, open_reader: Callable[[], Reader], topic: str, source_topic: str, lineage: str
    ) -> None:
        self.number = self.offset = 0
        self.reaches: Mapping[int, int] = {}
        self._open_reader = open_reader
        self._topic = topic
        self._source_topic = source_topic
        self._lineage = lineage
        self._entries: Journal | None = None
        self._runs: RunReader | None = None

    def start_at(self, number: int, offset: int) -> None:
        """Go on from here."""
        self.close()
        self.number, self.offset, self.reaches = number, offset, {}

    def follow(self, timeout_s: float) -> Iterator[Batch]:
        """The events of the entries that have come, in their order."""
        if self._entries is None:
            self._entries = Journal(
                self._open_reader(), self._topic, self._lineage, self.number, self.offset
            )
            self._runs = RunReader(self._open_reader(), self._source_topic)
        assert self._runs is not None
        for entry in self._entries.read(timeout_s):
            for run in entry.runs:
                yield from self._runs.take(Run(*run))
            self.number = entry.number + 1
            self.reaches = {int(p): offset for p, offset in entry.next.items()}
        self.offset = self._entries.offset

    def at_end(self) -> bool:
        """Whether all has been followed that can be read now."""
        return self._entries is not None and self._entries.offset >= self._entries.end()

    def wrote(self, offset: int) -> None:
        """The next entry is in the log, at this offset."""
        self.number += 1
        self.offset = offset + 1

    def close(self) -> None:
        for part in (self._entries, self._runs):
            if part is not None:
                part.close()
        self._entries = self._runs = None
