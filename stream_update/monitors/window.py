"""The last so many values of a stream, in one small array."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Window"]


class Window:
    """A ring of ``size`` numbers of one numpy type."""

    def __init__(self, size: int, dtype: str) -> None:
        self._ring: npt.NDArray[Any] = np.zeros(size, dtype=dtype)
        self._seen = 0

    def __len__(self) -> int:
        return min(self._seen, len(self._ring))

    def extend(self, values: npt.NDArray[Any]) -> None:
        """Put these in, oldest first; what no longer fits falls out."""
        size = len(self._ring)
        self._seen += max(0, len(values) - size)
        values = values[-size:]
        start = self._seen % size
        head = min(len(values), size - start)
        self._ring[start : start + head] = values[:head]
        self._ring[: len(values) - head] = values[head:]
        self._seen += len(values)

    def values(self) -> npt.NDArray[Any]:
        """What the window holds, oldest first."""
        if self._seen <= len(self._ring):
            return self._ring[: self._seen].copy()
        return np.roll(self._ring, -(self._seen % len(self._ring)))

    def dump(self) -> bytes:
        return self.values().tobytes()

    def load(self, data: bytes) -> None:
        values = np.frombuffer(data, dtype=self._ring.dtype)
        if len(values) > len(self._ring):
            raise ValueError(f"{len(values)} values for a window of {len(self._ring)}")
        self._seen = 0
        self.extend(values)
