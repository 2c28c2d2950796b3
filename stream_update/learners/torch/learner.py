"""A torch module behind the Learner seam."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Literal, Self

import msgspec
import torch

from stream_update.answers import one_by_one
from stream_update.errors import ConfigError, LearnerFailed
from stream_update.events import Features, Predictions, Tree
from stream_update.learners.settings import check_settings
from stream_update.learners.torch import weights
from stream_update.learners.torch.columns import Columns, Table
from stream_update.learners.torch.fields import Fields, check_fields, with_fields
from stream_update.learners.torch.fusion import inputs_of
from stream_update.learners.torch.modules import Recipe, Shape
from stream_update.learners.torch.network import Network, device_of, fresh, on_threads
from stream_update.learners.torch.optimizers import Optimizers
from stream_update.learners.torch.pretraining import Autoencoder, pretraining_of
from stream_update.learners.torch.probing import probe
from stream_update.learners.torch.scaling import Scaler
from stream_update.learners.torch.schedules import Schedule
from stream_update.learners.torch.starts import Transfer, start_of
from stream_update.learners.torch.steps import Supervised, step_of
from stream_update.learners.torch.targets import Targets
from stream_update.learners.torch.training import Precision, Training, check_counts

__all__ = ["TorchLearner"]

FORMAT = 1
ADAM = {"use": "adam", "lr": 0.001}

Missing = Literal["mean", "mask"]


class TorchLearner:
    """A network that learns ``batch`` events at a time, each ``epochs_per_batch`` times.

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
            else Recipe(with_fields(module, fields), first=first, last=last)
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
        self.unlabelled_batch = 0 if self._pretraining is None else self._pretraining.batch
        self._start_over()

    def _start_over(self) -> None:
        self._fields = Fields(self._recipe.fields, standardise=self._standardise)
        self._columns = Columns(
            categorical=self._categorical,
            mask=self._missing == "mask",
            limit=self._max_columns,
            apart=self._fields.names,
        )
        self._scaler = Scaler(active=self._standardise)
        self._network: Network | None = None
        self._seen: tuple[Any, Any] = (None, None)
        self._transfer: Transfer | None = None
        self._autoencoder: Autoencoder | None = None
        self._knows_labels = False
        self._since_start = 0
        self.steps = 0
        self.skipped = 0
        classes = self._classes
        if self._start is not None:
            self._start.begin(self._columns, self._scaler, self._fields)
            classes = [*self._start.classes, *classes]
        self._columns.declare(self._features)
        self._targets = Targets(
            self._task, self._loss, classes, standardise=self._standardise_target
        )
        if self._start is not None and self._start.answers:
            self._network = self._built(learns=True)
            self._knows_labels = True

    @classmethod
    def restored(cls, tree: Tree, task: str, *, allow: Iterable[Any] = ()) -> Self:
        """A learner from a dump alone, which predicts and cannot learn.

        A module of the user's is built by that one of the factories in ``allow`` that the
        dump names. Raises :class:`~stream_update.errors.CorruptSnapshot`, also for weights
        that are NaN, and :class:`~stream_update.errors.LineageMismatch` for a factory that
        is not there.
        """
        settings = tree["settings"]
        check_fields(settings["module"])
        recipe = Recipe(
            settings["module"], first=settings["first"], last=settings["last"], allow=allow
        )
        made = cls(
            task,
            recipe,
            categorical=settings["categorical"],
            missing=settings["missing"],
            standardise=settings["standardise"],
            max_columns=settings["max_columns"],
            threads=settings["threads"],
            standardise_target=settings.get("standardise_target", False),
            precision=settings.get("precision", "float32"),
        )
        made._take(tree, learns=False)
        return made

    @property
    def versions(self) -> dict[str, str]:
        """The libraries that a snapshot of it depends on."""
        return {"torch": version("torch")}

    @property
    def module(self) -> Any:
        """The torch module itself, None before anything has been learned."""
        return None if self._network is None else self._network.module

    @property
    def columns(self) -> list[str]:
        """What the inputs of the module are, in order."""
        return self._columns.names

    @property
    def classes(self) -> list[Any]:
        """What the outputs of the module are, in order; for ``multiclass`` and ``multilabel``."""
        return self._targets.classes

    def describe(self) -> str:
        """The model in a line, for people."""
        return (
            f"{_shown(self._recipe.name, self._recipe.options)} with "
            f"{_shown(self._optimizers.name, self._optimizers.options)}, "
            f"batches of {self.batch} ({self._task})"
        )

    def readable(self) -> Iterator[tuple[str, float | bool]]:
        """What it has learned, by name: inputs, classes, and how large the weights are."""
        yield "steps", self.steps
        yield "steps left out", self.skipped
        if self._autoencoder is not None:
            yield "steps without labels", self._autoencoder.steps
        for name in self.columns:
            yield f"input[{name!r}]", True
        for label in self.classes:
            yield f"output[{label!r}]", True
        if self._network is not None:
            for name, tensor in weights.weights_of(self._network.module).items():
                yield f"norm[{name}]", float(tensor.detach().float().norm())

    # -- predict and learn

    def predict(self, features: Sequence[Features]) -> Predictions:
        network = self._network
        if network is None or not self._knows_labels or not features:
            return self._targets.ignorance(len(features))
        try:
            with on_threads(self._threads):
                # A mini-batch is learned next.
                steps = len(features) == self.batch
                return self._targets.answers(network.answer(self._tensor(features), steps=steps))
        except (LearnerFailed, MemoryError):
            raise
        except Exception as error:
            raise LearnerFailed(
                self._culprit(network, features), "predict", error, Predictions([])
            ) from error

    def learn(self, features: Sequence[Features], labels: Sequence[Any]) -> None:
        self._guarded(self._learn, features, labels)

    def learn_unlabelled(self, features: Sequence[Features]) -> None:
        """Let the hidden layers learn of these what ``pretrain`` asks for."""
        self._guarded(self._reconstruct, features)

    def _guarded(self, step: Callable[..., None], features: Sequence[Features], *rest: Any) -> None:
        """A step of learning, whose failure is that of one event."""
        try:
            with on_threads(self._threads):
                step(features, *rest)
        except (LearnerFailed, ConfigError, MemoryError):
            raise
        except Exception as error:
            index = 0 if self._network is None else self._culprit(self._network, features)
            raise LearnerFailed(index, "learn", error, Predictions([])) from error

    def predict_then_learn(
        self, features: Sequence[Features], labels: Sequence[Any]
    ) -> Predictions:
        return one_by_one(self, features, labels)

    def _learn(self, features: Sequence[Features], labels: Sequence[Any]) -> None:
        read = self._fields.read(features, "learn")
        network = self._meet(features, labels)
        if network is None:
            return
        table = self._columns.read(features)
        self._scaler.learn(table.numbers)
        self._fields.learn(read)
        inputs = self._with_fields(features, self._scaled(table))
        self._targets.observe(labels)
        targets = self._targets.tensor(labels, self._device)
        if not self._knows_labels:
            self._begin_head(network)
        if self._transfer is not None:
            self._transfer.hold(self._since_start)
            self._since_start += len(features)
        for _ in range(self._training.epochs):
            done = network.step(
                inputs,
                targets,
                self._targets.loss,
                number=self.steps,
                seed=self._seed + 1 + self.steps,
            )
            self.steps += 1
            self.skipped += not done
        if self._autoencoder is not None and self._autoencoder.labelled:
            self._autoencoder.learn(inputs)

    def _begin_head(self, network: Network) -> None:
        """The first labels are there. What was built before them had no room for their classes,
        and outputs that are added are 0: let all of them be drawn, as they are without that.
        """
        self._knows_labels = True
        if self._autoencoder is not None and not (self._start and self._start.head == "keep"):
            _, drawn = self._recipe.ends(fresh(self._recipe, self._shape(), self._seed))
            network.last.load_state_dict(drawn.state_dict())
        if network.average is not None:
            # What has been learned without labels is where it begins.
            weights.copy_weights(network.average.module, weights.weights_of(network.module))

    def _reconstruct(self, features: Sequence[Features]) -> None:
        network = self._meet(features, [])
        if network is None or self._autoencoder is None:
            return
        table = self._columns.read(features)
        self._scaler.learn(table.numbers)
        if self._transfer is not None:
            self._transfer.hold(self._since_start)
        self._autoencoder.learn(self._scaled(table))

    def _meet(self, features: Sequence[Features], labels: Sequence[Any]) -> Network | None:
        """Let the network have room for what these events bring; None if that is nothing."""
        network = self._network
        if network is None or network.first is not None:
            self._columns.admit(features)
        if network is None or network.last is not None:
            self._targets.admit(labels)
        elif (index := self._targets.unknown(labels)) is not None:
            cause = ValueError(
                f"class {self._targets.missing(labels[index])!r} is new and the module has no "
                "output for it: name its last layer, [learner] last, or all classes, "
                "[source] classes"
            )
            raise LearnerFailed(index, "learn", cause, Predictions([]))
        if not features or not (len(self._columns) or len(self._fields)):
            return None
        if network is None:
            self._network = network = self._built(learns=True)
        elif not network.learns:
            raise RuntimeError("a learner that was restored from a dump alone only predicts")
        else:
            network.grow(len(self._columns), self._targets.outputs)
            if self._autoencoder is not None:
                self._autoencoder.grow(len(self._columns))
        return network

    def _shape(self) -> Shape:
        return Shape(
            len(self._columns), self._targets.outputs, self._columns.names, self._targets.classes
        )

    def _built(self, *, learns: bool, grown: bool = False) -> Network:
        shape = self._shape()
        module = fresh(self._recipe, shape, self._seed).to(self._device)
        network = Network(self._recipe, module, shape, self._training)
        if learns:
            network.optimizer = self._optimizers.make(self._prepared(network, grown=grown))
            if self._pretraining is not None:
                self._autoencoder = Autoencoder(
                    self._pretraining, network, shape.inputs, self._seed
                )
        return network

    def _prepared(self, network: Network, *, grown: bool) -> Any:
        """Let a network begin and step as configured; what the optimizer is to know of it."""
        _, network.objective = self._own_step
        start = self._start
        if start is None:
            return network.module.parameters()
        self._transfer = transfer = Transfer(
            start, self._recipe, network, self._columns.names, self._tensor, grown=grown
        )
        transfer.copy()
        if start.adds:
            step = network.objective or Supervised(self._targets.loss)
            network.objective = transfer.objective(step)
        if start.lr_scale == 1:
            return network.module.parameters()
        return transfer.groups(self._optimizers.lr, start.lr_scale)

    def _tensor(self, features: Sequence[Features]) -> Any:
        return self._with_fields(features, self._scaled(self._columns.read(features)))

    def _with_fields(self, features: Sequence[Features], numbers: Any) -> Any:
        """What the module takes: the numbers alone if there are no fields."""
        if not len(self._fields):
            return numbers
        return inputs_of(self._fields, self._fields.read(features), numbers)

    def _scaled(self, table: Table) -> Any:
        whole = self._columns.matrix(table, self._scaler.scale(table.numbers))
        if whole is not self._seen[0]:
            # Copied into memory of torch's own: how that is aligned decides on the last bits.
            self._seen = whole, torch.from_numpy(whole).to(self._device, torch.float32)
        return self._seen[1]

    def _culprit(self, network: Network, features: Sequence[Features]) -> int:
        """The first event that the network cannot answer alone, else 0."""
        for index, event in enumerate(features):
            try:
                network.answer(self._tensor([event]))
            except Exception:  # noqa: BLE001 - whatever a module of the user's raises
                return index
        return 0

    def react(self, signal: str) -> None:
        """Start over with a fresh network at a ``"reset"`` or ``"swap"``."""
        if signal in {"reset", "swap"}:
            self._start_over()

    # -- state

    def dump(self) -> Tree:
        tree = {
            "settings": self._settings(),
            "columns": self._columns.dump(),
            "classes": self._targets.classes,
            "scaler": self._scaler.dump(),
            "fields": self._fields.dump(),
            "steps": self.steps,
            "skipped": self.skipped,
            "learned": None if self._network is None else self._network.dump(),
            "begun": None if self._start is None else self._since_start,
            "knows_labels": self._knows_labels,
            "pretraining": None if self._autoencoder is None else self._autoencoder.dump(),
        }
        if self._standardise_target:
            tree["target"] = self._targets.dump()
        return tree

    def load(self, tree: Tree) -> None:
        """Take everything from a tree; what was before stays if that fails.

        Raises :class:`~stream_update.errors.CorruptSnapshot`.
        """
        check_settings(tree["settings"], self._settings())
        before = vars(self).copy()
        try:
            self._start_over()
            self._take(tree, learns=True)
        except BaseException:
            vars(self).update(before)
            raise

    def _settings(self) -> Tree:
        """What a follower needs to know, and a trainer to agree with."""
        chosen = {
            "standardise_target": self._standardise_target,
            "precision": self._training.precision,
            "ema": self._training.ema,
        }
        by_default = {"standardise_target": False, "precision": "float32", "ema": None}
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

    def _take(self, tree: Tree, *, learns: bool) -> None:
        self._columns.load(tree["columns"])
        self._scaler.load(tree["scaler"], len(self._columns.numbers))
        self._fields.load(tree["fields"])
        self._targets = Targets(
            self._task, self._loss, tree["classes"], standardise=self._standardise_target
        )
        if self._standardise_target:
            self._targets.load(tree["target"])
        self.steps, self.skipped = int(tree["steps"]), int(tree["skipped"])
        self._knows_labels = bool(tree["knows_labels"])
        self._since_start = int(tree["begun"] or 0)
        learned = tree["learned"]
        if learned is None:
            return
        found = weights.served(learned, learns=learns)
        weights.check_size(self._recipe, self._shape(), found)
        network = self._built(learns=learns, grown=True)
        weights.copy_weights(network.module, found)
        if learns:
            network.restore(learned)
            if self._autoencoder is not None:
                self._autoencoder.load(tree["pretraining"])
        self._network = network

    def fingerprint(self) -> str:
        """A digest of how the learner starts: its settings and a small fresh module.

        Raises :class:`~stream_update.errors.ConfigError` as :func:`~.probing.probe` does.
        """
        names = self._columns.names or ["a", "b", "c"]
        classes = self._targets.classes
        if self._task in {"multiclass", "multilabel"} and not classes:
            classes = [0, 1]
        shape = Shape(len(names), max(1, len(classes)), names, classes)
        pretraining, also = self._pretraining, None
        if pretraining is not None:

            def also(network: Network) -> None:
                Autoencoder(pretraining, network, shape.inputs, self._seed)

        made = probe(self._recipe, self._optimizers, shape, self._seed, self._task, also)
        parts = [
            self._settings(), self._optimizers.name, self._optimizers.options, self._targets.name,
            self.batch, self._training.epochs, self._training.clip_norm, self._features,
            self._classes, self._seed,
        ]  # fmt: skip
        if self._training.said():
            parts.append(self._training.said())
        if self._start is not None:
            self._start.check(self._recipe, self._columns, self._targets)
            parts.append(["start", self._start.fingerprint])
        if self._own_step[0] is not None:
            parts.append(["step", self._own_step[0]])
        if self._pretraining is not None:
            parts.append(["pretrain", self._pretraining.fingerprint])
        return hashlib.sha256(msgspec.json.encode(parts) + made).hexdigest()


def _shown(name: str, options: Mapping[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value}' for key, value in options.items())})"
