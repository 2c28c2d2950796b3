"""Everything that can go wrong, ordered by what the program does about it.

======================  =====================================================
``ConfigError``         stop before consuming: a person has to change a file
``BadEvent``            divert the event to the dead-letter topic and go on
``Transient``           try again inside one shared deadline
``Refused``             a checkpoint was certainly *not* committed: go on
``Fatal``               leave at once; the supervisor starts the process again
======================  =====================================================

Adapters translate their vendor's errors into these at the border, so nothing
above :mod:`stream_update.log` ever handles a Kafka or an SQLite error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stream_update.events import Predictions

__all__ = [
    "BadEvent",
    "ConfigError",
    "CorruptSnapshot",
    "Doubt",
    "Fatal",
    "LearnerFailed",
    "LineageMismatch",
    "LogGap",
    "NoModelYet",
    "Overtaken",
    "Refused",
    "StaleModel",
    "StreamUpdateError",
    "Transient",
    "Unreadable",
]


class StreamUpdateError(Exception):
    """Base of all errors of this package.

    ``str(error)`` says what happened and where; :attr:`hint` says what to do.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(StreamUpdateError):
    """The configuration cannot work; nothing has been consumed."""

    exit_code = 2


class BadEvent(StreamUpdateError):
    """One event cannot be used.

    ``reason`` is a short stable code (``number-out-of-range``) to count and to
    filter by; the message is for the person who reads the dead letter.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Transient(StreamUpdateError):
    """The log did not answer in time; the same call may succeed later."""

    exit_code = 4


class Refused(StreamUpdateError):
    """A checkpoint was refused and is certainly not in the log.

    The usual cause is a rebalance between the poll and the checkpoint. The
    process keeps the lanes that it still owns and tries again.
    """


class NoModelYet(StreamUpdateError):
    """A prediction was asked for before the first snapshot arrived."""

    exit_code = 5


class StaleModel(StreamUpdateError):
    """The newest model is older than ``max_age``, or has expired, and may not answer."""

    exit_code = 5


class Fatal(StreamUpdateError):
    """The process cannot go on; restarting it is safe and is the remedy."""

    exit_code = 1


class Doubt(Fatal):
    """Nobody can tell whether a checkpoint was committed.

    The log knows. The process exits with 17 and finds out when it starts.
    """

    exit_code = 17


class CorruptSnapshot(Fatal):
    """A snapshot is incomplete or its bytes are not what its manifest says.

    ``reason`` is one of the words in :data:`stream_update.refusals.REASONS`.
    """

    def __init__(self, message: str, *, reason: str = "bad-state", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class LineageMismatch(Fatal):
    """A snapshot was made by another learner, configuration or topic."""

    exit_code = 3


class LogGap(Fatal):
    """The log no longer holds an offset that the lane needs."""

    exit_code = 3


class Overtaken(LogGap):
    """Retention, or a deletion, was faster than the lane: records it needs are gone.

    ``partition`` of the topic holds nothing before ``first``; ``wanted`` is the offset
    that was to be read.
    """

    def __init__(
        self, message: str, *, partition: int, wanted: int, first: int, hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.partition = partition
        self.wanted = wanted
        self.first = first


class Unreadable(Overtaken):
    """Records are in the log, from ``wanted`` to before ``first``, that cannot be decoded: a
    damaged batch. Who goes on behind it writes that down.
    """


class LearnerFailed(StreamUpdateError):
    """A learner raised on an event that had passed validation.

    ``index`` is the position in the block that was given to the learner,
    ``phase`` is ``"predict"`` (nothing was learned from the event) or
    ``"learn"`` (the learner may be half changed). ``predictions`` are those made in
    this call for the events before ``index``, and for ``index`` itself if the phase
    is ``"learn"``.
    """

    def __init__(
        self, index: int, phase: str, cause: BaseException, predictions: Predictions
    ) -> None:
        super().__init__(f"{type(cause).__name__} while the learner tried to {phase}: {cause}")
        self.index = index
        self.phase = phase
        self.cause = cause
        self.predictions = predictions
