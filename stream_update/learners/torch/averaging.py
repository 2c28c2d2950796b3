"""A module whose weights are the running average of another's."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch

__all__ = ["Average"]


class Average:
    """Answers with averaged weights, which jump about less than those of the last step.

    An exponential moving average, in which the first weights fade sooner: of the average so
    far stays ``min(decay, (1 + n) / (10 + n))`` in step ``n``. What a module counts besides
    parameters, as batch norms do, is taken over as it is.
    """

    def __init__(self, module: Any, decay: float) -> None:
        self.module = deepcopy(module).requires_grad_(requires_grad=False).eval()
        self._decay = decay

    def follow(self, module: Any, step: int) -> None:
        """After a step with this number."""
        share = 1.0 - min(self._decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, now in zip(self.module.parameters(), module.parameters(), strict=True):
                mean.lerp_(now, share)
            for mean, now in zip(self.module.buffers(), module.buffers(), strict=True):
                mean.copy_(now)
