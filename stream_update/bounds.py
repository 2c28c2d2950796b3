"""How much a snapshot may be, looked at before and while it is unpacked.

Who signs snapshots can make a mistake, and where nothing is signed anybody can write
them: a few kilobytes that unpack to gigabytes, or a few bytes that announce a list of
four thousand million values.
"""

from __future__ import annotations

from typing import Annotated

import zstandard
from msgspec import Meta, Struct

from stream_update.errors import CorruptSnapshot

__all__ = ["Limits", "measure", "unpack"]

Positive = Annotated[int, Meta(ge=1)]

RATIO_FREE_BYTES = 1 << 24
"""What a snapshot may unpack to whatever its ratio: so much harms nobody."""

PIECE_BYTES = 1 << 20
MAX_WINDOW_BYTES = 1 << 27


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[snapshot.limits]``: what is more is refused.

    Bytes as they stand on the log, and unpacked; values in the unpacked tree, with keys
    and containers, and how deep it is nested; and how many times larger it may become by
    unpacking. A value takes some 60 bytes of memory once it is parsed.
    """

    max_bytes: Positive = 1 << 28
    max_unpacked_bytes: Positive = 1 << 30
    max_nodes: Positive = 20_000_000
    max_depth: Positive = 100
    max_ratio: Positive = 1000

    def check(self, size: int, unpacked_size: int) -> None:
        """Raise :class:`CorruptSnapshot` if these sizes, in bytes, are too much."""
        for key, found, limit in (
            ("max_bytes", size, self.max_bytes),
            ("max_unpacked_bytes", unpacked_size, self.max_unpacked_bytes),
        ):
            if found > limit:
                raise CorruptSnapshot(
                    f"{found} bytes, more than the {limit} of snapshot.limits.{key}",
                    reason="too-large",
                )
        if unpacked_size > max(RATIO_FREE_BYTES, size * self.max_ratio):
            raise CorruptSnapshot(
                f"{size} bytes would unpack to {unpacked_size}, more than "
                f"{self.max_ratio} times as many (snapshot.limits.max_ratio)",
                reason="bad-ratio",
            )


def unpack(payload: bytes, size: int) -> bytes:
    """Decompress what should come to ``size`` bytes; stops as soon as there are more.

    Raises :class:`CorruptSnapshot`.
    """
    pieces: list[bytes] = []
    left = size + 1
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    try:
        with decompressor.stream_reader(payload) as stream:
            while left and (piece := stream.read(min(left, PIECE_BYTES))):
                pieces.append(piece)
                left -= len(piece)
    except zstandard.ZstdError as error:
        raise CorruptSnapshot(f"it cannot be decompressed: {error}") from error
    if not left:
        raise CorruptSnapshot(f"it unpacks to more than {size} bytes", reason="too-large")
    return b"".join(pieces)


def measure(packed: bytes, limits: Limits) -> int:
    """The number of values in a msgpack document; builds none of them.

    A parser makes room for what a header announces. So every header is read here first:
    nothing announces more values than there are bytes, nor more than the limits allow.
    Raises :class:`CorruptSnapshot`.
    """
    length, most = len(packed), min(limits.max_nodes, len(packed))
    position, nodes, pending = 0, 1, 1
    outer: list[int] = []
    try:
        while True:
            while not pending:
                if not outer:
                    if position != length:
                        raise CorruptSnapshot("the state does not end where its bytes do")
                    return nodes
                pending = outer.pop()
            pending -= 1
            first = packed[position]
            step = STEPS[first]
            if step:
                position += step
                continue
            kind, width, fixed = HEADERS[first]
            position += 1
            size = fixed
            if width:
                size = int.from_bytes(packed[position : position + width])
                position += width
            if not kind:
                position += size
                continue
            nodes += size * kind
            if nodes > most:
                reason = "too-many-nodes" if nodes > limits.max_nodes else "bad-state"
                raise CorruptSnapshot(f"{nodes} values or more", reason=reason)
            outer.append(pending)
            pending = size * kind
            if len(outer) > limits.max_depth:
                raise CorruptSnapshot(
                    f"nested more than {limits.max_depth} deep", reason="too-deep"
                )
    except (IndexError, KeyError) as error:
        raise CorruptSnapshot("the state is no msgpack, or is cut off") from error


def _steps() -> bytes:
    """For each first byte how many bytes its value takes, where that byte alone says it."""
    steps = bytearray(256)
    for first in (*range(0x80), *range(0xE0, 0x100), 0xC0, 0xC2, 0xC3):
        steps[first] = 1
    for first in range(0xA0, 0xC0):
        steps[first] = 1 + (first & 0x1F)
    for width, firsts in (
        (1, b"\xcc\xd0"),
        (2, b"\xcd\xd1"),
        (4, b"\xca\xce\xd2"),
        (8, b"\xcb\xcf\xd3"),
    ):
        for first in firsts:
            steps[first] = 1 + width
    return bytes(steps)


STEPS = _steps()

# Others: values in it for each it counts (0 for text and bytes), the width of the count,
# and the count itself where the first byte holds it. Extension types are none of ours.
HEADERS: dict[int, tuple[int, int, int]] = {
    **{0x80 | count: (2, 0, count) for count in range(16)},
    **{0x90 | count: (1, 0, count) for count in range(16)},
    0xC4: (0, 1, 0),
    0xC5: (0, 2, 0),
    0xC6: (0, 4, 0),
    0xD9: (0, 1, 0),
    0xDA: (0, 2, 0),
    0xDB: (0, 4, 0),
    0xDC: (1, 2, 0),
    0xDD: (1, 4, 0),
    0xDE: (2, 2, 0),
    0xDF: (2, 4, 0),
}
