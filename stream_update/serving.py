"""Snapshots for those who only predict: smaller, on a topic of their own.

A trainer restores itself from the snapshot that it publishes, bit for bit, so nothing can be
left out of that one. With ``[snapshot] serving`` it publishes another one beside it, in the
same checkpoint: of the learner what predicts, with its weights rounded. Whoever wants
to know what it was made of finds the snapshot by the hash that its manifest names.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from msgspec.structs import replace

from stream_update import plugins
from stream_update.events import Tree
from stream_update.protocols import Precision
from stream_update.snapshot import Manifest, ServingManifest, Snapshot, seal

__all__ = ["Follow", "Serving"]

Follow = Literal["snapshots", "serving"]
"""Which of the two topics a follower reads."""

OF_THE_PAYLOAD = {
    "format", "codec", "identity", "digest", "sha256", "size", "unpacked_size", "chunks",
}  # fmt: skip
WHERE = "[snapshot] serving"


class Serving(NamedTuple):
    """Where a trainer publishes for those who only predict, and in which numbers."""

    topic: str
    precision: Precision

    def check(self, kind: str, dump: Tree) -> None:
        """Raise :class:`~stream_update.errors.ConfigError` if learners of this kind cannot."""
        plugins.served(kind, dump, self.precision, where=WHERE)

    def seal(self, snapshot: Snapshot, dump: Tree, *, compression_level: int = 3) -> Snapshot:
        """What is published beside a snapshot, whose learner has given this dump."""
        manifest = snapshot.manifest
        kind, tree = plugins.served(manifest.identity.learner, dump, self.precision, where=WHERE)
        facts = {
            name: getattr(manifest, name)
            for name in Manifest.__struct_fields__
            if name not in OF_THE_PAYLOAD
        }
        return seal(
            {"learner": tree},
            replace(manifest.identity, learner=kind),
            compression_level=compression_level,
            kind=ServingManifest,
            snapshot=snapshot.sha256,
            precision=self.precision,
            **facts,
        )
