"""Models that keep learning from an event log, in production.

One event, from record to scorer: a :mod:`~stream_update.log` (Kafka or the embedded
one) gives a batch of records to the :mod:`~stream_update.worker`, which hands it to the
:mod:`slot <stream_update.slots>` of its partition. :mod:`~stream_update.codecs` turns
bytes into a validated event, or into a dead letter that says why not. The
:mod:`~stream_update.lane` asks the learner for a prediction, shows prediction and truth
to the :mod:`~stream_update.monitors` (metrics, drift), and only then lets the learner
learn. When the :mod:`~stream_update.cadence` says so, metrics, alarms, dead letters, a
:mod:`~stream_update.snapshot` and last the group's offsets become visible in one
transaction. Elsewhere a :mod:`~stream_update.follower` sees the snapshot and puts the
new model in place of the old one.

Most programs need two names:

- :class:`ModelSubscriber` to predict with a model that stays fresh;
- :func:`load` to read a configuration, for :class:`Trainer`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stream_update.errors import (
    BadEvent,
    ConfigError,
    CorruptSnapshot,
    Doubt,
    Fatal,
    LineageMismatch,
    LogGap,
    NoModelYet,
    Refused,
    StaleModel,
    StreamUpdateError,
    Transient,
)

if TYPE_CHECKING:
    from stream_update.assemble import Trainer
    from stream_update.config import Config, load
    from stream_update.follower import ModelSubscriber

__version__ = "0.1.0"

__all__ = [
    "BadEvent",
    "Config",
    "ConfigError",
    "CorruptSnapshot",
    "Doubt",
    "Fatal",
    "LineageMismatch",
    "LogGap",
    "ModelSubscriber",
    "NoModelYet",
    "Refused",
    "StaleModel",
    "StreamUpdateError",
    "Trainer",
    "Transient",
    "__version__",
    "load",
]

# A service that only predicts should not wait for what only a trainer needs.
_LATER = {
    "Config": "stream_update.config",
    "ModelSubscriber": "stream_update.follower",
    "Trainer": "stream_update.assemble",
    "load": "stream_update.config",
}


if not TYPE_CHECKING:  # a type checker should refuse a name that does not exist

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module 'stream_update' has no attribute {name!r}")
        import importlib  # noqa: PLC0415 - part of the lazy loading

        return getattr(importlib.import_module(_LATER[name]), name)
