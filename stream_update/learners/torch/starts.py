"""What ``[learner.start]`` says: what a network begins with, and how it is gone on with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from stream_update import plugins
from stream_update.errors import ConfigError
from stream_update.events import Tree
from stream_update.learners.torch.bases import Source, read_base
from stream_update.learners.torch.columns import Columns
from stream_update.learners.torch.fields import Fields
from stream_update.learners.torch.scaling import Scaler

__all__ = ["Anchor", "Joint", "Start", "start_of"]

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
        self.estimated: Mapping[str, Any] | None = None
        """The Fisher information of the base, once it has been estimated."""
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

    @property
    def lasting(self) -> float:
        """For how many events layers are frozen."""
        return math.inf if self._freeze == "all" else int(self._freeze)

    def frozen(self, seen: int) -> bool:
        """Whether the base's layers stay as they are after so many events."""
        return seen < self.lasting

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
