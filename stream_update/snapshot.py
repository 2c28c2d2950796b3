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
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import zstandard
from msgspec import Struct

from stream_update.errors import CorruptSnapshot, LineageMismatch
from stream_update.events import Headers, Record, Tree
from stream_update.signing import SigningKey, TrustedKeys

__all__ = [
    "CHUNK_BYTES",
    "Assembler",
    "Identity",
    "Manifest",
    "Snapshot",
    "changed_sources",
    "open_payload",
    "records",
    "seal",
    "state_digest",
    "tree_digest",
]

FORMAT = 1
CODEC = "msgpack+zstd"
CHUNK_BYTES = 900_000
SLOTS = 3
MAX_PAYLOAD_BYTES = 1 << 30
MAX_UNPACKED_BYTES = 4 << 30
MAX_OPEN = 3 * SLOTS


class Identity(Struct, frozen=True, kw_only=True):
    """What has to agree between a lane and a snapshot before it may be restored.

    Only ``sources`` may differ: the user's own modules that the configuration names, with
    the SHA-256 of each file. See :func:`changed_sources`.
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


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything about a snapshot except its state.

    ``next`` maps each input partition to the next offset to be read; ``parent`` is
    the SHA-256 of the manifest before this one (empty for the first); ``digest`` is
    that of the uncompressed state. ``journal`` and ``journal_offset`` say how far
    the journal of a lane over several partitions is contained. ``gaps`` are the events
    that the log lost before they were learned, and that a person has agreed to go on
    without: (partition, first offset missing, offset where learning went on). ``start``
    is where the lineage began, and ``poisoned`` are the events (partition, offset) since
    the snapshot before that broke the learner and were set aside.
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

    @property
    def positions(self) -> dict[int, int]:
        """``next`` with the partitions as numbers."""
        return {int(partition): offset for partition, offset in self.next.items()}


class Snapshot(Struct, frozen=True):
    """A manifest, its hash, and the payload it describes."""

    manifest: Manifest
    sha256: str
    payload: bytes

    def state(self) -> Tree:
        """The tree of plain values; raises :class:`CorruptSnapshot`."""
        return open_payload(self.manifest, self.payload)


def tree_digest(packed: bytes) -> str:
    return hashlib.sha256(packed).hexdigest()


def state_digest(state: Tree) -> str:
    """What :attr:`Manifest.digest` is for a snapshot of this state."""
    return tree_digest(msgspec.msgpack.encode(state))


def seal(
    state: Tree,
    identity: Identity,
    *,
    compression_level: int = 3,
    **facts: Any,
) -> Snapshot:
    """Pack a state; ``facts`` are the manifest's remaining fields."""
    packed = msgspec.msgpack.encode(state)
    payload = zstandard.ZstdCompressor(level=compression_level).compress(packed)
    manifest = Manifest(
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


def open_payload(manifest: Manifest, payload: bytes) -> Tree:
    """Check, decompress and parse a payload; raises :class:`CorruptSnapshot`."""
    where = f"snapshot {manifest.seq} of lineage {manifest.identity.lineage}"
    if len(payload) != manifest.size or hashlib.sha256(payload).hexdigest() != manifest.sha256:
        raise CorruptSnapshot(f"{where}: the payload is not the one that the manifest describes")
    if manifest.unpacked_size > MAX_UNPACKED_BYTES:
        raise CorruptSnapshot(f"{where}: claims to unpack to {manifest.unpacked_size} bytes")
    try:
        # Bounded by what the manifest says, so a decompression bomb stops there.
        with zstandard.ZstdDecompressor().stream_reader(payload) as stream:
            packed = stream.read(manifest.unpacked_size + 1)
    except zstandard.ZstdError as error:
        raise CorruptSnapshot(f"{where}: cannot be decompressed: {error}") from error
    if len(packed) != manifest.unpacked_size or tree_digest(packed) != manifest.digest:
        raise CorruptSnapshot(f"{where}: the state is not the one that the manifest describes")
    try:
        return msgspec.msgpack.decode(packed)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise CorruptSnapshot(f"{where}: the state cannot be parsed: {error}") from error


def records(snapshot: Snapshot, topic: str, signing: SigningKey | None = None) -> list[Record]:
    """The records that put a snapshot on a log, in order, manifest last, signed with a key."""
    manifest = snapshot.manifest
    prefix = f"{manifest.identity.lineage}/{manifest.seq % SLOTS}/"
    common = (
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
    signature: Headers = ()
    if signing is not None:
        signature = (("key-id", signing.key_id.encode()), ("signature", signing.sign(encoded)))
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


class Assembler:
    """Puts snapshots of one lineage together from the records of one partition.

    Records may come in any order and in overlapping ranges; a snapshot exists only
    once its manifest and all of its chunks are there and the hash is right. What
    claims to be part of one and is malformed is described in ``refused``. With
    ``trusted`` keys, a manifest that none of them signed is refused before it is parsed.
    """

    def __init__(self, lineage: str, trusted: TrustedKeys | None = None) -> None:
        self._lineage = lineage
        self._trusted = trusted
        self._name = lineage.encode()
        self._chunks: dict[int, dict[int, bytes]] = {}
        self.manifests: dict[int, tuple[Manifest, str]] = {}
        self.refused: list[str] = []

    def add(self, value: bytes | None, headers: Headers) -> int | None:
        """Take one record; returns the seq if it was a manifest of this lineage."""
        fields = dict(headers)
        kind = fields.get("kind")
        if value is None or kind is None or fields.get("lineage") != self._name:
            return None
        try:
            seq = int(fields.get("seq", b""))
            if kind == b"chunk":
                self._add_chunk(seq, int(fields["i"]), value)
            elif kind == b"manifest":
                if self._trusted is not None:
                    _verify(self._trusted, fields, value)
                manifest = msgspec.json.decode(value, type=Manifest)
                if manifest.seq != seq or manifest.identity.lineage != self._lineage:
                    raise ValueError("the manifest and its headers disagree")
                self.manifests[seq] = (manifest, hashlib.sha256(value).hexdigest())
                return seq
        except (ValueError, KeyError, msgspec.MsgspecError) as error:
            self.refused.append(f"a {kind.decode(errors='replace')} record is malformed: {error}")
        return None

    def _add_chunk(self, seq: int, number: int, value: bytes) -> None:
        if len(value) > CHUNK_BYTES or not 0 <= number < MAX_PAYLOAD_BYTES // CHUNK_BYTES:
            raise ValueError(f"chunk {number} of {len(value)} bytes")
        self._chunks.setdefault(seq, {})[number] = value
        # Chunks whose manifest never comes must not pile up for ever.
        while len(self._chunks) > MAX_OPEN:
            del self._chunks[next(iter(self._chunks))]

    def complete(self, seq: int) -> Snapshot | None:
        """The snapshot if all of it is there, else None; raises :class:`CorruptSnapshot`."""
        manifest, sha256 = self.manifests[seq]
        where = f"snapshot {seq} of lineage {self._lineage}"
        if manifest.size > MAX_PAYLOAD_BYTES or manifest.chunks * CHUNK_BYTES > MAX_PAYLOAD_BYTES:
            raise CorruptSnapshot(f"{where}: claims {manifest.size} bytes")
        chunks = self._chunks.get(seq, {})
        if any(number not in chunks for number in range(manifest.chunks)):
            return None
        payload = b"".join(chunks[number] for number in range(manifest.chunks))
        if hashlib.sha256(payload).hexdigest() != manifest.sha256:
            raise CorruptSnapshot(f"{where}: the chunks are not those of its manifest")
        return Snapshot(manifest, sha256, payload)

    def forget(self, below: int) -> None:
        """Drop what belongs to snapshots before ``below``."""
        for parts in (self._chunks, self.manifests):
            for seq in [seq for seq in parts if seq < below]:
                del parts[seq]


def _verify(trusted: TrustedKeys, fields: Mapping[str, bytes | None], value: bytes) -> None:
    name, signature = fields.get("key-id"), fields.get("signature")
    if name is None or signature is None:
        raise ValueError("it is not signed")
    if not trusted.knows(name):
        raise ValueError("it is signed with a key that is not trusted")
    if not trusted.verify(name, signature, value):
        raise ValueError("its signature is wrong")


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
        raise LineageMismatch(f"{where} was made by another learner; changed: {what}", hint=rebuild)


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
