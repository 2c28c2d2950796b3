"""Random numbers whose generator is one whole number."""

from __future__ import annotations

__all__ = ["Draws"]

MASK = (1 << 64) - 1
STEP = 0x9E3779B97F4A7C15


class Draws:
    """SplitMix64 (Steele, Lea and Flood, 2014): the same numbers in every version of anything.

    ``state`` is all there is to it, a whole number of 64 bits.
    """

    def __init__(self, seed: int) -> None:
        self.state = seed & MASK

    def _next(self) -> int:
        self.state = (self.state + STEP) & MASK
        mixed = self.state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
        return mixed ^ (mixed >> 31)

    def below(self, count: int) -> int:
        """One of 0 to ``count - 1``, each as likely as the others to within ``count / 2**64``."""
        return (self._next() * count) >> 64

    def unit(self) -> float:
        """From 0 up to, and without, 1."""
        return (self._next() >> 11) * 2.0**-53
