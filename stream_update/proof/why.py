"""What became of one event: learned or not, what was predicted for it, and in which snapshot.

The state from just before the event is made once more, from the newest snapshot that had
not learned it and the events since, and the event is fed to it. If there is a snapshot that
goes past the event, the replay goes on to it and compares digests, so that the answer is
about what has really happened.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from stream_update.config import Config
from stream_update.errors import ConfigError, Fatal, LogGap, NoModelYet
from stream_update.events import Batch, Outcomes, TopicPartition
from stream_update.lane import PoisonEvent
from stream_update.plans import Kit
from stream_update.proof.held import held_snapshots
from stream_update.proof.replay import Range, Replay
from stream_update.proof.verifying import final_digest, ranges_of
from stream_update.protocols import Log, Reader
from stream_update.restore import read_range
from stream_update.snapshot import Manifest, Snapshot, changed_sources, check_identity

__all__ = ["FATES", "Answer", "Fate", "why"]

Fate = Literal[
    "learned",
    "waiting",
    "rejected",
    "poison",
    "unlabelled",
    "duplicate",
    "gap",
    "before-lineage",
]
FATES: tuple[Fate, ...] = get_args(Fate)


class Answer(NamedTuple):
    """What became of the event at ``offset`` of ``partition``.

    ``fate`` is one of :data:`FATES`: ``"waiting"`` is in a mini-batch that is not full yet,
    ``"rejected"`` is a dead letter, ``"poison"`` one that broke the learner while it
    learned, each with ``reason`` and ``detail``; ``"gap"`` was lost by the log or stood in a
    damaged batch, and the lane went on behind it. ``prediction`` and ``probabilities`` were
    made before the event was learned, if it was predicted at all; ``label`` is what the
    learner was told.

    ``base`` is the snapshot that the replay began with, None for the beginning of the
    lineage or if nothing had to be replayed; ``first`` is the first held snapshot that goes
    past the event, None if none does yet; ``earlier_lost``: there was one before it, which
    the topic no longer holds. ``proven`` says whether the replay made exactly ``first``,
    None if there was nothing to compare; ``other_code`` names the user's own modules that have
    changed since that snapshot. ``replayed`` counts the events read for it.
    """

    partition: int
    offset: int
    fate: Fate
    reason: str = ""
    detail: str = ""
    features: Mapping[str, Any] | None = None
    label: Any = None
    prediction: Any = None
    probabilities: Mapping[Any, float] | None = None
    event_time: int | None = None
    base: Snapshot | None = None
    first: Snapshot | None = None
    earlier_lost: bool = False
    proven: bool | None = None
    other_code: Sequence[str] = ()
    replayed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON; snapshots by their number."""
        return {
            **self._asdict(),
            "base": self.base.manifest.seq if self.base else None,
            "first": self.first.manifest.seq if self.first else None,
        }


def why(
    config: Config,
    log: Log,
    partition: int,
    offset: int,
    on_events: Callable[[int], None] | None = None,
) -> Answer:
    """What the lineage did with one event of the source topic.

    ``on_events`` is told how many events have been read again, now and then. Raises
    :class:`ConfigError` if there is no such event, :class:`NoModelYet` if it has not been
    processed yet, :class:`LogGap` if the log no longer holds what the answer needs, and
    :class:`~stream_update.errors.LineageMismatch` if the configuration does not fit.
    """
    with log.reader() as reader:
        replay = Replay(config, log, reader)
        where = TopicPartition(replay.source.name, partition)
        _check_range(replay, reader, where, offset)
        number = 0 if config.lanes == "single" else partition
        held = held_snapshots(config, reader, number)
        if not held:
            raise NoModelYet(
                f"{config.topic('snapshots')}[{number}] holds no snapshot of lineage "
                f"{config.lineage_name} yet",
                hint="start a trainer (stream-update run), or wait for its first snapshot",
            )
        newest = held[-1].manifest
        check_identity(newest, replay.identity)
        base, first = _around(held, partition, offset)
        lost = first is not None and first.manifest.parent != (base.sha256 if base else "")
        unread = _unread(newest, partition, offset)
        if unread is not None:
            return unread._replace(first=first, earlier_lost=lost)
        if first is not None:
            ranges = ranges_of(first.manifest, base)
        else:
            end = _committed(config, log, where, offset)
            ranges = [(partition, newest.positions.get(partition, 0), end)]
        _check_there(reader, where, offset)
        inquiry = _Inquiry(replay, base, first, ranges, newest.gaps, on_events)
        try:
            answer = inquiry.answer(partition, offset)
        except LogGap as error:
            origin = f"snapshot {base.manifest.seq}" if base else "the beginning of the lineage"
            raise LogGap(
                f"{_at(where, offset)} is there, but not the events between {origin} and it, so "
                f"nobody can tell any more what was predicted for it: {error}",
                hint="retention was shorter than the way back to a snapshot",
            ) from error
        code = changed_sources((first or held[-1]).manifest, replay.identity)
        return answer._replace(base=base, first=first, earlier_lost=lost, other_code=code)


def _at(where: TopicPartition, offset: int) -> str:
    return f"{where.topic}[{where.partition}] offset {offset}"


def _check_range(replay: Replay, reader: Reader, where: TopicPartition, offset: int) -> None:
    if not 0 <= where.partition < replay.source.partitions:
        raise ConfigError(
            f"--partition {where.partition}: {where.topic} has {replay.source.partitions} "
            "partitions",
            hint=f"0 to {replay.source.partitions - 1}",
        )
    end = reader.end_offsets([where])[where]
    if not 0 <= offset < end:
        raise ConfigError(
            f"there is no {_at(where, offset)}: the topic ends before offset {end}",
            hint=f"0 to {end - 1}" if end else "nothing has been produced to it",
        )


def _around(
    held: Sequence[Snapshot], partition: int, offset: int
) -> tuple[Snapshot | None, Snapshot | None]:
    """The newest snapshot that had not come to the event, and the first that went past it."""
    past = [snapshot.manifest.positions.get(partition, 0) > offset for snapshot in held]
    index = past.index(True) if True in past else len(held)
    return (
        held[index - 1] if index else None,
        held[index] if index < len(held) else None,
    )


def _unread(manifest: Manifest, partition: int, offset: int) -> Answer | None:
    """The answer if the lane never read the event."""
    began = manifest.start.get(str(partition), 0)
    if offset < began:
        return Answer(
            partition, offset, "before-lineage", detail=f"the lineage began at offset {began}"
        )
    for number, missing, first in manifest.gaps:
        if number == partition and missing <= offset < first:
            return Answer(
                partition,
                offset,
                "gap",
                detail=f"offsets {missing} to {first - 1} were gone, or could not be decoded, "
                "before they were learned, and the lane went on behind them",
            )
    return None


def _committed(config: Config, log: Log, where: TopicPartition, offset: int) -> int:
    """The offset up to which the group has processed the partition; beyond the event."""
    at = log.committed(config.trainer_group, where.topic).get(where.partition)
    if at is None or at.offset <= offset:
        done = "nothing" if at is None else f"everything before offset {at.offset}"
        raise NoModelYet(
            f"{_at(where, offset)} has not been processed yet: group {config.trainer_group} has "
            f"processed {done} of this partition",
            hint="ask again later, or start a trainer (stream-update run)",
        )
    return at.offset


def _check_there(reader: Reader, where: TopicPartition, offset: int) -> None:
    begin = reader.beginning_offsets([where])[where]
    if offset < begin:
        raise LogGap(
            f"the log no longer holds {_at(where, offset)}; it begins at offset {begin}",
            hint="retention or a deletion took it: what was predicted for it cannot be told; if "
            "it was rejected, its dead letter may still be there",
        )
    if not any(len(batch) for batch in read_range(reader, where, offset, offset + 1)):
        raise ConfigError(
            f"{_at(where, offset)} is no event",
            hint="the mark of a transaction, or a record that was compacted away: take the "
            "offset after it",
        )


class _Inquiry:
    """The state before an event made again, and the event fed to it."""

    def __init__(
        self,
        replay: Replay,
        base: Snapshot | None,
        first: Snapshot | None,
        ranges: Sequence[Range],
        gaps: Sequence[Range],
        on_events: Callable[[int], None] | None,
    ) -> None:
        self._replay = replay
        self._base = base
        self._first = first
        self._ranges = ranges
        self._gaps = gaps
        self._on_events = on_events
        self._poisoned: dict[tuple[int, int], str] = {}

    def answer(self, partition: int, offset: int) -> Answer:
        if self._first is not None:
            self._poisoned = dict.fromkeys(self._first.manifest.poisoned, "")
        # What the learner says when the event breaks it is part of the answer.
        self._poisoned.pop((partition, offset), None)
        while True:
            try:
                return self._run(partition, offset)
            except PoisonEvent as event:
                place = (event.partition, event.offset)
                if place in self._poisoned:
                    raise Fatal(f"the event at {place} broke the learner again: {event}") from event
                self._poisoned[place] = str(event)

    def _run(self, partition: int, offset: int) -> Answer:
        until = self._first.manifest if self._first else None
        kit = self._replay.lane(self._base, {p: start for p, start, _ in self._ranges}, until)
        kit.lane.poisoned = dict(self._poisoned)
        tap = _Tap(partition, offset)
        kit.lane.taps.append(tap)
        answer: Answer | None = None
        replayed = 0
        for batch in self._replay.events(self._base, self._ranges, self._gaps, until):
            replayed += len(batch)
            if self._on_events is not None:
                self._on_events(len(batch))
            if answer is None and _holds(batch, partition, offset):
                answer = self._feed_around(kit, batch, offset)
            else:
                kit.lane.feed(kit.decode(batch))
            if tap.seen is not None and answer is not None:
                answer = tap.seen._replace(features=answer.features)
            if answer is not None and answer.fate != "waiting" and until is None:
                break
        if answer is None:
            raise LogGap(
                f"the lineage has never read offset {offset} of partition {partition}, although "
                "it went past it"
            )
        proven = None
        if until is not None:
            proven = final_digest(kit.lane, self._ranges) == until.digest
        return answer._replace(proven=proven, replayed=replayed)

    def _feed_around(self, kit: Kit, batch: Batch, offset: int) -> Answer:
        """Feed a batch with the event between what is before and what is after it."""
        at = bisect_left(batch.offsets, offset)
        if at:
            kit.lane.feed(kit.decode(batch.slice(0, at)))
        block = kit.decode(batch.slice(at, at + 1))
        effects = kit.lane.feed(block)
        answer = Answer(batch.partition, offset, "waiting")
        if block.features:
            answer = answer._replace(features=block.features[0], label=block.labels[0])
        if block.unlabelled:
            answer = answer._replace(fate="unlabelled")
        elif block.duplicates:
            answer = answer._replace(fate="duplicate")
        for letter in effects.dead_letters:
            if letter.offset == offset:
                poison = (batch.partition, offset) in self._poisoned
                answer = answer._replace(
                    fate="poison" if poison else "rejected",
                    reason=letter.reason,
                    detail=letter.detail,
                )
        if at + 1 < len(batch):
            kit.lane.feed(kit.decode(batch.slice(at + 1, len(batch))))
        return answer


def _holds(batch: Batch, partition: int, offset: int) -> bool:
    return batch.partition == partition and batch.offsets[0] <= offset <= batch.offsets[-1]


class _Tap:
    """Catches the outcome of one event."""

    def __init__(self, partition: int, offset: int) -> None:
        self._partition = partition
        self._offset = offset
        self.seen: Answer | None = None

    def __call__(self, outcomes: Outcomes) -> None:
        offsets = outcomes.offsets
        if outcomes.partition != self._partition or not offsets[0] <= self._offset <= offsets[-1]:
            return
        at = bisect_left(offsets, self._offset)
        if offsets[at] != self._offset:
            return
        values, probabilities = outcomes.predictions
        self.seen = Answer(
            self._partition,
            self._offset,
            "learned",
            label=outcomes.labels[at],
            prediction=values[at],
            probabilities=probabilities[at] if probabilities else None,
            event_time=outcomes.time_of(at),
        )
