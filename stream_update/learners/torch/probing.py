"""Whether a module can do what is asked of it, before the first event."""

from __future__ import annotations

from collections.abc import Callable

import torch

from stream_update.errors import ConfigError
from stream_update.learners.torch import weights
from stream_update.learners.torch.modules import Recipe, Shape
from stream_update.learners.torch.network import Network, fresh
from stream_update.learners.torch.optimizers import Optimizers

__all__ = ["probe"]


def probe(
    recipe: Recipe,
    optimizers: Optimizers,
    shape: Shape,
    seed: int,
    task: str,
    also: Callable[[Network], object] | None = None,
) -> bytes:
    """The weights of a fresh module of this shape.

    Raises :class:`ConfigError` if it cannot be built or does not answer as the task needs,
    or if two fresh ones differ, because then no replay can repeat what this one does. ``also``
    may raise it for reasons of its own.
    """
    made = []
    for _ in range(2):
        module = fresh(recipe, shape, seed)
        if not isinstance(module, torch.nn.Module):
            raise ConfigError(
                f"learner.module: {recipe.name} gives a {type(module).__name__}, which "
                "is no torch.nn.Module"
            )
        network = Network(recipe, module, shape)
        optimizers.make(module.parameters())
        if also is not None:
            also(network)
        made.append(weights.write(weights.weights_of(module)))
    if made[0] != made[1]:
        raise ConfigError(
            f"unseeded randomness: two fresh modules of {recipe.name} differ",
            hint="draw with torch's own generator, which is seeded while a module is built",
        )
    try:
        answer = tuple(network.answer(torch.zeros(2, shape.inputs)).shape)
    except Exception as error:
        raise ConfigError(
            f"learner.module: {recipe.name} cannot answer two events of "
            f"{shape.inputs} numbers: {error}"
        ) from error
    if answer != (2, shape.outputs):
        raise ConfigError(
            f"learner.module: {recipe.name} answers two events with the shape {answer}, "
            f"and the task {task!r} needs {(2, shape.outputs)}"
        )
    return made[0]
