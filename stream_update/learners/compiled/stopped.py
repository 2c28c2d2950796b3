"""How a loop ends before its last event."""

from __future__ import annotations

from stream_update.events import Predictions

__all__ = ["Stopped"]


class Stopped(Exception):
    """The loop raised at an event: at which, whether it was being learned, and why."""

    def __init__(self, index: int, phase: str, cause: Exception, said: Predictions) -> None:
        super().__init__(str(cause))
        self.index = index
        self.phase = phase
        self.cause = cause
        self.said = said
