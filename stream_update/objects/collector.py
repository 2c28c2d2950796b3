"""Python's garbage collector, held off while many objects are made."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["held_off"]


@contextmanager
def held_off() -> Iterator[None]:
    """Nothing that is being made is garbage: looking for it would cost more than the work."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
