"""Recommenders: who takes or likes what, learned from a stream of ratings or clicks.

torch is imported when :class:`Recommender` is asked for, and not before: a process that
only runs other learners starts without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stream_update.errors import ConfigError

if TYPE_CHECKING:
    from stream_update.learners.recommender.learner import Recommender

__all__ = ["Recommender"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from stream_update.learners.recommender.learner import Recommender  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigError(
            f'[learner] use = "recommender" needs the package {error.name}, which is not installed',
            hint="pip install 'stream-update[torch]'",
        ) from error
    return Recommender
