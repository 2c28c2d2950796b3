"""A torch module behind the Learner seam."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

from stream_update.answers import one_by_one
from stream_update.errors import ConfigError, CorruptSnapshot, LearnerFailed
from stream_update.events import Features, Predictions, Tree
from stream_update.learners.settings import check_settings
from stream_update.learners.torch import weights
from stream_update.learners.torch.configured import Configured
from stream_update.learners.torch.fields import check_fields
from stream_update.learners.torch.hidden import check_room
from stream_update.learners.torch.modules import Recipe
from stream_update.learners.torch.network import Network, fresh, on_threads
from stream_update.learners.torch.pretraining import Autoencoder
from stream_update.learners.torch.steps import Supervised
from stream_update.learners.torch.transfers import Transfer
from stream_update.protocols import Precision as Floats

__all__ = ["TorchLearner"]

APART = 1 << 41
"""Far from the seeds that steps draw from, with labels and without."""


class TorchLearner(Configured):
    """A network that learns from a stream.

    Its options are those of :class:`~.configured.Configured`.
    """

    def _start_over(self) -> None:
        self._intake = self._fresh_intake()
        self._network: Network | None = None
        self._transfer: Transfer | None = None
        self._autoencoder: Autoencoder | None = None
        self._growth = self._fresh_growth()
        self._knows_labels = False
        self.steps = 0
        self.skipped = 0
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
            settings["module"],
            first=settings["first"],
            last=settings["last"],
            chain=settings.get("chain"),
            allow=allow,
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
    def module(self) -> Any:
        """The torch module itself, None before anything has been learned."""
        return None if self._network is None else self._network.module

    @property
    def columns(self) -> list[str]:
        """What the inputs of the module are, in order."""
        return self._intake.columns.names

    @property
    def classes(self) -> list[Any]:
        """What the outputs of the module are, in order; for ``multiclass`` and ``multilabel``."""
        return self._intake.targets.classes

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
        yield "steps of growth", len(self._growth.taken)

    # -- predict and learn

    def predict(self, features: Sequence[Features]) -> Predictions:
        network = self._network
        if network is None or not self._knows_labels or not features:
            return self._intake.targets.ignorance(len(features))
        try:
            with on_threads(self._threads):
                # A mini-batch is learned next.
                steps = len(features) == self.batch
                said = network.answer(self._intake.tensor(features), steps=steps)
                return self._intake.targets.answers(said)
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
        intake = self._intake
        intake.fields.read(features, "learn")
        network = self._meet(features, labels)
        if network is None:
            return
        inputs, targets = intake.learn(features), intake.answers(labels)
        if not self._knows_labels:
            self._begin_head(network)
        if self._transfer is not None:
            self._transfer.hold(self._growth.events)
        losses = []
        for _ in range(self._training.epochs):
            done = network.step(
                inputs,
                targets,
                intake.targets.loss,
                number=self.steps,
                seed=self._seed + 1 + self.steps,
            )
            self.steps += 1
            self.skipped += not done
            losses.append(network.loss)
        if self._autoencoder is not None and self._autoencoder.labelled:
            self._autoencoder.learn(inputs)
        self._growth.observe(len(features), losses[0])
        while (step := self._growth.due()) is not None:
            self._stretch(network, step.sizes(network.hidden))
            self._growth.take(step)

    def _stretch(self, network: Network, sizes: Sequence[int]) -> None:
        network.stretch(sizes, self._seed + APART + len(self._growth.taken))
        if self._autoencoder is not None:
            self._autoencoder.follow()

    def _begin_head(self, network: Network) -> None:
        """The first labels are there. What was built before them had no room for their classes,
        and outputs that are added are 0: let all of them be drawn, as they are without that.
        """
        self._knows_labels = True
        if self._autoencoder is not None and not (self._start and self._start.head == "keep"):
            _, drawn = self._recipe.ends(fresh(self._recipe, self._intake.shape, self._seed))
            network.last.load_state_dict(drawn.state_dict())
        if network.average is not None:
            # What has been learned without labels is where it begins.
            weights.copy_weights(network.average.module, weights.weights_of(network.module))

    def _reconstruct(self, features: Sequence[Features]) -> None:
        network = self._meet(features, [])
        if network is None or self._autoencoder is None:
            return
        inputs = self._intake.learn(features)
        if self._transfer is not None:
            self._transfer.hold(self._growth.events)
        self._autoencoder.learn(inputs)

    def _meet(self, features: Sequence[Features], labels: Sequence[Any]) -> Network | None:
        """Let the network have room for what these events bring; None if that is nothing."""
        network, intake = self._network, self._intake
        intake.admit(network, features, labels)
        if not features or not len(intake):
            return None
        if network is None:
            self._network = network = self._built(learns=True)
        elif not network.learns:
            raise RuntimeError("a learner that was restored from a dump alone only predicts")
        else:
            network.grow(len(intake.columns), intake.targets.outputs)
            if self._autoencoder is not None:
                self._autoencoder.grow(len(intake.columns))
        return network

    def _built(self, *, learns: bool, grown: bool = False) -> Network:
        shape = self._intake.shape
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
            start,
            self._recipe,
            network,
            self._intake.columns.names,
            self._intake.tensor,
            grown=grown,
        )
        transfer.copy()
        if start.adds:
            step = network.objective or Supervised(self._intake.targets.loss)
            network.objective = transfer.objective(step)
        if start.lr_scale == 1:
            return network.module.parameters()
        return transfer.groups(self._optimizers.lr, start.lr_scale)

    def _culprit(self, network: Network, features: Sequence[Features]) -> int:
        """The first event that the network cannot answer alone, else 0."""
        for index, event in enumerate(features):
            try:
                network.answer(self._intake.tensor([event]))
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
            **self._intake.dump(),
            "steps": self.steps,
            "skipped": self.skipped,
            "learned": None if self._network is None else self._network.dump(),
            "begun": self._growth.events,
            "knows_labels": self._knows_labels,
            "pretraining": None if self._autoencoder is None else self._autoencoder.dump(),
        }
        if (growth := self._growth.dump()) is not None:
            tree["growth"] = growth
        if self._growth.taken and self._network is not None:
            tree["hidden"] = self._network.hidden
        if self._standardise_target:
            tree["target"] = self._intake.targets.dump()
        return tree

    @staticmethod
    def for_serving(tree: Tree, precision: Floats) -> Tree:
        """A dump without moments and autoencoder, with the weights that answer, rounded."""
        learned = tree["learned"]
        if learned is not None:
            learned = weights.rounded(weights.answering(learned), precision)
        return {**tree, "learned": learned, "pretraining": None}

    def load(self, tree: Tree) -> None:
        """Take everything from a tree; what was before stays if that fails.

        Raises :class:`~stream_update.errors.CorruptSnapshot`, and
        :class:`~stream_update.errors.LineageMismatch` if it has grown in other steps than the
        first ones of ``grow``.
        """
        check_settings(tree["settings"], self._settings())
        before = vars(self).copy()
        try:
            self._start_over()
            self._take(tree, learns=True)
        except BaseException:
            vars(self).update(before)
            raise

    def _take(self, tree: Tree, *, learns: bool) -> None:
        intake = self._intake
        intake.load(tree)
        intake.targets = self._targets(tree["classes"])
        if self._standardise_target:
            intake.targets.load(tree["target"])
        self.steps, self.skipped = int(tree["steps"]), int(tree["skipped"])
        self._knows_labels = bool(tree["knows_labels"])
        if learns:
            self._growth.load(tree.get("growth"), int(tree["begun"]))
        hidden = tree.get("hidden")
        learned = tree["learned"]
        if learned is None:
            return
        found = weights.served(learned, learns=learns)
        weights.check_size(self._recipe, intake.shape, found, hidden)
        network = self._built(learns=learns, grown=True)
        self._grow_as(network, hidden, found)
        weights.copy_weights(network.module, found)
        if learns:
            network.restore(learned)
            if self._autoencoder is not None:
                self._autoencoder.load(tree["pretraining"])
        self._network = network

    def _grow_as(
        self, network: Network, sizes: Sequence[int] | None, found: Mapping[str, Any]
    ) -> None:
        """Give a network that was just built the hidden layers that these weights are of."""
        if network.learns and self._growth.taken:
            expected = network.hidden
            for step in self._growth.taken:
                expected = step.sizes(expected)
            if sizes != expected:
                raise CorruptSnapshot(f"its hidden layers are {sizes}, and not {expected}")
        if sizes is not None:
            check_room(network.chain, sizes, sum(part.numel() for part in found.values()))
            self._stretch(network, sizes)
