"""Columns over rows, and headers as one blob."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from stream_update.events import Batch, Headers

__all__ = ["RowsBatch", "pack"]

_decode = msgspec.msgpack.Decoder(list[tuple[str, bytes]]).decode
_encode = msgspec.msgpack.Encoder().encode


def pack(headers: Headers) -> bytes | None:
    """Headers as they are stored; None for none at all."""
    return _encode(headers) if headers else None


class RowsBatch(Batch):
    """A batch whose headers are unpacked when somebody asks for them."""

    __slots__ = ("_packed",)

    def __init__(
        self,
        topic: str,
        partition: int,
        offsets: Sequence[int],
        timestamps: Sequence[int],
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        packed: Sequence[bytes | None],
    ) -> None:
        super().__init__(topic, partition, offsets, values, keys, timestamps)
        self._packed = packed

    @property
    def headers(self) -> Sequence[Headers]:
        if not self._headers:
            self._headers = [_decode(blob) if blob else () for blob in self._packed]
        return self._headers

    def slice(self, start: int, stop: int) -> Batch:
        return RowsBatch(
            self.topic,
            self.partition,
            self.offsets[start:stop],
            self._timestamps[start:stop],
            self._keys[start:stop],
            self.values[start:stop],
            self._packed[start:stop],
        )
