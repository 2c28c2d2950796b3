"""Linear layers and activations in a row, forward and backward without a graph.

These are the kernels that torch's own graph calls, in its order, so the gradients have the
same bits; in a small network the graph takes several times as long as they do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import nn

__all__ = ["Chain", "Trace", "slopes"]

aten = torch.ops.aten
log_softmax_backward = aten._log_softmax_backward_data  # noqa: SLF001 - as torch's graph has it
MEAN = 1
"""Of a batch's losses, in the words of the kernels."""
IGNORED = -100
"""The class that costs nothing, as torch has it unless it is told."""


class _Activation(NamedTuple):
    forward: Callable[[Any], Any]
    backward: Callable[[Any, Any], Any]
    """Of the gradient of what comes out, and of what was ``kept``."""
    kept: Literal["inputs", "outputs"]


ACTIVATIONS: dict[Any, _Activation] = {
    nn.ReLU: _Activation(torch.relu, lambda g, out: aten.threshold_backward(g, out, 0), "outputs"),
    nn.Tanh: _Activation(torch.tanh, aten.tanh_backward, "outputs"),
    nn.GELU: _Activation(nn.functional.gelu, aten.gelu_backward, "inputs"),
    nn.SiLU: _Activation(nn.functional.silu, aten.silu_backward, "inputs"),
}


class Trace(NamedTuple):
    """What went into each layer, and what came out of the last."""

    inputs: list[Any]
    outputs: Any


class Chain:
    """The layers of a sequential module. Nobody may have put a hook on them."""

    def __init__(self, layers: list[tuple[Any, _Activation | None]]) -> None:
        self._layers = layers

    @classmethod
    def of(cls, module: Any) -> Self | None:
        """None if there are layers that it does not know."""
        if type(module) is not nn.Sequential:
            return None
        layers = [(layer, ACTIVATIONS.get(type(layer))) for layer in module]
        known = all(step is not None or type(layer) is nn.Linear for layer, step in layers)
        return cls(layers) if known else None

    def forward(self, inputs: Any) -> Trace:
        """Called where torch keeps no graph."""
        kept = []
        for layer, activation in self._layers:
            kept.append(inputs)
            if activation is None:
                inputs = nn.functional.linear(inputs, layer.weight, layer.bias)
            else:
                inputs = activation.forward(inputs)
        return Trace(kept, inputs)

    def backward(self, trace: Trace, gradient: Any, into: Mapping[Any, Any]) -> None:
        """Write each parameter's gradient ``into`` its place, from that of the outputs."""
        outputs = trace.outputs
        for (layer, activation), inputs in zip(
            reversed(self._layers), reversed(trace.inputs), strict=True
        ):
            if activation is not None:
                seen = inputs if activation.kept == "inputs" else outputs
                gradient = activation.backward(gradient, seen)
            else:
                torch.mm(gradient.t(), inputs, out=into[layer.weight])
                if layer.bias is not None:
                    torch.sum(gradient, 0, out=into[layer.bias])
                if inputs is not trace.inputs[0]:
                    gradient = gradient.mm(layer.weight)
            outputs = inputs


def slopes(loss: Callable[[Any, Any], Any], outputs: Any, targets: Any) -> tuple[Any, Any]:
    """A loss and its gradient by the outputs, without a graph if it is a frequent one."""
    if loss is nn.functional.cross_entropy:
        with torch.no_grad():
            logs = torch.log_softmax(outputs, 1)
            value, weight = aten.nll_loss_forward(logs, targets, None, MEAN, IGNORED)
            gradient = aten.nll_loss_backward(
                torch.ones_like(value), logs, targets, None, MEAN, IGNORED, weight
            )
            return value, log_softmax_backward(gradient, logs, 1, outputs.dtype)
    if loss is nn.functional.mse_loss:
        with torch.no_grad():
            value = aten.mse_loss(outputs, targets, MEAN)
            return value, aten.mse_loss_backward(torch.ones_like(value), outputs, targets, MEAN)
    outputs = outputs.detach().requires_grad_()
    value = loss(outputs, targets)
    (gradient,) = torch.autograd.grad(value, outputs)
    return value.detach(), gradient
