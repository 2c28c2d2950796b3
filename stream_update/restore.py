"""Finding the newest valid snapshot on a log, and reading what came after it.

Start-up, crash, rebalance and a scorer's start are all: newest valid snapshot, seek
to its offsets. Reading a snapshot costs in proportion to the model and not to the
topic: the topic is read backwards from its end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from stream_update.bounds import Limits
from stream_update.errors import CorruptSnapshot, Transient
from stream_update.events import Batch, TopicPartition
from stream_update.heartbeat import Heartbeat
from stream_update.protocols import Reader
from stream_update.refusals import Refusal
from stream_update.signing import TrustedKeys
from stream_update.snapshot import Assembler, Snapshot

__all__ = [
    "Found",
    "newest",
    "read_range",
    "survey",
]

logger = logging.getLogger(__name__)

FIRST_WINDOW = 4


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
    told: set[int] | None = None,
) -> Snapshot | None:
    """The newest complete snapshot of a lineage in a partition of a snapshot topic.

    What is passed over on the way is in the log of the process, but for the offsets in
    ``told``, which grows by the others. Returns None if there is none at all.
    """
    told = set() if told is None else told
    assembler = Assembler(lineage, trusted, partition=partition, limits=limits)
    found = survey(reader, TopicPartition(topic, partition), assembler)
    for refusal in found.refused:
        if refusal.offset in told:
            continue
        told.add(refusal.offset)
        logger.error(
            "%s[%d] offset %d: passed over: %s: %s",
            topic,
            partition,
            refusal.offset,
            refusal.reason,
            refusal.detail,
        )
    return found.snapshot


def metadata_of(text: str) -> dict[str, Any]:
    """The note that a checkpoint left with a group's offset; empty if it is not ours."""
    try:
        found = msgspec.json.decode(text or "{}")
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}
