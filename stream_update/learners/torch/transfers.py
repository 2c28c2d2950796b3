"""A network begins with what another one has learned, and may be held near it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from stream_update.errors import ConfigError
from stream_update.events import Features
from stream_update.learners.torch import weights
from stream_update.learners.torch.bases import Source
from stream_update.learners.torch.columns import Columns
from stream_update.learners.torch.modules import Recipe, Shape
from stream_update.learners.torch.network import Network, fresh
from stream_update.learners.torch.scaling import Scaler
from stream_update.learners.torch.starts import Anchor, Joint, Start
from stream_update.learners.torch.steps import Batch, Step, Supervised
from stream_update.learners.torch.targets import Targets

__all__ = ["Transfer", "check_start", "whole_of"]


def check_start(start: Start, recipe: Recipe, columns: Columns, targets: Targets) -> None:
    """Raise :class:`ConfigError` if the base does not fit such a module."""
    names = columns.names
    inputs = len(names) if start.base.columns else _size(start, recipe.first, 1)
    shape = Shape(inputs, targets.outputs, names, targets.classes)
    network = Network(recipe, fresh(recipe, shape, 0), shape)
    transfer = Transfer(start, recipe, network, names, lambda _: None)
    if start.adds:
        transfer.objective(Supervised(targets.loss))


def whole_of(start: Start, recipe: Recipe) -> Whole:
    """The base itself, head and all."""
    columns = Columns(mask=any(entry[0] == "missing" for entry in start.base.columns))
    scaler = Scaler(active=start.base.scaler is not None)
    columns.load(start.base.columns)
    if start.base.scaler is not None:
        scaler.load(start.base.scaler, len(columns.numbers))
    if not columns.names:
        raise ConfigError(
            "learner.start: the names of the base's inputs have to be known for this",
            hint="features = [...], in their order",
        )
    shape = Shape(
        len(columns),
        _size(start, recipe.last, 0),
        columns.names,
        list(start.base.classes or ()),
    )
    module = fresh(recipe, shape, 0)
    with torch.no_grad():
        for name, part in weights.weights_of(module).items():
            part.copy_(start.found(name, part.shape))
    targets = Targets(start.task, None, start.base.classes or ())
    return Whole(Network(recipe, module, shape), targets, columns, scaler)


def _size(start: Start, layer: str, axis: int) -> int:
    found = start.base.weights.get(start.theirs(f"{layer}.weight"))
    if found is None or found.ndim != 2:  # noqa: PLR2004
        raise ConfigError(
            f"learner.start: the file has no layer {start.theirs(layer)!r} that tells how many "
            f"{('outputs', 'inputs')[axis]} the base has",
            hint="features = [...] names its inputs; layers = { ours = theirs } its layers",
        )
    return int(found.shape[axis])


class Whole(NamedTuple):
    """The base as a model of its own."""

    network: Network
    targets: Targets
    columns: Columns
    scaler: Scaler

    def tensor(self, features: Sequence[Features]) -> Any:
        table = self.columns.read(features)
        whole = self.columns.matrix(table, self.scaler.scale(table.numbers))
        return torch.from_numpy(whole).to(torch.float32)

    def fisher(self, source: Source) -> dict[str, Any]:
        """The mean square of the gradient of each weight over these events, one by one."""
        module = self.network.module.eval()
        parameters = dict(module.named_parameters())
        sums = {name: torch.zeros_like(part) for name, part in parameters.items()}
        targets = self.targets.tensor(source.labels, "cpu")
        inputs = self.tensor(source.features)
        for index in range(len(inputs)):
            loss = self.targets.loss(module(inputs[index : index + 1]), targets[index : index + 1])
            found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for name, gradient in zip(parameters, found, strict=True):
                if gradient is not None:
                    sums[name] += gradient * gradient
        return {name: part / len(inputs) for name, part in sums.items()}


class Held(NamedTuple):
    """A parameter below the head: ``at`` are the base's columns in it, None for all."""

    part: Any
    base: Any
    at: Any
    fisher: Any

    def distance(self) -> Any:
        """From the base, squared and summed, by how much each weight matters if that is known."""
        part = self.part if self.at is None else self.part[:, self.at]
        if part.shape != self.base.shape:
            # Units that have come since are behind the base's.
            part = part[tuple(slice(size) for size in self.base.shape)]
        apart = part - self.base
        squares = apart * apart
        return (squares if self.fisher is None else self.fisher * squares).sum()


class Transfer:
    """A start at work in one network: weights taken, held, and held near.

    ``names`` are the columns of the network, and ``tensor`` makes its inputs of events. It
    has ``grown`` if columns may have come behind those that it began with.
    Raises :class:`ConfigError` if the base does not fit.
    """

    def __init__(
        self,
        start: Start,
        recipe: Recipe,
        network: Network,
        names: Sequence[str],
        tensor: Callable[[Sequence[Features]], Any],
        *,
        grown: bool = False,
    ) -> None:
        if not recipe.last:
            raise ConfigError(
                "learner.start: the head has to be told from what is below it",
                hint='name the last layer of your module: last = "head"',
            )
        self._start = start
        self._recipe = recipe
        self._network = network
        self._tensor = tensor
        self._head = recipe.last
        self._first = f"{recipe.first}.weight"
        self._at = self._places(names, grown=grown)
        self._own = weights.weights_of(network.module)
        self._base = {
            name: self._match(name, part)
            for name, part in self._own.items()
            if start.head == "keep" or not self._in_head(name)
        }
        if not self._base:
            raise ConfigError(
                "learner.start: a module with one layer is nothing but a head",
                hint='head = "keep", or module = "mlp"',
            )
        self._held = {
            name: part
            for name, part in network.module.named_parameters()
            if not self._in_head(name)
        }

    def copy(self) -> None:
        """Give the network the weights of the base."""
        with torch.no_grad():
            for name, base in self._base.items():
                part = self._own[name]
                if part.ndim == 0:
                    part.copy_(base)
                elif name == self._first and self._at is not None:
                    # What the base answers stays as it is, whatever the other columns hold.
                    part.zero_()
                    part[: len(base), self._at] = base
                else:
                    part[: len(base)] = base

    def hold(self, seen: int) -> None:
        """Freeze the base's layers, or let them go, by how many events have been learned."""
        frozen = self._start.frozen(seen)
        for part in self._held.values():
            part.requires_grad_(not frozen)
        # Running statistics belong to a layer, and move while it trains.
        self._network.held = [
            part
            for name, part in self._network.module.named_modules()
            if frozen and not self._in_head(name) and list(part.buffers(recurse=False))
        ]

    def groups(self, lr: float, scale: float) -> list[dict[str, Any]]:
        """The parameters for an optimizer, each layer with its learning rate."""
        layers = {
            name: list(part.parameters(recurse=False))
            for name, part in self._network.module.named_modules()
        }
        found = sorted(
            ((name, parts) for name, parts in layers.items() if parts),
            key=lambda layer: self._in_head(layer[0]),
        )
        return [
            {"params": parts, "lr": lr * scale ** (len(found) - 1 - index)}
            for index, (_, parts) in enumerate(found)
        ]

    def objective(self, step: Step) -> Step:
        """The step with what the start adds to its loss."""
        whole = whole_of(self._start, self._recipe) if self._start.needs_whole else None
        added: list[Callable[[Batch], Any]] = []
        weight = 1.0
        if self._start.joint is not None:
            assert whole is not None
            weight = self._start.joint.weight
            added.append(self._joint(self._start.joint, whole))
        if self._start.anchor is not None:
            added.append(self._anchor(self._start.anchor, whole))

        def objective(module: Any, batch: Batch) -> Any:
            loss = weight * step(module, batch)
            for part in added:
                loss = loss + part(batch)
            return loss

        return objective

    def _anchor(self, anchor: Anchor, whole: Whole | None) -> Callable[[Batch], Any]:
        start = self._start
        fisher: Mapping[str, Any] = {}
        if anchor.use == "ewc":
            if whole is not None:
                assert start.source is not None
                if self._recipe.fields:
                    raise ConfigError(
                        "learner.start.anchor: the Fisher information of fields is not estimated",
                        hint='l2-sp, or a file with "fisher.NAME" for each weight and no source',
                    )
                if start.estimated is None:
                    start.estimated = whole.fisher(start.source)
                fisher = start.estimated
            else:
                fisher = {name: start.base.fisher.get(start.theirs(name)) for name in self._held}
        held = []
        for name, part in self._held.items():
            base = self._match(name, self._own[name])
            matters = fisher.get(name)
            if anchor.use == "ewc" and (matters is None or matters.shape != base.shape):
                raise ConfigError(
                    f"learner.start.anchor: the Fisher information of {name!r} is not in the file",
                    hint='source = { file = "source.jsonl", label = "class" } to estimate it',
                )
            at = self._at if name == self._first else None
            held.append(Held(part, base, at, None if matters is None else matters.to(base)))
        head = [
            part for name, part in self._network.module.named_parameters() if self._in_head(name)
        ]

        def penalty(_batch: Batch) -> Any:
            total = 0.0
            for one in held:
                if one.part.requires_grad:
                    total = total + anchor.alpha / 2 * one.distance()
            if anchor.beta:
                for part in head:
                    total = total + anchor.beta / 2 * (part * part).sum()
            return total

        return penalty

    def _joint(self, joint: Joint, whole: Whole) -> Callable[[Batch], Any]:
        source = self._start.source
        assert source is not None
        device = next(self._network.module.parameters()).device
        last = whole.network.last
        head = last.weight.detach().to(device)
        bias = None if last.bias is None else last.bias.detach().to(device)
        targets = whole.targets.tensor(source.labels, device)

        def loss(batch: Batch) -> Any:
            draws = torch.Generator().manual_seed(batch.seed)
            chosen = torch.randint(len(source.labels), (joint.batch,), generator=draws).tolist()
            inputs = self._tensor([source.features[index] for index in chosen])
            below = self._network.below(inputs)[:, : head.shape[1]]
            said = functional.linear(below, head, bias)
            return whole.targets.loss(said, targets[chosen])

        return loss

    def _in_head(self, name: str) -> bool:
        return name == self._head or name.startswith(f"{self._head}.")

    def _places(self, names: Sequence[str], *, grown: bool) -> Any:
        """Where the base's inputs are among the network's; None if that cannot be told."""
        start = self._start
        if not start.base.columns:
            found = start.base.weights.get(start.theirs(self._first))
            if found is None or found.ndim != 2:  # noqa: PLR2004 - outputs and inputs
                return None
            # Without names they are as many as the network began with.
            count = found.shape[1]
            known = count <= len(names) if grown else count == len(names)
            return torch.arange(count) if known else None
        theirs = start.names
        place = {column: index for index, column in enumerate(names)}
        lacking = [column for column in theirs if column not in place]
        if lacking:
            raise ConfigError(
                f"learner.start: the base has the input {lacking[0]!r}, and this learner has none",
                hint="missing and max_columns have to be as they were for the base",
            )
        return torch.tensor([place[column] for column in theirs], dtype=torch.long)

    def _match(self, name: str, part: Any) -> Any:
        shape = list(part.shape)
        if name == self._first and self._at is not None:
            shape[1] = len(self._at)
        if self._in_head(name):
            # Classes that have come since are behind the base's.
            found = self._start.base.weights.get(self._start.theirs(name))
            if found is not None and found.ndim == part.ndim:
                shape[0] = min(shape[0], len(found))
        found = self._start.found(name, shape)
        return found.to(device=part.device, dtype=part.dtype)
