"""The weights that features begin with, drawn in the order in which the features come."""

from __future__ import annotations

from typing import Any

import numpy as np
from river import optim

from stream_update.learners.compiled.rows import Floats

__all__ = ["Initial"]


class Initial:
    """River's initializer, for ``size`` weights of each feature."""

    def __init__(self, initializer: Any, size: int = 1) -> None:
        self._initializer = initializer
        self._size = size
        self._draws = isinstance(initializer, optim.initializers.Normal)

    def rows(self, count: int) -> Floats:
        """The next ``count`` features' weights. Numbers drawn together are those drawn apart."""
        if self._draws:
            one = self._initializer
            drawn: Floats = one._rng.normal(one.mu, one.sigma, (count, self._size))  # noqa: SLF001 - the generator that river draws from
            return drawn
        return np.full((count, self._size), float(self._initializer.value))

    def mark(self) -> Any:
        """What :meth:`back` takes to let the same be drawn again."""
        return self._initializer._rng.get_state() if self._draws else None  # noqa: SLF001

    def back(self, mark: Any) -> None:
        if self._draws:
            self._initializer._rng.set_state(mark)  # noqa: SLF001
