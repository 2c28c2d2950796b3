"""Whether a snapshot is what its events make of the snapshot before it.

Each snapshot is learned once more, from its parent and the log's own events, and the
digest of what comes out is compared with the one in its manifest. So a snapshot that
verifies has learned exactly the events that it says, in their order, each once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from stream_update.config import Config
from stream_update.errors import ConfigError, LineageMismatch, LogGap, StreamUpdateError
from stream_update.lane import Lane
from stream_update.proof.held import held_snapshots
from stream_update.proof.replay import Range, Replay
from stream_update.protocols import Log
from stream_update.snapshot import (
    Manifest,
    Snapshot,
    changed_sources,
    check_identity,
    state_digest,
)

__all__ = ["Verdict", "final_digest", "learned_again", "ranges_of", "verify"]


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
        replay = Replay(config, log, reader)
        verifier = _Verifier(replay, held, on_events or (lambda _count: None))
        for snapshot in chosen:
            yield verifier.check(snapshot)


class _Verifier:
    def __init__(
        self, replay: Replay, held: Sequence[Snapshot], on_events: Callable[[int], None]
    ) -> None:
        self._replay = replay
        self._held = {snapshot.sha256: snapshot for snapshot in held}
        self._on_events = on_events

    def check(self, snapshot: Snapshot) -> Verdict:
        manifest = snapshot.manifest
        parent = self._held.get(manifest.parent)
        ranges = ranges_of(manifest, parent)
        if manifest.parent and parent is None:
            return Verdict(manifest, None, "the topic no longer holds the snapshot before", ranges)
        try:
            check_identity(manifest, self._replay.identity)
            if manifest.identity.steps != self._replay.identity.steps:
                # Whether it has taken steps that are not configured.
                self._replay.lane(snapshot, manifest.positions)
            made = learned_again(self._replay, manifest, parent, self._on_events)
        except LineageMismatch as error:
            return Verdict(manifest, ok=False, detail=str(error), ranges=ranges)
        except LogGap as error:
            return Verdict(manifest, None, f"the log lacks some of its events: {error}", ranges)
        except StreamUpdateError as error:
            return Verdict(
                manifest, ok=False, detail=f"its events cannot be learned: {error}", ranges=ranges
            )
        # Once, the order of sets was a part of the digest in a manifest.
        if made == manifest.digest or made == state_digest(snapshot.state()):
            return Verdict(manifest, ok=True, detail="", ranges=ranges)
        return Verdict(
            manifest,
            ok=False,
            detail=f"these events make another state of the snapshot before it: {made[:16]}..., "
            f"not {manifest.digest[:16]}..."
            + "".join(
                f"; changed since: {change}"
                for change in changed_sources(manifest, self._replay.identity)
            ),
            ranges=ranges,
        )


def learned_again(
    replay: Replay,
    manifest: Manifest,
    base: Snapshot | None,
    on_events: Callable[[int], None] = lambda _count: None,
) -> str:
    """The digest of what a snapshot's events since ``base`` make of it.

    Raises :class:`LogGap` if the log does not hold all of them.
    """
    ranges = ranges_of(manifest, base)
    kit = replay.lane(base, {p: start for p, start, _ in ranges}, manifest)
    kit.lane.poisoned = dict.fromkeys(manifest.poisoned, "")
    for batch in replay.events(base, ranges, manifest.gaps, manifest):
        kit.lane.feed(kit.decode(batch))
        on_events(len(batch))
    return final_digest(kit.lane, ranges)


def ranges_of(manifest: Manifest, base: Snapshot | None) -> list[Range]:
    """The events that a snapshot has learned since ``base``, or since its lineage began."""
    began = {int(partition): offset for partition, offset in manifest.start.items()}
    start = base.manifest.positions if base else began
    return [
        (partition, start.get(partition, 0), end)
        for partition, end in sorted(manifest.positions.items())
    ]


def final_digest(lane: Lane, ranges: Sequence[Range]) -> str:
    """The digest of a lane that has been fed everything of these ranges."""
    for partition, _, end in ranges:
        lane.next[partition] = end  # a gap may be the last thing before it
    return state_digest(lane.freeze())
