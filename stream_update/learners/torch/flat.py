"""All parameters of a small network in one piece, so that its optimizer has one to update.

What an optimizer does is done to each number alone, so the bits are those that it gives
parameter by parameter; most of the time of a small step goes into calls, not into numbers.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import nn

__all__ = ["Flat"]

ALIGNED = 16
"""Floats in 64 bytes, to which torch aligns what it allocates: how factors of a product are
aligned decides on its last bits."""
LAYERS = frozenset(
    {nn.Linear, nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Identity, nn.Dropout}
)
ALONE = (torch.optim.SGD, torch.optim.Adagrad, torch.optim.RMSprop, torch.optim.Adam)
"""These treat each number by itself; AdamW is an Adam."""


class Flat:
    """The parameters as views of one, and what the optimizer remembers of them likewise.

    :meth:`of` moves an optimizer over to the one, :meth:`release` back.
    """

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self._parameters: list[Any] = list(optimizer.param_groups[0]["params"])
        self._size = sum(map(_room, self._parameters))
        one = self._joined(self._parameters)
        for parameter, view in zip(self._parameters, self._views(one), strict=True):
            parameter.grad = None
            parameter.data = view
        self._one = nn.Parameter(one)
        self._one.grad = torch.zeros_like(one)
        self.gradients = dict(zip(self._parameters, self._views(self._one.grad), strict=True))
        for parameter, gradient in self.gradients.items():
            parameter.grad = gradient
        # Without what every torch optimizer has around it for profilers and compilers.
        self._update = inspect.unwrap(type(optimizer).step)
        self._places = [parameter.data_ptr() for parameter in self._parameters]
        held = [optimizer.state.pop(parameter, {}) for parameter in self._parameters]
        if held[0]:
            optimizer.state[self._one] = {
                key: first.clone() if first.ndim == 0 else self._joined([h[key] for h in held])
                for key, first in held[0].items()
            }
        optimizer.param_groups[0]["params"] = [self._one]

    @classmethod
    def of(cls, module: Any, optimizer: Any) -> Self | None:
        """None where not every parameter is sure to be learned in each step, and alike."""
        groups = optimizer.param_groups
        if (
            type(module) is not nn.Sequential
            or not all(type(layer) in LAYERS for layer in module)
            or not isinstance(optimizer, ALONE)
            or len(groups) != 1
        ):
            return None
        parameters, held = groups[0]["params"], optimizer.state
        if (
            [*map(id, parameters)] != [*map(id, module.parameters())]
            or len({(p.dtype, p.device, p.requires_grad) for p in parameters}) != 1
            or not parameters[0].requires_grad
        ):
            return None
        states = [held.get(parameter, {}) for parameter in parameters]
        same = all(_alike(states[0], state, p) for state, p in zip(states, parameters, strict=True))
        return cls(optimizer) if same else None

    @property
    def whole(self) -> bool:
        """Whether all of it is still learned, and nobody has moved a parameter since."""
        return all(
            parameter.requires_grad and parameter.data_ptr() == place
            for parameter, place in zip(self.gradients, self._places, strict=True)
        )

    def gather(self) -> None:
        """Bring the gradients together that torch has found."""
        for parameter, gradient in self.gradients.items():
            gradient.copy_(parameter.grad)
            parameter.grad = gradient

    def step(self) -> None:
        """As the optimizer steps."""
        with torch.no_grad():
            self._update(self._optimizer)

    def release(self) -> None:
        """Let the optimizer have the parameters one by one again, as it remembers them."""
        optimizer = self._optimizer
        held = optimizer.state.pop(self._one, {})
        optimizer.param_groups[0]["params"] = self._parameters
        if not held:
            return
        for parameter in self._parameters:
            optimizer.state[parameter] = {}
        for key, value in held.items():
            parts = [value] * len(self._parameters) if value.ndim == 0 else list(self._views(value))
            for parameter, part in zip(self._parameters, parts, strict=True):
                optimizer.state[parameter][key] = part.clone()

    def _joined(self, parts: list[Any]) -> Any:
        one = torch.zeros(self._size, dtype=parts[0].dtype, device=parts[0].device)
        for view, part in zip(self._views(one), parts, strict=True):
            view.copy_(part.detach())
        return one

    def _views(self, one: Any) -> Iterator[Any]:
        start = 0
        for parameter in self._parameters:
            yield one[start : start + parameter.numel()].view(parameter.shape)
            start += _room(parameter)


def _room(parameter: Any) -> int:
    return -(-parameter.numel() // ALIGNED) * ALIGNED  # type: ignore[no-any-return]


def _alike(first: Any, state: Any, parameter: Any) -> bool:
    """Whether an optimizer remembers the same things of a parameter as of the first."""
    return first.keys() == state.keys() and all(
        torch.is_tensor(value)
        and (torch.equal(value, first[key]) if value.ndim == 0 else value.shape == parameter.shape)
        for key, value in state.items()
    )
