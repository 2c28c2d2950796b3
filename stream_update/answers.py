"""Answers to single events, and failures at them, as those of a whole call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stream_update.errors import LearnerFailed
from stream_update.events import Features, Predictions
from stream_update.protocols import Learner

__all__ = ["applying", "certain", "in_turn", "joined", "one_by_one"]

HALF = 0.5


def applying(probabilities: Mapping[Any, float]) -> dict[Any, bool]:
    """Of several classes, each by itself, which apply: those that more likely do than not."""
    return {name: chance > HALF for name, chance in probabilities.items()}


def certain(value: Any) -> dict[Any, float]:
    """A label, or which of several classes apply, as probabilities; empty for None."""
    if isinstance(value, Mapping):
        return {name: float(applies) for name, applies in value.items()}
    return {} if value is None else {value: 1.0}


def in_turn(
    step: Callable[[Features, Any], Predictions],
    features: Sequence[Features],
    labels: Sequence[Any],
) -> Predictions:
    """What ``step`` answers to each event, joined.

    A :class:`~stream_update.errors.LearnerFailed` of a step becomes one that names the event's
    position, with the predictions made until then.
    """
    answers: list[Predictions] = []
    for index, (event, label) in enumerate(zip(features, labels, strict=True)):
        try:
            answers.append(step(event, label))
        except LearnerFailed as failure:
            made = joined([*answers, failure.predictions])
            raise LearnerFailed(index, failure.phase, failure.cause, made) from failure.cause
    return joined(answers)


def one_by_one(
    learner: Learner, features: Sequence[Features], labels: Sequence[Any]
) -> Predictions:
    """What a learner answers that predicts and learns each event by itself."""

    def step(event: Features, label: Any) -> Predictions:
        said = learner.predict([event])
        try:
            learner.learn([event], [label])
        except LearnerFailed as failure:
            raise LearnerFailed(0, failure.phase, failure.cause, said) from failure.cause
        return said

    return in_turn(step, features, labels)


def joined(answers: Sequence[Predictions]) -> Predictions:
    """The answers to single events as one; without probabilities if any had none."""
    values = [value for answer in answers for value in answer.values]
    probabilities: list[Mapping[Any, float]] = []
    for answer in answers:
        if answer.probabilities is not None:
            probabilities.extend(answer.probabilities)
    complete = len(probabilities) == len(values)
    return Predictions(values, probabilities if complete else None)
