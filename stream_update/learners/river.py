"""Any river classifier, multi-label classifier or regressor, alone or at a pipeline's end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from itertools import count, islice
from typing import Any, Literal, Self

from river import active, base, compose, proba, reco

from stream_update import objects
from stream_update.errors import ConfigError, CorruptSnapshot, LearnerFailed
from stream_update.events import Features, Predictions, Tree
from stream_update.learners.finite import non_finite
from stream_update.learners.multioutput import (
    answering,
    drawn_alike,
    draws,
    has_probabilities,
)
from stream_update.learners.pipelines import Calls, calls
from stream_update.objects.paths import walk

__all__ = ["RiverLearner"]

TASKS: dict[str, tuple[Any, str]] = {
    "binary": (base.Classifier, "classifier"),
    "multiclass": (base.Classifier, "classifier"),
    "multilabel": (base.MultiLabelClassifier, "multi-label classifier"),
    "regression": (base.Regressor, "regressor"),
}
"""What each needs, and what river calls that."""

LET_THROUGH = (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError)
"""What is no fault of the event. A panic in river's extension types is no ``Exception``."""

NOT_FOR_EVENTS = (active.base.ActiveLearningClassifier, reco.base.Ranker)
"""One answers with a question, the other wants a user and an item."""

MAX_NESTING = 10
"""Pipelines at the end of pipelines."""

Says = Literal["probabilities", "labels and probabilities", "values"]


class RiverLearner:
    """One river model, learning one event at a time.

    ``make`` builds a fresh model, the same at every call. ``task`` is ``"binary"``,
    ``"multiclass"``, ``"multilabel"`` or ``"regression"``. ``allow`` are the classes and
    functions, beside river's own, that the model is made of: a snapshot holds nothing else.

    Predictions are exactly those of ``predict_one`` and ``predict_proba_one``. A model
    that takes its label from its probabilities, as most do, is asked only once. One that draws
    to predict has drawn for each event that it has learned, once, and for no other: so it goes
    on as if each event had been predicted before it was learned, and nobody else had asked.

    Raises :class:`~stream_update.errors.ConfigError` if the model does not fit the task.
    """

    batch = 1
    dumps_in_a_copy = True

    def __init__(
        self,
        make: Callable[[], Any],
        task: str,
        *,
        allow: Iterable[Callable[..., Any]] = (),
    ) -> None:
        self._make = make
        self._task = task
        self._allow = tuple(allow)
        self._model: Any
        self._calls: Calls
        self._rng: Any | None = None
        model = make()
        self._says: Says = _check(model, task)
        self._use(model)
        # river does not write into the features it is given; a user's own code may.
        self._copies = bool(self._allow)

    @classmethod
    def restored(cls, tree: Tree, task: str, *, allow: Iterable[Callable[..., Any]] = ()) -> Self:
        """A learner from a dump alone, for those who predict and have no configuration.

        Raises :class:`~stream_update.errors.CorruptSnapshot`, also for a model that can
        only predict NaN; a trainer's :meth:`load` takes its own model back as it was.
        """
        allow = tuple(allow)
        model = objects.thaw(tree, allow=allow)
        if where := non_finite(model):
            raise CorruptSnapshot(
                f"{where} is NaN or infinite",
                reason="non-finite",
                hint="the model has diverged, or somebody made it so: look at its metrics",
            )
        return cls(lambda: model, task, allow=allow)

    @property
    def versions(self) -> dict[str, str]:
        """The libraries that a snapshot of it depends on."""
        return {"river": version("river")}

    @property
    def model(self) -> Any:
        """The river object itself."""
        return self._model

    def _use(self, model: Any) -> None:
        self._model = model
        self._calls = calls(model)
        if self._task == "multilabel":
            self._kind = _kinds(model)[-1]
            self._rng = draws(model)

    def describe(self) -> str:
        """The model in a line, for people."""
        return f"{self._model} ({self._task})"

    def predict(self, features: Sequence[Features]) -> Predictions:
        if self._rng is None:
            return self._run(features, [None] * len(features), _learn_nothing)
        with drawn_alike(self._rng):
            return self._run(features, [None] * len(features), _learn_nothing)

    def learn(self, features: Sequence[Features], labels: Sequence[Any]) -> None:
        learn = self._calls.learn_one if self._rng is None else self._draw_and_learn
        index = 0
        try:
            for index, x in enumerate(self._own(features)):
                learn(x, labels[index])
        except LET_THROUGH:
            raise
        except BaseException as error:
            raise LearnerFailed(index, "learn", error, Predictions([])) from error

    def _draw_and_learn(self, x: Features, label: Any) -> None:
        self._calls.predict_one(x)
        self._calls.learn_one(x, label)

    def predict_then_learn(
        self, features: Sequence[Features], labels: Sequence[Any]
    ) -> Predictions:
        return self._run(features, labels, self._calls.learn_one)

    def _run(
        self,
        features: Sequence[Features],
        labels: Sequence[Any],
        learn: Callable[[Features, Any], object],
    ) -> Predictions:
        features = self._own(features)
        label_of, ask, _ = self._calls
        values: list[Any] = []
        probabilities: list[Mapping[Any, float]] = []
        start = 0
        while True:
            index = start
            events = zip(count(start), islice(features, start, None), islice(labels, start, None))
            try:
                if self._task == "multilabel":
                    chances = self._says != "values"
                    answer = answering(self._kind, self._calls, probabilities=chances)
                    for index, x, y in events:  # noqa: B007 - for the failure
                        value, said = answer(x)
                        probabilities.append(said)
                        values.append(value)
                        learn(x, y)
                    return Predictions(values, probabilities if chances else None)
                if ask is None or self._says == "values":
                    for index, x, y in events:  # noqa: B007 - for the failure
                        values.append(label_of(x))
                        learn(x, y)
                    return Predictions(values)
                if self._says == "probabilities":
                    for index, x, y in events:  # noqa: B007 - for the failure
                        said = ask(x)
                        probabilities.append(said)
                        values.append(_likeliest(said))
                        learn(x, y)
                else:
                    for index, x, y in events:  # noqa: B007 - for the failure
                        value = label_of(x)
                        probabilities.append(ask(x))
                        values.append(value)
                        learn(x, y)
                return Predictions(values, probabilities)
            except LET_THROUGH:
                raise
            except BaseException as error:
                phase = "learn" if len(values) > index else "predict"
                if self._has_no_probabilities(error, phase):
                    start = index
                    continue
                made = None if self._says == "values" else probabilities[: len(values)]
                raise LearnerFailed(index, phase, error, Predictions(values, made)) from error

    def _has_no_probabilities(self, error: BaseException, phase: str) -> bool:
        """Whether that is what the error means; from now on only values are asked for.

        A model made of others finds out only when it asks them.
        """
        if self._says == "values" or phase != "predict":
            return False
        if not isinstance(error, NotImplementedError):
            return False
        self._says = "values"
        return True

    def _own(self, features: Sequence[Features]) -> Sequence[Features]:
        return [dict(x) for x in features] if self._copies else features

    def react(self, signal: str) -> None:
        """Start over with a fresh model at a ``"reset"`` or ``"swap"``."""
        if signal in {"reset", "swap"}:
            self._use(self._make())

    def dump(self) -> Tree:
        return objects.freeze(self._model, allow=self._allow)

    def load(self, tree: Tree) -> None:
        """Take the model from a tree; the model of before stays if that fails.

        Raises :class:`~stream_update.errors.CorruptSnapshot`.
        """
        model = objects.thaw(tree, allow=self._allow)
        expected, found = _kinds(self._make()), _kinds(model)
        if found != expected:
            raise CorruptSnapshot(
                f"the snapshot holds {_names(found)}, not {_names(expected)}",
                hint="it was made with another configuration of the learner",
            )
        self._use(model)

    def fingerprint(self) -> str:
        """A digest of a fresh model: its classes, its options and its initial state.

        Raises :class:`~stream_update.errors.ConfigError` if two fresh models differ,
        because then no replay can repeat what this one does.
        """
        model = self._make()
        first, second = (
            objects.digest(objects.freeze(made, allow=self._allow))
            for made in (model, self._make())
        )
        if first != second:
            unseeded = ", ".join(_unseeded(model))
            raise ConfigError(
                f"unseeded randomness: two fresh {_names(_kinds(model))} differ",
                hint=f"set seed: {unseeded or 'each part of the model that draws needs one'}",
            )
        return first


def _likeliest(chances: Mapping[Any, float]) -> Any:
    """The first of the labels with the highest probability, as river takes it."""
    if len(chances) == 2:  # noqa: PLR2004 - the two classes that most streams have
        (one, chance), (other, its_chance) = chances.items()
        return other if its_chance > chance else one
    return max(chances, key=chances.get) if chances else None  # type: ignore[arg-type]


def _learn_nothing(_features: Features, _label: Any) -> None:
    pass


def _kinds(model: Any) -> list[type]:
    """The class of a model, and if it is a pipeline, of the model at its end."""
    kinds = [type(model)]
    # A pipeline from a snapshot may be anything, even its own last step.
    while isinstance(model, compose.Pipeline) and len(kinds) <= MAX_NESTING:
        steps = getattr(model, "steps", None)
        if not isinstance(steps, dict) or not steps:
            break
        model = next(reversed(steps.values()))
        kinds.append(type(model))
    return kinds


def _names(kinds: Iterable[type]) -> str:
    return " ending in ".join(kind.__name__ for kind in kinds)


def _check(model: Any, task: str) -> Says:
    """What to ask the model for. Raises ConfigError if it does not fit the task."""
    if task not in TASKS:
        raise ConfigError(f"task: {task!r} is none", hint=f"one of: {', '.join(TASKS)}")
    cls: Any = _kinds(model)[-1]
    wanted, kind = TASKS[task]
    if not issubclass(cls, wanted) or issubclass(cls, NOT_FOR_EVENTS):
        raise ConfigError(
            f"[learner] {_names(_kinds(model))} is no {kind} of single events, "
            f"which the task {task!r} needs",
            hint=_other(cls, task)
            or f"use a river {kind}, or a river.compose:Pipeline that ends in one",
        )
    if task == "multilabel":
        return "labels and probabilities" if has_probabilities(model) else "values"
    if task == "multiclass" and not model._multiclass:  # noqa: SLF001 -- river's own flag
        raise ConfigError(
            f"[learner] {_names(_kinds(model))} tells only two classes apart",
            hint="wrap the classifier in river.multiclass:OneVsRestClassifier",
        )
    if task == "regression" or cls.predict_proba_one is base.Classifier.predict_proba_one:
        return "values"
    if cls.predict_one is base.Classifier.predict_one:
        return "probabilities"
    return "labels and probabilities"


def _other(cls: type, task: str) -> str:
    """What fits in the place of a model that does not, where that is not far away."""
    if issubclass(cls, base.MultiLabelClassifier):
        return 'set task = "multilabel": its labels are sets of classes'
    if task == "multilabel" and issubclass(cls, base.Classifier):
        return (
            "make it the model of a river.multioutput:ClassifierChain, or the classifier of a "
            "river.multioutput:PerOutputClassifier"
        )
    return ""


def _unseeded(model: Any) -> list[str]:
    """The options that should hold a seed and do not."""
    return [
        f"{path}.seed"
        for path, part in walk(model)
        if getattr(part, "__dict__", {}).get("seed", 0) is None
        # These draw only when they are sampled, and then somebody has seeded them.
        and not isinstance(part, proba.base.Distribution)
    ]
