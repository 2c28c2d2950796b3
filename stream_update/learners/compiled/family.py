"""What a river model has learned as arrays, and the loop that runs over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from stream_update.errors import ConfigError
from stream_update.events import Features, Predictions
from stream_update.learners.compiled import kernels as k
from stream_update.learners.compiled.hashing import Hashing
from stream_update.learners.compiled.initial import Initial
from stream_update.learners.compiled.plan import Plan
from stream_update.learners.compiled.rows import Floats, Rows, Slots
from stream_update.learners.compiled.scalers import (
    blank,
    fill_scaler,
    learned_names,
    read_scaler,
)
from stream_update.learners.compiled.stopped import Stopped

__all__ = ["Family"]

LEAST = 16
"""Slots to begin with."""


class _Mark(NamedTuple):
    """Where slots and draws stood before some events."""

    slots: int
    draws: list[Any]


class Family:
    """A scaler and a model, beside the river model that they were taken from.

    That one has their settings and generators, and is brought up to date by :meth:`filled`.
    """

    def __init__(self, model: Any, plan: Plan) -> None:
        self._model = model
        self._plan = plan
        self._last: Any = plan.step(model, plan.last)
        self._hashing = Hashing(plan.step(model, plan.hasher)) if plan.hasher else None
        self._scaler = plan.step(model, plan.scaler) if plan.scaler else None
        self._numbers = np.zeros(k.NUMBERS)
        self._progress = np.zeros(2, np.int64)
        self._blank = blank(int(plan.kinds[k.SCALER]))
        self._table: Floats = np.tile(self._blank, (LEAST, 1))
        names = self._names()
        self._begin()
        self._begun = len(names)
        self._widen(len(names))
        self._slots = Slots(names, self._grow)
        self._numbers[k.SEEN] = len(names)
        if self._scaler is not None:
            strange = learned_names(self._scaler) - set(names)
            if strange:
                raise ConfigError(
                    f"[learner] this cannot be compiled: step {plan.scaler!r} has learned of "
                    f"{min(strange, key=str)!r}, and the model behind it has not",
                    hint="begin with a model that has learned nothing, or as a whole",
                )
            read_scaler(self._scaler, names, self._table[: len(names)])
        self._read(names)

    # -- what each family has

    initial: Sequence[Initial] = ()
    """What its weights begin with."""

    def _names(self) -> list[Any]:
        """The names of the weights, in river's order."""
        raise NotImplementedError

    def _begin(self) -> None:
        """Make the arrays that only this family has."""

    def _read(self, names: Sequence[Any]) -> None:
        """Take the river model's weights."""
        raise NotImplementedError

    def _fill(self, names: Sequence[Any]) -> None:
        """Give the river model the weights."""
        raise NotImplementedError

    def _start(self, start: int, rows: Sequence[Floats]) -> None:
        """Let the slots from ``start`` on have these first weights, one array of each kind."""

    def _targets(self, labels: Sequence[Any]) -> Floats:
        """Labels as numbers. Raises one of ``NOT_NUMBERS`` if one cannot be."""
        raise NotImplementedError

    def _room(self, count: int) -> Any:
        """Where the loop says what it says of so many events."""
        return np.empty(count)

    def _loop(self, rows: Rows, targets: Floats, mode: int, said: Any) -> None:
        """Run over the rows."""
        raise NotImplementedError

    def _answers(self, said: Any, count: int) -> Predictions:
        """The first ``count`` of what was said."""
        raise NotImplementedError

    # -- what they share

    def run(self, features: Sequence[Features], labels: Sequence[Any], mode: int) -> Predictions:
        """Predict, learn, or both.

        Raises one of ``NOT_NUMBERS`` if an event or a label is none for the loop, and nothing
        has been learned then; raises :class:`Stopped` if the loop raised.
        """
        mark = _Mark(self._begun, [initial.mark() for initial in self.initial])
        said: Any = None
        try:
            targets = self._targets(labels) if mode != k.PREDICT else np.empty(0)
            rows = self._rows(features)
            said = self._room(len(features))
            try:
                self._loop(rows, targets, mode, said)
            except (ArithmeticError, ValueError) as error:
                index, learning = map(int, self._progress)
                made = 0 if mode == k.LEARN else index + bool(learning)
                phase = "learn" if learning else "predict"
                raise Stopped(index, phase, error, self._answers(said, made)) from error
        finally:
            if self._met_more():
                self._forget(mark)
        return self._answers(said, 0 if mode == k.LEARN else len(features))

    def _rows(self, features: Sequence[Features]) -> Rows:
        if self._hashing is None:
            return self._slots.rows(self._plain(features))
        found = self._hashing.alike(features)
        if found is None:
            return self._slots.rows(self._hashing.events(features))
        numbers, values = found
        return self._slots.alike(numbers, len(features), values)

    def _plain(self, features: Sequence[Features]) -> Sequence[Features]:
        """The events as the scaler gets them, where there is no hasher."""
        return features

    def _grow(self, count: int) -> None:
        self._widen(count)
        new = count - self._begun
        self._start(self._begun, [initial.rows(new) for initial in self.initial])
        self._begun = count

    def _widen(self, count: int) -> None:
        """Make room for so many slots."""
        missing = count - len(self._table)
        if missing > 0:
            more = np.tile(self._blank, (max(missing, len(self._table)), 1))
            self._table = np.concatenate([self._table, more])

    def _met_more(self) -> bool:
        """Whether there are names that only events have that were not learned."""
        return len(self._slots) > int(self._numbers[k.SEEN])

    def _forget(self, mark: _Mark) -> None:
        """Let names of events that were not learned be as if they had never come."""
        seen = int(self._numbers[k.SEEN])
        self._slots.forget(seen)
        self._table[seen : self._begun] = self._blank
        self._begun = seen
        for initial, state in zip(self.initial, mark.draws, strict=True):
            initial.back(state)
            initial.rows(seen - mark.slots)

    def filled(self) -> Any:
        """The river model, with what has been learned until now."""
        seen = int(self._numbers[k.SEEN])
        names = self._slots.names[:seen]
        if self._scaler is not None:
            fill_scaler(self._scaler, names, self._table[:seen])
        self._fill(names)
        return self._model
