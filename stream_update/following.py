"""One lineage of an application as it is followed: its models, and how fresh they are.

Whatever the topic holds, a model is replaced by a newer one that is whole and in order, or
it stays.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from stream_update import plugins
from stream_update.bounds import Limits
from stream_update.errors import CorruptSnapshot, LineageMismatch, StreamUpdateError
from stream_update.events import Batch, TopicPartition
from stream_update.freshness import Freshness
from stream_update.heartbeat import Heartbeat
from stream_update.protocols import Learner, Reader
from stream_update.refusals import Refusal, Refusals
from stream_update.restore import survey
from stream_update.signing import TrustedKeys
from stream_update.snapshot import Assembler, Manifest, Snapshot

__all__ = ["Following", "Model", "Rules"]


class Model(NamedTuple):
    """One lane's model as a snapshot gave it. ``predict`` changes nothing."""

    learner: Learner
    manifest: Manifest


class Rules(NamedTuple):
    """What holds for every lineage that one subscriber follows; see its options."""

    app: str
    topic: str
    kind: type[Manifest]
    allow: tuple[type, ...]
    trusted: TrustedKeys | None
    limits: Limits
    max_age: float | None
    now_ms: Callable[[], int]
    refusals: Refusals


class Following:
    """The models of one lineage. Read by many threads, written by one.

    ``adopted`` is called with each model that is taken. ``failure`` is what a person should
    hear of where there is no model at all.
    """

    def __init__(
        self,
        lineage: str,
        rules: Rules,
        partitions: int,
        adopted: Callable[[Following, Model], None],
    ) -> None:
        self.lineage = lineage
        self.partitions = partitions
        self.models: dict[int, Model] = {}
        self.freshness = Freshness(rules.max_age)
        self.failure: StreamUpdateError | None = None
        self._rules = rules
        self._adopted = adopted
        self._digests: dict[int, str] = {}
        self._origins: dict[int, str] = {}
        self._read_to: dict[int, int] = {}
        self._assemblers: dict[int, Assembler] = {}

    @property
    def version(self) -> str:
        """The lineage and the number of its snapshot, or one for each partition."""
        models = self.models
        return f"{self.lineage}@{'.'.join(str(models[p].manifest.seq) for p in sorted(models))}"

    def survey(self, reader: Reader) -> dict[TopicPartition, int]:
        """Take what the topic holds already; where reading goes on."""
        places = [TopicPartition(self._rules.topic, p) for p in range(self.partitions)]
        for place in places:
            self._assemblers[place.partition] = self._assembler(place.partition)
        return {place: self._survey(reader, place) for place in places}

    def take(self, batch: Batch) -> None:
        """Take what has come."""
        assembler, partition = self._assemblers[batch.partition], batch.partition
        heard = assembler.heartbeat
        seqs = [
            seq
            for index, offset in enumerate(batch.offsets)
            if (seq := assembler.add(batch.values[index], batch.headers[index], offset)) is not None
        ]
        for refusal in assembler.refused:
            self._refuse(partition, *refusal)
        assembler.refused.clear()
        self._take_newest(assembler, seqs, partition)
        if assembler.heartbeat is not None and assembler.heartbeat is not heard:
            self._hear(assembler.heartbeat, partition)
        self._read_to[partition] = batch.offsets[-1] + 1

    def _assembler(self, partition: int) -> Assembler:
        rules = self._rules
        return Assembler(
            self.lineage,
            rules.trusted,
            app=rules.app,
            partition=partition,
            limits=rules.limits,
            kind=rules.kind,
        )

    def _survey(self, reader: Reader, where: TopicPartition) -> int:
        partition = where.partition

        def take(snapshot: Snapshot, beat: Heartbeat | None, offset: int) -> bool:
            if self._digests.get(partition) == snapshot.sha256:
                return True
            return self._adopt(snapshot, partition, beat, offset)

        found = survey(reader, where, self._assembler(partition), take)
        for refusal in found.refused:
            self._refuse(partition, *refusal)
        self._read_to[partition] = found.end
        self._assemblers[partition].heartbeat = found.heartbeat
        if found.heartbeat is not None:
            self._hear(found.heartbeat, partition)
        return found.end

    def _take_newest(self, assembler: Assembler, seqs: Sequence[int], partition: int) -> None:
        """Adopt the newest of these that can be; the others are refused, or outdated."""
        adopted = False
        for seq in sorted(set(seqs), reverse=True):
            at = assembler.offset_of(seq)
            if not adopted and not self._goes_back(partition, seq, at):
                try:
                    snapshot = assembler.complete(seq)
                except CorruptSnapshot as error:
                    self._refuse(partition, error.reason, str(error), at)
                else:
                    if snapshot is None:
                        text = f"snapshot {seq} lacks some of its chunks"
                        self._refuse(partition, "bad-chunks", text, at)
                    else:
                        adopted = self._adopt(snapshot, partition, assembler.heartbeat, at)
            assembler.discard(seq)
        if adopted:
            assembler.forget(self.models[partition].manifest.seq)

    def _adopt(
        self, snapshot: Snapshot, partition: int, beat: Heartbeat | None, offset: int
    ) -> bool:
        manifest, now = snapshot.manifest, self._rules.now_ms()
        if self._goes_back(partition, manifest.seq, offset):
            return False
        expires = manifest.expires_ms
        if beat is not None and beat.sha256 == snapshot.origin and beat.expires_ms is not None:
            expires = max(expires or 0, beat.expires_ms)
        if expires is not None and expires <= now:
            text = f"snapshot {manifest.seq} expired {(now - expires) / 1000:.0f} s ago"
            self._refuse(partition, "expired", text, offset)
            return False
        try:
            model = Model(_learner(snapshot, self._rules.allow), manifest)
        except CorruptSnapshot as error:
            self._refuse(partition, error.reason, str(error), offset)
            return False
        except LineageMismatch as error:
            self._refuse(partition, "other-version", str(error), offset)
            if partition not in self.models:
                self.failure = error  # what `wait` says, unless another one fits
            return False
        self._digests = {**self._digests, partition: snapshot.sha256}
        self._origins = {**self._origins, partition: snapshot.origin}
        self.freshness.seen(partition, manifest.created_ms, expires, now)
        self.models = {**self.models, partition: model}
        self._adopted(self, model)
        return True

    def _goes_back(self, partition: int, seq: int, offset: int) -> bool:
        current = self.models.get(partition)
        if current is None or seq > current.manifest.seq:
            return False
        text = f"snapshot {seq}, and {current.manifest.seq} is in use"
        self._refuse(partition, "rollback", text, offset)
        return True

    def _hear(self, beat: Heartbeat, partition: int) -> None:
        """A heartbeat vouches for the model in use, and for no other."""
        current = self.models.get(partition)
        if current is None or beat.seq != current.manifest.seq:
            return
        if beat.sha256 != self._origins[partition]:
            self._refuse(
                partition,
                "bad-digest",
                f"a heartbeat names another snapshot {beat.seq} than the one in use",
                self._read_to[partition],
            )
            return
        known = self.freshness.at(partition)
        if known is None or beat.time_ms > known:
            self.freshness.seen(
                partition,
                beat.time_ms,
                beat.expires_ms or current.manifest.expires_ms,
                self._rules.now_ms(),
            )

    def _refuse(self, partition: int, reason: str, text: str, offset: int) -> None:
        # After a connection was lost, what has been counted is met again.
        if offset >= self._read_to.get(partition, 0):
            self._rules.refusals.add(partition, Refusal(reason, text, offset))


def _learner(snapshot: Snapshot, allow: Sequence[type]) -> Learner:
    try:
        return _restored(snapshot, allow)
    except (CorruptSnapshot, LineageMismatch):
        raise
    except Exception as error:
        # Whatever a state that none of ours has written makes the code that reads it do.
        identity = snapshot.manifest.identity
        raise CorruptSnapshot(
            f"snapshot {snapshot.manifest.seq} of lineage {identity.lineage} holds no "
            f"{identity.learner:.200} for the task {identity.task:.200}: "
            f"{type(error).__name__}: {error!s:.200}"
        ) from error


def _restored(snapshot: Snapshot, allow: Sequence[type]) -> Learner:
    identity = snapshot.manifest.identity
    for library, needed in identity.versions.items():
        installed = _version(library)
        if installed.split(".")[:2] != needed.split(".")[:2]:
            raise LineageMismatch(
                f"snapshot {snapshot.manifest.seq} of lineage {identity.lineage} was made with "
                f"{library} {needed}; installed is {installed}",
                hint=f"install {library} {needed}, or let a trainer with this version rebuild the "
                "model by replay under a new lineage",
            )
    return plugins.restored(
        identity.learner,
        snapshot.state()["learner"],
        identity.task,
        allow=allow,
        where=f"lineage {identity.lineage}",
    )


@functools.lru_cache(maxsize=64)
def _version(library: str) -> str:
    """The version that is installed, "missing" without one."""
    try:
        return version(library)
    except (PackageNotFoundError, ValueError):
        return "missing"
