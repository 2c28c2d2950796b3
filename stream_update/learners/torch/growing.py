"""A network gets further inputs and outputs while it learns.

What was learned stays as it is, bit for bit, and so does what the optimizer remembers of it.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["widen_inputs", "widen_outputs"]


def widen_inputs(layer: Any, optimizer: Any, total: int) -> None:
    """Give a linear layer as many inputs. New weights are 0, so the answers stay the same
    until something is learned of the new inputs. ``optimizer`` is None if none knows it.
    """
    _pad(layer.weight, optimizer, (layer.out_features, total))
    layer.in_features = total


def widen_outputs(layer: Any, optimizer: Any, total: int) -> None:
    """Give a linear layer as many outputs. Weights and bias of new ones are 0."""
    _pad(layer.weight, optimizer, (total, layer.in_features))
    if layer.bias is not None:
        _pad(layer.bias, optimizer, (total,))
    layer.out_features = total


def _pad(parameter: Any, optimizer: Any, shape: tuple[int, ...]) -> None:
    """The parameter stays the same object, so the optimizer goes on knowing it."""
    old = parameter.shape
    state = {} if optimizer is None else optimizer.state.get(parameter, {})
    for name, held in state.items():
        if torch.is_tensor(held) and held.shape == old:
            state[name] = _padded(held, shape, _fresh(optimizer, name))
    parameter.grad = None
    parameter.data = _padded(parameter.data, shape, 0.0)


def _padded(tensor: Any, shape: tuple[int, ...], value: float) -> Any:
    larger = torch.full(shape, value, dtype=tensor.dtype, device=tensor.device)
    larger[tuple(slice(size) for size in tensor.shape)] = tensor
    return larger


def _fresh(optimizer: Any, name: str) -> float:
    """What an optimizer's moment is before the first step: 0, but for Adagrad's sum."""
    if name == "sum":
        return float(optimizer.defaults.get("initial_accumulator_value", 0.0))
    return 0.0
