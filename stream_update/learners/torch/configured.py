"""What a torch learner is told once, and how it can be told from every other."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any, Literal

import msgspec

from stream_update.errors import ConfigError
from stream_update.events import Tree
from stream_update.learners.torch.columns import Columns
from stream_update.learners.torch.fields import Fields, with_fields
from stream_update.learners.torch.growth import Growth, grow_of
from stream_update.learners.torch.hidden import check_deeper, hidden_sizes, layers_of
from stream_update.learners.torch.intake import Intake
from stream_update.learners.torch.modules import Recipe, Shape
from stream_update.learners.torch.network import Network, device_of, fresh
from stream_update.learners.torch.optimizers import Optimizers
from stream_update.learners.torch.pretraining import Autoencoder, pretraining_of
from stream_update.learners.torch.probing import probe
from stream_update.learners.torch.scaling import Scaler
from stream_update.learners.torch.schedules import Schedule
from stream_update.learners.torch.starts import start_of
from stream_update.learners.torch.steps import step_of
from stream_update.learners.torch.targets import Targets
from stream_update.learners.torch.training import Precision, Training, check_counts
from stream_update.learners.torch.transfers import check_start

__all__ = ["Configured"]

FORMAT = 1
ADAM = {"use": "adam", "lr": 0.001}

Missing = Literal["mean", "mask"]


class Configured:
    """The settings of a :class:`~.learner.TorchLearner`, checked.

    A network that learns ``batch`` events at a time, each ``epochs_per_batch`` times.

    ``module`` is ``"mlp"``, ``"linear"``, ``"fusion"`` (for ``fields`` that are no numbers:
    see :class:`~.fields.Fields`), or ``"my_models:build"``, a factory that is given
    what it names of ``inputs``, ``outputs``, ``features`` and ``classes``; or a table with
    that as ``use``, and options. ``optimizer`` likewise: sgd, adagrad, rmsprop, adam, adamw
    with torch's own options. ``loss`` as in :class:`~.targets.Targets`.

    The module is built at the first batch, with an input for each column that the batch
    has and an output for each class; later ones are added as they come. A module of the
    user's grows where ``first`` and ``last`` name its linear layers, as in
    ``named_modules()``; without ``first`` what comes later is not seen, and without ``last`` an
    event of a new class cannot be learned. ``features`` and ``classes`` are known from the
    beginning. See :class:`~.columns.Columns` for ``categorical`` and ``max_columns``;
    a number that is ``missing`` is the running mean, or that and a column that says so.

    ``start`` is what it begins with (:class:`~.starts.Start`), ``step`` what a step makes
    small (:func:`~.steps.step_of`), and ``pretrain`` lets it learn from events without a
    label too (:class:`~.pretraining.Pretraining`).

    ``grow`` are steps in which the hidden layers grow (:class:`~.growth.Grow`), of ``mlp``, or
    of a module that is a ``torch.nn.Sequential`` or has one by the name ``chain``.

    ``threads`` is how many the arithmetic uses: the same number gives the same bits. A step
    whose loss is not finite is left out and counted.
    """

    def __init__(
        self,
        task: str,
        module: str | Mapping[str, Any] | Recipe = "mlp",
        *,
        fields: Mapping[str, Any] | None = None,
        optimizer: str | Mapping[str, Any] = ADAM,
        loss: str | None = None,
        batch: int = 32,
        epochs_per_batch: int = 1,
        clip_norm: float | None = None,
        l1: float = 0.0,
        ema: float | None = None,
        schedule: str | Mapping[str, Any] = "constant",
        precision: Precision = "float32",
        standardise_target: bool = False,
        categorical: Iterable[str] = (),
        missing: Missing = "mean",
        standardise: bool = True,
        max_columns: int = 10_000,
        first: str | None = None,
        last: str | None = None,
        chain: str | None = None,
        grow: Iterable[Mapping[str, Any]] = (),
        start: Mapping[str, Any] | None = None,
        step: str | Mapping[str, Any] | None = None,
        pretrain: Mapping[str, Any] | None = None,
        features: Iterable[str] = (),
        classes: Iterable[Any] = (),
        threads: int = 1,
        device: str = "cpu",
        seed: int | None = None,
    ) -> None:
        check_counts(
            batch=batch, epochs_per_batch=epochs_per_batch, threads=threads, max_columns=max_columns
        )
        if missing not in {"mean", "mask"}:
            raise ConfigError(f"learner.missing: {missing!r} is none", hint="mean or mask")
        if standardise_target and task != "regression":
            raise ConfigError(
                f"learner.standardise_target: the task {task!r} has no numbers as labels"
            )
        self._training = Training(
            epochs_per_batch, clip_norm, l1, ema, Schedule(schedule), precision
        )
        self.batch = batch
        self._task = task
        self._recipe = (
            module
            if isinstance(module, Recipe)
            else Recipe(with_fields(module, fields), first=first, last=last, chain=chain)
        )
        self._optimizers = Optimizers(optimizer)
        self._loss = loss
        if isinstance(categorical, str):
            raise ConfigError(
                f"learner.categorical: {categorical!r} is no list of names",
                hint=f'categorical = ["{categorical}"]',
            )
        self._categorical = sorted(categorical)
        self._missing: Missing = missing
        self._standardise = standardise
        self._standardise_target = standardise_target
        self._max_columns = max_columns
        self._features = list(features)
        self._classes = list(classes)
        self._threads = threads
        self._device = device_of(device)
        self._seed = 0 if seed is None else seed
        self._start = start_of(start, task)
        if standardise_target and self._start is not None and self._start.head == "keep":
            raise ConfigError(
                "learner.start.head: the base's head says numbers, and with standardise_target "
                "they would be taken for standard deviations",
                hint='head = "new", or standardise_target = false',
            )
        self._own_step = step, step_of(step, Targets(task, loss).loss)
        self._pretraining = pretraining_of(pretrain, self._optimizers)
        if self._pretraining is not None and self._recipe.fields:
            raise ConfigError(
                "learner.pretrain: it masks columns of numbers, and there are fields",
                hint="leave out pretrain, or the fields",
            )
        self._steps = grow_of(grow)
        self._check_steps()
        if self._pretraining is not None and self._pretraining.labelled and batch == 1:
            raise ConfigError(
                "learner.pretrain.labelled: a batch of one event has no others to mask it with",
                hint="batch = 2 or more, or labelled = false",
            )
        self.unlabelled_batch = 0 if self._pretraining is None else self._pretraining.batch
        self._start_over()

    def _start_over(self) -> None:
        """Be as at the beginning of a stream."""
        raise NotImplementedError

    def _check_steps(self) -> None:
        """Raise :class:`ConfigError` for steps that could not be repeated, or do not go together
        with a start.
        """
        if self._device.type != "cpu" and any(step.plateau for step in self._steps):
            raise ConfigError(
                "learner.grow.plateau: on a GPU the losses differ in their last bits from run to "
                "run, so the network would not grow at the same event again",
                hint='after = N, or device = "cpu"',
            )
        frozen = 0.0 if self._start is None else self._start.lasting
        if any((step.after or math.inf) < frozen for step in self._steps) or (
            self._steps and frozen == math.inf
        ):
            raise ConfigError(
                "learner.grow: layers that learner.start.freeze keeps as they are do not grow",
                hint="after, not before so many events; or freeze = 0",
            )

    def _fresh_growth(self) -> Growth:
        return Growth(self._steps, 0.0 if self._start is None else self._start.lasting)

    def _fresh_intake(self) -> Intake:
        """Of a stream of which nothing has been seen."""
        fields = Fields(self._recipe.fields, standardise=self._standardise)
        columns = Columns(
            categorical=self._categorical,
            mask=self._missing == "mask",
            limit=self._max_columns,
            apart=fields.names,
        )
        scaler = Scaler(active=self._standardise)
        classes = self._classes
        if self._start is not None:
            self._start.begin(columns, scaler, fields)
            classes = [*self._start.classes, *classes]
        columns.declare(self._features)
        return Intake(columns, scaler, fields, self._targets(classes), self._device)

    def _targets(self, classes: Iterable[Any]) -> Targets:
        return Targets(self._task, self._loss, list(classes), standardise=self._standardise_target)

    @property
    def versions(self) -> dict[str, str]:
        """The libraries that a snapshot of it depends on."""
        return {"torch": version("torch")}

    def describe(self) -> str:
        """The model in a line, for people."""
        return (
            f"{_shown(self._recipe.name, self._recipe.options)} with "
            f"{_shown(self._optimizers.name, self._optimizers.options)}, "
            f"batches of {self.batch} ({self._task})"
        )

    def _settings(self) -> Tree:
        """What a follower needs to know, and a trainer to agree with."""
        chosen = {
            "standardise_target": self._standardise_target,
            "precision": self._training.precision,
            "ema": self._training.ema,
            "chain": self._recipe.chain,
        }
        by_default = {"standardise_target": False, "precision": "float32", "ema": None, "chain": ""}
        return {
            "format": FORMAT,
            "module": {"use": self._recipe.name, **self._recipe.options},
            "first": self._recipe.first,
            "last": self._recipe.last,
            "categorical": self._categorical,
            "missing": self._missing,
            "standardise": self._standardise,
            "max_columns": self._max_columns,
            "threads": self._threads,
        } | {key: value for key, value in chosen.items() if value != by_default[key]}

    def _check_sizes(self, shape: Shape) -> None:
        """Raise :class:`ConfigError` if the hidden layers cannot take the steps."""
        if not self._steps:
            return
        chain = layers_of(self._recipe, fresh(self._recipe, shape, self._seed))
        sizes = hidden_sizes(chain)
        for step in self._steps:
            sizes = step.sizes(sizes)
            if step.deepen:
                check_deeper(chain)

    def fingerprint(self) -> str:
        """A digest of how the learner starts: its settings and a small fresh module.

        The steps in which it grows are no part of it, because there may be more of them later.

        Raises :class:`~stream_update.errors.ConfigError` as :func:`~.probing.probe` does.
        """
        intake = self._fresh_intake()
        names = intake.columns.names or ["a", "b", "c"]
        classes = intake.targets.classes
        if self._task in {"multiclass", "multilabel"} and not classes:
            classes = [0, 1]
        shape = Shape(len(names), max(1, len(classes)), names, classes)
        pretraining, also = self._pretraining, None
        if pretraining is not None:

            def also(network: Network) -> None:
                Autoencoder(pretraining, network, shape.inputs, self._seed)

        self._check_sizes(shape)
        made = probe(self._recipe, self._optimizers, shape, self._seed, self._task, also)
        parts = [
            self._settings(), self._optimizers.name, self._optimizers.options, intake.targets.name,
            self.batch, self._training.epochs, self._training.clip_norm, self._features,
            self._classes, self._seed,
        ]  # fmt: skip
        if self._training.said():
            parts.append(self._training.said())
        if self._start is not None:
            check_start(self._start, self._recipe, intake.columns, intake.targets)
            parts.append(["start", self._start.fingerprint])
        if self._own_step[0] is not None:
            parts.append(["step", self._own_step[0]])
        if self._pretraining is not None:
            parts.append(["pretrain", self._pretraining.fingerprint])
        return hashlib.sha256(msgspec.json.encode(parts) + made).hexdigest()


def _shown(name: str, options: Mapping[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value}' for key, value in options.items())})"
