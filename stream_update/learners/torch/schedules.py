"""Learning rates by the number of the step, and by nothing else."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from stream_update import plugins
from stream_update.errors import ConfigError

__all__ = ["Schedule"]


def _constant(step: int) -> float:  # noqa: ARG001
    return 1.0


def _linear(step: int, steps: int, last: float = 0.0) -> float:
    return last + (1.0 - last) * max(0.0, 1.0 - step / steps)


def _cosine(step: int, steps: int, last: float = 0.0) -> float:
    return last + (1.0 - last) * (1.0 + math.cos(math.pi * min(1.0, step / steps))) / 2.0


def _exponential(step: int, half_life: float, last: float = 0.0) -> float:
    return max(last, math.exp2(-step / half_life))


def _inverse_sqrt(step: int, steps: int = 1) -> float:
    return math.sqrt(steps / (step + steps))


SHAPES: dict[str, Callable[..., float]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "exponential": _exponential,
    "inverse-sqrt": _inverse_sqrt,
}


class Schedule:
    """What the optimizer's learning rate is multiplied by, from the first step, 0, on.

    ``table`` is a name, or a table with that as ``use`` and options:

    * ``constant``: 1.
    * ``linear`` and ``cosine`` fall from 1 to ``last`` within ``steps`` steps, and stay there;
      cosine is half a wave, as in Loshchilov and Hutter (2017), "SGDR".
    * ``exponential`` halves every ``half_life`` steps, down to ``last``.
    * ``inverse-sqrt`` falls as 1 / sqrt(1 + step / ``steps``).

    Each with ``warmup``: in so many steps before that it rises to 1 in a straight line. A
    stream has no end: what falls to 0 learns nothing more, so ``last`` says how much is left.
    """

    def __init__(self, table: str | Mapping[str, Any] = "constant") -> None:
        given: Mapping[str, Any] = {"use": table} if isinstance(table, str) else table
        self.name = given.get("use", "")
        self.options = {key: value for key, value in given.items() if key != "use"}
        if self.name not in SHAPES:
            raise ConfigError(
                f"learner.schedule: there is no {self.name!r}",
                hint=f"one of: {', '.join(SHAPES)}",
            )
        options = dict(self.options)
        shape = SHAPES[self.name]
        where = "learner.schedule"
        parameters = list(inspect.signature(shape).parameters.values())[1:]
        accepted = [parameter.name for parameter in parameters]
        plugins.check_options([*accepted, "warmup"], options, where, self.name)
        for parameter in parameters:
            if parameter.default is parameter.empty and parameter.name not in options:
                raise ConfigError(
                    f"{where}: {self.name} needs {parameter.name}",
                    hint=f'schedule = {{ use = "{self.name}", {parameter.name} = 10000 }}, say',
                )
        self._warmup: float = options.pop("warmup", 0)
        for key, value in {**options, "warmup": self._warmup}.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value < math.inf or (key == "last" and value > 1):
                accepted_values = "from 0 to 1" if key == "last" else "of 0 or more"
                raise ConfigError(f"{where}.{key}: {value!r} is no number {accepted_values}")
            if key in {"steps", "half_life"} and value == 0:
                raise ConfigError(f"{where}.{key}: 0 is not positive")
        self._shape = shape
        self._options = options

    @property
    def constant(self) -> bool:
        return self.name == "constant" and not self._warmup

    def factor(self, step: int) -> float:
        """Of the step with this number."""
        if step < self._warmup:
            return (step + 1) / (self._warmup + 1)
        return float(self._shape(int(step - self._warmup), **self._options))
