"""The process that owns lanes: assign, poll, feed, checkpoint, drain.

On any doubt it raises a :class:`~stream_update.errors.Fatal` and is started again:
there is one way to recover, and every start walks it.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from stream_update.cadence import Cadence
from stream_update.errors import LineageMismatch, LogGap, Overtaken, Refused, Transient, Unreadable
from stream_update.events import Batch, Committed, Record, TopicPartition
from stream_update.lane import PoisonEvent
from stream_update.plans import Plan
from stream_update.protocols import Member, Publication, Publisher, Reader
from stream_update.restore import read_range
from stream_update.sealing import Sealing
from stream_update.slots import Draft, Part, Slot

__all__ = ["Worker"]

logger = logging.getLogger(__name__)

IDLE_S = 0.2
DRAIN_S = 60.0
ASK_S = 1.0
SOON_S = 0.02
LOOK_S = 1.0
PATIENCE_S = 120.0


class _Made(NamedTuple):
    """A checkpoint whose snapshots are being made since ``began``."""

    drafts: list[Draft]
    began: float
    sealings: list[Sealing]

    def done(self) -> bool:
        return all(sealing.done() for sealing in self.sealings)


class Worker:
    """Runs the lanes of the partitions that the group gives to this process.

    ``ends`` stops the worker when the whole topic has been learned up to these
    offsets, by whichever members; ``max_events`` after so many events here;
    ``stop_when`` as soon as it returns True. ``accept_gap``: a lane whose next events the
    log no longer holds goes on behind the gap instead of stopping. ``successors`` gives the
    plans by which to go on when another lineage has been promoted, the first that fits
    its snapshots is taken; none if nothing has changed. ``on_progress`` is
    called after every poll, ``on_checkpoint`` after every committed checkpoint.
    """

    def __init__(
        self,
        plan: Plan,
        member: Member,
        publisher: Publisher,
        reader: Reader,
        cadence: Cadence,
        *,
        report: Callable[[Slot], Mapping[str, Any]],
        single: bool = False,
        max_poll_records: int = 500,
        ends: Mapping[int, int] | None = None,
        max_events: int | None = None,
        stop_when: Callable[[], bool] | None = None,
        on_slot: Callable[[Slot], None] | None = None,
        on_progress: Callable[[Worker], None] | None = None,
        on_checkpoint: Callable[[Worker], None] | None = None,
        accept_gap: bool = False,
        successors: Callable[[], Iterable[Plan]] | None = None,
        idle_s: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.slots: dict[int, Slot] = {}
        self.events = 0
        self._plan = plan
        self._member = member
        self._publisher = publisher
        self._reader = reader
        self._cadence = cadence
        self._report = report
        self._single = single
        self._max_poll_records = max_poll_records
        self._ends = ends
        self._max_events = max_events
        self._stop_when = stop_when
        self._on_slot = on_slot
        self._on_progress = on_progress
        self._on_checkpoint = on_checkpoint
        self._clock = clock
        self._accept_gap = accept_gap
        self._successors = successors
        self._look_at = clock() + LOOK_S
        self._unfit = ""
        self._halted: dict[int, Overtaken] = {}
        self._stopping = False
        self._made: _Made | None = None
        self._flying: tuple[list[Part], Publication] | None = None
        self._patient = False
        self._standby: Slot | None = None
        self._owned: set[int] = set()
        self._void: set[int] = set()
        self._failing_since: float | None = None
        self._idle_s = idle_s
        self._began = clock()
        self._asked_at = -ASK_S

    def stop(self) -> None:
        """Finish the batch, checkpoint, leave the group. Safe to call from a signal handler."""
        self._stopping = True

    @property
    def lineage(self) -> str:
        """The lineage that the lanes learn now; a promotion changes it."""
        return self._plan.lineage

    @property
    def standing_by(self) -> bool:
        """Whether another member has the lane and this one only follows it."""
        return self._standby is not None and not self.slots

    def run(self) -> None:
        """Until told to stop, or until a stop condition holds."""
        try:
            while not self._stopping:
                self._turn()
                if self._on_progress is not None:
                    self._on_progress(self)
                if self._enough() or self._finished():
                    break
            self._drain()
        finally:
            self._call_off()
            for slot in (*self.slots.values(), self._standby):
                if slot is not None:
                    slot.close()
        if self._halted and not self._stopping:
            raise next(iter(self._halted.values()))

    def _turn(self) -> None:
        if self._successors is not None and self._clock() >= self._look_at:
            self._look_at = self._clock() + LOOK_S
            self._succeed([*self._successors()])
        try:
            poll = self._member.poll(self._wait_s(), self._max_poll_records)
        except Overtaken as gap:
            self._overtaken(gap)
            return
        self._void.clear()
        if poll.lost or poll.gained:
            self._call_off()
            self._settle()
        self._go_on()
        if poll.lost:
            self._drop(poll.lost)
        if poll.gained:
            self._gain(poll.gained)
        for batch in poll.batches:
            self._feed(batch)
        if self._due():
            self._next_checkpoint()
        elif self._single and not self.slots:
            self._stand_by()

    # -- assignment

    def _drop(self, partitions: Sequence[int]) -> None:
        """Let go of the lanes of these partitions, and of what they have not committed."""
        self._owned -= set(partitions)
        for number in [n for n, slot in self.slots.items() if {*slot.partitions} & {*partitions}]:
            slot = self.slots.pop(number)
            self._halted.pop(number, None)
            slot.close()
            logger.info(
                "%s: partitions %s went to another member; what was not committed of them is "
                "learned there again",
                self._plan.source_topic,
                slot.partitions,
            )

    def _gain(self, partitions: Sequence[int]) -> None:
        self._owned |= set(partitions)
        # Restored lanes read on from where they are: what this poll brought is not for them.
        self._void |= {0} if self._single else set(partitions)
        if self._single:
            self._gain_single()
            return
        self._plan.grow(max(partitions) + 1)
        committed = self._committed(partitions)
        for partition in sorted(partitions):
            slot = Slot(partition, [partition], self._plan, self._reader)
            self._restore(slot, {partition: committed[partition]})
            self.slots[partition] = slot
            self._resume(slot)

    def _gain_single(self) -> None:
        for slot in self.slots.values():
            slot.close()
        self.slots.clear()
        committed = self._committed(sorted(self._owned))
        own = self._warm_slot(committed)
        if own is None:
            own = Slot(0, self._owned, self._plan, self._reader)
            self._restore(own, committed)
        self.slots[0] = own
        self._resume(own)

    def _warm_slot(self, committed: Mapping[int, Committed | None]) -> Slot | None:
        """The stand-by's lane at the end of the journal, if it can get there."""
        slot, self._standby = self._standby, None
        if slot is None or slot.partitions != sorted(self._owned):
            return None
        try:
            self._catch_up(slot, committed)
        except LogGap as gap:
            logger.warning("the stand-by is of no use, going back to the last snapshot: %s", gap)
            slot.close()
            return None
        with self._member.busy():
            taken = slot.take_over(committed)
        if not taken:
            slot.close()
            return None
        return slot

    def _committed(self, partitions: Sequence[int]) -> dict[int, Committed | None]:
        """The barrier: returns when no checkpoint of a former owner is under way."""
        deadline = self._clock() + DRAIN_S
        while True:
            try:
                return self._member.committed(partitions)
            except Transient as error:
                if self._clock() > deadline:
                    raise
                logger.warning("waiting for the former owner's last checkpoint: %s", error)

    def _restore(self, slot: Slot, committed: Mapping[int, Committed | None]) -> None:
        while True:
            try:
                with self._member.busy():
                    slot.restore(committed)
                break
            except LineageMismatch:
                # A process that stood still since it asked finds snapshots that are newer than
                # the offsets it was told; what it makes of them will be refused.
                before, committed = committed, self._committed(slot.partitions)
                if committed == before:
                    raise
        if slot.keeps_journal:
            self._catch_up(slot, committed)

    def _catch_up(self, slot: Slot, committed: Mapping[int, Committed | None]) -> None:
        """Learn what the journal has, which is all that the group has committed.

        The two are decided together, but the one may be seen before the other.
        """
        deadline, learned = self._clock() + DRAIN_S, 1
        while True:
            try:
                with self._member.busy():
                    learned = slot.follow_journal(0.0 if learned else IDLE_S)
                if slot.journal_done(committed):
                    slot.close()  # the readers; it goes on from the group's own records now
                    return
            except PoisonEvent as event:
                slot.poisoned_by(event)
                slot.restore(self._member.committed(slot.partitions))
                learned = 1
            if learned:
                deadline = self._clock() + DRAIN_S
            elif self._clock() > deadline:
                raise Transient(
                    f"{self._plan.topics['journal']} does not reach what the group has committed "
                    f"of {self._plan.source_topic}: {dict(committed)}",
                    hint="is a transaction hanging there? Start again when its end can be read",
                )

    def _resume(self, slot: Slot) -> None:
        if self._on_slot is not None:
            self._on_slot(slot)
        self._halted.pop(slot.number, None)
        for partition in slot.partitions:
            gap = slot.gap_before(partition)
            if gap is None:
                continue
            if not self._accept_gap:
                self._halt(slot, gap)
                return
            slot.accept(gap)
        for partition in slot.partitions:
            self._member.resume_at(partition, slot.lane.next[partition])
        logger.info(
            "lane %d of %s: at snapshot %d, %d events learned, goes on at %s",
            slot.number,
            self._plan.lineage,
            slot.seq,
            slot.lane.learned,
            {p: slot.lane.next[p] for p in slot.partitions},
        )

    def _overtaken(self, gap: Overtaken) -> None:
        """The log has deleted, or damaged, what a lane would have read next."""
        slot = self.slots.get(0 if self._single else gap.partition)
        if slot is None:
            raise gap
        self._settle()
        damaged = isinstance(gap, Unreadable)
        if not damaged:
            gap = slot.gap_before(gap.partition) or gap
            if not self._accept_gap:
                self._halt(slot, gap)
                return
        slot.accept(gap)
        self._member.resume_at(gap.partition, gap.first)
        if damaged:
            self._cadence.advance(1)

    def _halt(self, slot: Slot, gap: Overtaken) -> None:
        """Stop one lane, with an alarm; the others go on."""
        logger.error("lane %d stops: %s. %s", slot.number, gap, gap.hint)
        self._halted[slot.number] = gap
        for partition in slot.partitions:
            self._member.hold(partition)
        at = self._member.committed([gap.partition])[gap.partition]
        # With the position as it is: an alarm without one would not be fenced.
        position = at or Committed(slot.lane.next[gap.partition])
        try:
            self._publisher.publish(
                [slot.gap_record(gap, accepted=False)], {gap.partition: position}, self._member
            )
        except (Refused, Transient) as error:
            logger.warning("the alarm could not be published: %s", error)

    def _stand_by(self) -> None:
        """Keep a lane warm behind the owner's journal."""
        if self._standby is None:
            slot = Slot(0, self._plan.partitions(), self._plan, self._reader)
            slot.restore({})
            self._standby = slot
            logger.info("standing by for lineage %s", self._plan.lineage)
        try:
            with self._member.busy():
                self._standby.follow_journal()
        except PoisonEvent as event:
            self._standby.poisoned_by(event)
            self._standby.restore({})
        except LogGap as gap:
            # The log may drop what the newest snapshot has learned before a slow stand-by has.
            behind = self._standby.seq
            self._standby.restore({})
            if self._standby.seq <= behind:
                raise
            logger.info("the stand-by was behind, going on from a newer snapshot: %s", gap)

    # -- another lineage takes over

    def _succeed(self, plans: Sequence[Plan]) -> None:
        """Go on with the lineage that was promoted, behind what has been said so far.

        Its lanes are restored as at a start: they learn in silence from their snapshots to
        the group's offsets, and speak from there on. If none of the plans fits, the
        lanes go on as they are.
        """
        if not plans or not self.checkpoint():
            return
        why = ""
        for plan in plans:
            try:
                slots = [self._succeeding(slot, plan) for slot in self.slots.values()]
                if not slots:
                    Slot(0, plan.partitions()[:1], plan, self._reader).restore({})
            except (LineageMismatch, LogGap) as error:
                why = f"{error}. {error.hint}"
                continue
            logger.info("lineage %s takes over from %s", plan.lineage, self._plan.lineage)
            for old in [*self.slots.values(), self._standby]:
                if old is not None:
                    old.close()
            self._plan, self._standby, self._unfit = plan, None, ""
            self.slots = {slot.number: slot for slot in slots}
            for slot in slots:
                self._resume(slot)
            self._next_checkpoint()
            return
        if why != self._unfit:
            self._unfit = why
            logger.error(
                "lineage %s was promoted, but this process cannot go on with it, and learns %s "
                "until it is started with the configuration that fits: %s",
                plans[0].lineage,
                self._plan.lineage,
                why,
            )

    def _succeeding(self, slot: Slot, plan: Plan) -> Slot:
        heir = Slot(slot.number, slot.partitions, plan, self._reader)
        self._restore(heir, self._committed(slot.partitions))
        for partition in heir.partitions:
            gap = heir.gap_before(partition)
            if gap is not None and not self._accept_gap:
                raise gap
        return heir

    # -- feeding

    def _feed(self, batch: Batch) -> None:
        """Feed a batch in the pieces that the cadence and the event limit leave room for."""
        number = 0 if self._single else batch.partition
        if self._ends is not None and batch.partition in self._ends:
            # What came after the end was fixed is left to the next run.
            batch = batch.slice(0, bisect_left(batch.offsets, self._ends[batch.partition]))
        while len(batch) and number in self.slots and number not in self._void:
            if self._enough():
                self._void.add(number)  # what is left over is read again by the next run
                return
            size = min(len(batch), self._room())
            if self._max_events is not None:
                size = min(size, self._max_events - self.events)
            piece = batch if size == len(batch) else batch.slice(0, size)
            batch = batch.slice(size, len(batch)) if size < len(batch) else batch.slice(0, 0)
            slot = self.slots[number]
            try:
                with self._member.busy():
                    slot.feed(piece)
            except PoisonEvent as event:
                self._settle()
                slot.poisoned_by(event)
                self._void.add(number)
                self._restore(slot, self._member.committed(slot.partitions))
                self._resume(slot)
                return
            self.events += size
            self._cadence.advance(size)
            self._go_on()
            if len(batch) and self._due():
                self._next_checkpoint()

    def _enough(self) -> bool:
        if self._max_events is not None and self.events >= self._max_events:
            return True
        return self._stop_when is not None and self._stop_when()

    def _finished(self) -> bool:
        """Whether every partition has been learned up to its end, here or elsewhere.

        A member does not go before ``idle_s`` while others have partitions: those of a
        member that has died come to it only when its lease has ended.
        """
        if self._ends is None:
            return False
        elsewhere = []
        for partition, end in self._ends.items():
            slot = self.slots.get(0 if self._single else partition)
            if slot is None or partition not in slot.partitions:
                elsewhere.append(partition)
            elif slot.number not in self._halted and self._member.position(partition) < end:
                return False
        if not elsewhere:
            return True
        now = self._clock()
        if now - self._asked_at < ASK_S or now - self._began < self._idle_s:
            return False
        self._asked_at = now
        if not self.checkpoint():
            return False
        try:
            committed = self._member.committed(elsewhere)
        except Transient as error:
            logger.info("cannot see yet how far the other members are: %s", error)
            return False
        return all(self._learned_to_end(p, committed[p]) for p in elsewhere)

    def _learned_to_end(self, partition: int, at: Committed | None) -> bool:
        assert self._ends is not None
        end = self._ends[partition]
        where = TopicPartition(self._plan.source_topic, partition)
        start = self._reader.beginning_offsets([where])[where] if at is None else at.offset
        # Behind the last event there may be transaction markers, which nobody commits.
        return start >= end or not any(read_range(self._reader, where, start, end))

    # -- checkpoints

    def checkpoint(self, *, final: bool = False) -> bool:
        """Make everything said since the last checkpoint visible, in one atomic act.

        Returns False if a rebalance is under way; everything is kept for the next try.
        """
        return self._settle() and self._begin(final=final) and self._settle()

    def _begin(self, *, final: bool = False) -> bool:
        """Send a checkpoint on its way; learning goes on meanwhile."""
        now = self._clock()
        if not self._member.stable():
            self._cadence.refused(now, begun=False)
            return False
        snapshot = final or self._cadence.snapshot_due(now)
        beat = self._cadence.heartbeat_due(now)
        prepared = [
            slot.draft(
                snapshot=snapshot,
                metrics=self._report(slot),
                # A lane that has stopped is not to look alive.
                heartbeat=beat and slot.number not in self._halted,
            )
            for slot in self.slots.values()
        ]
        drafts = [draft for draft in prepared if draft is not None]
        self._cadence.begun(now)
        if not drafts:
            return True
        self._made = _Made(drafts, now, [d.sealing for d in drafts if d.sealing is not None])
        self._patient = not self._made.done()
        return self._patient or self._publish()

    def _publish(self) -> bool:
        """Send the checkpoint off whose snapshots have been made, or wait until they are."""
        assert self._made is not None
        made, self._made = self._made, None
        try:
            with self._member.busy():
                parts = [draft.slot.part(draft) for draft in made.drafts]
        except Refused as error:
            logger.warning("%s", error)
            for sealing in made.sealings:
                sealing.cancel()
            self._refused(made.drafts, error)
            return False
        if made.sealings:
            self._cadence.took(made.began, sum(sealing.cost_s() for sealing in made.sealings))
        records: list[Record] = []
        offsets: dict[int, Committed] = {}
        for part in parts:
            records += part.records
            offsets |= part.offsets
        try:
            publication = self._publisher.begin(records, offsets, self._member)
        except (Refused, Transient) as error:
            self._refused(parts, error)
            return False
        self._flying = (parts, publication)
        return True

    def _go_on(self) -> None:
        """Take the next step with the checkpoint that is on its way, if that takes no waiting."""
        if self._made is not None and self._made.done():
            self._publish()
        if self._flying is not None and self._flying[1].done():
            self._settle()

    def _on_its_way(self) -> bool:
        """Whether a checkpoint is under way that takes its time, which the next one gives it.

        Others are waited for: an event more would be learned, and none more be told of.
        """
        return self._patient and (self._made is not None or self._flying is not None)

    def _due(self) -> bool:
        return self._cadence.due(self._clock()) and not self._on_its_way()

    def _wait_s(self) -> float:
        """How long to wait for events: a checkpoint that time makes due does not wait too."""
        if self._on_its_way():
            return SOON_S
        return min(IDLE_S, self._cadence.left(self._clock()))

    def _room(self) -> int:
        return self._max_poll_records if self._on_its_way() else self._cadence.room()

    def _call_off(self) -> None:
        """Give up the snapshots that are being made: they would come too late."""
        if self._made is None:
            return
        made, self._made = self._made, None
        for sealing in made.sealings:
            sealing.cancel()
        self._refused(made.drafts, Refused("its snapshots were still being made"))

    def _next_checkpoint(self) -> None:
        if self._settle():
            self._begin()

    def _settle(self) -> bool:
        """Wait for the checkpoint that is on its way; False if it did not get through."""
        if self._made is not None and not self._publish():
            return False
        if self._flying is None:
            return True
        (parts, publication), self._flying = self._flying, None
        try:
            given = publication.result()
        except (Refused, Transient) as error:
            self._refused(parts, error)
            return False
        self._failing_since = None
        start = 0
        for part in parts:
            part.slot.confirm(part, given[start : start + len(part.records)])
            start += len(part.records)
        if self._on_checkpoint is not None:
            self._on_checkpoint(self)
        return True

    def _refused(self, parts: Sequence[Draft | Part], error: Refused | Transient) -> None:
        now = self._clock()
        for part in parts:
            part.slot.refuse(part)
        self._cadence.refused(now, begun=True)
        if isinstance(error, Refused):
            logger.info("checkpoint refused, to be tried again after the rebalance: %s", error)
            return
        # Nothing was begun. The log may come back; what was learned waits that long.
        self._failing_since = self._failing_since or now
        if now - self._failing_since > PATIENCE_S:
            raise error
        logger.warning("checkpoint not possible now, to be tried again: %s", error)

    def _drain(self) -> None:
        """The last checkpoint; waits for a rebalance to end rather than lose it."""
        deadline = self._clock() + DRAIN_S
        while not self.checkpoint(final=True):
            if self._clock() > deadline:
                raise Transient(
                    f"the last checkpoint could not be made within {DRAIN_S:.0f} s because the "
                    "group did not settle",
                    hint="nothing is lost: the next start learns again what was not committed",
                )
            # Only to take part in the rebalance: what it brings is read again by the next run.
            self._drop(self._member.poll(IDLE_S, 1).lost)
