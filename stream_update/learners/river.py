"""River's classifiers, regressors and pipelines as learners, one event at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

from river import base, compose

from stream_update import objects
from stream_update.errors import ConfigError, CorruptSnapshot, LearnerFailed
from stream_update.events import Features, Predictions, Tree

__all__ = ["RiverLearner"]

PASSED_ON = (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError)
"""Not the event's fault. Everything else is, also what is no Exception: a panic in
river's compiled parts is a BaseException."""


class RiverLearner:
    """A river estimator behind the learner's seam.

    ``make`` builds a fresh estimator, ``task`` is ``"binary"``, ``"multiclass"`` or
    ``"regression"``, ``allow`` lists classes of one's own that it is made of. Values are
    those of ``predict_one``, probabilities those of ``predict_proba_one``.

    Raises :class:`ConfigError` if the estimator does not fit the task.
    """

    batch = 1

    def __init__(
        self, make: Callable[[], Any], task: str, *, allow: Iterable[type] = ()
    ) -> None:
        self._make = make
        self._task = task
        self._allow = tuple(allow)
        self._adopt(make())
        _check_task(self.model, task)

    @classmethod
    def restored(cls, tree: Tree, task: str, *, allow: Iterable[type] = ()) -> Self:
        """A learner from a dump alone, for those who predict and have no configuration."""
        allow = tuple(allow)
        model = objects.thaw(tree, allow=allow)
        return cls(lambda: model, task, allow=allow)

    def _adopt(self, model: Any) -> None:
        self.model = model
        last = _last_step(model)
        self._by_value_only = not isinstance(last, base.Classifier) or (
            type(last).predict_proba_one is base.Classifier.predict_proba_one
        )
        # Where predict_one is the inherited one it is the argmax of the probabilities, and
        # need not compute them a second time.
        self._argmax = (
            not self._by_value_only and type(last).predict_one is base.Classifier.predict_one
        )

    def predict(self, features: Sequence[Features]) -> Predictions:
        return self._pass(features, None)

    def predict_then_learn(
        self, features: Sequence[Features], labels: Sequence[Any]
    ) -> Predictions:
        return self._pass(features, labels)

    def _pass(self, features: Sequence[Features], labels: Sequence[Any] | None) -> Predictions:
        """Predict each event, and learn it before the next one if there are labels."""
        values: list[Any] = []
        probabilities: list[Any] = []
        say, share = values.append, probabilities.append
        predict_one, learn_one = self.model.predict_one, self.model.learn_one
        predict_proba_one = None if self._by_value_only else self.model.predict_proba_one
        argmax, phase = self._argmax, "predict"
        try:
            if predict_proba_one is None:
                for index, x in enumerate(features):
                    phase = "predict"
                    say(predict_one(x))
                    if labels is not None:
                        phase = "learn"
                        learn_one(x, labels[index])
            else:
                for index, x in enumerate(features):
                    phase = "predict"
                    probability = predict_proba_one(x)
                    if not argmax:
                        value = predict_one(x)
                    elif probability:
                        value = max(probability, key=probability.get)
                    else:
                        value = None
                    say(value)
                    share(probability)
                    if labels is not None:
                        phase = "learn"
                        learn_one(x, labels[index])
        except PASSED_ON:
            raise
        except BaseException as error:
            made = Predictions(values, None if predict_proba_one is None else probabilities)
            raise LearnerFailed(index, phase, error, made) from error
        return Predictions(values, None if predict_proba_one is None else probabilities)

    def learn(self, features: Sequence[Features], labels: Sequence[Any]) -> None:
        learn_one = self.model.learn_one
        try:
            for index, (x, y) in enumerate(zip(features, labels, strict=True)):
                learn_one(x, y)
        except PASSED_ON:
            raise
        except BaseException as error:
            raise LearnerFailed(index, "learn", error, Predictions([])) from error

    def react(self, signal: str) -> None:
        """``"reset"`` and ``"swap"`` start afresh; a warning changes nothing here."""
        if signal in {"reset", "swap"}:
            self._adopt(self._make())

    def dump(self) -> Tree:
        return objects.freeze(self.model, allow=self._allow)

    def load(self, tree: Tree) -> None:
        model = objects.thaw(tree, allow=self._allow)
        if type(model) is not type(self.model):
            raise CorruptSnapshot(
                f"the snapshot holds a {type(model).__name__}, the configuration builds a "
                f"{type(self.model).__name__}"
            )
        self._adopt(model)

    def fingerprint(self) -> str:
        """What a fresh model is: its classes, parameters and first state, as a digest.

        Raises :class:`ConfigError` if two fresh models differ, because then the model
        would not be a function of its events.
        """
        first, second = (
            objects.digest(objects.freeze(self._make(), allow=self._allow)) for _ in range(2)
        )
        if first != second:
            raise ConfigError(
                f"learner: two fresh models of {self.describe()} differ: unseeded randomness",
                hint="give a seed to every part that draws random numbers",
            )
        return first

    def describe(self) -> str:
        """The estimator in one line."""
        model = self.model
        if isinstance(model, compose.Pipeline):
            return " | ".join(type(step).__name__ for step in model.steps.values())
        return type(model).__name__


def _last_step(model: Any) -> Any:
    while isinstance(model, compose.Pipeline):
        model = next(reversed(model.steps.values()))
    return model


def _check_task(model: Any, task: str) -> None:
    last = _last_step(model)
    name = type(last).__name__
    if task == "regression":
        if not isinstance(last, base.Regressor):
            raise ConfigError(
                f'learner: task = "regression" needs a regressor; {name} is none',
                hint="for example river.linear_model:LinearRegression",
            )
        return
    if not isinstance(last, base.Classifier):
        raise ConfigError(
            f'learner: task = "{task}" needs a classifier; {name} is none',
            hint="for example river.linear_model:LogisticRegression",
        )
    if task == "multiclass" and not last._multiclass:  # noqa: SLF001 - river's own way to ask
        raise ConfigError(
            f'learner: {name} knows two classes only, and task = "multiclass"',
            hint="wrap it: river.multiclass:OneVsRestClassifier with classifier = { use = ... }",
        )
