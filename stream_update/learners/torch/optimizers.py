"""torch's optimizers by short names, each with torch's own options."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from stream_update import plugins
from stream_update.errors import ConfigError

__all__ = ["OPTIMIZERS", "Optimizers"]

OPTIMIZERS: dict[str, Any] = {
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
NOT_OPTIONS = frozenset({"params", "capturable", "differentiable", "self"})


class Optimizers:
    """Makes optimizers. ``table`` is a name, or a table with that as ``use`` and options.

    Raises :class:`ConfigError` for an option that the optimizer does not have or take.
    """

    def __init__(self, table: str | Mapping[str, Any]) -> None:
        given: Mapping[str, Any] = {"use": table} if isinstance(table, str) else table
        self.name = given.get("use", "")
        if self.name not in OPTIMIZERS:
            raise ConfigError(
                f"learner.optimizer: there is no {self.name!r}",
                hint=f"one of: {', '.join(OPTIMIZERS)}",
            )
        self.options: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in given.items()
            if key != "use"
        }
        if "lr" not in self.options:
            raise ConfigError(
                f"learner.optimizer: {self.name} needs a learning rate",
                hint=f'optimizer = {{ use = "{self.name}", lr = 0.01 }}',
            )
        plugins.check_options(
            [key for key in inspect.signature(OPTIMIZERS[self.name]).parameters
             if key not in NOT_OPTIONS],
            self.options, "learner.optimizer", self.name,
        )  # fmt: skip

    @property
    def lr(self) -> float:
        """The learning rate."""
        return float(self.options["lr"])

    def make(self, parameters: Iterable[Any]) -> Any:
        """A fresh optimizer of these parameters, or groups of them with options of their own."""
        try:
            return OPTIMIZERS[self.name](list(parameters), **self.options)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"learner.optimizer: {self.name} refused its options: {error}"
            ) from error
