"""How values are written in messages to a person."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["kind_of", "shown"]

_LONGEST = 48


def shown(value: Any) -> str:
    """A value as JSON writes it, shortened."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    text = json.dumps(value, ensure_ascii=False)
    if not text.isascii():
        # One half of a surrogate pair could not be written to a header or a terminal.
        text = text.encode(errors="backslashreplace").decode()
    if len(text) <= _LONGEST:
        return text
    unit = "digits" if isinstance(value, int) else "characters"
    return f"{text[:_LONGEST]}... ({len(text)} {unit})"


def kind_of(value: Any) -> str:
    """The type of a JSON value, with its article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int):
        return "a whole number"
    if isinstance(value, float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    return shown(value)
