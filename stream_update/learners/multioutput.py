"""river's models that answer for several classes at once, asked as others are.

What river says of a class is a probability of False and one of True. Here the answer is whether
the class applies, and the probability that it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from river import base, compose, multioutput

from stream_update.errors import ConfigError
from stream_update.learners.pipelines import Calls

__all__ = ["Answer", "answering", "check_size", "drawn_alike", "draws", "has_probabilities"]

MOST_CLASSES = 15
"""Cheng, Huellermeier and Dembczynski (2010) advise no more for exact inference: the answer is
searched among all sets of classes."""


class Answer(NamedTuple):
    """For each class whether it applies, and how probable that is; empty without."""

    value: dict[Any, bool]
    probabilities: dict[Any, float]


def answering(cls: type, ask: Calls, *, probabilities: bool) -> Callable[[Any], Answer]:
    """What asks a model of this class for one event; as often as river itself would.

    ``predict_one`` of river takes the likelier of the two, False if they are equal and come
    in that order, and says nothing of a class that has no probabilities yet. So is it here.
    """
    label_of, proba_of, _ = ask
    if proba_of is None or not probabilities:
        return lambda x: Answer(_whether(label_of(x)), {})
    if cls.predict_one is base.MultiLabelClassifier.predict_one:  # type: ignore[attr-defined]

        def from_probabilities(x: Any) -> Answer:
            said = proba_of(x)
            value = {
                name: bool(max(chances, key=chances.__getitem__))
                for name, chances in said.items()
                if chances
            }
            return Answer(value, _applying(said))

        return from_probabilities
    return lambda x: Answer(_whether(label_of(x)), _applying(proba_of(x)))


def _whether(said: Mapping[Any, Any]) -> dict[Any, bool]:
    return {name: bool(applies) for name, applies in said.items() if applies is not None}


def _applying(said: Mapping[Any, Mapping[Any, float]]) -> dict[Any, float]:
    return {name: chances.get(True, 0.0) for name, chances in said.items() if chances}


def _end(model: Any) -> Any:
    while isinstance(model, compose.Pipeline):
        model = next(reversed(model.steps.values()))
    return model


def draws(model: Any) -> Any | None:
    """The generator that a model draws from to predict, None if it draws nothing."""
    last = _end(model)
    return last._rng if isinstance(last, multioutput.MonteCarloClassifierChain) else None  # noqa: SLF001


@contextmanager
def drawn_alike(rng: Any | None) -> Iterator[None]:
    """Let the generator be afterwards as it was, so that to be asked changes nothing."""
    if rng is None:
        yield
        return
    before = rng.getstate()
    try:
        yield
    finally:
        rng.setstate(before)


def check_size(model: Any, classes: int) -> None:
    """Raise :class:`ConfigError` for a model that takes too long with so many classes."""
    last = _end(model)
    exact = isinstance(last, multioutput.ProbabilisticClassifierChain)
    if exact and draws(last) is None and classes > MOST_CLASSES:
        raise ConfigError(
            f"[learner] {type(last).__name__}: it tries every set of classes, and there may be "
            f"{classes} of them",
            hint=f"set source.max_classes to {MOST_CLASSES} or less, or use "
            "river.multioutput:MonteCarloClassifierChain",
        )


def has_probabilities(model: Any) -> bool:
    """Whether it says how probable classes are.

    Raises :class:`ConfigError` if it is made of what cannot be in it.
    """
    model = _end(model)
    if type(model).predict_proba_one is base.MultiLabelClassifier.predict_proba_one:
        return False
    part = _end(getattr(model, "model", getattr(model, "classifier", None)))
    if part is None:
        return True
    name = f"{type(model).__name__} of {type(part).__name__}"
    if not isinstance(part, base.Classifier):
        raise ConfigError(
            f"[learner] {name}: it asks its part for one class, and that is no classifier",
            hint="use a river classifier, or a river.compose:Pipeline that ends in one",
        )
    if isinstance(model, multioutput.MultiClassEncoder) and not part._multiclass:  # noqa: SLF001
        raise ConfigError(
            f"[learner] {name}: there each set of classes is a class of its own, and that tells "
            "only two apart",
            hint="wrap the classifier in river.multiclass:OneVsRestClassifier",
        )
    if type(part).predict_proba_one is not base.Classifier.predict_proba_one:
        return True
    if not isinstance(model, multioutput.PerOutputClassifier):
        raise ConfigError(
            f"[learner] {name}: it needs probabilities, and that has none",
            hint="use a classifier with predict_proba_one, or "
            "river.multioutput:PerOutputClassifier, which can do without",
        )
    return False
