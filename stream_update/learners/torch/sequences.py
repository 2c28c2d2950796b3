"""Sequences of numbers, of any length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stream_update.learners.torch.checks import whole
from stream_update.learners.torch.scaling import Scaler

__all__ = ["Numbers"]


class Numbers:
    """A field that holds a sequence of numbers.

    It is a flat list, or a text with commas or spaces between; with ``width`` so many
    numbers make a step. Of a longer sequence the last ``max_length`` steps count. Each of the
    ``width`` columns is scaled as the numeric features are. The network has a GRU with
    ``layers`` layers of ``dim`` outputs, and goes on with the last of them.
    """

    def __init__(
        self, width: int = 1, max_length: int = 64, dim: int = 32, layers: int = 1
    ) -> None:
        self.columns = whole("width", width, 4096)
        self.dim = whole("dim", dim)
        self.layers = whole("layers", layers, 8)
        self._longest = whole("max_length", max_length)
        self.start(standardise=True)

    def start(self, *, standardise: bool) -> None:
        """Forget what has been learned of the numbers."""
        self.scaler = Scaler(active=standardise)

    def read(self, value: Any) -> Any:
        """The steps, of shape (steps, width); raises :class:`ValueError`."""
        if isinstance(value, str):
            if "_" in value:
                raise ValueError("it has a number with an underscore")
            value = [float(part) for part in value.replace(",", " ").split()]
        elif not isinstance(value, list):
            raise ValueError(f"it is a {type(value).__name__}, and not a sequence")  # noqa: TRY004
        numbers = np.array(value, dtype=float)
        if not np.isfinite(numbers).all():
            raise ValueError("it has a number that is not finite")
        if numbers.size % self.columns:
            raise ValueError(f"it has {numbers.size} numbers, and a step has {self.columns}")
        return numbers.reshape(-1, self.columns)[-self._longest :]

    def learn(self, values: Sequence[Any]) -> None:
        """Take in the mean and variance of these sequences."""
        steps = np.concatenate([np.zeros((0, self.columns)), *(v for v in values if v is not None)])
        if len(steps):
            self.scaler.learn(steps)

    def join(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """Steps of shape (events, longest, width), 0 behind the last, and how many each has."""
        lengths = np.array([0 if v is None else len(v) for v in values], dtype=np.int64)
        joined = np.zeros((len(values), max(1, lengths.max(initial=0)), self.columns), np.float32)
        for row, value in enumerate(values):
            if value is not None and len(value):
                joined[row, : len(value)] = self.scaler.scale(value)
        return joined, lengths
