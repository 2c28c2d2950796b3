"""The snapshots of a lineage that its topic still holds."""

from __future__ import annotations

import logging
from typing import NamedTuple

from stream_update.assemble import trusted_keys
from stream_update.config import Config
from stream_update.errors import CorruptSnapshot
from stream_update.events import Headers, Record, TopicPartition
from stream_update.protocols import Reader
from stream_update.restore import read_range
from stream_update.snapshot import Assembler, Snapshot, records

__all__ = ["Held", "held_records", "held_snapshots", "republished"]

logger = logging.getLogger(__name__)


class Held(NamedTuple):
    """A snapshot, and its manifest as it is on the topic: the bytes that may be signed."""

    snapshot: Snapshot
    manifest: bytes
    headers: Headers


def held_records(config: Config, reader: Reader, partition: int) -> list[Held]:
    """Every complete snapshot of the lineage in one partition, oldest first.

    What is damaged, or with trusted keys not signed by one of them, is left out with an
    error in the log of the process.
    """
    where = TopicPartition(config.topic("snapshots"), partition)
    first, end = (find([where])[where] for find in (reader.beginning_offsets, reader.end_offsets))
    assembler = Assembler(config.lineage_name, trusted_keys(config))
    found: dict[int, Held] = {}
    for batch in read_range(reader, where, first, end):
        for value, headers in zip(batch.values, batch.headers, strict=True):
            seq = assembler.add(value, headers)
            if seq is None or value is None:
                continue
            try:
                snapshot = assembler.complete(seq)
            except CorruptSnapshot as error:
                logger.error("%s[%d]: %s; going on without it", where.topic, partition, error)
                continue
            if snapshot is not None:
                found[seq] = Held(snapshot, value, headers)
                assembler.forget(seq + 1)
    for text in assembler.refused:
        logger.error("%s[%d]: %s", where.topic, partition, text)
    return [found[seq] for seq in sorted(found)]


def held_snapshots(config: Config, reader: Reader, partition: int) -> list[Snapshot]:
    """As :func:`held_records`, the snapshots alone."""
    return [held.snapshot for held in held_records(config, reader, partition)]


def republished(held: Held, topic: str) -> list[Record]:
    """The records that put it on a topic again, the manifest as it was and last."""
    *chunks, last = records(held.snapshot, topic)
    return [*chunks, last._replace(value=held.manifest, headers=held.headers)]
