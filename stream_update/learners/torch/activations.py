"""What may stand between two layers, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from stream_update.errors import ConfigError

__all__ = ["activation_of"]

ACTIVATIONS: dict[str, Callable[[], Any]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def activation_of(name: str, where: str) -> Callable[[], Any]:
    """Makes the activation of that name; raises :class:`ConfigError` if there is none."""
    if name not in ACTIVATIONS:
        raise ConfigError(
            f"{where}: activation: {name!r} is none", hint=f"one of: {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]
