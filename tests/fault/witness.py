"""What the log says about a lineage, and whether it may: the invariants I1 to I6.

I1  every snapshot's state is that of an uninterrupted learning of the events before it, and
    so is what is published beside it for those who only predict
I2  every dead letter, alarm, row of metrics and journal entry that is committed is there
    once, in order, and is what the uninterrupted learning says; none is missing
I3  every event is learned, rejected, unlabelled or a duplicate: exactly one of them, or it waits
    for its mini-batch to be full
I4  the snapshots of a lane are a chain: consecutive numbers, each names the one before,
    each further than the one before, all of one topic
I5  no snapshot is ahead of the committed offset; that offset names the newest snapshot, and
    never goes back
I6  when the faults are over everything is learned, and no transaction is left open

A :class:`Witness` reads as any other program would, and what is committed when it looks.
On Kafka the parts of one transaction become visible one after the other; there, what
does not fit yet has :data:`SETTLE_S` seconds to come right.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from kafka import KafkaAdminClient
from kafka import errors as vendor
from kafka.structs import TopicPartition as VendorPartition

from stream_update.config import Config
from stream_update.errors import StreamUpdateError, Transient
from stream_update.events import Batch, Committed, TopicPartition
from stream_update.journal import JournalEntry
from stream_update.log.kafka.connect import bootstrap_servers
from stream_update.log.kafka.polling import note_of
from stream_update.protocols import Log, Member, Reader
from stream_update.snapshot import Assembler, Manifest, ServingManifest
from tests.fault.gold import Gold, Said

__all__ = ["Violation", "Witness"]

SETTLE_S = 60.0
KINDS = ("snapshots", "serving", "metrics", "drift", "dead-letters", "journal")
Vector = dict[int, int]


class Violation(Exception):
    """An invariant does not hold."""


class Offsets:
    """The committed offsets as they are, without waiting for a transaction to end."""

    def __init__(self, config: Config, log: Log) -> None:
        self._config = config
        self._admin: Any = None
        self._member: Member | None = None
        if not config.log.startswith("kafka"):
            # Never polled, so it never joins.
            self._member = log.member(config.trainer_group, config.source.topic)

    def read(self) -> dict[int, Committed]:
        """By partition; those that have none are missing."""
        if self._member is not None:
            places = self._member.committed(range(self._config.source.partitions))
            return {p: at for p, at in places.items() if at is not None}
        group = self._config.trainer_group
        try:
            if self._admin is None:
                servers = bootstrap_servers(self._config.log)
                self._admin = KafkaAdminClient(bootstrap_servers=servers)
            found = self._admin.list_group_offsets({group: None})[group]
        except vendor.KafkaError as error:
            self.close()
            raise Transient(f"the offsets cannot be asked for now: {error}") from error
        return {
            where.partition: Committed(at.offset, note_of(at))
            for where, at in found.items()
            if where.topic == self._config.source.topic and at.offset >= 0
        }

    def open_transactions(self, topics: Iterable[str], partitions: int) -> list[str]:
        """Places where a transaction is open."""
        if self._member is not None:
            return []
        places = [VendorPartition(topic, p) for topic in topics for p in range(partitions)]
        try:
            states = self._admin.describe_producers(places)
        except vendor.KafkaError as error:
            raise Transient(f"the producers cannot be asked for now: {error}") from error
        return [
            f"{where.topic}[{where.partition}]"
            for where, state in states.items()
            if any(one.current_transaction_start_offset >= 0 for one in state.active_producers)
        ]

    def close(self) -> None:
        if self._member is not None:
            self._member.close()
        if self._admin is not None:
            admin, self._admin = self._admin, None
            with contextlib.suppress(vendor.KafkaError):
                admin.close()


class Track:
    """What one lane has published, and how much of it has been compared."""

    def __init__(self, config: Config, partitions: list[int], reader: Reader) -> None:
        self.partitions = partitions
        self.rows: list[dict[str, Any]] = []
        self.manifests: list[Manifest] = []
        self.shas: list[str] = []
        self.served: dict[int, ServingManifest] = {}
        self.serving_due: dict[int, str] = {}
        self.entries: list[JournalEntry] = []
        self.gold = Gold(config, partitions, reader)
        self.rows_done = self.manifests_done = self.entries_done = 0


class Witness:
    """Watches the lineage of ``config``; :meth:`look` raises :class:`Violation`."""

    def __init__(self, config: Config, log: Log) -> None:
        self._config = config
        self._log = log
        self._atomic = not config.log.startswith("kafka")
        self._single = config.lanes == "single"
        self._lineage = config.lineage_name
        self._offsets = Offsets(config, log)
        self._source_reader = log.reader()
        self._reader: Reader | None = None
        numbers = range(config.source.partitions)
        groups = [[*numbers]] if self._single else [[p] for p in numbers]
        self.tracks = {
            number: Track(config, partitions, self._source_reader)
            for number, partitions in enumerate(groups)
        }
        unused = set() if self._single else {"journal"}
        if config.snapshot.serving is None:
            unused.add("serving")
        self._kinds = [kind for kind in KINDS if kind not in unused]
        self._at = {
            TopicPartition(config.topic(kind), p): 0
            for kind in self._kinds
            for p in (numbers if kind != "journal" else range(1))
        }
        self._assemblers = {number: Assembler(self._lineage) for number in self.tracks}
        self._serving = {n: Assembler(self._lineage, kind=ServingManifest) for n in self.tracks}
        self._last: dict[str, dict[tuple[int, int], int]] = {}
        self._seen: dict[str, dict[tuple[Any, ...], tuple[int, int]]] = {
            "dead-letters": {},
            "drift": {},
        }
        self._said: dict[str, Said] = {"dead-letters": {}, "drift": {}}
        self._expected: dict[str, Said] = {"dead-letters": {}, "drift": {}}
        self._late: dict[str, float] = {}
        self.committed: dict[int, Committed] = {}
        self.counts = dict.fromkeys(
            (
                "looks",
                "rows",
                "snapshots",
                "for serving",
                "dead letters",
                "alarms",
                "journal entries",
            ),
            0,
        )

    def close(self) -> None:
        self._offsets.close()
        self._source_reader.close()
        if self._reader is not None:
            self._reader.close()

    def progress(self) -> int:
        """How many events are committed; raises :class:`StreamUpdateError` if nobody can tell."""
        return sum(at.offset for at in self._offsets.read().values())

    def ends(self) -> Vector:
        places = [TopicPartition(self._config.source.topic, p) for p in self._partitions()]
        return {w.partition: end for w, end in self._source_reader.end_offsets(places).items()}

    def open_transactions(self) -> list[str]:
        topics = [self._config.topic(kind) for kind in self._kinds if kind != "journal"]
        return self._offsets.open_transactions(topics, self._config.source.partitions)

    def _partitions(self) -> range:
        return range(self._config.source.partitions)

    # -- looking

    def look(self) -> bool:
        """Read what is new and judge it; False if not all of it can be judged yet."""
        first = self._offsets.read()
        self._note_committed(first)
        self._read_on()
        self._note_committed(self._offsets.read())
        self.counts["looks"] += 1
        late = [*self._ahead()]
        for number, track in self.tracks.items():
            late += self._compare(number, track, first)
        now = time.monotonic()
        self._late = {what: self._late.get(what, now) for what in late}
        for what, since in self._late.items():
            if self._atomic or now - since > SETTLE_S:
                raise Violation(what)
        return not late

    def _note_committed(self, found: dict[int, Committed]) -> None:
        for partition, before in self.committed.items():
            now = found.get(partition)
            if now is None or now.offset < before.offset:
                raise Violation(
                    f"I5: the committed offset of partition {partition} went back from "
                    f"{before.offset} to {now.offset if now else 'none'}"
                )
        self.committed = found

    def _read_on(self) -> None:
        if self._reader is None:
            self._reader = self._log.reader()
        reader = self._reader
        try:
            ends = reader.end_offsets(self._at)
            wanted = {where for where, end in ends.items() if self._at[where] < end}
            reader.seek({where: self._at[where] for where in wanted})
            deadline = time.monotonic() + SETTLE_S
            while wanted:
                for batch in reader.poll(0.2, 5000):
                    self._take(batch)
                    where = TopicPartition(batch.topic, batch.partition)
                    self._at[where] = batch.offsets[-1] + 1
                for where in [w for w in wanted if reader.position(w) >= ends[w]]:
                    self._at[where] = max(self._at[where], ends[where])
                    wanted.discard(where)
                if time.monotonic() > deadline:
                    raise Transient(f"{wanted} cannot be read up to their ends")
        except StreamUpdateError:
            self._reader = None
            reader.close()
            raise

    def _take(self, batch: Batch) -> None:
        kind = batch.topic.removeprefix(f"{self._config.app}.")
        for offset, value, headers in zip(batch.offsets, batch.values, batch.headers, strict=True):
            fields = dict(headers)
            if kind == "snapshots":
                if fields.get("lineage") == self._lineage.encode():
                    self._take_snapshot(batch.partition, value, headers)
            elif kind == "serving":
                if fields.get("lineage") == self._lineage.encode():
                    self._take_serving(batch.partition, value, headers)
            elif kind == "dead-letters":
                if fields.get("lineage") == self._lineage.encode():
                    key = (int(fields["partition"]), int(fields["offset"]))
                    said = (value, batch.keys[batch.offsets.index(offset)], sorted(headers))
                    self._take_said(kind, (batch.partition, offset), key, said)
            else:
                tree = json.loads(value or b"{}")
                if kind == "journal":
                    if fields.get("lineage") == self._lineage.encode():
                        self._take_entry(value or b"")
                elif tree.get("lineage") != self._lineage:
                    continue
                elif kind == "metrics":
                    self._take_row(tree)
                else:
                    key = tuple(tree.get(k) for k in ("partition", "offset", "kind", "monitor"))
                    self._take_said(kind, (batch.partition, offset), key, tree)

    def _take_snapshot(self, number: int, value: bytes | None, headers: Any) -> None:
        assembler, track = self._assemblers[number], self.tracks[number]
        seq = assembler.add(value, headers)
        if assembler.refused:
            raise Violation(f"I4: lane {number}: {assembler.refused}")
        if seq is None:
            return
        snapshot = assembler.complete(seq)
        if snapshot is None:
            raise Violation(f"I4: lane {number}: snapshot {seq} has a manifest and no payload")
        snapshot.state()
        manifest = snapshot.manifest
        before = track.manifests[-1] if track.manifests else None
        last_sha = track.shas[-1] if track.shas else ""
        if (manifest.seq, manifest.parent) != (before.seq + 1 if before else 1, last_sha):
            raise Violation(
                f"I4: lane {number}: snapshot {manifest.seq} names parent {manifest.parent[:8]} "
                f"after snapshot {before.seq if before else 0} ({last_sha[:8]})"
            )
        if before is not None:
            further = all(manifest.positions[p] >= at for p, at in before.positions.items())
            if not further or manifest.positions == before.positions:
                raise Violation(
                    f"I4: lane {number}: snapshot {manifest.seq} is at {manifest.next}, and the "
                    f"one before at {before.next}"
                )
            if manifest.identity != before.identity:
                raise Violation(f"I4: lane {number}: snapshot {manifest.seq} is of another stream")
        track.manifests.append(manifest)
        track.shas.append(snapshot.sha256)
        assembler.forget(seq + 1)

    def _take_serving(self, number: int, value: bytes | None, headers: Any) -> None:
        assembler, track = self._serving[number], self.tracks[number]
        seq = assembler.add(value, headers)
        if assembler.refused:
            raise Violation(f"I4: lane {number}: for serving: {assembler.refused}")
        if seq is None:
            return
        snapshot = assembler.complete(seq)
        if snapshot is None:
            raise Violation(f"I4: lane {number}: for serving: {seq} has no payload")
        snapshot.state()
        assert isinstance(snapshot.manifest, ServingManifest)
        if seq != max(track.served, default=0) + 1:
            raise Violation(
                f"I4: lane {number}: for serving: {seq} after {max(track.served, default=0)}"
            )
        track.served[seq] = snapshot.manifest
        assembler.forget(seq + 1)

    def _take_row(self, row: dict[str, Any]) -> None:
        track, at = self.tracks[row["partition"]], vector(row["next"])
        before = vector(track.rows[-1]["next"]) if track.rows else dict.fromkeys(at, 0)
        if at == before or any(at[p] < offset for p, offset in before.items()):
            raise Violation(
                f"I2: lane {row['partition']}: a row of metrics at {at} after one at {before}"
            )
        parts = [row[k] for k in ("learned", "dead_letters", "unlabelled", "duplicates")]
        waiting = row["events"] - sum(parts)
        batch = self._config.learner.get("batch", 1)
        if row["events"] != sum(at.values()) or not 0 <= waiting < batch:
            raise Violation(
                f"I3: lane {row['partition']}: at {at} it counts {row['events']} events, of which "
                f"{parts} are learned, dead letters, unlabelled and duplicates"
            )
        track.rows.append(row)

    def _take_entry(self, value: bytes) -> None:
        entry = msgspec.json.decode(value, type=JournalEntry)
        entries = self.tracks[0].entries
        if entry.number != len(entries):
            raise Violation(f"I2: journal entry {entry.number} where {len(entries)} is due")
        entries.append(entry)

    def _take_said(
        self, kind: str, where: tuple[int, int], key: tuple[Any, ...], said: Any
    ) -> None:
        if key in self._seen[kind]:
            raise Violation(
                f"I2: {kind}: {key} is there twice: at {self._seen[kind][key]} and {where} "
                "(partition, offset)"
            )
        self._seen[kind][key] = where
        last = self._last.setdefault(kind, {})
        place = (where[0], key[0])
        if key[1] < last.get(place, -1):
            raise Violation(f"I2: {kind}: {key} comes after offset {last[place]}")
        last[place] = key[1]
        self._said[kind][key] = said

    # -- judging

    def _ahead(self) -> Iterable[str]:
        """What is visible of events, or of snapshots, that no committed offset covers."""
        at = {p: self.committed[p].offset if p in self.committed else 0 for p in self._partitions()}
        for kind, said in self._said.items():
            for key in said:
                if key[1] >= at[key[0]]:
                    yield f"I2: {kind}: {key} is out, but only {at[key[0]]} is committed"
        for number, track in self.tracks.items():
            if track.rows and any(o > at[p] for p, o in vector(track.rows[-1]["next"]).items()):
                yield f"I2: lane {number}: a row of metrics is ahead of the offsets {at}"
            if not track.manifests:
                continue
            newest = track.manifests[-1]
            if any(offset > at[p] for p, offset in newest.positions.items()):
                yield (
                    f"I5: lane {number}: snapshot {newest.seq} has S = {newest.next}, ahead of "
                    f"C = {at}"
                )
            for partition in track.partitions:
                note = self._note(partition, self.committed)
                if note.get("seq", 0) < newest.seq:
                    yield (
                        f"I5: partition {partition}: the offset names snapshot {note.get('seq')}, "
                        f"the newest is {newest.seq}"
                    )

    def _note(self, partition: int, committed: Mapping[int, Committed]) -> dict[str, Any]:
        at = committed.get(partition)
        found: dict[str, Any] = json.loads(at.metadata) if at is not None else {}
        return found

    def _compare(
        self, number: int, track: Track, committed: Mapping[int, Committed]
    ) -> Iterable[str]:
        """Bring the uninterrupted lane to the committed offsets, comparing on the way."""
        if not any(p in committed for p in track.partitions):
            return
        target = {p: committed[p].offset if p in committed else 0 for p in track.partitions}
        for partition in track.partitions:
            note = self._note(partition, committed)
            seq = int(note.get("seq", 0))
            if len(track.manifests) < seq:
                yield f"I5: lane {number}: snapshot {seq} is named by the offset, and not there"
                return
            if seq == 0:
                continue
            named = track.manifests[seq - 1].positions[partition]
            if note["S"] != named:
                raise Violation(
                    f"I5: partition {partition}: the offset says that snapshot {seq} is at "
                    f"{note['S']}, which is at {named}"
                )
        if not track.rows or sum(vector(track.rows[-1]["next"]).values()) < sum(target.values()):
            yield f"I2: lane {number}: no row of metrics for the committed offsets {target}"
            return
        if self._single and (
            not track.entries or sum(track.entries[-1].next.values()) < sum(target.values())
        ):
            yield f"I2: lane {number}: no journal entry for the committed offsets {target}"
            return
        self._advance(number, track, target)
        if track.gold.next != target:
            yield f"I2: lane {number}: no row of metrics is at the committed offsets {target}"
            return
        yield from self._match(track, target)
        yield from self._check_serving(number, track)

    def _advance(self, number: int, track: Track, target: Vector) -> None:
        """Through all rows and snapshots up to there, in their order."""
        while True:
            self._check_manifests(number, track)
            if track.rows_done == len(track.rows):
                return
            row = track.rows[track.rows_done]
            at = vector(row["next"])
            if any(at[p] > offset for p, offset in target.items()):
                return
            self._move(number, track, at)
            figures = track.gold.figures()
            wrong = {k: (row.get(k), v) for k, v in figures.items() if row.get(k) != v}
            if wrong:
                raise Violation(
                    f"I2: lane {number}: the row of metrics at {at} differs from that of an "
                    f"uninterrupted run: {wrong}"
                )
            track.rows_done += 1
            self.counts["rows"] += 1

    def _check_manifests(self, number: int, track: Track) -> None:
        """Those that are exactly where the uninterrupted lane is now."""
        while track.manifests_done < len(track.manifests):
            manifest = track.manifests[track.manifests_done]
            if manifest.positions != track.gold.next:
                if any(manifest.positions[p] < o for p, o in track.gold.next.items()):
                    raise Violation(
                        f"I1: lane {number}: snapshot {manifest.seq} is at {manifest.next}, where "
                        "no checkpoint was"
                    )
                return
            digest = track.gold.digest()
            if manifest.digest != digest:
                raise Violation(
                    f"I1: lane {number}: snapshot {manifest.seq} at {manifest.next} has state "
                    f"{manifest.digest[:12]}, an uninterrupted run has {digest[:12]}"
                )
            if self._config.snapshot.serving is not None:
                track.serving_due[manifest.seq] = track.gold.serving_digest(manifest)
            track.manifests_done += 1
            self.counts["snapshots"] += 1

    def _check_serving(self, number: int, track: Track) -> Iterable[str]:
        """What is beside each snapshot that has been compared."""
        for seq in sorted(track.serving_due):
            found, manifest = track.served.get(seq), track.manifests[seq - 1]
            if found is None:
                yield f"I1: lane {number}: nothing for serving beside snapshot {seq}"
                return
            digest = track.serving_due.pop(seq)
            if found.digest != digest:
                raise Violation(
                    f"I1: lane {number}: for serving: {seq} has state {found.digest[:12]}, an "
                    f"uninterrupted run has {digest[:12]}"
                )
            said = (found.snapshot, found.next, found.events, found.learned, found.parent)
            if said != (
                track.shas[seq - 1], manifest.next, manifest.events, manifest.learned,
                manifest.parent,
            ):  # fmt: skip
                raise Violation(f"I4: lane {number}: for serving: {seq} says {said}")
            self.counts["for serving"] += 1

    def _move(self, number: int, track: Track, at: Vector) -> None:
        if not self._single:
            ((partition, offset),) = at.items()
            track.gold.advance(partition, offset)
            return
        while track.gold.next != at:
            if track.entries_done == len(track.entries):
                raise Violation(f"I2: lane {number}: the journal does not lead to {at}")
            entry = track.entries[track.entries_done]
            due = dict(track.gold.next)
            for partition, first, count in entry.runs:
                if first != due[partition]:
                    raise Violation(
                        f"I2: journal entry {entry.number} goes on at {first} in partition "
                        f"{partition}, where {due[partition]} is due"
                    )
                due[partition] = first + count
            track.gold.follow(entry)
            if vector(entry.next) != track.gold.next:
                raise Violation(
                    f"I2: journal entry {entry.number} leads to {track.gold.next}, and says "
                    f"{entry.next}"
                )
            track.entries_done += 1
            self.counts["journal entries"] += 1

    def _match(self, track: Track, target: Vector) -> Iterable[str]:
        """What was said of the events before ``target``, against what should have been."""
        for kind, new in (("dead-letters", track.gold.letters), ("drift", track.gold.alarms)):
            expected, said = self._expected[kind], self._said[kind]
            expected |= new
            new.clear()
            for key in [key for key in expected if key in said]:
                right, found = expected.pop(key), said.pop(key)
                if kind == "drift":
                    found = {name: found.get(name) for name in right}
                if right != found:
                    raise Violation(
                        f"I2: {kind}: {key} says {found}, an uninterrupted run says {right}"
                    )
                self.counts["alarms" if kind == "drift" else "dead letters"] += 1
            for key in said:
                if key[0] in target and key[1] < target[key[0]]:
                    raise Violation(f"I2: {kind}: {key} is out; an uninterrupted run is silent")
            for key in expected:
                if key[0] in target:
                    yield f"I2: {kind}: {key} is committed, and nowhere to be found"


def vector(next_: Mapping[str, int]) -> Vector:
    return {int(partition): offset for partition, offset in next_.items()}
