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
from typing import BinaryIO, NamedTuple

import msgspec

from stream_update.bounds import Limits
from stream_update.errors import ConfigError, CorruptSnapshot, LineageMismatch
from stream_update.events import Headers
from stream_update.signing import TrustedKeys
from stream_update.snapshot import MAX_MANIFEST_BYTES, Assembler, Manifest, Snapshot

__all__ = ["LENGTHS", "MAGIC", "Exported", "read_exported"]

MAGIC = b"stream-update snapshot v1\n\0"
LENGTHS = struct.Struct(">IIQ")
MAX_HEADERS_BYTES = 1 << 16


class Exported(NamedTuple):
    """A snapshot, its manifest's very bytes, and the headers of the manifest's record."""

    snapshot: Snapshot
    manifest: bytes
    headers: Headers


def read_exported(
    path: Path,
    lineage: str | None = None,
    trusted: TrustedKeys | None = None,
    limits: Limits = Limits(),  # noqa: B008 - it never changes
) -> Exported:
    """The snapshot in a file, which has to be of this lineage, or of any, and within the limits.

    With ``trusted`` keys it has to be signed by one of them. Raises
    :class:`ConfigError` if the file cannot be read, :class:`CorruptSnapshot` if it is no
    snapshot or was changed, and :class:`LineageMismatch` if it is of another lineage.
    """
    try:
        # What is no file, such as a pipe, must not be waited for.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            return _read(file, path, lineage, trusted, limits)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def _read(
    file: BinaryIO, path: Path, lineage: str | None, trusted: TrustedKeys | None, limits: Limits
) -> Exported:
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path} is no file", hint="give one that snapshots export has written")
    if file.read(len(MAGIC)) != MAGIC:
        raise CorruptSnapshot(
            f"{path} is no snapshot, or of another version of the format",
            reason="not-a-snapshot",
            hint="give one that snapshots export has written",
        )
    sizes = _sizes(file, path, status.st_size, limits)
    headers = _headers(file.read(sizes[0]), path)
    encoded = file.read(sizes[1])
    if lineage is None:
        lineage = dict(headers).get("lineage", b"").decode(errors="replace")
    manifest, sha256 = _manifest(encoded, headers, path, Assembler(lineage, trusted, limits=limits))
    if manifest.size != sizes[2]:
        raise CorruptSnapshot(
            f"{path}: the manifest describes {manifest.size} bytes, and there are {sizes[2]}",
            reason="bad-digest",
        )
    payload = file.read(manifest.size)
    if hashlib.sha256(payload).hexdigest() != manifest.sha256:
        raise CorruptSnapshot(
            f"{path}: the payload is not the one that the manifest describes", reason="bad-digest"
        )
    return Exported(Snapshot(manifest, sha256, payload, limits), encoded, headers)


def _sizes(file: BinaryIO, path: Path, total: int, limits: Limits) -> tuple[int, int, int]:
    """The lengths of headers, manifest and payload, which make up the whole file."""
    raw = file.read(LENGTHS.size)
    if len(raw) < LENGTHS.size:
        raise CorruptSnapshot(f"{path} ends after {total} bytes", reason="truncated")
    headers, manifest, payload = LENGTHS.unpack(raw)
    if headers > MAX_HEADERS_BYTES or manifest > MAX_MANIFEST_BYTES or payload > limits.max_bytes:
        raise CorruptSnapshot(
            f"{path} claims parts of {headers}, {manifest} and {payload} bytes, more than "
            f"{MAX_HEADERS_BYTES}, {MAX_MANIFEST_BYTES} and {limits.max_bytes} "
            "(snapshot.limits.max_bytes)",
            reason="too-large",
        )
    expected = len(MAGIC) + LENGTHS.size + headers + manifest + payload
    if total != expected:
        raise CorruptSnapshot(
            f"{path} has {total} bytes where its parts make {expected}",
            reason="truncated" if total < expected else "bad-digest",
            hint="it was cut off, or something was added: copy it again",
        )
    return headers, manifest, payload


def _headers(raw: bytes, path: Path) -> list[tuple[str, bytes]]:
    try:
        return msgspec.msgpack.decode(raw, type=list[tuple[str, bytes]])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptSnapshot(
            f"{path}: its headers cannot be read: {error}", reason="bad-headers"
        ) from error


def _manifest(
    encoded: bytes, headers: list[tuple[str, bytes]], path: Path, assembler: Assembler
) -> tuple[Manifest, str]:
    """Read as the topic's reader does, which looks at the signature first."""
    seq = assembler.add(encoded, headers)
    if seq is not None:
        return assembler.manifests[seq]
    if assembler.refused:
        reason, detail, _ = assembler.refused[0]
        raise CorruptSnapshot(
            f"{path} is refused, {reason}: {detail}",
            reason=reason,
            hint="nothing of it was decompressed",
        )
    lineage = dict(headers)["lineage"].decode(errors="replace")
    raise LineageMismatch(
        f"{path} holds no manifest of this lineage, but something of {lineage!r:.200}",
        hint="give the configuration of that lineage",
    )
