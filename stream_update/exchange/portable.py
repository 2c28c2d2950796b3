"""A snapshot of the topic as a file, and back; :mod:`stream_update.exported` has the format."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from stream_update.bounds import Limits
from stream_update.errors import ConfigError
from stream_update.exported import LENGTHS, MAGIC, read_exported
from stream_update.proof.held import Held
from stream_update.signing import TrustedKeys

__all__ = ["read_snapshot", "write_snapshot"]


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


def read_snapshot(
    path: Path,
    lineage: str,
    trusted: TrustedKeys | None,
    limits: Limits = Limits(),  # noqa: B008 - it never changes
) -> Held:
    """As :func:`~stream_update.exported.read_exported`, of one lineage."""
    return Held(*read_exported(path, lineage, trusted, limits))
