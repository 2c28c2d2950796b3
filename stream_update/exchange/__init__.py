"""Snapshots in files: out of a log, kept somewhere else, and back into it if that is safe."""

from stream_update.exchange.importing import Import, import_snapshot
from stream_update.exchange.portable import read_snapshot, write_snapshot

__all__ = ["Import", "import_snapshot", "read_snapshot", "write_snapshot"]
