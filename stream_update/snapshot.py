"""The snapshot container: a manifest, and a payload cut into chunks.

A payload is a tree of plain values as msgpack, compressed with zstandard. Its
manifest is JSON and says what the payload is, whose, and up to which offset it has
learned, so that a reader can refuse it before a byte of the payload is parsed.
Nothing here knows a learner; nothing here can run code.

On the log, a snapshot is its chunks followed by its manifest, written in one
transaction, under keys ``lineage/slot/chunk`` with ``slot = seq mod 3``: a
compacted topic keeps at least two complete ones.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
import zstandard
from msgspec import Struct

from stream_update.bounds import Limits, measure, unpack
from stream_update.errors import CorruptSnapshot, LineageMismatch
from stream_update.events import Headers, Record, Tree
from stream_update.heartbeat import Heartbeat, read_heartbeat
from stream_update.objects import without_orders
from stream_update.protocols import Precision
from stream_update.refusals import Refusal
from stream_update.signing import SigningKey, TrustedKeys, signature_headers

__all__ = [
    "CHUNK_BYTES",
    "KINDS",
    "Assembler",
    "Identity",
    "Manifest",
    "ServingManifest",
    "Snapshot",
    "changed_sources",
    "open_payload",
    "pack",
    "read_manifest",
    "records",
    "seal",
    "seal_packed",
    "signed_by",
    "state_digest",
    "tree_digest",
]

FORMAT = 1
CODEC = "msgpack+zstd"
CHUNK_BYTES = 900_000
SET = b"\xa3set"
"""Somewhere in every packed state that has a set in it."""
SLOTS = 3
KINDS = (b"chunk", b"manifest", b"heartbeat")
MAX_OPEN = 3 * SLOTS
MAX_MANIFEST_BYTES = 1 << 20
MAX_DIGITS = 18
MAX_TIME_MS = 1 << 50


class Identity(Struct, frozen=True, kw_only=True):
    """What has to agree between a lane and a snapshot before it may be restored.

    Only two things may differ. ``sources`` are the user's own modules that the configuration
    names, with the SHA-256 of each file: see :func:`changed_sources`. ``steps`` are those that
    each learner is to take later, by its key in the configuration: a learner refuses a state
    that has taken others than its first ones, and whoever learns a snapshot again does it with
    the steps that it was made with.
    """

    app: str
    lineage: str
    task: str
    topic: str
    topic_id: str
    learner: str
    fingerprint: str
    config: dict[str, Any]
    versions: dict[str, str]
    seed: int
    sources: dict[str, str] = {}
    steps: dict[str, list[dict[str, Any]]] = {}


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything about a snapshot except its state.

    ``next`` maps each input partition to the next offset to be read; ``parent`` is
    the SHA-256 of the manifest before this one (empty for the first); ``digest`` is
    that of the uncompressed state, the orders of sets apart. ``journal`` and
    ``journal_offset`` say how far the journal of a lane over several partitions is
    contained. ``gaps`` are the events that the log lost before they were learned, and that
    a person has agreed to go on without: (partition, first offset missing, offset where
    learning went on). ``start``
    is where the lineage began, and ``poisoned`` are the events (partition, offset) since
    the snapshot before that broke the learner and were set aside. From ``expires_ms`` on
    no follower adopts it, unless a heartbeat renews it. ``key_id`` is that of the key which
    signs it, empty without one.
    """

    format: int
    codec: str
    identity: Identity
    partition: int
    seq: int
    parent: str
    next: dict[str, int]
    events: int
    learned: int
    rejected: int
    unlabelled: int
    recent_loss: float
    event_time: int | None
    created_ms: int
    digest: str
    sha256: str
    size: int
    unpacked_size: int
    chunks: int
    journal: int = 0
    journal_offset: int = 0
    gaps: list[tuple[int, int, int]] = []
    start: dict[str, int] = {}
    poisoned: list[tuple[int, int]] = []
    expires_ms: int | None = None
    key_id: str = ""

    @property
    def positions(self) -> dict[int, int]:
        """``next`` with the partitions as numbers."""
        return {int(partition): offset for partition, offset in self.next.items()}


class ServingManifest(Manifest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of what is made of a snapshot for those who only predict: the learner alone, and of it
    what predicts, in numbers of this ``precision``.

    What it says of the events and of the lineage is said of that ``snapshot``, the SHA-256 of
    whose manifest it names. Neither kind of manifest is taken for the other.
    """

    snapshot: str
    precision: Precision


class Snapshot(Struct, frozen=True):
    """A manifest, its hash, and the payload it describes."""

    manifest: Manifest
    sha256: str
    payload: bytes
    limits: Limits = Limits()

    @property
    def origin(self) -> str:
        """The SHA-256 by which heartbeats name it: that of the snapshot it was made of."""
        manifest = self.manifest
        return manifest.snapshot if isinstance(manifest, ServingManifest) else self.sha256

    def state(self) -> Tree:
        """The tree of plain values; raises :class:`CorruptSnapshot`."""
        return open_payload(self.manifest, self.payload, self.limits)


def tree_digest(packed: bytes) -> str:
    """Of a state as :func:`pack` gives it: states that are equal have the same.

    The orders of sets, which are hints for the process that loads it, are no part of it.
    """
    if SET in packed:
        state = msgspec.msgpack.decode(packed)
        bare = without_orders(state)
        if bare is not state:
            packed = pack(bare)
    return hashlib.sha256(packed).hexdigest()


def state_digest(state: Tree) -> str:
    """What :attr:`Manifest.digest` is for a snapshot of this state."""
    return tree_digest(pack(state))


def pack(state: Tree) -> bytes:
    """A state as the bytes that a payload is compressed from."""
    return msgspec.msgpack.encode(state)


def seal(
    state: Tree,
    identity: Identity,
    *,
    compression_level: int = 3,
    kind: type[Manifest] = Manifest,
    **facts: Any,
) -> Snapshot:
    """Pack a state; ``facts`` are the remaining fields of its ``kind`` of manifest."""
    return seal_packed(
        pack(state), identity, compression_level=compression_level, kind=kind, **facts
    )


def seal_packed(
    packed: bytes,
    identity: Identity,
    *,
    compression_level: int = 3,
    kind: type[Manifest] = Manifest,
    **facts: Any,
) -> Snapshot:
    """As :func:`seal`, of what :func:`pack` gave."""
    payload = zstandard.ZstdCompressor(level=compression_level).compress(packed)
    manifest = kind(
        format=FORMAT,
        codec=CODEC,
        identity=identity,
        digest=tree_digest(packed),
        sha256=hashlib.sha256(payload).hexdigest(),
        size=len(payload),
        unpacked_size=len(packed),
        chunks=max(1, -(-len(payload) // CHUNK_BYTES)),
        **facts,
    )
    return Snapshot(manifest, hashlib.sha256(encode_manifest(manifest)).hexdigest(), payload)


def encode_manifest(manifest: Manifest) -> bytes:
    return msgspec.json.encode(manifest)


def read_manifest(value: bytes, kind: type[Manifest] = Manifest) -> Manifest:
    """The inverse of :func:`encode_manifest`; raises :class:`CorruptSnapshot`."""
    if len(value) > MAX_MANIFEST_BYTES:
        raise CorruptSnapshot(f"a manifest of {len(value)} bytes", reason="too-large")
    try:
        manifest = msgspec.json.decode(value, type=kind)
        places = {**manifest.positions, **{int(p): at for p, at in manifest.start.items()}}
    except RecursionError as error:
        raise CorruptSnapshot("the manifest is nested too deep", reason="too-deep") from error
    except (msgspec.MsgspecError, ValueError) as error:
        reason = "truncated" if "truncated" in str(error) else "not-a-snapshot"
        raise CorruptSnapshot(f"the manifest cannot be parsed: {error}", reason=reason) from error
    numbers = (
        manifest.partition, manifest.seq, manifest.size, manifest.unpacked_size,
        manifest.journal, manifest.journal_offset, *places, *places.values(),
    )  # fmt: skip
    times = manifest.created_ms, manifest.expires_ms or 0
    if min(numbers) < 0 or not 0 <= min(times) <= max(times) < MAX_TIME_MS:
        raise CorruptSnapshot("a number of the manifest is impossible", reason="not-a-snapshot")
    if not math.isfinite(manifest.recent_loss):
        raise CorruptSnapshot(f"a recent loss of {manifest.recent_loss}", reason="non-finite")
    if manifest.format != FORMAT or manifest.codec != CODEC:
        raise CorruptSnapshot(
            f"it has format {manifest.format} ({manifest.codec}); this version reads {FORMAT} "
            f"({CODEC})",
            reason="other-format",
        )
    if manifest.chunks != max(1, -(-manifest.size // CHUNK_BYTES)):
        raise CorruptSnapshot(
            f"it claims {manifest.size} bytes in {manifest.chunks} chunks", reason="bad-chunks"
        )
    return manifest


def _another_state() -> CorruptSnapshot:
    return CorruptSnapshot(
        "the state is not the one that the manifest describes", reason="bad-digest"
    )


def open_payload(manifest: Manifest, payload: bytes, limits: Limits = Limits()) -> Tree:  # noqa: B008
    """Check, decompress and parse a payload; raises :class:`CorruptSnapshot`.

    What it takes in memory is bounded by ``limits`` at each step.
    """
    try:
        limits.check(manifest.size, manifest.unpacked_size)
        if len(payload) != manifest.size or hashlib.sha256(payload).hexdigest() != manifest.sha256:
            raise CorruptSnapshot(
                "the payload is not the one that the manifest describes", reason="bad-digest"
            )
        packed = unpack(payload, manifest.unpacked_size)
        exact = hashlib.sha256(packed).hexdigest() == manifest.digest
        if len(packed) != manifest.unpacked_size or not (exact or SET in packed):
            raise _another_state()
        measure(packed, limits)
        try:
            state = msgspec.msgpack.decode(packed)
            if exact or hashlib.sha256(pack(without_orders(state))).hexdigest() == manifest.digest:
                return state
        except (msgspec.MsgspecError, RecursionError, ValueError, TypeError) as error:
            raise CorruptSnapshot(f"the state cannot be parsed: {error}") from error
        raise _another_state()
    except CorruptSnapshot as error:
        where = f"snapshot {manifest.seq} of lineage {manifest.identity.lineage}"
        raise CorruptSnapshot(f"{where}: {error}", reason=error.reason, hint=error.hint) from error


def records(snapshot: Snapshot, topic: str, signing: SigningKey | None = None) -> list[Record]:
    """The records that put a snapshot on a log, in order, manifest last, signed with a key."""
    manifest = snapshot.manifest
    prefix = f"{manifest.identity.lineage}/{manifest.seq % SLOTS}/"
    common = (
        ("app", manifest.identity.app.encode()),
        ("lineage", manifest.identity.lineage.encode()),
        ("seq", str(manifest.seq).encode()),
    )
    made = [
        Record(
            topic,
            snapshot.payload[start : start + CHUNK_BYTES],
            key=f"{prefix}{number}".encode(),
            partition=manifest.partition,
            headers=(("kind", b"chunk"), *common, ("i", str(number).encode())),
        )
        for number, start in enumerate(range(0, max(1, len(snapshot.payload)), CHUNK_BYTES))
    ]
    encoded = encode_manifest(manifest)
    signature = signature_headers(signing, encoded, "manifest")
    made.append(
        Record(
            topic,
            encoded,
            key=f"{prefix}manifest".encode(),
            partition=manifest.partition,
            headers=(("kind", b"manifest"), *common, *signature),
        )
    )
    return made


class _Chunk(NamedTuple):
    offset: int
    value: bytes


class Assembler:
    """Puts snapshots of one lineage together from the records of one partition.

    Records may be read in any order and in overlapping ranges, as long as ``offset`` says
    where each of them stands; without it they are taken to be in their order. A snapshot
    exists only once its manifest is there, and before it, in their order, all of its
    chunks. What is not taken is in ``refused``, with its reason. With ``trusted`` keys, a
    manifest that none of them signed is refused before it is parsed. ``app`` and
    ``partition`` are those that manifests have to be of, None for any; ``kind`` is what they
    have to be.

    Records of other lineages are none of its business; a heartbeat of its own is in
    ``heartbeat``, the newest of them.
    """

    def __init__(
        self,
        lineage: str,
        trusted: TrustedKeys | None = None,
        *,
        app: str | None = None,
        partition: int | None = None,
        limits: Limits = Limits(),  # noqa: B008 - it never changes
        kind: type[Manifest] = Manifest,
    ) -> None:
        self._kind = kind
        self._lineage = lineage
        self._trusted = trusted
        self._app = app
        self._partition = partition
        self._limits = limits
        self._name = lineage.encode()
        self._chunks: dict[int, dict[int, _Chunk]] = {}
        self._held = 0
        self._next = 0
        self._offsets: dict[int, int] = {}
        self.manifests: dict[int, tuple[Manifest, str]] = {}
        self.heartbeat: Heartbeat | None = None
        self._heard = -1
        self.refused: list[Refusal] = []

    def add(self, value: bytes | None, headers: Headers, offset: int | None = None) -> int | None:
        """Take one record; returns the seq if it was a manifest of this lineage."""
        offset = self._next if offset is None else offset
        self._next = offset + 1
        if value is None:
            return None
        fields = dict(headers)
        try:
            if self._is_ours(fields):
                return self._add(fields, value, offset)
        except CorruptSnapshot as error:
            kind = fields.get("kind", b"?").decode(errors="replace")
            self.refused.append(Refusal(error.reason, f"a {kind:.20} record: {error}", offset))
        return None

    def _is_ours(self, fields: Mapping[str, bytes]) -> bool:
        kind, lineage = fields.get("kind"), fields.get("lineage")
        if kind not in KINDS or lineage is None:
            raise CorruptSnapshot("it does not say what it is", reason="not-a-snapshot")
        app = fields.get("app")
        if self._app is not None and app is not None and app != self._app.encode():
            if kind == b"chunk":
                return False  # its manifest is counted
            raise CorruptSnapshot(
                f"it is of app {app.decode(errors='replace'):.200}", reason="other-app"
            )
        return lineage == self._name

    def _add(self, fields: Mapping[str, bytes], value: bytes, offset: int) -> int | None:
        seq = _number(fields, "seq")
        if fields["kind"] == b"chunk":
            self._add_chunk(seq, _number(fields, "i"), _Chunk(offset, value))
            return None
        if fields["kind"] == b"heartbeat":
            self._add_heartbeat(fields, value, offset)
            return None
        if self._trusted is not None:
            self._trusted.check(fields, value, "manifest")
        manifest = read_manifest(value, self._kind)
        self._check_place(manifest.identity.app, manifest.partition)
        if manifest.seq != seq or manifest.identity.lineage != self._lineage:
            raise CorruptSnapshot("the manifest and its headers disagree", reason="bad-headers")
        self._limits.check(manifest.size, manifest.unpacked_size)
        if offset >= self._offsets.get(seq, 0):
            self.manifests[seq] = (manifest, hashlib.sha256(value).hexdigest())
            self._offsets[seq] = offset
            # What is written under its number behind it is none of its chunks.
            for number, chunk in list(self._chunks.get(seq, {}).items()):
                if chunk.offset > offset:
                    self._drop(seq, number)
        return seq

    def _check_place(self, app: str, partition: int) -> None:
        if self._app is not None and app != self._app:
            raise CorruptSnapshot(f"it is of app {app:.200}", reason="other-app")
        if self._partition is not None and partition != self._partition:
            raise CorruptSnapshot(f"it is of partition {partition}", reason="other-partition")

    def _add_heartbeat(self, fields: Mapping[str, bytes], value: bytes, offset: int) -> None:
        if self._trusted is not None:
            self._trusted.check(fields, value, "heartbeat")
        beat = read_heartbeat(value)
        self._check_place(beat.app, beat.partition)
        if beat.lineage != self._lineage:
            raise CorruptSnapshot("the heartbeat and its headers disagree", reason="bad-headers")
        last = self.heartbeat
        if last is None or (beat.seq, beat.time_ms) > (last.seq, last.time_ms):
            self.heartbeat, self._heard = beat, offset
        elif offset > self._heard:
            raise CorruptSnapshot("an older heartbeat after a newer one", reason="rollback")

    def _add_chunk(self, seq: int, number: int, chunk: _Chunk) -> None:
        if len(chunk.value) > CHUNK_BYTES or number * CHUNK_BYTES >= self._limits.max_bytes:
            raise CorruptSnapshot(
                f"chunk {number} of {len(chunk.value)} bytes", reason="bad-chunks"
            )
        if chunk.offset > self._offsets.get(seq, chunk.offset):
            return  # its manifest has been seen before it
        chunks = self._chunks.setdefault(seq, {})
        known = chunks.get(number)
        if known is None or known.offset < chunk.offset:
            self._drop(seq, number)
            self._chunks.setdefault(seq, {})[number] = chunk
            self._held += len(chunk.value)
        # Chunks whose manifest never comes must not pile up for ever.
        while len(self._chunks) > MAX_OPEN or (
            self._held > 2 * self._limits.max_bytes and len(self._chunks) > 1
        ):
            oldest = next(iter(self._chunks))
            for held in list(self._chunks[oldest]):
                self._drop(oldest, held)

    def _drop(self, seq: int, number: int) -> None:
        chunks = self._chunks.get(seq, {})
        chunk = chunks.pop(number, None)
        if chunk is not None:
            self._held -= len(chunk.value)
        if not chunks:
            self._chunks.pop(seq, None)

    def offset_of(self, seq: int) -> int:
        """Where the manifest with this number stands."""
        return self._offsets[seq]

    def complete(self, seq: int) -> Snapshot | None:
        """The snapshot if all of it is there, else None; raises :class:`CorruptSnapshot`."""
        manifest, sha256 = self.manifests[seq]
        where = f"snapshot {seq} of lineage {self._lineage}"
        held = self._chunks.get(seq, {})
        if any(number not in held for number in range(manifest.chunks)):
            return None
        chunks = [held[number] for number in range(manifest.chunks)]
        offsets = [chunk.offset for chunk in chunks]
        if offsets != sorted(offsets):
            raise CorruptSnapshot(f"{where}: its chunks are out of order", reason="bad-chunks")
        payload = b"".join(chunk.value for chunk in chunks)
        if len(payload) < manifest.size:
            raise CorruptSnapshot(
                f"{where}: {len(payload)} bytes of {manifest.size}", reason="truncated"
            )
        if hashlib.sha256(payload).hexdigest() != manifest.sha256:
            raise CorruptSnapshot(
                f"{where}: the chunks are not those of its manifest", reason="bad-chunks"
            )
        return Snapshot(manifest, sha256, payload, self._limits)

    def discard(self, seq: int) -> None:
        """Drop what belongs to one snapshot."""
        for number in list(self._chunks.get(seq, {})):
            self._drop(seq, number)
        self.manifests.pop(seq, None)
        self._offsets.pop(seq, None)

    def forget(self, below: int) -> None:
        """Drop what belongs to snapshots before ``below``."""
        for seq in {*self._chunks, *self.manifests}:
            if seq < below:
                self.discard(seq)


def _number(fields: Mapping[str, bytes], name: str) -> int:
    text = fields.get(name) or b""
    if not text.isdigit() or len(text) > MAX_DIGITS:
        raise CorruptSnapshot(f"its header {name} is {text[:40]!r}", reason="bad-headers")
    return int(text)


def signed_by(value: bytes, headers: Headers, trusted: TrustedKeys | None) -> str:
    """Whose signature a manifest record has, in a word or two, for people."""
    fields = dict(headers)
    name = fields.get("key-id")
    key = "" if name is None else name.decode(errors="replace")
    if trusted is None:
        return f"{key:.40} (not checked)" if key and fields.get("signature") else "unsigned"
    try:
        trusted.check(fields, value, "manifest")
    except CorruptSnapshot as error:
        return error.reason if error.reason == "unsigned" else f"{error.reason} {key:.40}"
    return key


def check_identity(manifest: Manifest, expected: Identity) -> None:
    """Refuse a snapshot of another learner, configuration or topic, before decoding it."""
    found = manifest.identity
    where = f"snapshot {manifest.seq} of lineage {found.lineage}"
    rebuild = (
        'rebuild by replay: give the changed model a lineage of its own (lineage = "'
        f'{expected.lineage}-v2"), and it learns the topic from its beginning'
    )
    if manifest.format != FORMAT or manifest.codec != CODEC:
        raise LineageMismatch(
            f"{where} has format {manifest.format} ({manifest.codec}); this version reads "
            f"{FORMAT} ({CODEC})",
            hint=rebuild,
        )
    if (found.topic, found.topic_id) != (expected.topic, expected.topic_id):
        raise LineageMismatch(
            f"{where} learned topic {found.topic} with id {found.topic_id}; the topic "
            f"{expected.topic} has id {expected.topic_id}: it was deleted and created again, and "
            "its offsets mean other events now",
            hint=rebuild,
        )
    changed = differences(found.config, expected.config)
    for library in sorted(found.versions.keys() & expected.versions.keys()):
        old, new = found.versions[library], expected.versions[library]
        if old.split(".")[:2] != new.split(".")[:2]:
            changed.append(f"{library} {old} -> {new}")
    if found.learner != expected.learner or found.fingerprint != expected.fingerprint or changed:
        code = "; ".join(changed_sources(manifest, expected)) or "the code that builds the learner"
        what = "; ".join(changed) or code
        name = f"{expected.lineage}-v2"
        raise LineageMismatch(
            f"{where} was made by another learner; changed: {what}",
            hint=f"take the change back, or rebuild by replay: stream-update backfill --as {name} "
            f"learns the past again with it, and stream-update promote {name} goes on with that",
        )


def changed_sources(manifest: Manifest, expected: Identity) -> list[str]:
    """The user's own modules whose file is not the one that a snapshot was made with.

    An edit may be a comment, or change all that is learned from now on: nobody but
    ``snapshots verify`` can tell, so this is a reason to warn and not to refuse.
    """
    found = manifest.identity.sources
    return [
        f"the source of module {name} (SHA-256 {found[name][:16]}... -> {sha256[:16]}...)"
        for name, sha256 in sorted(expected.sources.items())
        if found.get(name, sha256) != sha256
    ]


def differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> list[str]:
    """The keys in which two configurations differ, as ``key: old -> new``."""
    found: list[str] = []
    for key in _keys(old, new):
        a, b = old.get(key), new.get(key)
        name = f"{path}{key}"
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{name}.")
        elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
            found += differences(
                {str(i): item for i, item in enumerate(a)},
                {str(i): item for i, item in enumerate(b)},
                f"{name}.",
            )
        elif a != b:
            found.append(f"{name}: {a!r} -> {b!r}")
    return found


def _keys(*mappings: Iterable[str]) -> list[str]:
    return sorted({key for mapping in mappings for key in mapping})
