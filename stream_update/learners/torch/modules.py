"""Networks of our own, and the user's: a name and options become a module of a given size."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from stream_update import plugins
from stream_update.errors import ConfigError, LineageMismatch
from stream_update.learners.torch.activations import activation_of
from stream_update.learners.torch.fusion import fusion

__all__ = ["Recipe", "Shape", "linear", "mlp"]


def linear(inputs: int, outputs: int, bias: bool = True) -> Any:  # noqa: FBT001, FBT002
    """One layer: logistic, softmax or linear regression, by the task."""
    return nn.Sequential(OrderedDict(only=nn.Linear(inputs, outputs, bias=bias)))


def mlp(
    inputs: int,
    outputs: int,
    hidden: Sequence[int] = (64,),
    activation: str = "relu",
    dropout: float = 0.0,
) -> Any:
    """Layers of ``hidden`` sizes, each followed by the activation and by dropout, and one more."""
    if not isinstance(hidden, list | tuple):
        raise ConfigError(
            f"mlp: hidden: {hidden!r:.100} is no list of sizes", hint="hidden = [64, 32]"
        )
    if not hidden:
        raise ConfigError("mlp: hidden needs at least one size", hint='or use module = "linear"')
    make = activation_of(activation, "mlp")
    parts: OrderedDict[str, Any] = OrderedDict()
    size = inputs
    for number, width in enumerate(hidden):
        parts["first" if number == 0 else f"hidden{number}"] = nn.Linear(size, width)
        parts[f"activation{number}"] = make()
        if dropout:
            parts[f"dropout{number}"] = nn.Dropout(dropout)
        size = width
    parts["last"] = nn.Linear(size, outputs)
    return nn.Sequential(parts)


class _Kind(NamedTuple):
    make: Callable[..., Any]
    first: str
    last: str


OWN = {
    "linear": _Kind(linear, "only", "only"),
    "mlp": _Kind(mlp, "first", "last"),
    "fusion": _Kind(fusion, "first", "last"),
}


class Shape(NamedTuple):
    """What a module is built for; a user's factory is given those of these that it names."""

    inputs: int
    outputs: int
    features: list[str]
    classes: list[Any]


class Recipe:
    """How a module is built, and by which names its first and last layers go; ``chain`` is that
    of its sequential part, empty if it is one itself.

    ``table`` is a name of ours, ``"my_models:build"``, or a table with that as
    ``use`` and options beside it. With ``allow`` a factory has to be one of these, by the
    name that it has where it was defined: a snapshot's word imports nothing.
    """

    def __init__(
        self,
        table: str | Mapping[str, Any],
        *,
        first: str | None = None,
        last: str | None = None,
        chain: str | None = None,
        allow: Iterable[Any] | None = None,
    ) -> None:
        given: Mapping[str, Any] = {"use": table} if isinstance(table, str) else table
        name = given.get("use")
        if not isinstance(name, str):
            raise ConfigError("learner.module: expected a name, or a table with the key use")
        self.options = {
            # As they come out of a snapshot.
            key: list(value) if isinstance(value, tuple) else value
            for key, value in given.items()
            if key != "use"
        }
        self.own = name in OWN
        if self.own:
            self._make, self.first, self.last = OWN[name]
            self.name = name
            self.chain = ""
            return
        if ":" not in name and allow is None:
            raise ConfigError(
                f"learner.module: there is no module {name!r}",
                hint=f"one of: {', '.join(OWN)}, text, cnn, gru, or a factory of yours: "
                '"my_models:build"',
            )
        self._make = (
            plugins.resolve(name, "learner.module") if allow is None else _allowed(name, allow)
        )
        self.name = _full_name(self._make)
        self.first, self.last = first or "", last or ""
        self.chain = chain or ""

    @property
    def fields(self) -> Any:
        """The features of other kinds that a module of ours takes beside numbers."""
        return self.options.get("fields", {}) if self.own else {}

    def build(self, shape: Shape, **other: Any) -> Any:
        """A fresh module, of ``other`` options perhaps; raises :class:`ConfigError` if they do
        not fit.
        """
        options = {**self.options, **other}
        return plugins.call(self._make, self.name, options, "learner.module", shape._asdict())

    def ends(self, module: Any) -> tuple[Any, Any]:
        """The first and the last layer, each None if the module is not to grow there.

        Raises :class:`ConfigError` if a name stands for something that cannot grow.
        """
        return _layer(module, self.first, "first"), _layer(module, self.last, "last")


def _layer(module: Any, name: str, key: str) -> Any:
    if not name:
        return None
    try:
        layer = module.get_submodule(name)
    except AttributeError:
        names = ", ".join(
            known for known, part in module.named_modules() if isinstance(part, nn.Linear)
        )
        raise ConfigError(
            f"learner.{key}: the module has no layer {name!r}",
            hint=f"linear layers it has: {names or 'none'}",
        ) from None
    if not isinstance(layer, nn.Linear):
        raise ConfigError(
            f"learner.{key}: {name!r} is a {type(layer).__name__}, and only a torch.nn.Linear grows"
        )
    return layer


def _full_name(made: Any) -> str:
    return f"{made.__module__}:{made.__qualname__}"


def _allowed(name: str, allow: Iterable[Any]) -> Any:
    for one in allow:
        if callable(one) and _full_name(one) == name:
            return one
    raise LineageMismatch(
        f"the model is a module of {name!r:.200}, which this process was not told to take",
        hint=f"import it and pass it: allow=[{name.rpartition(':')[2]:.200}]",
    )
