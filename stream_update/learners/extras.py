"""Learners that need more than the package does."""

from __future__ import annotations

import importlib
from typing import Any

from stream_update.errors import ConfigError

__all__ = ["needs_torch"]


def needs_torch(module: str, name: str, use: str) -> Any:
    """What a module has by this name; raises :class:`ConfigError` where torch is not installed."""
    try:
        # First, so that it is what is named where all that the extra has is missing.
        importlib.import_module("torch")
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f'[learner] use = "{use}" needs the package {error.name}, which is not installed',
            hint="pip install 'stream-update[torch]'",
        ) from error
