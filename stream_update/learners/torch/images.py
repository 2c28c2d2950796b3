"""Images as bytes in base64, or as lists of numbers."""

from __future__ import annotations

import binascii
import math
from base64 import b64decode
from collections.abc import Sequence
from typing import Any

import numpy as np

from stream_update.learners.torch.checks import sizes, whole
from stream_update.learners.torch.scaling import Scaler

__all__ = ["Image"]


class Image:
    """A field that holds an image.

    ``shape`` is height, width and channels. The pixels come row by row with the channels
    of each together, one byte each in base64, or as a flat list of numbers. Each channel is
    scaled by the running mean and variance of its pixels. For each of ``channels`` the
    network has a convolution of ``kernel`` by ``kernel`` with as many outputs, then ReLU and
    the largest of each 2 by 2; then a layer of ``dim`` outputs.
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: Sequence[int] = (16, 32),
        kernel: int = 3,
        dim: int = 64,
    ) -> None:
        self.shape = sizes("shape", shape, (3, 3), 4096)
        self.columns = self.shape[2]
        self.channels = sizes("channels", channels, (1, 8), 4096)
        self.kernel = whole("kernel", kernel, 31)
        self.dim = whole("dim", dim)
        self._count = math.prod(self.shape)
        self.start(standardise=True)

    def start(self, *, standardise: bool) -> None:
        """Forget what has been learned of the pixels."""
        self.scaler = Scaler(active=standardise)

    def read(self, value: Any) -> Any:
        """The pixels, of shape (height, width, channels); raises :class:`ValueError`."""
        if isinstance(value, str):
            try:
                pixels: Any = np.frombuffer(b64decode(value, validate=True), dtype=np.uint8)
            except binascii.Error as error:
                raise ValueError(f"it is no base64: {error}") from error
        elif isinstance(value, list):
            pixels = np.array(value, dtype=float)
        else:
            raise ValueError(f"it is a {type(value).__name__}, and not an image")  # noqa: TRY004
        if pixels.size != self._count:
            raise ValueError(
                f"it has {pixels.size} values, and an image of shape {self.shape} has {self._count}"
            )
        return pixels.reshape(self.shape)

    def learn(self, values: Sequence[Any]) -> None:
        """Take in the mean and variance of these images."""
        given = [value.reshape(-1, self.columns) for value in values if value is not None]
        if given:
            self.scaler.learn(np.concatenate(given, dtype=float))

    def join(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """Images of shape (events, channels, height, width); None is one that is all 0."""
        height, width, channels = self.shape
        joined = np.zeros((len(values), channels, height, width), dtype=np.float32)
        there = [row for row, value in enumerate(values) if value is not None]
        if there:
            pixels = np.stack([values[row] for row in there]).astype(float)
            scaled = self.scaler.scale(pixels.reshape(-1, channels)).reshape(pixels.shape)
            joined[there] = scaled.transpose(0, 3, 1, 2)
        return (joined,)
