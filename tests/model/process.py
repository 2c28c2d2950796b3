"""What a fault strikes: the clock, and a process with what goes on in it."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Protocol

__all__ = ["Clock", "Killed", "Process", "Silence", "Step"]


class Clock:
    """Seconds that pass only when somebody waits; in the place of the module ``time``."""

    def __init__(self, wall: Callable[[], float] | None = None) -> None:
        self.now = 1_000.0
        self._wall = wall

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now if self._wall is None else self._wall()

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Killed(BaseException):
    """The process has ended here. No ``except`` of the process itself may see it."""


class Silence(Exception):
    """The broker does not answer to this step in time."""


class Step(enum.Enum):
    """A moment in a checkpoint at which something may happen: right before this act."""

    BEGIN = 1
    RECORD = 2
    FLUSH = 3
    OFFSETS = 4
    COMMIT = 5
    ANSWER = 6
    """The transaction is committed, and the process has not heard of it."""


class Progressing(Protocol):
    def advance(self, steps: int | None) -> None: ...


class Process:
    """One process; everything that it opens ends with it.

    ``at`` is called at every step of its checkpoints, and may raise :class:`Killed` or
    :class:`Silence`, or let time pass and others act. ``pace`` is how many steps a
    checkpoint makes by itself whenever somebody waits; None: all at once.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.frozen = False
        self.pace: int | None = None
        self.at: Callable[[Step], None] = lambda _step: None
        self.flight: Progressing | None = None

    @property
    def running(self) -> bool:
        return not (self.dead or self.frozen)

    def must_live(self) -> None:
        if self.dead:
            raise Killed(self.name)

    def progress(self) -> None:
        """Let the checkpoint that is on its way get on, as a thread of its own would."""
        if self.flight is not None and self.running:
            self.flight.advance(self.pace)
