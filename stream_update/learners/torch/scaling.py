"""The running mean and variance of each numeric column."""

from __future__ import annotations

from typing import Any

import numpy as np

from stream_update.errors import CorruptSnapshot
from stream_update.events import Tree
from stream_update.learners.torch.columns import Floats

__all__ = ["LARGEST", "Scaler"]

LARGEST = float(np.finfo(np.float32).max)
"""Of what networks are given; the squares of such numbers have room in float64."""
PARTS = ("count", "mean", "squares")


class Scaler:
    """Scales columns to mean 0 and variance 1 by all that has been learned of each.

    Mean and sum of squared differences are joined with those of a block as in Chan, Golub
    and LeVeque (1983), "Algorithms for computing the sample variance". A value that is
    missing, or too large for a float32, takes the mean, and a column that has not varied yet is
    0. Without ``active`` only such values are filled in.
    """

    def __init__(self, *, active: bool = True) -> None:
        self._active = active
        self._count: Floats = np.zeros(0)
        self._mean: Floats = np.zeros(0)
        self._squares: Floats = np.zeros(0)
        self._divisor: Floats = np.ones(0)

    def learn(self, numbers: Floats) -> None:
        """Take in a block of shape (events, columns); it may have more columns than the last."""
        new = numbers.shape[1] - len(self._mean)
        if new:
            self._count, self._mean, self._squares = (
                np.concatenate([part, np.zeros(new)])
                for part in (self._count, self._mean, self._squares)
            )
        count: Floats | float
        whole = _all_usable(numbers)
        if not self._active and whole:
            total = self._count + len(numbers)
            mean = np.add.reduce(numbers) / len(numbers)
            self._mean += (mean - self._mean) * (len(numbers) / total)
            self._count = total
            return
        if whole:
            count = float(len(numbers))
            mean = np.add.reduce(numbers) / count
            apart = numbers - mean
        else:
            present = _usable(numbers)
            count = present.sum(axis=0).astype(float)
            mean = np.where(present, numbers, 0.0).sum(axis=0) / np.maximum(count, 1.0)
            apart = np.where(present, numbers - mean, 0.0)
        total = self._count + count
        share = count / np.maximum(total, 1.0)
        delta = mean - self._mean
        self._squares += np.add.reduce(apart * apart) + delta * delta * self._count * share
        self._mean += delta * share
        self._count = total
        self._prepare()

    def scale(self, numbers: Floats) -> Floats:
        """A block as the network is to see it; has no NaN and nothing infinite."""
        known = len(self._mean)
        if known < numbers.shape[1]:
            # Of the columns behind nothing has been learned.
            scaled = np.zeros(numbers.shape)
            scaled[:, :known] = self.scale(numbers[:, :known])
            if not self._active:
                rest = numbers[:, known:]
                scaled[:, known:] = np.where(_usable(rest), rest, 0.0)
            return scaled
        if not _all_usable(numbers):
            numbers = np.where(_usable(numbers), numbers, self._mean)
        if self._active:
            return (numbers - self._mean) / self._divisor
        return numbers

    def back(self, scaled: Floats) -> Floats:
        """The inverse of :meth:`scale`, of columns that have varied."""
        return scaled * self._divisor + self._mean if len(self._mean) else scaled

    def dump(self) -> Tree:
        parts = (self._count, self._mean, self._squares)
        return {name: part.tobytes() for name, part in zip(PARTS, parts, strict=True)}

    def load(self, tree: Tree, columns: int) -> None:
        """Take back what :meth:`dump` gave, of at most so many columns."""
        count, mean, squares = (np.frombuffer(tree[name]).copy() for name in PARTS)
        if not len(count) == len(mean) == len(squares) <= columns:
            raise CorruptSnapshot(f"the scaler has {len(mean)} columns, the vocabulary {columns}")
        if not all(np.isfinite(part).all() for part in (count, mean, squares)):
            raise CorruptSnapshot("the scaler has a mean that is NaN", reason="non-finite")
        self._count, self._mean, self._squares = count, mean, squares
        self._prepare()

    def discount(self, events: int) -> None:
        """Let what is known count as at most so many events, so that it gives way to new ones."""
        share = np.minimum(1.0, events / np.maximum(self._count, 1.0))
        self._count = self._count * share
        self._squares = self._squares * share
        self._prepare()

    def _prepare(self) -> None:
        deviation = np.sqrt(self._squares / np.maximum(self._count, 1.0))
        self._divisor = np.where(deviation > 0.0, deviation, 1.0)


def _usable(numbers: Floats) -> Any:
    return np.abs(numbers) <= LARGEST


def _all_usable(numbers: Floats) -> bool:
    # The largest of numbers is NaN if one of them is.
    return bool(np.abs(numbers).max(initial=0.0) <= LARGEST)
