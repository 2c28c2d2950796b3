"""river's pipelines without their bookkeeping: the same calls on the same steps.

A pipeline looks up its plan and sorts out keyword arguments at every event, which for a
scaler before a linear model is a seventh of the whole time. Its usual first step, the
standard scaler, learns and transforms in one go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from river import base, compose, preprocessing

__all__ = ["Calls", "calls"]


class Calls(NamedTuple):
    """What one event asks of a model."""

    predict_one: Callable[[Any], Any]
    predict_proba_one: Callable[[Any], Any] | None
    learn_one: Callable[[Any, Any], object]


def calls(model: Any) -> Calls:
    """Those of the model itself, or, if it is a plain pipeline, straight to its steps.

    Holds for the steps that the model has now. What learns and predicts is the model's own.
    """
    steps = _plain_steps(model)
    if steps is None:
        return Calls(model.predict_one, getattr(model, "predict_proba_one", None), model.learn_one)
    *transformers, last = steps
    transforms = [step.transform_one for step in transformers]
    learns = list(map(_learning_transform, transformers))
    ask = getattr(last, "predict_proba_one", None)
    return Calls(
        _through(transforms, last.predict_one),
        None if ask is None else _through(transforms, ask),
        _learning(learns, last.learn_one),
    )


def _through(
    transforms: list[Callable[[Any], Any]], final: Callable[[Any], Any]
) -> Callable[[Any], Any]:
    if len(transforms) == 1:
        (transform,) = transforms
        return lambda x: final(transform(x))

    def run(x: Any) -> Any:
        for transform in transforms:
            x = transform(x)
        return final(x)

    return run


def _learning(
    learns: list[Callable[[Any, Any], Any]], final: Callable[[Any, Any], object]
) -> Callable[[Any, Any], object]:
    if len(learns) == 1:
        (learn,) = learns
        return lambda x, y: final(learn(x, y), y)

    def run(x: Any, y: Any) -> None:
        for learn in learns:
            x = learn(x, y)
        final(x, y)

    return run


def _learning_transform(step: Any) -> Callable[[Any, Any], Any]:
    """Lets a transformer learn an event, and gives what it makes of it for the next step."""
    if type(step) is preprocessing.StandardScaler and step.with_std and step.window_size is None:
        return _scaling(step)
    learn_one, transform_one = step.learn_one, step.transform_one
    if step._supervised:  # noqa: SLF001 - river's own flag

        def supervised(x: Any, y: Any) -> Any:
            # As in river, these learn after they have transformed.
            after = transform_one(x)
            learn_one(x, y)
            return after

        return supervised

    def unsupervised(x: Any, _y: Any) -> Any:
        learn_one(x)
        return transform_one(x)

    return unsupervised


def _scaling(scaler: preprocessing.StandardScaler) -> Callable[[Any, Any], Any]:
    """``learn_one`` and ``transform_one`` of river's scaler in one loop over the features.

    The same operations on the same numbers in the same order, so the same state and the same
    answer to the last bit, with a third of the look-ups.
    """

    def run(x: Any, _y: Any) -> dict[Any, float]:
        counts, means, variances = scaler.counts, scaler.means, scaler.vars
        scaled = {}
        for name, value in x.items():
            counts[name] = count = counts[name] + 1
            old = means[name]
            apart = value - old
            means[name] = mean = old + apart / count
            variance = variances[name]
            apart_now = value - mean
            variances[name] = variance = variance + (apart * apart_now - variance) / count
            scaled[name] = apart_now / variance**0.5 if variance else 0.0
        return scaled

    return run


def _plain_steps(model: Any) -> list[Any] | None:
    """The steps of a pipeline of transformers before a model, or None if it is another."""
    if type(model) is not compose.Pipeline or not model.steps:
        return None
    *before, last = model.steps.values()
    if all(map(_is_plain_transformer, before)) and _is_plain_model(last):
        return [*before, last]
    return None


def _is_plain_transformer(step: Any) -> bool:
    return isinstance(step, base.Transformer) and not isinstance(
        step, compose.TransformerUnion | base.AnomalyFilter
    )


def _is_plain_model(step: Any) -> bool:
    return (
        isinstance(step, base.Classifier | base.MultiLabelClassifier | base.Regressor)
        and not isinstance(step, compose.Pipeline | base.Transformer | base.AnomalyFilter)
        and bool(step._supervised)  # noqa: SLF001 - river's own flag
    )
