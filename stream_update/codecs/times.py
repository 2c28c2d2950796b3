"""Event times: whatever a producer writes becomes milliseconds since the epoch."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any

__all__ = ["event_time"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_SECONDS_BELOW = 1e11
_LAST_MS = 253_402_300_799_999
_NUMBER = re.compile(r"[+-]?\d{9,}(?:\.\d*)?", re.ASCII)


def event_time(raw: Any) -> int | None:
    """Milliseconds since the epoch, or None where ``raw`` is not a time.

    A number below 1e11 in magnitude is seconds, any other milliseconds. A text is
    ISO 8601 (UTC if it names no zone), or a number of nine digits or more: shorter
    ones are ISO dates without dashes. Times outside the years 1 to 9999 are None.
    """
    if isinstance(raw, bytes):
        try:
            raw = raw.decode()
        except UnicodeDecodeError:
            return None
    if isinstance(raw, str):
        return _text_time(raw.strip())
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        return _number_time(raw)
    return None


def _number_time(number: float) -> int | None:
    if not math.isfinite(number):
        return None
    ms = round(number * 1000) if abs(number) < _SECONDS_BELOW else round(number)
    return ms if abs(ms) <= _LAST_MS else None


def _text_time(text: str) -> int | None:
    if _NUMBER.fullmatch(text):
        return _number_time(float(text))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // _MILLISECOND
