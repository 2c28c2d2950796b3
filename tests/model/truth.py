"""What an uninterrupted run makes of the log, and the invariants it is held against.

Every transaction is looked at in the moment when it is decided, before anybody can read
it. The names of the invariants, which the messages begin with:

==  ==========================================================================
I1  the state of a snapshot is that of an uninterrupted run over the same events
I2  what is said of the events from one committed position to the next is what
    an uninterrupted run says of them: nothing else, nothing less, nothing twice
I3  each event is counted once: learned, rejected, unlabelled or a duplicate
I4  snapshots are numbered one after the other, and each names the one before
I5  S <= C, C never goes back, and its note names the newest snapshot and its S
I6  when nothing goes wrong any more, everything is learned and nothing hangs
==  ==========================================================================

And one that the protocol is about, called ``fence``: nobody commits for a partition after
another member has been told where to go on with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from stream_update.events import Batch, Record
from stream_update.journal import JournalEntry
from stream_update.snapshot import Assembler, Manifest, state_digest
from tests.model.broker import Transaction
from tests.model.groups import Group
from tests.model.learning import event, fresh_kit

__all__ = ["APP", "TOPICS", "Truth", "Violation"]

APP = "model"
TOPICS = {
    kind: f"{APP}.{kind}" for kind in ("snapshots", "metrics", "drift", "dead-letters", "journal")
}


class Violation(AssertionError):
    """An invariant does not hold."""


def hold(condition: object, name: str, text: str) -> None:
    if not condition:
        raise Violation(f"{name}: {text}")


class Outcome(NamedTuple):
    """What was said of one event: its prediction and label, or the reason it was rejected."""

    answer: float | None
    label: float | None
    reason: str


class Lineage:
    """One lane run without interruption, as far as positions have been committed."""

    def __init__(self, learner: str, partitions: list[int]) -> None:
        self.kit = fresh_kit(learner, dict.fromkeys(partitions, 0))
        self.manifest: Manifest | None = None
        self.sha256 = ""
        self.entries = 0

    @property
    def seq(self) -> int:
        return self.manifest.seq if self.manifest else 0

    def stored(self, partition: int) -> int:
        """S: up to where the newest snapshot has learned."""
        return self.manifest.positions[partition] if self.manifest else 0


class Truth:
    """All events, and all that may be said of them."""

    def __init__(self, learner: str, partitions: int, *, single: bool) -> None:
        self.values: list[list[bytes]] = [[] for _ in range(partitions)]
        self.committed = [0] * partitions
        self.said: list[dict[int, Outcome]] = [{} for _ in range(partitions)]
        self._learner = learner
        self._single = single
        numbers = [*range(partitions)]
        together = Lineage(learner, numbers) if single else None
        self.lineages = {p: together or Lineage(learner, [p]) for p in numbers}

    def add(self, partition: int, kind: str) -> Record:
        """The next event of a partition."""
        number = len(self.values[partition])
        value = event(kind, number)
        self.values[partition].append(value)
        if kind == "poison" and self._learner == "counting":
            poisoned = self.lineages[partition].kit.lane.poisoned
            poisoned[partition, number] = "ValueError: poison"
        return Record("events", value, partition=partition, timestamp_ms=number)

    # -- a transaction is decided

    def decided(self, transaction: Transaction) -> None:
        group, offsets = transaction.group, transaction.offsets
        hold(group is not None and offsets, "fence", "records without positions")
        assert isinstance(group, Group)
        for partition in offsets:
            told = group.told.get(partition)
            hold(
                told is transaction.process,
                "fence",
                f"{transaction.process.name} commits for partition {partition}, but "
                f"{told.name if told else 'nobody'} was told last where to go on with it",
            )
        records: dict[str, list[Record]] = {topic: [] for topic in TOPICS.values()}
        for where, _, record in transaction.records:
            records[where.topic].append(record)
        before = {p: self.committed[p] for p in offsets}
        for p, at in offsets.items():
            text = f"partition {p} goes back from {before[p]} to {at.offset}"
            hold(at.offset >= before[p], "I5", text)
            hold(at.offset <= len(self.values[p]), "I5", f"partition {p} is not that long")
            self.committed[p] = at.offset
        self._learn(records[TOPICS["journal"]], before)
        said = self._say(before)
        found = _outcomes(records)
        for p in offsets:
            text = f"of partition {p} from {before[p]} to {self.committed[p]} was said"
            expected, actual = said.get(p, {}), found.pop(p, {})
            hold(actual == expected, "I2", f"{text} {actual}, to be said is {expected}")
            self.said[p] |= actual
        hold(not found, "I2", f"something is said of partitions {[*found]} without positions")
        self._snapshots(records[TOPICS["snapshots"]])
        for p, at in offsets.items():
            lineage, note = self.lineages[p], json.loads(at.metadata)
            stored = lineage.stored(p)
            text = f"partition {p}: S is {stored}, C is {at.offset}, noted is {note}"
            hold(stored <= at.offset, "I5", text)
            hold(
                note
                == {"lineage": APP, "seq": lineage.seq, "S": stored, "sha": lineage.sha256[:8]},
                "I5",
                text,
            )

    def _learn(self, journal: list[Record], before: Mapping[int, int]) -> None:
        """Learn what is committed now: in the order of the journal, if there is one."""
        self._effects: dict[int, dict[int, Outcome]] = {}
        if not self._single:
            for partition, start in before.items():
                self._feed(partition, start, self.committed[partition])
            return
        reached = dict(before)
        for record in journal:
            entry = json.loads(record.value or b"", object_hook=dict)
            lineage = self.lineages[0]
            text = f"journal entry {entry['number']} follows {lineage.entries} others"
            hold(entry["number"] == lineage.entries, "I4", text)
            lineage.entries += 1
            for partition, first, count in entry["runs"]:
                text = f"the journal goes on in partition {partition} at {first}"
                hold(first == reached[partition], "I2", f"{text}, not at {reached[partition]}")
                self._feed(partition, first, first + count)
                reached[partition] = first + count
            hold(set(entry) == set(JournalEntry.__struct_fields__), "I4", f"odd entry {entry}")
        text = f"the journal reaches {reached}, the positions are {self.committed}"
        hold(all(self.committed[p] == at for p, at in reached.items()), "I2", text)

    def _feed(self, partition: int, start: int, stop: int) -> None:
        if start == stop:
            return
        values = self.values[partition][start:stop]
        count = len(values)
        offsets, keys, headers = range(start, stop), [None] * count, [()] * count
        batch = Batch("events", partition, offsets, values, keys, offsets, headers)
        kit = self.lineages[partition].kit
        effects = kit.lane.feed(kit.decode(batch))
        said = self._effects.setdefault(partition, {})
        for alarm in effects.alarms:
            said[alarm.offset] = Outcome(alarm.before, alarm.after, "")
        for letter in effects.dead_letters:
            said[letter.offset] = Outcome(None, None, letter.reason)

    def _say(self, before: Mapping[int, int]) -> dict[int, dict[int, Outcome]]:
        return {p: said for p, said in self._effects.items() if p in before}

    def _snapshots(self, records: list[Record]) -> None:
        assemblers: dict[int | None, Assembler] = {}
        for record in records:
            assembler = assemblers.setdefault(record.partition, Assembler(APP))
            seq = assembler.add(record.value, record.headers)
            if seq is None:
                continue
            snapshot = assembler.complete(seq)
            hold(snapshot is not None, "I4", f"snapshot {seq} is not complete")
            assert snapshot is not None
            manifest = snapshot.manifest
            lineage = self.lineages[manifest.partition]
            lane = lineage.kit.lane
            name = f"snapshot {seq} of {lane.next}"
            hold(seq == lineage.seq + 1, "I4", f"{name} follows {lineage.seq}")
            hold(manifest.parent == lineage.sha256, "I4", f"{name} names another one before it")
            hold(manifest.positions == lane.next, "I1", f"{name} is of {manifest.next}")
            hold(manifest.digest == state_digest(lane.freeze()), "I1", f"{name} differs")
            hold(manifest.journal == lineage.entries, "I4", f"{name}: entry {manifest.journal}")
            hold(not manifest.gaps, "I3", f"{name} has gaps {manifest.gaps}")
            seen = manifest.learned + manifest.rejected + manifest.unlabelled + lane.duplicates
            hold(manifest.events == seen == sum(lane.next.values()), "I3", f"{name} of {seen}")
            lineage.manifest, lineage.sha256 = manifest, snapshot.sha256
            hold(not assembler.refused, "I4", str(assembler.refused))

    # -- the end

    def complete(self) -> bool:
        """Whether every event is learned and committed."""
        return self.committed == [len(values) for values in self.values]

    def must_be_stored(self) -> None:
        """After the last member has left in good order."""
        for p, values in enumerate(self.values):
            stored = self.lineages[p].stored(p)
            hold(stored == len(values), "I6", f"partition {p} is stored up to {stored}")

    def must_be_read(self, outputs: Mapping[str, list[Record]]) -> None:
        """What a reader of committed records finds is what was decided, each once."""
        found = _outcomes(outputs)
        for p, said in enumerate(self.said):
            hold(found.get(p, {}) == said, "I2", f"of partition {p} is read {found.get(p)}")


def _outcomes(records: Mapping[str, list[Record]]) -> dict[int, dict[int, Outcome]]:
    """What records say of which event."""
    found: dict[int, dict[int, Outcome]] = {}
    for record in records[TOPICS["drift"]]:
        value: dict[str, Any] = json.loads(record.value or b"")
        hold(value["kind"] == "told", "I2", f"an alarm nobody expects: {value}")
        outcome = Outcome(value["before"], value["after"], "")
        _put(found, value["partition"], value["offset"], outcome)
    for record in records[TOPICS["dead-letters"]]:
        headers = {name: text.decode() for name, text in record.headers}
        place = int(headers["partition"]), int(headers["offset"])
        _put(found, *place, Outcome(None, None, headers["reason"]))
    return found


def _put(found: dict[int, dict[int, Outcome]], p: int, offset: int, outcome: Outcome) -> None:
    said = found.setdefault(p, {})
    hold(offset not in said, "I2", f"something is said twice of offset {offset} of partition {p}")
    said[offset] = outcome
