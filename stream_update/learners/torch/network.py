"""A module with its optimizer: answers and steps, the same on every run and every machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from stream_update.errors import ConfigError
from stream_update.learners.torch.growing import widen_inputs, widen_outputs
from stream_update.learners.torch.modules import Recipe, Shape
from stream_update.learners.torch.steps import Batch, Step

__all__ = ["Network", "device_of", "drawing", "fresh", "on_threads"]


class Network:
    """One module; without an optimizer it only answers."""

    def __init__(self, recipe: Recipe, module: Any, shape: Shape) -> None:
        self.module = module
        self.optimizer: Any = None
        self.objective: Step | None = None
        """What a step makes small, if that is not the loss of the outputs alone."""
        self.held: list[Any] = []
        """Parts that do not train."""
        self._parameters = list(module.parameters())
        self.first, self.last = recipe.ends(module)
        if self.first is not None and self.first.in_features != shape.inputs:
            raise ConfigError(
                f"learner.first: {recipe.first!r} takes {self.first.in_features} inputs, and the "
                f"module was asked for {shape.inputs}"
            )
        if self.last is not None and self.last.out_features != shape.outputs:
            raise ConfigError(
                f"learner.last: {recipe.last!r} has {self.last.out_features} outputs, and the "
                f"module was asked for {shape.outputs}"
            )
        # Of ours only dropout does something else while it learns.
        self._moody = not recipe.own or bool(recipe.options.get("dropout"))

    def answer(self, inputs: Any) -> Any:
        """Outputs of shape (events, outputs)."""
        if self.module.training:
            self.module.eval()
        with torch.no_grad():
            return self.module(inputs)

    def hidden(self, inputs: Any) -> Any:
        """What the last layer is given for these inputs, with its gradient."""
        caught: list[Any] = []
        hook = self.last.register_forward_pre_hook(lambda _layer, given: caught.append(given[0]))
        try:
            self.module(inputs)
        finally:
            hook.remove()
        return caught[0]

    def step(
        self,
        inputs: Any,
        targets: Any,
        loss: Callable[[Any, Any], Any],
        *,
        clip_norm: float | None,
        seed: int,
    ) -> bool:
        """Learn these events once; False if the loss is not finite: then nothing is learned."""
        objective = self.objective
        if objective is None:

            def value() -> Any:
                return loss(self.module(inputs), targets)
        else:

            def value() -> Any:
                return objective(self.module, Batch(inputs, targets, seed))

        if not self._moody and objective is None:
            return self._step(value, clip_norm)
        self.module.train()
        for part in self.held:
            part.eval()
        with drawing(seed):
            return self._step(value, clip_norm)

    def _step(self, loss: Callable[[], Any], clip_norm: float | None) -> bool:
        for parameter in self._parameters:
            parameter.grad = None
        value = loss()
        if not math.isfinite(value.detach().item()):
            return False
        value.backward()
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters, clip_norm)
        self.optimizer.step()
        return True

    def grow(self, inputs: int, outputs: int) -> None:
        """Make room for further inputs and outputs, where the module can have them."""
        if self.first is not None and self.first.in_features < inputs:
            widen_inputs(self.first, self.optimizer, inputs)
        if self.last is not None and self.last.out_features < outputs:
            widen_outputs(self.last, self.optimizer, outputs)


def fresh(recipe: Recipe, shape: Shape, seed: int) -> Any:
    """A module as the seed makes it, on the CPU."""
    with drawing(seed):
        return recipe.build(shape)


def device_of(name: str) -> Any:
    """The device for ``cpu``, ``cuda`` or ``auto``."""
    if name not in {"cpu", "cuda", "auto"}:
        raise ConfigError(f"learner.device: {name!r} is none", hint="cpu, cuda or auto")
    usable = name != "cpu" and torch.cuda.is_available()
    if name == "cuda" and not usable:
        raise ConfigError(
            'learner.device: there is no GPU that torch can use here for "cuda"',
            hint='device = "auto" takes one if there is one',
        )
    return torch.device("cuda" if usable else "cpu")


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Let torch draw from this seed on the CPU, and go on afterwards as if it had not."""
    generator = torch.default_generator
    before = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(before)


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Compute on so many threads: sums depend on how they are split."""
    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
