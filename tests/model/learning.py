"""Light learners whose every answer depends on everything learned before, and their events."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from river import linear_model

from stream_update.codecs import JsonCodec
from stream_update.config import Source
from stream_update.errors import LearnerFailed
from stream_update.events import Alarm, Features, Outcomes, Predictions, Tree
from stream_update.lane import Lane, Stateful
from stream_update.learners.river import RiverLearner
from stream_update.plans import Kit
from stream_update.protocols import Learner

__all__ = ["KINDS", "LEARNERS", "SOURCE", "Counting", "Telling", "event", "fresh_kit"]

SOURCE = Source(topic="events", label="label", features="*", id="id", duplicate_window=20)

KINDS = ["good", "good", "good", "bad", "twice", "poison", "unlabelled"]


def event(kind: str, number: int) -> bytes:
    """``twice`` has the id of the event before it, ``poison`` breaks a :class:`Counting`."""
    if kind == "bad":
        return b"{" + str(number).encode()
    value: dict[str, Any] = {
        "id": str(number - (kind == "twice")),
        "x": (number * 7 % 11) / 4,
        "poison": kind == "poison",
        "label": None if kind == "unlabelled" else number % 3 == 0,
    }
    return json.dumps(value).encode()


class Counting:
    """Predicts a number made of all that it has learned, in that order."""

    batch = 1

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0

    def predict(self, features: Sequence[Features]) -> Predictions:
        return Predictions([float(self.sum)] * len(features))

    def learn(self, features: Sequence[Features], labels: Sequence[Any]) -> None:
        for index, (x, y) in enumerate(zip(features, labels, strict=True)):
            self.count += 1
            if x["poison"]:
                cause = ValueError("poison")
                raise LearnerFailed(index, "learn", cause, Predictions([]))
            self.sum = zlib.crc32(f"{x['x']} {y}".encode(), self.sum)

    def predict_then_learn(
        self, features: Sequence[Features], labels: Sequence[Any]
    ) -> Predictions:
        values: list[Any] = []
        for index, (x, y) in enumerate(zip(features, labels, strict=True)):
            values += self.predict([x]).values
            try:
                self.learn([x], [y])
            except LearnerFailed as error:
                raise LearnerFailed(index, "learn", error.cause, Predictions(values)) from None
        return Predictions(values)

    def react(self, signal: str) -> None:
        """There is nothing to react to."""

    def dump(self) -> Tree:
        return [self.count, self.sum]

    def load(self, tree: Tree) -> None:
        self.count, self.sum = tree


class Telling:
    """Says the outcome of every event, so that every event leaves something in the log."""

    name = "outcomes"
    reactive = False

    def __init__(self) -> None:
        self.count = 0

    def observe(self, outcomes: Outcomes) -> list[Alarm]:
        values, probabilities = outcomes.predictions
        alarms = []
        for i, (offset, label) in enumerate(zip(outcomes.offsets, outcomes.labels, strict=True)):
            self.count += 1
            answer = float(values[i] or 0) if probabilities is None else probabilities[i][True]
            where = (outcomes.partition, offset, None, self.count)
            alarms.append(Alarm("told", "outcomes", "", *where, answer, float(label), 0.0, ""))
        return alarms

    def report(self) -> Mapping[str, Any]:
        return {"count": self.count}

    def dump(self) -> Tree:
        return self.count

    def load(self, tree: Tree) -> None:
        self.count = tree


def _river() -> Learner:
    return RiverLearner(linear_model.LogisticRegression, "binary")


LEARNERS: dict[str, Callable[[], Learner]] = {"counting": Counting, "river": _river}


def fresh_kit(learner: str, start: Mapping[int, int]) -> Kit:
    """A lane that has learned nothing, put together as an application's is."""
    codec = JsonCodec(SOURCE, "binary")
    assert codec.duplicates is not None
    extras: dict[str, Stateful] = {
        "labels": codec.schema,
        "names": codec.names,
        "duplicates": codec.duplicates,
    }
    lane = Lane(LEARNERS[learner](), [Telling()], start, extras=extras)
    return Kit(lane, codec.decode, lambda: 0.0)
