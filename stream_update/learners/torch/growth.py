"""When a network's hidden layers are to grow, and to what sizes.

All of it is a function of the configured steps and of what has been learned, so who learns
the same events again grows at the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from stream_update import plugins
from stream_update.errors import ConfigError, CorruptSnapshot, LineageMismatch
from stream_update.events import Tree
from stream_update.learners.torch.checks import whole

__all__ = ["Grow", "Growth", "grow_of"]

DEEPEST = 64
"""Layers that are added in one step."""


class Grow(NamedTuple):
    """One step: when, and what becomes of the hidden layers.

    ``after`` so many learned events, or when over the last ``plateau`` of them the mean loss is
    less than ``min_delta`` below that over as many before. Then all hidden layers, or the one
    with the number ``layer``, get ``widen`` units; or ``deepen`` layers are added.
    """

    after: int | None
    plateau: int | None
    min_delta: float
    widen: int | None
    layer: int | None
    deepen: int

    @property
    def told(self) -> dict[str, Any]:
        """What tells it from other steps, as plain values."""
        given = {key: value for key, value in self._asdict().items() if value is not None}
        return {key: value for key, value in given.items() if value or key == "layer"}

    def sizes(self, hidden: Sequence[int]) -> list[int]:
        """The units of each hidden layer afterwards; raises :class:`ConfigError`."""
        if self.widen is None:
            return [*hidden, *[hidden[-1]] * self.deepen]
        chosen = range(len(hidden)) if self.layer is None else [self.layer]
        if not all(number < len(hidden) for number in chosen):
            raise ConfigError(
                f"learner.grow: there is no hidden layer {self.layer}",
                hint=f"0 to {len(hidden) - 1}: the layers have {list(hidden)} units by then",
            )
        narrow = [number for number in chosen if hidden[number] < self.widen]
        if not narrow or any(hidden[number] > self.widen for number in chosen):
            raise ConfigError(
                f"learner.grow: widen = {self.widen}, and the layers have {list(hidden)} units by "
                "then: no layer gets narrower, and one at least has to get wider"
            )
        return [self.widen if number in narrow else size for number, size in enumerate(hidden)]


def _grow(
    after: int | None = None,
    plateau: int | None = None,
    min_delta: float = 0.0,
    widen: int | None = None,
    layer: int | None = None,
    deepen: int | bool = 0,  # noqa: FBT001 - given by name
) -> Grow:
    where = "learner.grow"
    if (after is None) == (plateau is None):
        raise ConfigError(
            f"{where}: a step needs either after or plateau",
            hint="after = 50000, or plateau = 5000 with min_delta = 0.001",
        )
    for key, value in (("after", after), ("plateau", plateau)):
        if value is not None and (type(value) is not int or value < 1):
            raise ConfigError(f"{where}.{key}: {value!r} is no number of events")
    if (
        type(min_delta) not in {int, float}
        or not 0 <= min_delta < math.inf
        or (min_delta and plateau is None)
    ):
        raise ConfigError(
            f"{where}.min_delta: {min_delta!r} is not accepted",
            hint="a number of 0 or more, beside plateau",
        )
    if (widen is None) == (not deepen):
        raise ConfigError(
            f"{where}: a step needs either widen or deepen", hint="widen = 128, or deepen = true"
        )
    if widen is not None:
        whole(f"{where}.widen", widen)
    if layer is not None and (widen is None or type(layer) is not int or layer < 0):
        raise ConfigError(
            f"{where}.layer: {layer!r} is not accepted",
            hint="the number of a hidden layer, from 0 on, beside widen",
        )
    if widen is None:
        deepen = whole(f"{where}.deepen", 1 if deepen is True else deepen, DEEPEST)
    return Grow(after, plateau, float(min_delta), widen, layer, int(deepen))


def grow_of(tables: Any) -> list[Grow]:
    """The steps of ``[[learner.grow]]``, in their order; raises :class:`ConfigError`."""
    if not isinstance(tables, list | tuple) or not all(isinstance(t, Mapping) for t in tables):
        raise ConfigError("learner.grow: there may be several, each written [[learner.grow]]")
    steps = [plugins.call(_grow, "a step", table, "learner.grow", {}) for table in tables]
    counts = [step.after for step in steps if step.after is not None]
    for before, then in pairwise(counts):
        if then < before:
            raise ConfigError(
                f"learner.grow: after = {then} stands behind after = {before}",
                hint="steps are taken in the order in which they are written",
            )
    return steps


class Growth:
    """How far a network has come: what it has learned, and the steps that it has taken.

    Losses are those of mini-batches before they are learned. They are averaged over stretches of
    ``plateau`` events that follow one another, each up to the end of a mini-batch; they begin
    when the step before has been taken, when the step is first there, and not before ``since``
    events.
    """

    def __init__(self, steps: Sequence[Grow], since: float = 0.0) -> None:
        self._steps = list(steps)
        self._since = since
        self.events = 0
        self.taken: list[Grow] = []
        self._at: list[int] = []
        self._watched: Grow | None = None
        self._before: float | None = None
        self._sum, self._count = 0.0, 0
        self._flat = False

    @property
    def next(self) -> Grow | None:
        """The step that comes next."""
        return self._steps[len(self.taken)] if len(self.taken) < len(self._steps) else None

    def observe(self, events: int, loss: float) -> None:
        """So many events have been learned, whose mean loss was this before; NaN if it is none."""
        step = self.next
        if step is not self._watched:
            self._watch(step)
        if step is not None and step.plateau is not None and self.events >= self._since:
            if math.isfinite(loss):
                self._sum += loss * events
                self._count += events
            if self._count >= step.plateau:
                mean = self._sum / self._count
                gain = math.inf if self._before is None else self._before - mean
                self._flat = gain <= 0 or gain < step.min_delta
                self._before, self._sum, self._count = mean, 0.0, 0
        self.events += events

    def _watch(self, step: Grow | None) -> None:
        self._watched, self._before, self._flat = step, None, False
        self._sum, self._count = 0.0, 0

    def due(self) -> Grow | None:
        """The next step, if its time has come."""
        step = self.next
        if step is None:
            return None
        if step.after is not None:
            return step if self.events >= step.after else None
        return step if step is self._watched and self._flat else None

    def take(self, step: Grow) -> None:
        """Count a step as taken."""
        self.taken.append(step)
        self._at.append(self.events)
        self._watch(self.next)

    def dump(self) -> Tree:
        """None as long as there is nothing to be told."""
        watched = self._watched
        watch = None
        if watched is not None and watched.plateau is not None:
            watch = [watched.told, self._before, self._sum, self._count]
        if not self.taken and watch is None:
            return None
        taken = [{"at": at, **step.told} for at, step in zip(self._at, self.taken, strict=True)]
        return {"taken": taken, "watch": watch}

    def load(self, tree: Tree, events: int) -> None:
        """Take back what :meth:`dump` gave.

        Raises :class:`LineageMismatch` unless the steps that have been taken are the first ones
        of those that are configured.
        """
        self.events = events
        if tree is None:
            return
        told = [step.told for step in self._steps]
        for number, entry in enumerate(tree["taken"]):
            one = {key: value for key, value in entry.items() if key != "at"}
            if number >= len(told) or told[number] != one:
                there = told[number] if number < len(told) else "no such step"
                raise LineageMismatch(
                    f"it has taken the step {one} as number {number + 1} of [[learner.grow]], "
                    f"and the configuration has {there}",
                    hint="steps that have been taken have to stay, in their order; others may be "
                    "added behind them. To grow otherwise, learn again under a new lineage",
                )
            self.taken.append(self._steps[number])
            self._at.append(int(entry["at"]))
        watch, step = tree["watch"], self.next
        # What was seen for a step that is another one by now says nothing of this one.
        if watch is not None and step is not None and step.told == watch[0]:
            _, before, total, count = watch
            if type(count) is not int or count < 0 or not math.isfinite(total):
                raise CorruptSnapshot("the losses that were seen for a plateau are none")
            self._watch(step)
            self._before, self._sum, self._count = before, float(total), count
