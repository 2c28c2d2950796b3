"""Whether a snapshot is what its events make of the snapshot before it.

Each snapshot is learned once more, from its parent and the log's own events, and the
digest of what comes out is compared with the one in its manifest. So a snapshot that
verifies has learned exactly the events that it says, in their order, each once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from stream_update.assemble import components, fresh_lane, identity, source_topic, trusted_keys
from stream_update.config import Config
from stream_update.errors import ConfigError, LineageMismatch, LogGap, StreamUpdateError
from stream_update.events import Batch, Run, TopicPartition
from stream_update.protocols import Log, Reader
from stream_update.restore import Journal, RunReader, read_range
from stream_update.slots import Kit
from stream_update.snapshot import Assembler, Manifest, Snapshot, check_identity, state_digest

__all__ = ["Verdict", "held_snapshots", "verify"]


class Verdict(NamedTuple):
    """What verifying one snapshot came to.

    ``ok`` is None where it could not be found out; ``detail`` says why, or what differs.
    ``ranges`` are the events between the parent and the snapshot, as (partition, first
    offset, next offset).
    """

    manifest: Manifest
    ok: bool | None
    detail: str
    ranges: list[tuple[int, int, int]]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        manifest = self.manifest
        return {
            "lineage": manifest.identity.lineage,
            "partition": manifest.partition,
            "snapshot": manifest.seq,
            "ok": self.ok,
            "detail": self.detail,
            "ranges": [list(one) for one in self.ranges],
            "digest": manifest.digest,
        }


def held_snapshots(config: Config, reader: Reader, partition: int) -> list[Snapshot]:
    """Every complete snapshot of the lineage that its topic still holds, oldest first."""
    where = TopicPartition(config.topic("snapshots"), partition)
    first, end = (find([where])[where] for find in (reader.beginning_offsets, reader.end_offsets))
    assembler = Assembler(
        config.lineage_name,
        trusted_keys(config),
        partition=partition,
        limits=config.snapshot.limits,
    )
    found: dict[int, Snapshot] = {}
    for batch in read_range(reader, where, first, end):
        for value, headers in zip(batch.values, batch.headers, strict=True):
            seq = assembler.add(value, headers)
            snapshot = None if seq is None else assembler.complete(seq)
            if snapshot is not None:
                found[snapshot.manifest.seq] = snapshot
                assembler.forget(snapshot.manifest.seq + 1)
    return [found[seq] for seq in sorted(found)]


def verify(
    config: Config,
    log: Log,
    partition: int,
    seq: int | None = None,
    on_events: Callable[[int], None] | None = None,
) -> Iterator[Verdict]:
    """Learn the snapshots of one partition again, oldest first, or only the one with ``seq``.

    ``on_events`` is told how many events have been learned, now and then. Raises
    :class:`ConfigError` if there is no such snapshot.
    """
    with ExitStack() as opened:
        reader = opened.enter_context(log.reader())
        held = held_snapshots(config, reader, partition)
        chosen = [snapshot for snapshot in held if seq is None or snapshot.manifest.seq == seq]
        if not chosen:
            raise ConfigError(
                f"{config.topic('snapshots')}[{partition}] holds no snapshot "
                f"{'' if seq is None else seq} of lineage {config.lineage_name}",
                hint=f"it holds: {', '.join(str(s.manifest.seq) for s in held) or 'none'}",
            )
        verifier = _Verifier(config, log, reader, held, on_events or (lambda _count: None))
        for snapshot in chosen:
            yield verifier.check(snapshot)


class _Verifier:
    def __init__(
        self,
        config: Config,
        log: Log,
        reader: Reader,
        held: Sequence[Snapshot],
        on_events: Callable[[int], None],
    ) -> None:
        self._config = config
        self._log = log
        self._reader = reader
        self._held = {snapshot.sha256: snapshot for snapshot in held}
        self._on_events = on_events
        self._parts = components(config)
        self._identity = identity(config, self._parts, source_topic(config, log))

    def check(self, snapshot: Snapshot) -> Verdict:
        manifest = snapshot.manifest
        parent = self._held.get(manifest.parent)
        start = parent.manifest.positions if parent else _numbers(manifest.start)
        ranges = [
            (partition, start.get(partition, 0), end)
            for partition, end in sorted(manifest.positions.items())
        ]
        if manifest.parent and parent is None:
            return Verdict(manifest, None, "the topic no longer holds the snapshot before", ranges)
        try:
            check_identity(manifest, self._identity)
            made = self._learn(manifest, parent, ranges)
        except LineageMismatch as error:
            return Verdict(manifest, ok=False, detail=str(error), ranges=ranges)
        except LogGap as error:
            return Verdict(manifest, None, f"the log lacks some of its events: {error}", ranges)
        except StreamUpdateError as error:
            return Verdict(
                manifest, ok=False, detail=f"its events cannot be learned: {error}", ranges=ranges
            )
        if made == manifest.digest:
            return Verdict(manifest, ok=True, detail="", ranges=ranges)
        return Verdict(
            manifest,
            ok=False,
            detail=f"these events make another state of the snapshot before it: {made[:16]}..., "
            f"not {manifest.digest[:16]}...",
            ranges=ranges,
        )

    def _learn(
        self,
        manifest: Manifest,
        parent: Snapshot | None,
        ranges: Iterable[tuple[int, int, int]],
    ) -> str:
        """The digest of what the events make of the parent."""
        kit = fresh_lane(self._config, self._parts, {p: start for p, start, _ in ranges})
        if parent is not None:
            kit.lane.thaw(parent.state())
        kit.lane.poisoned = dict.fromkeys(manifest.poisoned, "")
        if self._config.lanes == "single":
            self._feed(kit, self._journalled(manifest, parent))
        else:
            for partition, start, end in ranges:
                self._feed(kit, self._stretch(partition, start, end, manifest.gaps))
        for partition, _, end in ranges:
            kit.lane.next[partition] = end  # a gap may be the last thing before it
        return state_digest(kit.lane.freeze())

    def _feed(self, kit: Kit, batches: Iterable[Batch]) -> None:
        for batch in batches:
            kit.lane.feed(kit.decode(batch))
            self._on_events(len(batch))

    def _stretch(
        self, partition: int, start: int, end: int, gaps: Sequence[tuple[int, int, int]]
    ) -> Iterator[Batch]:
        where = TopicPartition(self._config.source.topic, partition)
        for number, missing, first in sorted(gaps):
            if number == partition and start <= missing < end:
                yield from read_range(self._reader, where, start, missing)
                start = first
        yield from read_range(self._reader, where, start, end)

    def _journalled(self, manifest: Manifest, parent: Snapshot | None) -> Iterator[Batch]:
        number = parent.manifest.journal if parent else 0
        offset = parent.manifest.journal_offset if parent else 0
        topic = self._config.topic("journal")
        with ExitStack() as opened:
            entries = Journal(self._log.reader(), topic, manifest.identity.lineage, number, offset)
            opened.callback(entries.close)
            runs = RunReader(self._log.reader(), self._config.source.topic)
            opened.callback(runs.close)
            while number < manifest.journal:
                for entry in entries.read(1.0):
                    if entry.number < manifest.journal:
                        for run in entry.runs:
                            yield from runs.take(Run(*run))
                    number = entry.number + 1


def _numbers(offsets: dict[str, int]) -> dict[int, int]:
    return {int(partition): offset for partition, offset in offsets.items()}
