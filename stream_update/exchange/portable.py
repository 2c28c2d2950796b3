r"""One snapshot as one file: the manifest's very bytes, its signature, and the payload.

=======  ============================================================================
bytes    what
=======  ============================================================================
27       ``stream-update snapshot v1\n`` and a zero byte
4, 4, 8  the lengths of the three parts, unsigned, big-endian
...      the headers of the manifest's record as msgpack: a list of [name, bytes]
...      the manifest, as it is on the topic: what a signature is made over
...      the payload, compressed
=======  ============================================================================

A file is no more to be believed than a record of the topic, so it is read like one: lengths
are bounded and have to add up, the signature is checked before the manifest is parsed, the
hash before the payload is anything but bytes, and nothing is decompressed here.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from pathlib import Path
from typing import BinaryIO

import msgspec

from stream_update.errors import ConfigError, CorruptSnapshot, LineageMismatch
from stream_update.proof.held import Held
from stream_update.signing import TrustedKeys
from stream_update.snapshot import CHUNK_BYTES, MAX_PAYLOAD_BYTES, Assembler, Manifest, Snapshot

__all__ = ["read_snapshot", "write_snapshot"]

MAGIC = b"stream-update snapshot v1\n\0"
LENGTHS = struct.Struct(">IIQ")
MAX_HEADERS_BYTES = 1 << 16
MAX_MANIFEST_BYTES = 1 << 22


def write_snapshot(path: Path, held: Held) -> int:
    """Write the file, which must not exist; returns its length in bytes.

    When this returns it is on the disk. What a crash leaves half written is refused by
    :func:`read_snapshot`.
    """
    headers = msgspec.msgpack.encode([(name, value) for name, value in held.headers])
    parts = (headers, held.manifest, held.snapshot.payload)
    whole = b"".join((MAGIC, LENGTHS.pack(*map(len, parts)), *parts))
    try:
        file = path.open("xb")
    except FileExistsError:
        raise ConfigError(
            f"{path} exists", hint="a snapshot is never written over: choose another name"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    try:
        with file:
            file.write(whole)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    return len(whole)


def read_snapshot(path: Path, lineage: str, trusted: TrustedKeys | None) -> Held:
    """The snapshot in a file, which has to be of this lineage.

    With ``trusted`` keys it has to be signed by one of them. Raises
    :class:`ConfigError` if the file cannot be read, :class:`CorruptSnapshot` if it is no
    snapshot or was changed, and :class:`LineageMismatch` if it is of another lineage.
    """
    try:
        # What is no file, such as a pipe, must not be waited for.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            return _read(file, path, lineage, trusted)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def _read(file: BinaryIO, path: Path, lineage: str, trusted: TrustedKeys | None) -> Held:
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path} is no file", hint="give one that snapshots export has written")
    if file.read(len(MAGIC)) != MAGIC:
        raise CorruptSnapshot(
            f"{path} is no snapshot, or of another version of the format",
            hint="give one that snapshots export has written",
        )
    sizes = _sizes(file, path, status.st_size)
    found = _headers(file.read(sizes[0]), path)
    encoded = file.read(sizes[1])
    claimed = dict(found).get("lineage", b"").decode(errors="replace")
    if claimed != lineage:
        raise LineageMismatch(
            f"{path} holds a snapshot of lineage {claimed!r}, not of {lineage!r}",
            hint="give the configuration of that lineage",
        )
    manifest, sha256 = _manifest(encoded, found, path, lineage, trusted)
    chunks = max(1, -(-manifest.size // CHUNK_BYTES))
    if (manifest.size, manifest.chunks) != (sizes[2], chunks):
        raise CorruptSnapshot(
            f"{path}: the manifest describes {manifest.size} bytes in {manifest.chunks} chunks, "
            f"and there are {sizes[2]} bytes, which make {chunks}"
        )
    payload = file.read(manifest.size)
    if hashlib.sha256(payload).hexdigest() != manifest.sha256:
        raise CorruptSnapshot(f"{path}: the payload is not the one that the manifest describes")
    return Held(Snapshot(manifest, sha256, payload), encoded, found)


def _sizes(file: BinaryIO, path: Path, total: int) -> tuple[int, int, int]:
    """The lengths of headers, manifest and payload, which make up the whole file."""
    raw = file.read(LENGTHS.size)
    if len(raw) < LENGTHS.size:
        raise CorruptSnapshot(f"{path} ends after {total} bytes")
    headers, manifest, payload = LENGTHS.unpack(raw)
    limits = (MAX_HEADERS_BYTES, MAX_MANIFEST_BYTES, MAX_PAYLOAD_BYTES)
    if headers > limits[0] or manifest > limits[1] or payload > limits[2]:
        raise CorruptSnapshot(f"{path} claims parts of {headers}, {manifest} and {payload} bytes")
    expected = len(MAGIC) + LENGTHS.size + headers + manifest + payload
    if total != expected:
        raise CorruptSnapshot(
            f"{path} has {total} bytes where its parts make {expected}",
            hint="it was cut off, or something was added: copy it again",
        )
    return headers, manifest, payload


def _headers(raw: bytes, path: Path) -> list[tuple[str, bytes]]:
    try:
        return msgspec.msgpack.decode(raw, type=list[tuple[str, bytes]])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptSnapshot(f"{path}: its headers cannot be read: {error}") from error


def _manifest(
    encoded: bytes,
    headers: list[tuple[str, bytes]],
    path: Path,
    lineage: str,
    trusted: TrustedKeys | None,
) -> tuple[Manifest, str]:
    """Read as the topic's reader does, which looks at the signature first."""
    assembler = Assembler(lineage, trusted)
    seq = assembler.add(encoded, headers)
    if seq is None:
        reason = "; ".join(assembler.refused) or "it is no manifest"
        raise CorruptSnapshot(f"{path} is refused: {reason}", hint="nothing of it was decompressed")
    return assembler.manifests[seq]
