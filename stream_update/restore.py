"""Finding the newest valid snapshot on a log, and reading what came after it.

Start-up, crash, rebalance and a scorer's start are all: newest valid snapshot, seek
to its offsets. Reading a snapshot costs in proportion to the model and not to the
topic: the topic is read backwards from its end.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from stream_update.bounds import Limits
from stream_update.errors import CorruptSnapshot, LogGap, Transient, Unreadable
from stream_update.events import Batch, Record, Run, TopicPartition
from stream_update.heartbeat import Heartbeat
from stream_update.protocols import Reader
from stream_update.refusals import Refusal
from stream_update.signing import TrustedKeys
from stream_update.snapshot import Assembler, Snapshot

__all__ = [
    "Found",
    "Journal",
    "JournalEntry",
    "RunReader",
    "journal_record",
    "newest",
    "read_range",
    "survey",
]

logger = logging.getLogger(__name__)

FIRST_WINDOW = 4
QUEUE_LIMIT = 20_000


def read_range(
    reader: Reader, where: TopicPartition, start: int, stop: int, deadline_s: float = 30.0
) -> Iterable[Batch]:
    """The batches of one partition from ``start`` to before ``stop``.

    Raises :class:`Transient` if nothing arrives for ``deadline_s``.
    """
    if start >= stop:
        return
    reader.seek({where: start})
    quiet = 0.0
    while reader.position(where) < stop:
        before = reader.position(where)
        for batch in reader.poll(min(1.0, deadline_s)):
            keep = len(batch)
            while keep and batch.offsets[keep - 1] >= stop:
                keep -= 1
            if keep:
                yield batch if keep == len(batch) else batch.slice(0, keep)
        if reader.position(where) != before:
            quiet = 0.0
        else:
            quiet += 1.0
            if quiet > deadline_s:
                raise Transient(
                    f"{where.topic}[{where.partition}] gave nothing at offset {before} "
                    f"for {deadline_s:.0f} s, although it ends at {stop}"
                )


class Found(NamedTuple):
    """What a partition of a snapshot topic held.

    ``end`` is where reading goes on, ``refused`` what was not taken on the way back.
    """

    snapshot: Snapshot | None
    heartbeat: Heartbeat | None
    refused: list[Refusal]
    end: int


Accept = Callable[[Snapshot, Heartbeat | None, int], bool]
"""Whether a snapshot is taken; it is given the last heartbeat, and its own offset."""


def _take_any(_snapshot: Snapshot, _beat: Heartbeat | None, _offset: int) -> bool:
    return True


def survey(
    reader: Reader, where: TopicPartition, assembler: Assembler, accept: Accept = _take_any
) -> Found:
    """Read a partition of a snapshot topic backwards, as far as the newest complete snapshot.

    One that is incomplete, damaged or not accepted is passed over for the one before, and
    one that is older than what the last heartbeat names if there is a better one.
    """
    end = reader.end_offsets([where])[where]
    begin = reader.beginning_offsets([where])[where]
    tried: set[int] = set()
    best: Snapshot | None = None
    low, window = end, FIRST_WINDOW
    while True:
        high, low = low, max(begin, end - window)
        for batch in read_range(reader, where, low, high):
            for index, offset in enumerate(batch.offsets):
                assembler.add(batch.values[index], batch.headers[index], offset)
        last = low <= begin
        while True:
            above = -1 if best is None else best.manifest.seq
            better, waiting = _newest_whole(assembler, tried, above, last=last)
            best = better or best
            if best is None:
                break
            beat, seq = assembler.heartbeat, best.manifest.seq
            if not last and (waiting or (beat is not None and seq < beat.seq)):
                break
            if accept(best, beat, assembler.offset_of(seq)):
                return Found(best, beat, assembler.refused, end)
            tried.add(seq)
            best = None
        if last:
            return Found(None, assembler.heartbeat, assembler.refused, end)
        window *= 4


def _newest_whole(
    assembler: Assembler, tried: set[int], above: int, *, last: bool
) -> tuple[Snapshot | None, bool]:
    """The newest complete snapshot after ``above``, and whether chunks of a newer one may
    stand further back, which is not so in the ``last`` window.
    """
    waiting = False
    for seq in sorted(assembler.manifests.keys() - tried, reverse=True):
        if seq <= above:
            break
        at = assembler.offset_of(seq)
        try:
            found = assembler.complete(seq)
        except CorruptSnapshot as error:
            assembler.refused.append(Refusal(error.reason, str(error), at))
            tried.add(seq)
            continue
        if found is not None:
            return found, waiting
        if last:
            text = f"snapshot {seq} lacks some of its chunks"
            assembler.refused.append(Refusal("bad-chunks", text, at))
            tried.add(seq)
        waiting = not last
    return None, waiting


def newest(
    reader: Reader,
    topic: str,
    partition: int,
    lineage: str,
    trusted: TrustedKeys | None = None,
    *,
    limits: Limits = Limits(),  # noqa: B008 - it never changes
) -> Snapshot | None:
    """The newest complete snapshot of a lineage in a partition of a snapshot topic.

    What is passed over on the way is in the log of the process. Returns None if there is
    none at all.
    """
    assembler = Assembler(lineage, trusted, partition=partition, limits=limits)
    found = survey(reader, TopicPartition(topic, partition), assembler)
    for refusal in found.refused:
        logger.error(
            "%s[%d] offset %d: passed over: %s: %s",
            topic,
            partition,
            refusal.offset,
            refusal.reason,
            refusal.detail,
        )
    return found.snapshot


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


def metadata_of(text: str) -> dict[str, Any]:
    """The note that a checkpoint left with a group's offset; empty if it is not ours."""
    try:
        found = msgspec.json.decode(text or "{}")
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}
