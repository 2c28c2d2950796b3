"""Neural networks: torch modules that learn in mini-batches, and grow with their stream.

torch is imported when :class:`TorchLearner` is asked for, and not before: a process that
only runs other learners starts without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stream_update.learners.extras import needs_torch

if TYPE_CHECKING:
    from stream_update.learners.torch.learner import TorchLearner

__all__ = ["TorchLearner"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return needs_torch(f"{__name__}.learner", name, "torch")
