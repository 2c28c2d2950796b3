"""What one step makes small: the loss of a batch, or something of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from stream_update import plugins
from stream_update.errors import ConfigError

__all__ = ["Batch", "Step", "Supervised", "step_of"]


class Batch(NamedTuple):
    """``inputs`` of shape (events, inputs), and the ``targets`` as the loss wants them.

    ``seed`` is another one at each step, and the same one whenever the step is repeated:
    what is drawn outside torch's own generator has to be drawn from it.
    """

    inputs: Any
    targets: Any
    seed: int


Step = Callable[[Any, Batch], Any]
"""A module and a batch to the loss, a tensor with one number that has a gradient."""


class Supervised:
    """The loss of what the module says."""

    def __init__(self, loss: Callable[[Any, Any], Any]) -> None:
        self._loss = loss

    def __call__(self, module: Any, batch: Batch) -> Any:
        return self._loss(module(batch.inputs), batch.targets)


def step_of(table: str | Mapping[str, Any] | None, loss: Callable[[Any, Any], Any]) -> Step | None:
    """The user's step: ``"my_steps:Mixup"``, or a table with that as ``use`` and options.

    It is called with the options, and with ``loss`` if it names that, and returns a
    :data:`Step`. Raises :class:`ConfigError`.
    """
    if table is None:
        return None
    given: Mapping[str, Any] = {"use": table} if isinstance(table, str) else table
    if not isinstance(given.get("use"), str):
        raise ConfigError('learner.step: expected "my_steps:Mixup", or a table with that as use')
    step = plugins.build(given, "learner.step", given={"loss": loss})
    if not callable(step):
        raise ConfigError(
            f"learner.step: {given['use']} gives a {type(step).__name__}, which cannot be called",
            hint="it has to give a function of a module and a batch that returns the loss",
        )
    made: Step = step
    return made
