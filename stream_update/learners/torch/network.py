"""A module with its optimizer: answers and steps, the same on every run and every machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from stream_update.errors import ConfigError
from stream_update.learners.torch.chain import Chain, Trace, slopes
from stream_update.learners.torch.flat import Flat
from stream_update.learners.torch.growing import widen_inputs, widen_outputs
from stream_update.learners.torch.modules import Recipe, Shape

__all__ = ["Network", "device_of", "drawing", "fresh", "on_threads"]


class Network:
    """One module; without an optimizer it only answers."""

    def __init__(self, recipe: Recipe, module: Any, shape: Shape) -> None:
        self.module = module
        self._optimizer: Any = None
        self._flat: Flat | None = None
        self._loose = True
        # Of ours only dropout does something else while it learns.
        self._moody = not recipe.own or bool(recipe.options.get("dropout"))
        self._chain = Chain.of(module) if recipe.own else None
        self._answered: Trace | None = None
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

    @property
    def optimizer(self) -> Any:
        """torch's own, over the module's parameters one by one."""
        self._release()
        return self._optimizer

    @optimizer.setter
    def optimizer(self, optimizer: Any) -> None:
        self._release()
        self._optimizer = optimizer

    @property
    def learns(self) -> bool:
        """Whether it has an optimizer."""
        return self._optimizer is not None

    def _release(self) -> None:
        if self._flat is not None:
            self._flat.release()
        self._flat, self._loose = None, True
        self._answered = None

    def answer(self, inputs: Any, *, steps: bool = False) -> Any:
        """Outputs of shape (events, outputs).

        If a step ``steps`` next over the same tensor, it need not go through the module again.
        """
        if self._chain is not None:
            with torch.no_grad():
                trace = self._chain.forward(inputs)
            self._answered = trace if steps else None
            return trace.outputs
        if self.module.training:
            self.module.eval()
        with torch.no_grad():
            return self.module(inputs)

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
        if not self._moody:
            return self._step(inputs, targets, loss, clip_norm)
        self.module.train()
        with drawing(seed):
            return self._step(inputs, targets, loss, clip_norm)

    def _step(
        self, inputs: Any, targets: Any, loss: Callable[[Any, Any], Any], clip_norm: float | None
    ) -> bool:
        if self._flat is not None and not self._flat.whole:
            self._release()
        if self._loose:
            self._flat, self._loose = Flat.of(self.module, self._optimizer), False
        if self._chain is not None and self._flat is not None:
            found = self._slopes_by_hand(self._chain, self._flat, inputs, targets, loss)
        else:
            found = self._slopes(inputs, targets, loss)
        if not found:
            return False
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters, clip_norm)
        if self._flat is not None:
            self._flat.step()
        else:
            self._optimizer.step()
        return True

    def _slopes(self, inputs: Any, targets: Any, loss: Callable[[Any, Any], Any]) -> bool:
        """Find the gradients; False if the loss is not finite."""
        self._answered = None
        for parameter in self._parameters:
            parameter.grad = None
        value = loss(self.module(inputs), targets)
        if not math.isfinite(value.detach().item()):
            return False
        value.backward()
        if self._flat is not None:
            self._flat.gather()
        return True

    def _slopes_by_hand(
        self, chain: Chain, flat: Flat, inputs: Any, targets: Any, loss: Callable[[Any, Any], Any]
    ) -> bool:
        """The same without a graph."""
        trace, self._answered = self._answered, None
        if trace is None or trace.inputs[0] is not inputs:
            with torch.no_grad():
                trace = chain.forward(inputs)
        value, gradient = slopes(loss, trace.outputs, targets)
        if not math.isfinite(value.item()):
            return False
        with torch.no_grad():
            chain.backward(trace, gradient, flat.gradients)
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
