"""Which partition a key belongs to: Kafka's own rule, so every log and scorer agrees.

The hash is MurmurHash2 in the 32-bit variant and with the seed of Kafka's Java client
(``org.apache.kafka.common.utils.Utils.murmur2``); what a Java producer writes with a
key is found where :func:`partition_for` says.
"""

from __future__ import annotations

import struct

__all__ = ["murmur2", "partition_for"]

SEED = 0x9747B28C
M = 0x5BD1E995
MASK = 0xFFFFFFFF


def murmur2(key: bytes) -> int:
    """MurmurHash2 of ``key`` as an unsigned 32-bit number."""
    length = len(key)
    whole = length & ~3
    h = SEED ^ length
    for (word,) in struct.iter_unpack("<I", key[:whole]):
        k = word * M & MASK
        k = (k ^ k >> 24) * M & MASK
        h = h * M & MASK ^ k
    if whole != length:
        h = (h ^ int.from_bytes(key[whole:], "little")) * M & MASK
    h = (h ^ h >> 13) * M & MASK
    return h ^ h >> 15


def partition_for(key: bytes | None, partitions: int) -> int:
    """The partition, 0 to ``partitions`` - 1, that records with this key are in.

    Raises :class:`ValueError` for no key at all where there is more than one
    partition: such records can be in any of them.
    """
    if key is None:
        if partitions == 1:
            return 0
        raise ValueError(f"without a key any of {partitions} partitions is possible")
    return (murmur2(key) & 0x7FFFFFFF) % partitions
