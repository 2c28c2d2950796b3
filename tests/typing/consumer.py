"""Code as a user of this package writes it; checked by mypy, never executed.

A type that gets lost shows in an ``assert_type``. Where the package has to refuse
something there is a ``type: ignore`` with its code: mypy is told to report those that
nothing needs any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, assert_type

import stream_update
from stream_update import (
    Config,
    ConfigError,
    ModelSubscriber,
    NoModelYet,
    StreamUpdateError,
    Trainer,
    load,
)
from stream_update.events import Alarm, Features, Outcomes, Predictions, Tree
from stream_update.protocols import Learner, Log, Monitor


class Majority:
    """A learner of one's own: it counts."""

    batch = 1

    def __init__(self) -> None:
        self.counts: dict[Any, int] = {}

    def predict(self, features: Sequence[Features]) -> Predictions:
        best = max(self.counts, key=self.counts.__getitem__, default=None)
        return Predictions([best] * len(features))

    def learn(self, features: Sequence[Features], labels: Sequence[Any]) -> None:
        for label in labels:
            self.counts[label] = self.counts.get(label, 0) + 1

    def predict_then_learn(
        self, features: Sequence[Features], labels: Sequence[Any]
    ) -> Predictions:
        values = []
        for x, label in zip(features, labels, strict=True):
            values += self.predict([x]).values
            self.learn([x], [label])
        return Predictions(values)

    def react(self, signal: str) -> None:
        if signal == "reset":
            self.counts.clear()

    def dump(self) -> Tree:
        return dict(self.counts)

    def load(self, tree: Tree) -> None:
        self.counts = tree


class Costs:
    """A monitor of one's own: what wrong predictions cost."""

    name = "costs"
    reactive = False

    def __init__(self) -> None:
        self.total = 0.0

    def observe(self, outcomes: Outcomes) -> Sequence[Alarm]:
        for label, value in zip(outcomes.labels, outcomes.predictions.values, strict=True):
            self.total += label != value
        return ()

    def report(self) -> Mapping[str, Any]:
        return {"costs": self.total}

    def dump(self) -> Tree:
        return self.total

    def load(self, tree: Tree) -> None:
        self.total = tree


learner: Learner = Majority()
monitor: Monitor = Costs()
not_a_monitor: Monitor = Majority()  # type: ignore[assignment]


def settings() -> Config:
    config = load("app.toml", overrides=["checkpoint.events=500"])
    assert_type(config.checkpoint.events, int)
    assert_type(config.topic("snapshots"), str)
    config.app = "other"  # type: ignore[misc]
    return config


def predict(features: Features) -> str:
    with ModelSubscriber("app", log="sqlite:///app.db") as model:
        assert_type(model, ModelSubscriber)
        model.wait(timeout_s=5.0)
        assert_type(model.predict_one(features, key="ann"), Any)
        assert_type(model.predict_many([features, features]), list[Any])
        assert_type(model.learned_up_to, dict[int, int])
        assert_type(model.age, float)
        model.version = "app@1"  # type: ignore[misc]
        model.predict_one([1.0, 2.0])  # type: ignore[arg-type]
        return model.version


def train(log: Log) -> int:
    trainer = Trainer(settings(), log, max_events=1000, stop_when="accuracy < 0.7 over 500")
    Trainer("app.toml", log)  # type: ignore[arg-type]
    Trainer(settings(), log, True)  # type: ignore[call-arg]
    return len(trainer.run())


def names(log: Log) -> list[str]:
    with log, log.reader() as reader:
        for batch in reader.poll(timeout_s=1.0):
            assert_type(batch.values, Sequence[bytes | None])
        reader.poll("soon")  # type: ignore[arg-type]
        return sorted(log.topics())


def explain(error: StreamUpdateError) -> int:
    if isinstance(error, (ConfigError, NoModelYet)):
        print(error, error.hint)
    assert_type(error.exit_code, int)
    return error.exit_code


def misspelt() -> object:
    return stream_update.ModelSubscribre  # type: ignore[attr-defined]
