"""A slot: a lane and its place in the log.

The lane's truth is S (:attr:`Lane.next` when it was last put in a snapshot), the
outputs' truth is C (what the group has committed). S never passes C. Between the
two a restored lane learns again in silence, because what it says there is already
out; so nothing is said twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import msgspec

from stream_update.codecs import dead_letter_record, json_record, unreadable_letter
from stream_update.errors import (
    CorruptSnapshot,
    Fatal,
    LineageMismatch,
    LogGap,
    Overtaken,
    Unreadable,
)
from stream_update.events import (
    Batch,
    Committed,
    Record,
    Run,
    TopicPartition,
)
from stream_update.heartbeat import Heartbeat, heartbeat_record
from stream_update.journal import Cursor, JournalEntry, journal_record
from stream_update.lane import Effects, Lane, PoisonEvent
from stream_update.plans import Kit, Plan
from stream_update.protocols import DumpsInACopy, Reader
from stream_update.restore import metadata_of, newest
from stream_update.sealing import Sealed, Sealer, Sealing
from stream_update.snapshot import (
    Snapshot,
    changed_sources,
    check_identity,
    records,
    seal_packed,
)

__all__ = ["Draft", "Part", "Slot"]

logger = logging.getLogger(__name__)


class Draft(NamedTuple):
    """What one slot puts into a checkpoint, as far as it is known before its snapshot is made.

    ``next`` are the offsets behind what has been learned, by partition.
    """

    slot: Slot
    records: list[Record]
    next: dict[int, int]
    sealing: Sealing | None
    journal_index: int | None
    pending: list[Record]
    runs: list[Run]


class Part(NamedTuple):
    """What one slot puts into a checkpoint."""

    slot: Slot
    records: list[Record]
    offsets: dict[int, Committed]
    snapshot: Snapshot | None
    journal_index: int | None
    pending: list[Record]
    runs: list[Run]


class Slot:
    """One lane of this process, with what it has said since the last checkpoint.

    ``number`` is the partition of the snapshot topic: the input partition, or 0 for
    the lane over all of them.
    """

    def __init__(self, number: int, partitions: Iterable[int], plan: Plan, reader: Reader) -> None:
        self.number = number
        self.partitions = sorted(partitions)
        self.committed: dict[int, int] = {}
        self.seq = 0
        self.published = 0
        self.snapshot_created_ms: int | None = None
        self.gaps: list[tuple[int, int, int]] = []
        self._began: dict[str, int] = {}
        self._plan = plan
        self._reader = reader
        self._pending: list[Record] = []
        self._parent = ""
        self._parent_seq = 0
        self._snapshot_next: dict[int, int] = {}
        self._poisoned: dict[tuple[int, int], str] = {}
        self._told: set[str] = set()
        self._must_commit = False
        self._must_seal = False
        self._must_store = False
        self._journal = Cursor(
            plan.open_reader, plan.topics["journal"], plan.source_topic, plan.lineage
        )
        self._recent = (0, 0)
        self._kit: Kit | None = None
        self._sealer = Sealer()

    @property
    def keeps_journal(self) -> bool:
        """Whether the order of the events is written down: the lane has several partitions."""
        return self._plan.journal

    @property
    def lane(self) -> Lane:
        assert self._kit is not None, "the slot has not been restored"
        return self._kit.lane

    # -- restoring

    def restore(self, committed: Mapping[int, Committed | None]) -> None:
        """Newest valid snapshot, or a fresh lane if there has never been one.

        ``committed`` holds the group's positions (empty for a stand-by, which only
        follows). Afterwards :attr:`Lane.next` says where reading goes on; the events
        from there to the committed position are learned in silence.
        """
        self._journal.close()
        notes, others = self._notes(committed)
        known = _promised(notes)
        snapshot = self._find(known)
        self._must_commit, self._must_seal = bool(others), False
        self._must_store = False
        if snapshot is None:
            self._may_be_fresh(known, others)
            start = self._first_offsets(committed, notes)
            self._must_seal = self._plan.start is not None
            self._kit = self._plan.build(start)
            self._parent, self._parent_seq = "", 0
            self._journal.start_at(0, 0)
            self.seq, self.gaps = 0, []
            self._began = {str(p): offset for p, offset in sorted(start.items())}
        else:
            manifest = snapshot.manifest
            check_identity(manifest, self._plan.identity)
            for change in changed_sources(manifest, self._plan.identity):
                logger.warning(
                    "snapshot %d of lineage %s was made with other code: %s; going on with the "
                    "code that is here. If it learns differently, stream-update snapshots verify "
                    "will say so of the next snapshot: give such a model a lineage of its own",
                    manifest.seq,
                    manifest.identity.lineage,
                    change,
                )
            start = manifest.positions
            missing = [p for p in self.partitions if p not in start]
            if missing:
                start |= self._first_offsets({p: committed.get(p) for p in missing}, notes)
            self._kit = self._plan.build(start)
            self.lane.thaw(snapshot.state())
            for partition in missing:
                self.lane.next[partition] = start[partition]
            self._parent, self._parent_seq = snapshot.sha256, manifest.seq
            self._journal.start_at(manifest.journal, manifest.journal_offset)
            self.seq = max(manifest.seq, known)
            self.gaps = list(manifest.gaps)
            self._began = {**manifest.start, **{str(p): start[p] for p in missing}}
            self.snapshot_created_ms = manifest.created_ms
        self._sealer = Sealer(
            copies=self._plan.copies
            and isinstance(self.lane.learner, DumpsInACopy)
            and self.lane.learner.dumps_in_a_copy,
            size=snapshot.manifest.unpacked_size if snapshot is not None else 0,
        )
        self.lane.poisoned.update(self._poisoned)
        self._snapshot_next = dict(self.lane.next)
        self._pending.clear()
        self.committed = {
            p: at.offset if at is not None else self.lane.next[p] for p, at in committed.items()
        }
        for partition, offset in self.committed.items():
            if self.lane.next[partition] <= offset:
                continue
            if not self._plan.fenced:
                # All that was said up to the snapshot is out, for it was written before.
                self.committed[partition] = self.lane.next[partition]
                self._must_commit = True
            else:
                raise LineageMismatch(
                    f"snapshot {self.seq} of lineage {self._plan.lineage} has learned "
                    f"{self._plan.source_topic}[{partition}] up to {self.lane.next[partition]}, "
                    f"but the group's offset is {offset}: somebody moved it back",
                    hint="move the offset forward again, or replay under a new lineage",
                )
        if self._plan.auto_offset_reset == "latest" and any(
            at is None for at in committed.values()
        ):
            self._must_commit = True

    def _notes(
        self, committed: Mapping[int, Committed | None]
    ) -> tuple[dict[int, dict[str, Any]], set[str]]:
        """The notes that this lineage left with the group's offsets, by partition, and the
        other lineages that left some: those that it follows after a promotion.
        """
        notes = {p: metadata_of(at.metadata) for p, at in committed.items() if at is not None}
        lineage = self._plan.lineage
        own = {p: note for p, note in notes.items() if note.get("lineage", lineage) == lineage}
        if any(note.get("promoted") for note in own.values()):
            raise LineageMismatch(
                f"lineage {lineage} has been promoted: the live trainers write it now",
                hint="stop this process; nobody else may go on with that lineage",
            )
        return own, {str(note["lineage"]) for p, note in notes.items() if p not in own}

    def _may_be_fresh(self, known: int, others: set[str]) -> None:
        """Refuse to begin anew where the group says that something is there already."""
        where = f"{self._plan.topics['snapshots']}[{self.number}]"
        if known:
            raise LogGap(
                f"the group committed snapshot {known} of lineage {self._plan.lineage}, but "
                f"{where} holds none",
                hint="the snapshot topic lost its records; import one that was exported "
                "(stream-update snapshots import), or rebuild by replay under a new lineage",
            )
        if others:
            raise LineageMismatch(
                f"the group has learned lineage {', '.join(sorted(others))} so far, and {where} "
                f"holds no snapshot of lineage {self._plan.lineage} to go on with",
                hint="stream-update backfill makes one, and stream-update promote hands over; or "
                "use another group_id",
            )

    def _find(self, known: int) -> Snapshot | None:
        """The newest snapshot; waits for the one that the group's note promises."""
        deadline = time.monotonic() + self._plan.wait_s
        told: set[int] = set()
        while True:
            snapshot = newest(
                self._reader,
                self._plan.topics["snapshots"],
                self.number,
                self._plan.lineage,
                self._plan.trusted,
                limits=self._plan.limits,
                told=told,
            )
            found = snapshot.manifest.seq if snapshot is not None else 0
            if found >= known:
                return snapshot
            if time.monotonic() > deadline:
                logger.error(
                    "%s[%d]: snapshot %d is not to be had, going back to %d and learning again "
                    "from there",
                    self._plan.topics["snapshots"],
                    self.number,
                    known,
                    found,
                )
                return snapshot
            time.sleep(0.5)

    def _first_offsets(
        self,
        committed: Mapping[int, Committed | None],
        notes: Mapping[int, Mapping[str, Any]],
    ) -> dict[int, int]:
        wanted = [TopicPartition(self._plan.source_topic, p) for p in self.partitions]
        if self._plan.auto_offset_reset == "latest":
            first = self._reader.end_offsets(wanted)
        else:
            first = self._reader.beginning_offsets(wanted)
        start = {where.partition: offset for where, offset in first.items()}
        start |= {p: offset for p, offset in (self._plan.start or {}).items() if p in start}
        for partition, at in committed.items():
            if at is not None and partition in notes:
                start[partition] = int(notes[partition].get("S", at.offset))
        return start

    # -- the journal of a lane over several partitions

    def follow_journal(self, timeout_s: float = 0.0) -> int:
        """Learn again, in silence, what the journal has; returns the records learned.

        A stand-by calls this now and then; the owner calls it until
        :meth:`journal_done` before it reads on by itself.
        """
        learned = 0
        for batch in self._journal.follow(timeout_s):
            self._learn(batch)
            learned += len(batch)
        self.lane.runs.clear()
        return learned

    def journal_done(self, committed: Mapping[int, Committed | None]) -> bool:
        """Whether all of the journal has been learned, and it reaches what is committed.

        What was committed with another lineage is in no journal of this one.
        """
        if not self._journal.at_end():
            return False
        own, _ = self._notes(committed)
        return all(
            at is None or max(self._journal.reaches.get(p, 0), self.lane.next[p]) >= at.offset
            for p, at in committed.items()
            if p in own
        )

    def take_over(self, committed: Mapping[int, Committed | None]) -> bool:
        """A stand-by that followed the journal to its end becomes the owner.

        False if it has to be restored instead: who owned the lane may have taken a step of
        growth at other events than this one, which knew of it sooner or later.
        """
        notes, others = self._notes(committed)
        known = _promised(notes)
        latest = self._find(known)
        if self._plan.identity.steps or (latest is not None and latest.manifest.identity.steps):
            return False
        self._must_commit = bool(others)
        if latest is not None:
            self.seq, self._parent = max(latest.manifest.seq, known), latest.sha256
            self._parent_seq = latest.manifest.seq
            self.gaps, self._began = list(latest.manifest.gaps), dict(latest.manifest.start)
            self._snapshot_next = latest.manifest.positions
            self.snapshot_created_ms = latest.manifest.created_ms
        self.committed = {
            p: at.offset if at is not None else self.lane.next[p] for p, at in committed.items()
        }
        self._journal.close()
        return True

    # -- feeding

    def feed(self, batch: Batch) -> None:
        """Decode and learn; keep what it says for the next checkpoint.

        Raises :class:`PoisonEvent`; see :meth:`poisoned_by`.
        """
        limit = self.committed.get(batch.partition, 0)
        if batch.offsets and batch.offsets[0] < limit:
            silent = sum(1 for offset in batch.offsets if offset < limit)
            # With a journal this is a lineage that was promoted: what it learns in silence is
            # in no journal of its own yet, so the runs are kept for the next checkpoint.
            self._learn(batch.slice(0, silent) if silent < len(batch) else batch)
            if silent == len(batch):
                return
            batch = batch.slice(silent, len(batch))
        effects = self._learn(batch)
        if effects.dead_letters or effects.alarms:
            self._say(effects)
        self._check_ratio(len(batch), len(effects.dead_letters))

    def _learn(self, batch: Batch) -> Effects:
        assert self._kit is not None
        return self._kit.lane.feed(self._kit.decode(batch))

    def poisoned_by(self, event: PoisonEvent) -> None:
        """Remember an event that the learner cannot learn; the slot must be restored."""
        key = (event.partition, event.offset)
        if key in self._poisoned:
            raise Fatal(
                f"{self._plan.source_topic}[{event.partition}] offset {event.offset} broke the "
                f"learner again although it was set aside: {event}",
            )
        self._poisoned[key] = str(event)
        logger.warning(
            "%s[%d] offset %d breaks the learner (%s): it becomes a dead letter, and the lane "
            "goes back to its last snapshot and learns the others again",
            self._plan.source_topic,
            event.partition,
            event.offset,
            event,
        )

    def _say(self, effects: Effects) -> None:
        plan = self._plan
        for letter in effects.dead_letters:
            if letter.reason not in self._told:
                self._told.add(letter.reason)
                logger.warning(
                    "%s[%d] offset %d is a dead letter, %s: %s; later ones of this reason are "
                    "in %s without a warning here",
                    plan.source_topic,
                    letter.partition,
                    letter.offset,
                    letter.reason,
                    letter.detail,
                    plan.topics["dead-letters"],
                )
            self._pending.append(
                dead_letter_record(
                    letter, plan.topics["dead-letters"], plan.source_topic, plan.lineage
                )
            )
        for alarm in effects.alarms:
            logger.info(
                "drift: %s[%d] offset %d: %s went from %.4f to %.4f (%s)",
                plan.source_topic,
                alarm.partition,
                alarm.offset,
                alarm.detector,
                alarm.before,
                alarm.after,
                alarm.direction,
            )
            value = {
                "app": plan.identity.app,
                "lineage": plan.lineage,
                "topic": plan.source_topic,
                **plan.alarm_value(alarm),
            }
            self._pending.append(
                json_record(plan.topics["drift"], value, key=plan.lineage.encode())
            )

    def gap_before(self, partition: int) -> Overtaken | None:
        """What the log has lost of what the lane would read next, if anything."""
        where = TopicPartition(self._plan.source_topic, partition)
        wanted, first = self.lane.next[partition], self._reader.beginning_offsets([where])[where]
        if wanted >= first:
            return None
        return Overtaken(
            f"{where.topic}[{partition}] holds nothing before offset {first}, but lineage "
            f"{self._plan.lineage} has to go on at {wanted}",
            partition=partition,
            wanted=wanted,
            first=first,
            hint="retention or a deletion overtook it; to go on without these events, which is "
            "written down in the lineage, start with --accept-gap",
        )

    def accept(self, gap: Overtaken) -> None:
        """Go on behind a gap; the lineage says so from now on."""
        start = self.lane.next[gap.partition]
        self.lane.next[gap.partition] = gap.first
        self.gaps = [*self.gaps, (gap.partition, start, gap.first)]
        # Only a snapshot tells a later start that this has been agreed to.
        self._must_store = True
        logger.warning("%s; going on at %d without them", gap, gap.first)
        if not isinstance(gap, Unreadable):
            self._pending.append(self.gap_record(gap, accepted=True))
        elif gap.wanted >= self.committed.get(gap.partition, 0):
            letter = unreadable_letter(gap)
            self._say(Effects([], [letter]))

    def gap_record(self, gap: Overtaken, *, accepted: bool) -> Record:
        """The alarm that a gap is."""
        plan = self._plan
        value = {
            "kind": "log-gap",
            "app": plan.identity.app,
            "lineage": plan.lineage,
            "topic": plan.source_topic,
            "partition": gap.partition,
            "offset": gap.wanted,
            "first": gap.first,
            "accepted": accepted,
        }
        return json_record(plan.topics["drift"], value, key=plan.lineage.encode())

    def _check_ratio(self, count: int, bad: int) -> None:
        seen, wrong = self._recent[0] + count, self._recent[1] + bad
        if seen >= self._plan.bad_window:
            if wrong > self._plan.bad_ratio * seen:
                raise Fatal(
                    f"{wrong} of the last {seen} events of {self._plan.source_topic} partition "
                    f"{self.partitions} were bad, more than [dead_letters] max_ratio allows",
                    hint=f"read their reasons in {self._plan.topics['dead-letters']}",
                )
            seen = wrong = 0
        self._recent = (seen, wrong)

    # -- checkpoints

    def draft(
        self, *, snapshot: bool, metrics: Mapping[str, Any], heartbeat: bool = False
    ) -> Draft | None:
        """What the slot has to say in a checkpoint now, or None.

        One draft at a time: it ends with :meth:`confirm` or :meth:`refuse`, and the slot
        may be fed in between, also while its snapshot is still being made.
        """
        lane = self.lane
        if any(lane.next[p] < self.committed[p] for p in self.partitions):
            return None  # still learning in silence: C must not go back
        moved = any(lane.next[p] > self.committed[p] for p in self.partitions)
        storing = snapshot or self._must_store
        sealing = storing and (self._must_seal or lane.next != self._snapshot_next)
        beating = heartbeat and not sealing and self._parent_seq > 0
        if not (moved or sealing or beating or self._must_commit):
            return None
        plan, made = self._plan, list(self._pending)
        if moved:
            made.append(
                json_record(
                    plan.topics["metrics"],
                    {**metrics, **self.facts()},
                    key=f"{plan.lineage}/{self.number}".encode(),
                )
            )
        journal_index = None
        if plan.journal and (moved or lane.runs):
            journal_index = len(made)
            entry = JournalEntry(
                self._journal.number,
                [(run.partition, run.first_offset, run.count) for run in lane.runs],
                {str(p): offset for p, offset in sorted(lane.next.items())},
            )
            made.append(journal_record(entry, plan.topics["journal"], plan.lineage))
        sealed = self._seal(with_journal=journal_index is not None) if sealing else None
        if beating:
            made += self._heartbeats()
        draft = Draft(self, made, dict(lane.next), sealed, journal_index, self._pending, lane.runs)
        self._pending, lane.runs = [], []
        return draft

    def part(self, draft: Draft) -> Part:
        """A draft with its snapshot; waits for that, and raises as :meth:`Sealing.result`."""
        made = list(draft.records)
        sealed: Snapshot | None = None
        if draft.sealing is not None:
            sealed, stored = draft.sealing.result()
            made += stored
        seq = sealed.manifest.seq if sealed else self.seq
        at = draft.next if sealed else self._snapshot_next
        offsets = {}
        for p in self.partitions:
            note = {
                "lineage": self._plan.lineage,
                "seq": seq,
                "S": at[p],
                "sha": (sealed.sha256 if sealed else self._parent)[:8],
            }
            offsets[p] = Committed(draft.next[p], msgspec.json.encode(note).decode())
        return Part(self, made, offsets, sealed, draft.journal_index, draft.pending, draft.runs)

    def facts(self) -> dict[str, Any]:
        """Where the lane is, for the metrics topic and for people."""
        lane = self.lane
        return {
            "app": self._plan.identity.app,
            "lineage": self._plan.lineage,
            "partition": self.number,
            "next": {str(p): offset for p, offset in sorted(lane.next.items())},
            "events": lane.events,
            "learned": lane.learned,
            "dead_letters": lane.rejected,
            "unlabelled": lane.unlabelled,
            "duplicates": lane.duplicates,
            "event_time": lane.event_time,
            "gaps": [list(gap) for gap in self.gaps],
            "snapshot": self.seq,
        }

    def _seal(self, *, with_journal: bool) -> Sealing:
        assert self._kit is not None
        lane, plan = self._kit.lane, self._plan
        now = int(time.time() * 1000)
        make = partial(
            seal_packed,
            identity=plan.identity,
            compression_level=plan.compression_level,
            partition=self.number,
            seq=self.seq + 1,
            parent=self._parent,
            next={str(p): offset for p, offset in sorted(lane.next.items())},
            events=lane.events,
            learned=lane.learned,
            rejected=lane.rejected,
            unlabelled=lane.unlabelled,
            recent_loss=self._kit.recent_loss(),
            event_time=lane.event_time,
            created_ms=now,
            expires_ms=None if plan.expires_ms is None else now + plan.expires_ms,
            key_id="" if plan.signing is None else plan.signing.key_id,
            journal=self._journal.number + with_journal,
            journal_offset=self._journal.offset,
            gaps=list(self.gaps),
            start=dict(self._began),
            poisoned=sorted(place for place in self._poisoned if place[1] < lane.next[place[0]]),
        )
        return self._sealer.seal(lane.freeze, partial(self._sealed, make))

    def _sealed(self, make: Callable[[bytes], Snapshot], packed: bytes) -> Sealed:
        """A snapshot, and the records of all that is published of it."""
        plan, sealed = self._plan, make(packed)
        made = records(sealed, plan.topics["snapshots"], plan.signing)
        served = sealed
        if plan.serving is not None:
            served = plan.serving.seal(
                sealed,
                msgspec.msgpack.decode(packed)["learner"],
                compression_level=plan.compression_level,
            )
            made += records(served, plan.serving.topic, plan.signing)
        try:
            for one in (sealed, served):
                plan.limits.check(one.manifest.size, one.manifest.unpacked_size)
        except CorruptSnapshot as error:
            raise Fatal(
                f"lane {self.number} of lineage {plan.lineage} has grown too large, and nobody "
                f"would take its snapshot: {error}",
                hint="raise the limit here and where its snapshots are followed, or let the "
                "model grow less; nothing that was committed is lost",
            ) from error
        return Sealed(sealed, made)

    def _heartbeats(self) -> list[Record]:
        """The same word to all who follow, whichever of the topics they read."""
        plan, now = self._plan, int(time.time() * 1000)
        beat = Heartbeat(
            app=plan.identity.app,
            lineage=plan.lineage,
            partition=self.number,
            seq=self._parent_seq,
            sha256=self._parent,
            time_ms=now,
            expires_ms=None if plan.expires_ms is None else now + plan.expires_ms,
            key_id="" if plan.signing is None else plan.signing.key_id,
        )
        topics = [plan.topics["snapshots"], *([plan.serving.topic] if plan.serving else [])]
        return [heartbeat_record(beat, topic, plan.signing) for topic in topics]

    def confirm(self, part: Part, given: list[int]) -> None:
        """The checkpoint with this part is in the log; ``given`` are its records' offsets."""
        self._must_commit = False
        self.committed = {p: at.offset for p, at in part.offsets.items()}
        if part.journal_index is not None:
            self._journal.wrote(given[part.journal_index])
        if part.snapshot is not None:
            self._must_seal = self._must_store = False
            self.seq = part.snapshot.manifest.seq
            self._parent, self._parent_seq = part.snapshot.sha256, self.seq
            self._snapshot_next = part.snapshot.manifest.positions
            self.snapshot_created_ms = part.snapshot.manifest.created_ms
            self.published += 1
            self._poisoned = {
                key: detail
                for key, detail in self._poisoned.items()
                if key[1] >= self._snapshot_next[key[0]]
            }
            self.lane.poisoned = dict(self._poisoned)

    def refuse(self, part: Draft | Part) -> None:
        """The checkpoint with this part is certainly not in the log."""
        self._pending = part.pending + self._pending
        self.lane.runs = part.runs + self.lane.runs

    def close(self) -> None:
        """Let go of the readers of the journal; they are opened again when it is followed."""
        self._journal.close()


def _promised(notes: Mapping[int, Mapping[str, Any]]) -> int:
    """The number of the newest snapshot that is in the log, seen or not yet."""
    return max((int(note.get("seq", 0)) for note in notes.values()), default=0)
