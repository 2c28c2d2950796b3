"""A snapshot from a file becomes the newest of its lineage, if nothing is lost or repeated by it.

An importing process is, for a moment, the trainer: it joins the group, so that no other one
owns the lane, and publishes the snapshot in one checkpoint with the group's offsets, which
stay where they are. What makes that safe:

* Its number has to be above those on the topic, for readers never go back, and not above
  that of the newest snapshot the group has committed, or it is none of this group's.
* The snapshot's offset S must not be past the group's offset C: what lies between them was
  never said, and would not be.
* The log has to hold the events from S to C, for they are learned again in silence.
* It has to continue what is on the topic. If the log still has the events between, they are
  learned again from there, and have to make exactly this snapshot.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from stream_update.assemble import trusted_keys
from stream_update.config import Config
from stream_update.errors import CorruptSnapshot, LineageMismatch, LogGap, Transient
from stream_update.events import Committed, TopicPartition
from stream_update.exchange.portable import read_snapshot
from stream_update.journal import Journal
from stream_update.lane import PoisonEvent
from stream_update.proof.held import Held, held_snapshots, republished
from stream_update.proof.replay import Replay
from stream_update.proof.verifying import learned_again
from stream_update.protocols import Log, Member, Reader
from stream_update.restore import metadata_of
from stream_update.snapshot import Manifest, Snapshot, changed_sources, check_identity

__all__ = ["Import", "import_snapshot"]

JOIN_S = 60.0
POLL_S = 0.2


class Import(NamedTuple):
    """What came of an import: ``notes`` say what was looked at, and what to expect.

    ``published`` is False after a dry run, and if the snapshot is the newest already.
    """

    manifest: Manifest
    published: bool
    notes: list[str]


def import_snapshot(
    config: Config, log: Log, path: Path, *, dry_run: bool = False, join_s: float = JOIN_S
) -> Import:
    """Check the snapshot in a file and publish it; with ``dry_run`` only the checks.

    Raises :class:`CorruptSnapshot` if the file is damaged or not signed as it has to be,
    :class:`LineageMismatch` if it does not belong there or would lose or repeat events,
    :class:`LogGap` if the log no longer holds what it needs, and :class:`Transient` if
    another process has the lane and does not let go within ``join_s`` seconds.
    """
    held = read_snapshot(path, config.lineage_name, trusted_keys(config), config.snapshot.limits)
    manifest = held.snapshot.manifest
    with ExitStack() as opened:
        reader = opened.enter_context(log.reader())
        replay = Replay(config, log, reader)
        notes = _check_fit(config, log, replay, held)
        check = _Check(config, log, reader, replay, held.snapshot)
        group, topic = config.trainer_group, replay.source.name
        there = check.everything(log.committed(group, topic))
        if not (dry_run or there.newest):
            member = opened.enter_context(log.member(group, topic, single=config.lanes == "single"))
            _own(member, sorted(manifest.positions), join_s)
            there = check.again(there, _present(member.committed(sorted(manifest.positions))))
        notes += there.notes
        if dry_run or there.newest:
            return Import(manifest, published=False, notes=notes)
        publisher = opened.enter_context(
            log.publisher(
                config.trainer_group, [config.topic("snapshots")], delivery=config.delivery
            )
        )
        made = republished(held, config.topic("snapshots"))
        publisher.publish(made, there.basis.committed, member)
    return Import(manifest, published=True, notes=notes)


def _check_fit(config: Config, log: Log, replay: Replay, held: Held) -> list[str]:
    """Whether it is of this application and a lane can be made of it."""
    manifest = held.snapshot.manifest
    where = f"snapshot {manifest.seq} of lineage {manifest.identity.lineage}"
    if manifest.identity.app != config.app:
        raise LineageMismatch(
            f"{where} is of app {manifest.identity.app}, not of {config.app}",
            hint="give the configuration of that app",
        )
    check_identity(manifest, replay.identity)
    partitions = set(range(replay.source.partitions))
    if config.lanes == "single":
        fits = manifest.partition == 0 and manifest.positions.keys() <= partitions
    else:
        fits = manifest.positions.keys() == {manifest.partition} <= partitions
    topics = log.topics()
    if not fits or manifest.partition >= topics[config.topic("snapshots")].partitions:
        raise LineageMismatch(
            f"{where} is of partition {manifest.partition} and has learned partitions "
            f"{sorted(manifest.positions)}; {replay.source.name} has {len(partitions)}"
        )
    kit = replay.lane(held.snapshot, manifest.positions)
    if kit.lane.next != manifest.positions or kit.lane.events != manifest.events:
        raise CorruptSnapshot(f"{where}: the state does not stand where its manifest says")
    expired = manifest.expires_ms is not None and manifest.expires_ms <= time.time() * 1000
    signed = "signed by a trusted key" if config.snapshot.trusted_keys else "signature not checked"
    return [
        f"{where}: digests and configuration agree; {signed}",
        *(["it has expired: no scorer takes it before a heartbeat renews it"] if expired else []),
        *(f"made with other code: {change}" for change in changed_sources(
            manifest, replay.identity)),
    ]  # fmt: skip


class _Basis(NamedTuple):
    """What the answer depends on: the newest snapshot on the topic, and the group's offsets."""

    newest: Snapshot | None
    committed: dict[int, Committed]


class _There(NamedTuple):
    """What the log says about the lane, and whether the snapshot is its newest already."""

    notes: list[str]
    basis: _Basis
    newest: bool


class _Check:
    """Whether publishing the snapshot would lose or repeat anything."""

    def __init__(
        self, config: Config, log: Log, reader: Reader, replay: Replay, snapshot: Snapshot
    ) -> None:
        self._config = config
        self._log = log
        self._reader = reader
        self._replay = replay
        self._snapshot = snapshot
        self._manifest = snapshot.manifest
        self._name = f"snapshot {self._manifest.seq}"

    def again(self, before: _There, committed: Mapping[int, Committed]) -> _There:
        """What is so now; looked at anew only if something has moved meanwhile."""
        return before if self._basis(committed) == before.basis else self.everything(committed)

    def _basis(self, committed: Mapping[int, Committed]) -> _Basis:
        held = held_snapshots(self._config, self._reader, self._manifest.partition)
        own = {p: at for p, at in committed.items() if p in self._manifest.positions}
        return _Basis(held[-1] if held else None, own)

    def everything(self, committed: Mapping[int, Committed]) -> _There:
        basis = self._basis(committed)
        if basis.newest is not None and basis.newest.sha256 == self._snapshot.sha256:
            return _There([f"{self._name} is the newest on the topic already"], basis, newest=True)
        notes = self._continues(basis.newest)
        known = self._known(basis.committed)
        notes += self._learned_again(basis.committed, known)
        if self._config.lanes == "single":
            self._journal()
        return _There(notes, basis, newest=False)

    def _continues(self, newest: Snapshot | None) -> list[str]:
        """Whether it comes after the newest on the topic, and out of it."""
        manifest = self._manifest
        if newest is None:
            return ["the topic holds no snapshot of this lineage"]
        there = newest.manifest
        if there.seq >= manifest.seq:
            other = "another one" if there.seq == manifest.seq else "a newer one"
            raise LineageMismatch(
                f"the topic holds snapshot {there.seq} of lineage {there.identity.lineage}, "
                f"{other} than {self._name} of this file: a lineage never goes back",
                hint="nothing is lost as it is. To learn again from an earlier state, give the "
                "model a lineage of its own",
            )
        behind = {p: at for p, at in there.positions.items() if manifest.positions.get(p, 0) < at}
        branched = there.seq + 1 == manifest.seq and manifest.parent != newest.sha256
        if behind or branched:
            raise LineageMismatch(
                f"{self._name} does not continue snapshot {there.seq}, the newest on the topic: "
                + (
                    f"that one has learned {_offsets(behind)} already"
                    if behind
                    else "its parent is another one"
                ),
                hint="the lineage has gone another way since: leave it as it is",
            )
        return [f"the newest on the topic is {there.seq}", *self._proof(newest)]

    def _proof(self, newest: Snapshot) -> list[str]:
        number = newest.manifest.seq
        try:
            made = learned_again(self._replay, self._manifest, newest)
        except (LogGap, PoisonEvent) as error:
            return [f"whether {self._name} comes of {number} cannot be shown any more: {error}"]
        if made != self._manifest.digest:
            raise LineageMismatch(
                f"the events after snapshot {number} make another state than that of {self._name}",
                hint="it is of another branch of the lineage, or somebody forged it",
            )
        return [f"its events, learned again from {number} on, make exactly {self._name}"]

    def _known(self, committed: Mapping[int, Committed]) -> int:
        """The group's last snapshot, if this one is of the same group."""
        group, manifest = self._config.trainer_group, self._manifest
        missing = sorted(manifest.positions.keys() - committed.keys())
        if missing:
            raise LineageMismatch(
                f"group {group} has no committed offset for partitions {missing}: what it has "
                f"said of them, and so where outputs would go on after {self._name}, is not known",
                hint="set group_id to the group that has learned this lineage",
            )
        lineage = manifest.identity.lineage
        notes = [
            note
            for at in committed.values()
            if (note := metadata_of(at.metadata)).get("lineage", lineage) == lineage
        ]
        if any(note.get("promoted") for note in notes):
            raise LineageMismatch(
                f"lineage {lineage} has been promoted: the live trainers write it now, not group "
                f"{group}",
                hint="give the configuration of the live trainers",
            )
        known = max((int(note.get("seq", 0)) for note in notes), default=0)
        if known < manifest.seq:
            raise LineageMismatch(
                f"group {group} has committed no snapshot of lineage {lineage} after {known}: "
                f"{self._name} is not one of its own",
                hint="it was made by another group or log, or the group's offsets were moved",
            )
        branches = [
            sha
            for note in notes
            if note.get("seq") == manifest.seq and (sha := str(note.get("sha", "")))
        ]
        if not all(map(self._snapshot.sha256.startswith, branches)):
            raise LineageMismatch(
                f"group {group} has committed another snapshot with the number {manifest.seq}",
                hint="the lineage has gone another way since: leave it as it is",
            )
        past = {p: at for p, at in manifest.positions.items() if at > committed[p].offset}
        if past:
            raise LineageMismatch(
                f"{self._name} has learned {_offsets(past)}, and group {group} is at "
                f"{_offsets({p: committed[p].offset for p in past})}: what the events between "
                "would have said would be lost",
                hint="somebody moved the group's offsets back: move them forward again",
            )
        return known

    def _learned_again(self, committed: Mapping[int, Committed], known: int) -> list[str]:
        """Whether the log holds what has to be learned again."""
        manifest, notes = self._manifest, []
        topic = self._replay.source.name
        places = [TopicPartition(topic, p) for p in manifest.positions]
        begins = self._reader.beginning_offsets(places)
        for place in sorted(begins):
            at, end = manifest.positions[place.partition], committed[place.partition].offset
            if begins[place] > at and end > at:
                raise LogGap(
                    f"{topic}[{place.partition}] holds nothing before offset {begins[place]}: "
                    f"events that the lineage has learned after {self._name}, from {at} to "
                    f"{end}, are gone and would be lost",
                    hint="take a later snapshot, or rebuild by replay under a new lineage",
                )
            notes.append(
                f"{topic}[{place.partition}]: {end - at:,} events, {at:,} to {end:,}, will be "
                "learned again in silence"
            )
        if known > manifest.seq:
            notes.append(
                f"the group's last snapshot was {known}, which is not to be had: a trainer looks "
                f"for it for some seconds, goes on from {manifest.seq}, and makes {known + 1} next"
            )
        return notes

    def _journal(self) -> None:
        """Raise :class:`LogGap` if the journal lacks what comes after the snapshot."""
        manifest, topic = self._manifest, self._config.topic("journal")
        with self._log.reader() as reader:
            entries = Journal(
                reader, topic, manifest.identity.lineage, manifest.journal, manifest.journal_offset
            )
            while entries.offset < entries.end() and not entries.read(1.0):
                pass


def _present(committed: Mapping[int, Committed | None]) -> dict[int, Committed]:
    return {p: at for p, at in committed.items() if at is not None}


def _own(member: Member, partitions: list[int], join_s: float) -> None:
    """Become the owner of these partitions; nothing of them is read."""
    owned: set[int] = set()
    deadline = time.monotonic() + join_s
    while not ({*partitions} <= owned and member.stable()):
        if time.monotonic() > deadline:
            raise Transient(
                f"another process of the group has partitions {sorted({*partitions} - owned)}, "
                "and does not let go of them",
                hint="stop the trainers of this lineage, then import",
            )
        poll = member.poll(POLL_S)
        owned -= set(poll.lost)
        owned |= set(poll.gained)


def _offsets(positions: Mapping[int, int]) -> str:
    return ", ".join(f"partition {p} up to offset {at}" for p, at in sorted(positions.items()))
