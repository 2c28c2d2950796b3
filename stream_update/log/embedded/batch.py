"""Columns over rows, and headers as one blob."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from stream_update.events import Batch, Headers

__all__ = ["RowsBatch", "pack"]

_decode = msgspec.msgpack.Decoder(list[tuple[str, bytes]]).decode
_encode = msgspec.msgpack.Encoder().encode


def pack(headers: Headers) -> bytes | None:
    """Headers as they are stored; None for none at all."""
    return _encode(headers) if headers else None


class RowsBatch(Batch):
    """A batch of ``(offset, timestamp, key, value, headers)`` rows; unpacks headers on demand."""

    __slots__ = ("_packed",)

    def __init__(self, topic: str, partition: int, rows: Sequence[tuple[Any, ...]]) -> None:
        offsets, timestamps, keys, values, packed = zip(*rows, strict=True)
        super().__init__(topic, partition, offsets, values, keys, timestamps)
        self._packed: Sequence[bytes | None] = packed

    @property
    def headers(self) -> Sequence[Headers]:
        if not self._headers:
            self._headers = [_decode(blob) if blob else () for blob in self._packed]
        return self._headers

    def slice(self, start: int, stop: int) -> Batch:
        part = RowsBatch.__new__(RowsBatch)
        Batch.__init__(
            part,
            self.topic,
            self.partition,
            self.offsets[start:stop],
            self.values[start:stop],
            self._keys[start:stop],
            self._timestamps[start:stop],
            self._headers[start:stop],
        )
        part._packed = self._packed[start:stop]
        return part
