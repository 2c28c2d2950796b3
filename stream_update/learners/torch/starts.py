"""A network begins with what another one has learned, and may be held near it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch.nn import functional

from stream_update import plugins
from stream_update.errors import ConfigError
from stream_update.events import Features, Tree
from stream_update.learners.torch import weights
from stream_update.learners.torch.bases import Source, read_base
from stream_update.learners.torch.columns import Columns
from stream_update.learners.torch.fields import Fields
from stream_update.learners.torch.modules import Recipe, Shape
from stream_update.learners.torch.network import Network, fresh
from stream_update.learners.torch.scaling import Scaler
from stream_update.learners.torch.steps import Batch, Step, Supervised
from stream_update.learners.torch.targets import Targets

__all__ = ["Start", "Transfer", "start_of"]

Head = Literal["new", "keep"]


class Anchor(NamedTuple):
    """How strongly what was learned before holds: of the base's weights, and of the head's."""

    use: str
    alpha: float
    beta: float


class Joint(NamedTuple):
    """The source task's loss beside ``weight`` times the stream's, on ``batch`` events of it."""

    weight: float
    batch: int


def start_of(table: Mapping[str, Any] | None, task: str) -> Start | None:
    """The start that ``[learner.start]`` describes. Raises :class:`ConfigError`."""
    if table is None:
        return None
    if not isinstance(table, Mapping):
        raise ConfigError("learner.start: expected a table", hint="[learner.start]")
    for key in ("use", "file"):
        if not isinstance(table.get(key), str):
            raise ConfigError(f"learner.start.{key}: this key is required")
    made: Start = plugins.call(Start, "a start", table, "learner.start", {"task": task})
    return made


class Start:
    """What ``[learner.start]`` says: a base, and how it is gone on with.

    ``use`` and ``file`` name the base (see :func:`~.bases.read_base`); with ``sha256`` it
    has to be that very file. ``features`` are the names of its inputs, if it does not say
    them itself: inputs are matched by name. ``layers`` maps names of this module to names in
    the file (``{ first = "encoder.0" }``), and ``prefix`` stands before all names there.

    The head, the layer that ``last`` names, is a ``"new"`` one; ``"keep"`` takes the base's
    with its classes. What the base knew of mean and variance counts as that of
    ``standardiser`` events at most, so it soon gives way to what the stream shows. ``freeze``
    keeps the layers below the head as they are, bit for bit, for so many events or for
    ``"all"``. ``lr_scale`` is the learning rate of each layer as a share of that of the layer
    above it (discriminative fine-tuning, Howard and Ruder 2018).

    ``anchor`` adds to the loss, of the base's weights w with w0 in the file,
    alpha/2 |w - w0|^2 and beta/2 |v|^2 of the head's weights v for ``l2-sp`` (Li, Grandvalet
    and Davoine 2018), or alpha/2 sum F (w - w0)^2 for ``ewc`` (Kirkpatrick et al. 2017): F is
    the diagonal of the Fisher information, from the file or else the mean square of the
    gradients of the base's own loss over the ``source`` events. ``joint`` makes the loss
    L_source + weight * L_stream, with the base's head, which stays as it is, for the former.
    """

    def __init__(
        self,
        use: str,
        file: str,
        *,
        task: str,
        sha256: str = "",
        prefix: str = "",
        layers: Mapping[str, str] | None = None,
        features: Sequence[str] | None = None,
        head: Head = "new",
        standardiser: int = 1,
        freeze: int | str = 0,
        lr_scale: float = 1.0,
        anchor: Mapping[str, Any] | None = None,
        source: Mapping[str, Any] | None = None,
        joint: Mapping[str, Any] | None = None,
    ) -> None:
        if head not in {"new", "keep"}:
            raise ConfigError(f"learner.start.head: {head!r} is none", hint="new or keep")
        if freeze != "all" and (type(freeze) is not int or freeze < 0):
            raise ConfigError(
                f"learner.start.freeze: {freeze!r} is no number of events", hint='or "all"'
            )
        if type(standardiser) is not int or standardiser < 0:
            raise ConfigError(
                f"learner.start.standardiser: {standardiser!r} is no number of events"
            )
        if not 0 < lr_scale <= 1:
            raise ConfigError(f"learner.start.lr_scale: {lr_scale!r} is not in (0, 1]")
        self.base = read_base(use, file, features, sha256)
        self.head = head
        self._options: dict[str, Any] = {
            "file": self.base.digest, "prefix": prefix, "layers": dict(layers or {}),
            "features": features, "head": head, "standardiser": standardiser,
            "freeze": freeze, "lr_scale": lr_scale, "anchor": anchor, "source": source,
            "joint": joint,
        }  # fmt: skip
        self._prefix = prefix
        self._layers = dict(layers or {})
        self._standardiser = standardiser
        self._freeze = freeze
        self.lr_scale = lr_scale
        self.task = self.base.task or task
        if head == "keep" and self.task != task:
            raise ConfigError(
                f"learner.start.head: the base was made for the task {self.task!r}, and this one "
                f"is {task!r}",
                hint='head = "new"',
            )
        if self.base.deviations and (head == "keep" or joint is not None):
            raise ConfigError(
                f"learner.start.{'head' if head == 'keep' else 'joint'}: the base was made with "
                "standardise_target, so its head says standard deviations and no numbers",
                hint='head = "new" without joint',
            )
        if head == "keep" and task in {"multiclass", "multilabel"} and not self.base.classes:
            raise ConfigError(
                "learner.start.head: the file does not say what the base's classes are",
                hint='metadata "classes", a JSON list, or head = "new"',
            )
        where = "learner.start"
        self.source: Source | None = (
            None
            if source is None
            else plugins.call(Source, "source", source, f"{where}.source", {})
        )
        self.anchor: Anchor | None = (
            None
            if anchor is None
            else plugins.call(_anchor, "anchor", anchor, f"{where}.anchor", {})
        )
        self.joint: Joint | None = (
            None if joint is None else plugins.call(_joint, "joint", joint, f"{where}.joint", {})
        )
        if self.source is not None:
            self._options["source"] = [self.source.digest, source]
        elif self.joint is not None or (
            self.anchor is not None and self.anchor.use == "ewc" and not self.base.fisher
        ):
            raise ConfigError(
                "learner.start: this needs events of the task that the base was made for",
                hint='source = { file = "source.jsonl", label = "class" }',
            )

    @property
    def names(self) -> list[str]:
        """The inputs of the base, empty if they are not known."""
        columns = Columns(mask=any(entry[0] == "missing" for entry in self.base.columns))
        columns.load(self.base.columns)
        return columns.names

    @property
    def classes(self) -> list[Any]:
        """Those that come first, because the base's head has them in this order."""
        return list(self.base.classes or ()) if self.head == "keep" else []

    @property
    def answers(self) -> bool:
        """Whether the base can answer before anything has been learned."""
        return self.head == "keep" and bool(self.base.columns)

    @property
    def adds(self) -> bool:
        """Whether it adds something to the loss."""
        return self.anchor is not None or self.joint is not None

    @property
    def needs_whole(self) -> bool:
        """Whether what is added to the loss needs the base's own head or answers."""
        return self.joint is not None or (
            self.anchor is not None and self.anchor.use == "ewc" and self.source is not None
        )

    @property
    def fingerprint(self) -> Tree:
        """Plain values that tell this start from every other."""
        return self._options

    def begin(self, columns: Columns, scaler: Scaler, fields: Fields) -> None:
        """Let them know the inputs of the base as it knew them, if it says which these are."""
        if self.base.fields and self._standardiser:
            fields.begin(self.base.fields, self._standardiser)
        if self.base.columns:
            columns.load(self.base.columns)
            if self.base.scaler is not None and self._standardiser:
                scaler.load(self.base.scaler, len(columns.numbers))
                scaler.discount(self._standardiser)

    def frozen(self, seen: int) -> bool:
        """Whether the base's layers stay as they are after so many events."""
        return self._freeze == "all" or seen < int(self._freeze)

    def theirs(self, name: str) -> str:
        """What a weight of this module is called in the file."""
        for ours, other in self._layers.items():
            if name == ours or name.startswith(f"{ours}."):
                name = other + name.removeprefix(ours)
                break
        return self._prefix + name

    def found(self, name: str, shape: Sequence[int]) -> Any:
        """The base's weight for this one of the module, which has to be of this shape."""
        theirs = self.theirs(name)
        found = self.base.weights.get(theirs)
        if found is None or tuple(found.shape) != tuple(shape):
            listed = [f"{name} {tuple(part.shape)}" for name, part in self.base.weights.items()]
            raise ConfigError(
                f"learner.start: the module's weight {name!r} needs {tuple(shape)} of the base, "
                f"and {theirs!r} in the file is "
                f"{'not there' if found is None else tuple(found.shape)}",
                hint=f"{len(self.base.columns)} inputs of it have a name; the file has: "
                f"{', '.join(listed[:20])}{', ...' if len(listed) > 20 else ''}",  # noqa: PLR2004
            )
        return found

    def check(self, recipe: Recipe, columns: Columns, targets: Targets) -> None:
        """Raise :class:`ConfigError` if the base does not fit such a module."""
        names = columns.names
        inputs = len(names) if self.base.columns else self._size(recipe.first, 1)
        shape = Shape(inputs, targets.outputs, names, targets.classes)
        network = Network(recipe, fresh(recipe, shape, 0), shape)
        transfer = Transfer(self, recipe, network, names, lambda _: None)
        if self.adds:
            transfer.objective(Supervised(targets.loss))

    def whole(self, recipe: Recipe) -> Whole:
        """The base itself, head and all."""
        columns = Columns(mask=any(entry[0] == "missing" for entry in self.base.columns))
        scaler = Scaler(active=self.base.scaler is not None)
        columns.load(self.base.columns)
        if self.base.scaler is not None:
            scaler.load(self.base.scaler, len(columns.numbers))
        if not columns.names:
            raise ConfigError(
                "learner.start: the names of the base's inputs have to be known for this",
                hint="features = [...], in their order",
            )
        shape = Shape(
            len(columns),
            self._size(recipe.last, 0),
            columns.names,
            list(self.base.classes or ()),
        )
        module = fresh(recipe, shape, 0)
        with torch.no_grad():
            for name, part in weights.weights_of(module).items():
                part.copy_(self.found(name, part.shape))
        targets = Targets(self.task, None, self.base.classes or ())
        return Whole(Network(recipe, module, shape), targets, columns, scaler)

    def _size(self, layer: str, axis: int) -> int:
        found = self.base.weights.get(self.theirs(f"{layer}.weight"))
        if found is None or found.ndim != 2:  # noqa: PLR2004
            raise ConfigError(
                f"learner.start: the file has no layer {self.theirs(layer)!r} that tells how many "
                f"{('outputs', 'inputs')[axis]} the base has",
                hint="features = [...] names its inputs; layers = { ours = theirs } its layers",
            )
        return int(found.shape[axis])


def _anchor(use: str, alpha: float, beta: float = 0.0) -> Anchor:
    if use not in {"l2-sp", "ewc"}:
        raise ConfigError(f"learner.start.anchor: there is no {use!r}", hint="l2-sp or ewc")
    if not (alpha > 0 and beta >= 0):
        raise ConfigError("learner.start.anchor: alpha has to be positive, beta not negative")
    if use == "ewc" and beta:
        raise ConfigError("learner.start.anchor: beta is an option of l2-sp")
    return Anchor(use, alpha, beta)


def _joint(weight: float = 1.0, batch: int = 32) -> Joint:
    if not (weight > 0 and batch > 0):
        raise ConfigError("learner.start.joint: weight and batch have to be positive")
    return Joint(weight, batch)


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
        apart = (self.part if self.at is None else self.part[:, self.at]) - self.base
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
        whole = self._start.whole(self._recipe) if self._start.needs_whole else None
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
                fisher = whole.fisher(start.source)
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
            said = functional.linear(self._network.hidden(inputs), head, bias)
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
