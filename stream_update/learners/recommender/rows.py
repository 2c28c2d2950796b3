"""Tables of weights of which a mini-batch touches a few rows, and what steps along with them.

A table is looked up for the rows of a batch, each once; these are a small dense tensor that
autograd differentiates, and only they are stepped. So a step costs what its batch is large,
not what the table is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from stream_update import plugins
from stream_update.errors import ConfigError, CorruptSnapshot

__all__ = ["OPTIMIZERS", "Optimizer", "Rows"]

OPTIMIZERS: dict[str, dict[str, float]] = {
    "sgd": {"lr": 0.02},
    "adagrad": {"lr": 0.1, "eps": 1e-10},
    "adam": {"lr": 0.005, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8},
}
"""By name, with their options and defaults."""

MOMENTS = {"sgd": (), "adagrad": ("sum",), "adam": ("mean", "square", "steps")}
FEWEST = 64


class Optimizer:
    """Steps weights along a gradient, each row as if it had an optimizer of its own.

    * ``sgd``: gradient descent.
    * ``adagrad``: Duchi, Hazan and Singer (2011).
    * ``adam``: Kingma and Ba (2015), with a count of steps for each row: a row that comes
      late begins as one that came first.

    Raises :class:`ConfigError` for an option that it does not have, or a rate that is none.
    """

    def __init__(self, table: str | Mapping[str, Any]) -> None:
        given: Mapping[str, Any] = {"use": table} if isinstance(table, str) else table
        name = given.get("use")
        if name not in OPTIMIZERS:
            raise ConfigError(
                f"learner.optimizer: there is no {name!r}", hint=f"one of: {', '.join(OPTIMIZERS)}"
            )
        self.name = str(name)
        options = {key: value for key, value in given.items() if key != "use"}
        plugins.check_options(list(OPTIMIZERS[name]), options, "learner.optimizer", self.name)
        for key, value in options.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ConfigError(f"learner.optimizer.{key}: {value!r} is no positive number")
        self.options = OPTIMIZERS[name] | options
        self.moments = MOMENTS[self.name]

    def settings(self) -> dict[str, Any]:
        """A table that makes one such as this."""
        return {"use": self.name, **self.options}

    def fresh(self, weight: Any) -> dict[str, Any]:
        """The moments of weights that have never been stepped; steps are counted by row."""
        return {
            name: torch.zeros(len(weight), 1) if name == "steps" else torch.zeros_like(weight)
            for name in self.moments
        }

    def step(self, weight: Any, moments: Mapping[str, Any], gradient: Any) -> None:
        """Step these weights, shape (rows, width), and their moments in place."""
        options = self.options
        if self.name == "sgd":
            weight.sub_(gradient, alpha=options["lr"])
        elif self.name == "adagrad":
            total = moments["sum"].addcmul_(gradient, gradient)
            weight.addcdiv_(gradient, total.sqrt().add_(options["eps"]), value=-options["lr"])
        else:
            beta1, beta2 = options["beta1"], options["beta2"]
            steps = moments["steps"].add_(1.0)
            mean = moments["mean"].mul_(beta1).add_(gradient, alpha=1 - beta1)
            square = moments["square"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            apart = (square / (1 - beta2**steps)).sqrt_().add_(options["eps"])
            weight.addcdiv_(mean / (1 - beta1**steps), apart, value=-options["lr"])


class Rows:
    """A table of ``width`` weights a row that grows at its end; row 0 is 0 and stays so."""

    def __init__(self, width: int, optimizer: Optimizer) -> None:
        self.width = width
        self._optimizer = optimizer
        self._count = 1
        self._weight = torch.zeros(1, width)
        self._moments = optimizer.fresh(self._weight)

    def __len__(self) -> int:
        """Without row 0."""
        return self._count - 1

    @property
    def weight(self) -> Any:
        """All rows, row 0 among them."""
        return self._weight[: self._count]

    def admit(self, total: int, fresh: Sequence[int] = (), values: Any = None) -> None:
        """Have ``total`` rows, and these ``values`` in the ``fresh`` ones, which have never
        been stepped then. Without values they are 0.
        """
        if total >= len(self._weight):
            capacity = max(FEWEST, total + 1, 2 * len(self._weight))
            self._weight = _padded(self._weight, capacity)
            self._moments = {name: _padded(part, capacity) for name, part in self._moments.items()}
        self._count = max(self._count, total + 1)
        if fresh:
            at = torch.tensor(fresh)
            self._weight[at] = 0.0 if values is None else values
            for part in self._moments.values():
                part[at] = 0.0

    def take(self, at: Any) -> Any:
        """A copy of these rows that a gradient can be had of."""
        return self._weight.index_select(0, at).requires_grad_()

    def step(self, at: Any, taken: Any) -> None:
        """Step the rows that :meth:`take` gave, each of which is there once."""
        gradient, new = taken.grad, taken.detach()
        if int(at[0]) == 0:
            gradient[0] = 0.0
        moments = {name: part.index_select(0, at) for name, part in self._moments.items()}
        self._optimizer.step(new, moments, gradient)
        self._weight.index_copy_(0, at, new)
        for name, part in moments.items():
            self._moments[name].index_copy_(0, at, part)

    def dump(self) -> tuple[Any, dict[str, Any]]:
        """The weights, and the moments by name."""
        return self.weight, {name: part[: self._count] for name, part in self._moments.items()}

    def load(self, weight: Any, moments: Mapping[str, Any] | None) -> None:
        """Take back what :meth:`dump` gave; a table without moments is not to be stepped.

        Raises :class:`CorruptSnapshot`.
        """
        count = len(weight)
        if weight.shape != (count, self.width) or weight.dtype != torch.float32 or not count:
            raise CorruptSnapshot(f"a table of {self.width} columns is {tuple(weight.shape)}")
        expected = self._optimizer.fresh(weight[:1])
        for name, part in expected.items() if moments is not None else ():
            found = moments.get(name) if moments else None
            if found is None or found.shape != (count, part.shape[1]) or found.dtype != part.dtype:
                raise CorruptSnapshot(f"the optimizer's {name} does not fit its table")
        self._count = count
        # Into memory of torch's own: how that is aligned decides on the last bits.
        self._weight = weight.clone()
        self._moments = {name: moments[name].clone() for name in expected} if moments else {}


def _padded(tensor: Any, capacity: int) -> Any:
    larger = torch.zeros(capacity, tensor.shape[1])
    larger[: len(tensor)] = tensor
    return larger
