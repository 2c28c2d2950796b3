"""river's pipelines without their bookkeeping: the same calls on the same steps.

A pipeline looks up its plan and sorts out keyword arguments at every event, which for a
scaler before a linear model is a seventh of the whole time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from river import base, compose

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
    # Supervised ones learn after they have transformed, as in river.
    plan = [
        (step.learn_one, step.transform_one, step._supervised)  # noqa: SLF001 - river's own flag
        for step in transformers
    ]
    ask = getattr(last, "predict_proba_one", None)
    return Calls(
        _through(transforms, last.predict_one),
        None if ask is None else _through(transforms, ask),
        _learning(plan, last.learn_one),
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
    plan: list[tuple[Callable[..., object], Callable[[Any], Any], bool]],
    final: Callable[[Any, Any], object],
) -> Callable[[Any, Any], None]:
    def learn(x: Any, y: Any) -> None:
        for learn_step, transform, supervised in plan:
            if supervised:
                before, x = x, transform(x)
                learn_step(before, y)
            else:
                learn_step(x)
                x = transform(x)
        final(x, y)

    return learn


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
