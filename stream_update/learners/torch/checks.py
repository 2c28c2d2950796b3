"""Options of fields, each with what it accepts: a snapshot has them too, and it can be forged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stream_update.errors import ConfigError

__all__ = ["bounds", "sizes", "whole"]

MOST = 1 << 16


def whole(key: str, value: Any, most: int = MOST) -> int:
    """A positive whole number."""
    if type(value) is not int or not 1 <= value <= most:
        raise ConfigError(f"{key}: {value!r:.100} is not accepted", hint=f"accepted: 1 to {most}")
    return value


def sizes(key: str, value: Any, count: tuple[int, int], most: int = MOST) -> list[int]:
    """A list of so many positive whole numbers."""
    low, high = count
    fits = isinstance(value, Sequence) and not isinstance(value, str) and low <= len(value) <= high
    if not fits or any(type(item) is not int or not 1 <= item <= most for item in value):
        many = str(low) if low == high else f"{low} to {high}"
        raise ConfigError(
            f"{key}: {value!r:.100} is not accepted",
            hint=f"a list of {many} whole numbers from 1 to {most}",
        )
    return list(value)


def bounds(key: str, value: Any, most: int) -> range:
    """What lies between two numbers, both included; nothing for an empty list."""
    if isinstance(value, Sequence) and not value:
        return range(0)
    low, high = sizes(key, value, (2, 2), most)
    if low > high:
        raise ConfigError(f"{key}: {low} is more than {high}", hint=f"{key} = [{high}, {low}]")
    return range(low, high + 1)
