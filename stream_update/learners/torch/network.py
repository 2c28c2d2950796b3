"""A module with its optimizer: answers and steps, the same on every run and every machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from stream_update.errors import ConfigError
from stream_update.events import Tree
from stream_update.learners.torch import weights
from stream_update.learners.torch.averaging import Average
from stream_update.learners.torch.chain import Chain, Trace, slopes
from stream_update.learners.torch.flat import Flat
from stream_update.learners.torch.growing import widen_inputs, widen_outputs
from stream_update.learners.torch.hidden import hidden_sizes, layers_of, stretch
from stream_update.learners.torch.modules import Recipe, Shape
from stream_update.learners.torch.steps import Batch, Step
from stream_update.learners.torch.training import Training

__all__ = ["Network", "device_of", "drawing", "fresh", "on_threads"]


class Network:
    """One module; without an optimizer it only answers."""

    def __init__(
        self, recipe: Recipe, module: Any, shape: Shape, training: Training | None = None
    ) -> None:
        self.module = module
        self.average: Average | None = None
        self.objective: Step | None = None
        """What a step makes small, if that is not the loss of the outputs alone."""
        self.held: list[Any] = []
        """Parts that do not train."""
        self.shared = False
        """Whether something else steps with its parameters too."""
        self.loss = math.nan
        """What the last step has made smaller, as it was before."""
        self._training = training or Training()
        self._recipe = recipe
        self._rates: list[float] = []
        self._optimizer: Any = None
        self._flat: Flat | None = None
        self._loose = True
        # Of ours only dropout does something else while it learns.
        self._moody = not recipe.own or bool(recipe.options.get("dropout"))
        self._plain = recipe.own and self._training.precision == "float32"
        self._answered: Trace | None = None
        self._look()
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

    def _look(self) -> None:
        """Know the module's layers."""
        self._chain = Chain.of(self.module) if self._plain else None
        self._parameters = list(self.module.parameters())

    @property
    def optimizer(self) -> Any:
        """The one of torch, over the module's parameters one by one."""
        self._release()
        return self._optimizer

    @optimizer.setter
    def optimizer(self, optimizer: Any) -> None:
        self._release()
        self._optimizer = optimizer
        self._rates = [group["lr"] for group in optimizer.param_groups]
        if self._training.ema is not None:
            self.average = Average(self.module, self._training.ema)

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
        if self._chain is not None and self.average is None:
            with torch.no_grad():
                trace = self._chain.forward(inputs)
            self._answered = trace if steps else None
            return trace.outputs
        module = self.module if self.average is None else self.average.module
        if module.training:
            module.eval()
        with torch.no_grad():
            return self._outputs(module, inputs)

    def _outputs(self, module: Any, inputs: Any) -> Any:
        if self._training.precision == "float32":
            return module(inputs)
        with self._training.cast(inputs.device):
            outputs = module(inputs)
        return outputs.float()

    def below(self, inputs: Any) -> Any:
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
        number: int,
        seed: int,
    ) -> bool:
        """Learn these events once; False if the loss is not finite: then nothing is learned.

        ``number`` is how many steps there have been.
        """
        self._prepare(number)
        if self._moody or self.objective is not None:
            self.module.train()
            for part in self.held:
                part.eval()
            with drawing(seed):
                found = self._slopes(inputs, targets, loss, seed)
        elif self._chain is not None and self._flat is not None:
            found = self._slopes_by_hand(self._chain, self._flat, inputs, targets, loss)
        else:
            found = self._slopes(inputs, targets, loss, seed)
        if found:
            self._update()
            if self.average is not None:
                self.average.follow(self.module, number)
        return found

    def _prepare(self, number: int) -> None:
        if self._flat is not None and not self._flat.whole:
            self._release()
        if self._loose:
            alone = self.objective is None and not self.shared
            self._flat = Flat.of(self.module, self._optimizer) if alone else None
            self._loose = False
        schedule = self._training.schedule
        if not schedule.constant:
            factor = schedule.factor(number)
            for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate * factor

    def _update(self) -> None:
        training = self._training
        if training.l1:
            for parameter in self._parameters:
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.detach().sign(), alpha=training.l1)
        if training.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters, training.clip_norm)
        if self._flat is not None:
            self._flat.step()
        else:
            self._optimizer.step()

    def _slopes(
        self, inputs: Any, targets: Any, loss: Callable[[Any, Any], Any], seed: int
    ) -> bool:
        """Find the gradients; False if the loss is not finite."""
        self._answered = None
        for parameter in self._parameters:
            parameter.grad = None
        if self.objective is None:
            value = loss(self._outputs(self.module, inputs), targets)
        else:
            with self._training.cast(inputs.device):
                value = self.objective(self.module, Batch(inputs, targets, seed))
        self.loss = value.detach().item()
        if not math.isfinite(self.loss):
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
        self.loss = value.item()
        if not math.isfinite(self.loss):
            return False
        with torch.no_grad():
            chain.backward(trace, gradient, flat.gradients)
        return True

    def dump(self) -> Tree:
        """Weights and moments, and the average if there is one."""
        moments = {} if self._optimizer is None else weights.moments_of(self.module, self.optimizer)
        learned = {
            "weights": weights.write(weights.weights_of(self.module)),
            "moments": weights.write(moments),
        }
        if self.average is not None:
            learned["average"] = weights.write(weights.weights_of(self.average.module))
        return learned

    def restore(self, learned: Tree) -> None:
        """What :meth:`dump` gave besides weights, which are there already."""
        moments = weights.read(learned["moments"], "optimizer's moments")
        weights.restore_moments(self.module, self.optimizer, moments)
        if self.average is not None:
            average = weights.read(learned["average"], "average of weights")
            weights.copy_weights(self.average.module, average)

    def grow(self, inputs: int, outputs: int) -> None:
        """Make room for further inputs and outputs, where the module can have them."""
        first, last = self.first, self.last
        if first is not None and first.in_features < inputs:
            widen_inputs(first, self.optimizer, inputs)
        if last is not None and last.out_features < outputs:
            widen_outputs(last, self.optimizer, outputs)
        if self.average is not None:
            first, last = self._recipe.ends(self.average.module)
            if first is not None and first.in_features < inputs:
                widen_inputs(first, None, inputs)
            if last is not None and last.out_features < outputs:
                widen_outputs(last, None, outputs)

    @property
    def chain(self) -> Any:
        """The part whose hidden layers can grow; raises :class:`ConfigError` if there is none."""
        return layers_of(self._recipe, self.module)

    @property
    def hidden(self) -> list[int]:
        """How many units each of these has."""
        return hidden_sizes(self.chain)

    def stretch(self, sizes: Sequence[int], seed: int) -> None:
        """Let the hidden layers have these sizes; see :func:`~.hidden.stretch`."""
        optimizer = self.optimizer if self.learns else None
        stretch(self.chain, optimizer, sizes, seed)
        if self.average is not None:
            module = self.average.module
            stretch(layers_of(self._recipe, module), None, sizes, seed)
            module.requires_grad_(requires_grad=False).eval()
        self._release()
        self._look()


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
