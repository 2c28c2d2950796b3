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

SIGNATURE = ("key-id", "signature")


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
    assembler = Assembler(
        config.lineage_name,
        trusted_keys(config),
        partition=partition,
        limits=config.snapshot.limits,
    )
    found: dict[int, Held] = {}
    for batch in read_range(reader, where, first, end):
        for offset, value, headers in zip(batch.offsets, batch.values, batch.headers, strict=True):
            seq = assembler.add(value, headers, offset)
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
    for refusal in assembler.refused:
        logger.error(
            "%s[%d] offset %d: left out: %s: %s",
            where.topic,
            partition,
            refusal.offset,
            refusal.reason,
            refusal.detail,
        )
    return [found[seq] for seq in sorted(found)]


def held_snapshots(config: Config, reader: Reader, partition: int) -> list[Snapshot]:
    """As :func:`held_records`, the snapshots alone."""
    return [held.snapshot for held in held_records(config, reader, partition)]


def republished(held: Held, topic: str) -> list[Record]:
    """The records that put it on a topic again, the manifest as it was, signature and all.

    Other headers, which nobody has signed, are made anew from the manifest.
    """
    *chunks, last = records(held.snapshot, topic)
    signature = [(name, value) for name, value in held.headers if name in SIGNATURE]
    return [*chunks, last._replace(value=held.manifest, headers=(*last.headers, *signature))]
