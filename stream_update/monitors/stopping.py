"""Conditions that end a run: "accuracy < 0.7 over 5000"."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Self

from stream_update.errors import ConfigError
from stream_update.events import Outcomes
from stream_update.monitors import figures
from stream_update.monitors.prequential import Prequential

__all__ = ["StopCondition"]

FORM = re.compile(
    r"\s*(?P<metric>[\w.:]+)\s*(?P<sign><=|>=|<|>)\s*(?P<limit>[-+.\deE_]+)"
    r"\s+over\s+(?P<events>\d[\d_]*)\s*"
)
SIGNS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class StopCondition:
    """Whether a metric over the last so many events has crossed a limit.

    It has a window of its own and is no part of a lane's state: a process that starts
    again fills the window anew. It is not met before the window is full, nor while the
    metric has no value.
    """

    def __init__(self, task: str, metric: str, sign: str, limit: float, events: int) -> None:
        self.text = f"{metric} {sign} {limit:g} over {events}"
        self._metric = metric
        self._crossed = SIGNS[sign]
        self._limit = limit
        self._monitor = Prequential(task, [metric], window=events)
        if metric not in self._monitor.formulas:
            raise ConfigError(
                f"stop-when: {metric!r} cannot be computed over a window",
                hint=f"accepted values: {', '.join(figures.TASKS[task])}",
            )

    @classmethod
    def parse(cls, text: str, task: str) -> Self:
        """From text like ``accuracy < 0.7 over 5000``."""
        match = FORM.fullmatch(text)
        hint = 'write it like "accuracy < 0.7 over 5000", with <, <=, > or >='
        if match is None:
            raise ConfigError(f"stop-when: cannot read {text!r}", hint=hint)
        try:
            limit = float(match["limit"])
        except ValueError:
            raise ConfigError(
                f"stop-when: {match['limit']!r} is no number in {text!r}", hint=hint
            ) from None
        return cls(task, match["metric"], match["sign"], limit, int(match["events"]))

    def __str__(self) -> str:
        return self.text

    def update(self, outcomes: Outcomes) -> None:
        """Take in outcomes of any lane."""
        self._monitor.observe(outcomes)

    def met(self) -> bool:
        """Whether the run should end now."""
        if self._monitor.events < self._monitor.window:
            return False
        value = self._monitor.rolling_value(self._metric)
        return value is not None and self._crossed(value, self._limit)
