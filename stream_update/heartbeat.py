"""The sign of life of a trainer that has nothing new to say.

A snapshot says how the model is, not whether there should be a newer one. So a trainer
repeats, every now and then, which of its snapshots is the newest: a small record on the
snapshot topic, signed like a manifest, in the same transaction as everything else that it
publishes. A follower that sees one knows that its model is the newest there is; one that
sees none for long knows that the trainer is gone, or that somebody keeps its word back.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from stream_update.errors import CorruptSnapshot
from stream_update.events import Record
from stream_update.signing import SigningKey, signature_headers

__all__ = ["Heartbeat", "heartbeat_record", "read_heartbeat"]

FORMAT = 1
MAX_BYTES = 4096
MAX_TIME_MS = 1 << 50


class Heartbeat(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """At ``time_ms`` the newest snapshot was ``seq``, whose manifest has this SHA-256.

    With ``expires_ms`` it renews that snapshot until then.
    """

    format: int = FORMAT
    app: str
    lineage: str
    partition: int
    seq: int
    sha256: str
    time_ms: int
    expires_ms: int | None = None
    key_id: str = ""


def heartbeat_record(beat: Heartbeat, topic: str, signing: SigningKey | None = None) -> Record:
    """The record; all heartbeats of a partition have one key, so compaction leaves the last."""
    encoded = msgspec.json.encode(beat)
    return Record(
        topic,
        encoded,
        key=f"{beat.lineage}/heartbeat".encode(),
        partition=beat.partition,
        headers=(
            ("kind", b"heartbeat"),
            ("app", beat.app.encode()),
            ("lineage", beat.lineage.encode()),
            ("seq", str(beat.seq).encode()),
            *signature_headers(signing, encoded, "heartbeat"),
        ),
    )


def read_heartbeat(value: bytes) -> Heartbeat:
    """The inverse of :func:`heartbeat_record`; raises :class:`CorruptSnapshot`."""
    if len(value) > MAX_BYTES:
        raise CorruptSnapshot(f"a heartbeat of {len(value)} bytes", reason="too-large")
    try:
        beat = msgspec.json.decode(value, type=Heartbeat)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise CorruptSnapshot(
            f"a heartbeat that cannot be parsed: {error}", reason="not-a-snapshot"
        ) from error
    if beat.format != FORMAT:
        raise CorruptSnapshot(f"a heartbeat of format {beat.format}", reason="other-format")
    if not 0 <= beat.time_ms < MAX_TIME_MS or not 0 <= (beat.expires_ms or 0) < MAX_TIME_MS:
        raise CorruptSnapshot("a heartbeat with an impossible time", reason="not-a-snapshot")
    return beat
