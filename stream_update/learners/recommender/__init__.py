"""Recommenders: who takes or likes what, learned from a stream of ratings or clicks.

torch is imported when :class:`Recommender` is asked for, and not before: a process that
only runs other learners starts without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stream_update.learners.extras import needs_torch

if TYPE_CHECKING:
    from stream_update.learners.recommender.learner import Recommender

__all__ = ["Recommender"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return needs_torch(f"{__name__}.learner", name, "recommender")
