"""The laws that are given to others: kept by ours, and each broken by somebody."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
from river import drift, linear_model, preprocessing, tree

from stream_update import plugins
from stream_update.components import components
from stream_update.config import parse
from stream_update.events import Alarm, Features, Outcomes, Predictions, Table, Tree
from stream_update.learners.river import RiverLearner
from stream_update.monitors.drift import DriftMonitor
from stream_update.monitors.prequential import Prequential
from stream_update.testing import check_learner, check_monitor

chance = random.Random(1)
EVENTS: list[Features] = [
    {"a": chance.gauss(0, 1), **({"b": chance.gauss(0, 2)} if index % 3 else {})}
    for index in range(60)
]
LABELS = [event["a"] > 0 for event in EVENTS]
OUTCOMES = Outcomes(
    0,
    range(400),
    [index > 200 for index in range(400)],
    Predictions([False] * 400),
    lambda index: index,
)


@pytest.mark.parametrize(
    "model",
    [
        lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(),
        lambda: tree.HoeffdingTreeClassifier(grace_period=10),
    ],
    ids=["logistic regression", "tree"],
)
def test_ours_keep_them(model: Callable[[], Any]) -> None:
    check_learner(lambda: RiverLearner(model, "binary"), EVENTS, LABELS)


def test_our_monitors_keep_them() -> None:
    check_monitor(lambda: Prequential("binary", ["accuracy"], window=50), OUTCOMES)
    check_monitor(
        lambda: DriftMonitor("binary", make_detector=drift.ADWIN, detector_name="ADWIN"), OUTCOMES
    )


class Mean:
    """Predicts the mean of the labels so far; ``fault`` says which law it breaks."""

    made = 0

    def __init__(self, fault: str = "", batch: int = 1) -> None:
        Mean.made += 1
        self.batch = batch
        self.fault = fault
        self.takes_tables = "table" in fault
        self.sum, self.count = 0.0, 0
        if fault == "seed":
            self.sum = float(Mean.made)

    def predict(self, features: Sequence[Features]) -> Predictions:
        value = self.sum / max(1, self.count)
        if self.fault == "answers to a table" and isinstance(features, Table):
            value += 1.0
        if self.fault == "predict":
            self.sum += 1.0
        if self.fault == "later":
            self.count += self.count > 0
        return Predictions([value] * len(features))

    def learn(self, features: Sequence[Features], labels: Sequence[Any]) -> None:
        if self.fault == "input":
            features[0]["more"] = 1.0
        if self.fault == "learns a table" and isinstance(features, Table):
            self.sum += 1e-9
        self.sum += sum(map(float, labels))
        self.count += len(labels)

    def predict_then_learn(
        self, features: Sequence[Features], labels: Sequence[Any]
    ) -> Predictions:
        if self.fault == "block" or (
            self.fault == "block of a table" and isinstance(features, Table)
        ):
            said = self.predict(features)
            self.learn(features, labels)
            return said
        values = []
        for event, label in zip(features, labels, strict=True):
            values += self.predict([event]).values
            self.learn([event], [label])
        return Predictions(values)

    def react(self, signal: str) -> None:
        """Nothing."""

    def dump(self) -> Tree:
        return {"sum": self.sum} if self.fault == "dump" else {"sum": self.sum, "n": self.count}

    def load(self, state: Tree) -> None:
        if self.fault == "load":
            self.sum += state["sum"]
        else:
            self.sum = state["sum"]
        self.count = state.get("n", self.count)


@pytest.mark.parametrize("batch", [1, 8])
def test_a_learner_of_ones_own(batch: int) -> None:
    check_learner(lambda: Mean(batch=batch), EVENTS, LABELS)
    with pytest.raises(ValueError, match="or more"):
        check_learner(lambda: Mean(batch=batch), EVENTS[:3], LABELS[:3])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("seed", "two fresh learners"),
        ("answers to a table", "as a table it says other"),
        ("learns a table", "as a table it"),
        ("block of a table", "predict_then_learn of events as a table"),
        ("predict", "to predict other events changed"),
        ("later", "to predict other events changed"),
        ("input", "events were changed"),
        ("dump", "what was loaded"),
        ("load", "what was loaded dumps something else"),
        ("block", "predict_then_learn of 3 events at once says other things"),
    ],
)
def test_who_breaks_one_is_told_which(fault: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_learner(lambda: Mean(fault), [dict(event) for event in EVENTS], LABELS)


class Count:
    """Alarms at every tenth outcome; ``fault`` says which law it breaks."""

    name, reactive = "count", False

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.seen = 0

    def observe(self, outcomes: Outcomes) -> Sequence[Alarm]:
        if self.fault == "block":
            self.seen += 1
            return []
        alarms = []
        for offset in outcomes.offsets:
            self.seen += 1
            if self.seen % 10 == 0:
                alarms.append(
                    Alarm("drift", "count", "ten", 0, offset, None, self.seen, 0.0, 0.0, 0.0, "")
                )
        return alarms

    def report(self) -> Mapping[str, Any]:
        return {"seen": self.seen}

    def dump(self) -> Tree:
        return {"seen": self.seen}

    def load(self, state: Tree) -> None:
        if self.fault != "load":
            self.seen = state["seen"]


def test_a_monitor_of_ones_own() -> None:
    check_monitor(Count, OUTCOMES)
    for fault, message in (("block", "make another report"), ("load", "brings other alarms")):
        with pytest.raises(AssertionError, match=message):
            check_monitor(partial(Count, fault), OUTCOMES)
    with pytest.raises(ValueError, match="4 or more"):
        check_monitor(Count, Outcomes(0, [0], [True], Predictions([True]), lambda _: None))


# -- every declared learner

SCALED = {
    "use": "river.compose:Pipeline",
    "steps": [
        {"use": "river.preprocessing:StandardScaler"},
        {"use": "river.linear_model:LogisticRegression"},
    ],
}
NETWORK = {
    "use": "torch",
    "module": {"use": "mlp", "hidden": [4]},
    "optimizer": {"use": "adam", "lr": 0.01},
    "batch": 8,
}
DECLARED: dict[str, dict[str, Any]] = {
    "river": SCALED,
    "compiled": {"use": "compiled", "model": SCALED},
    "torch": NETWORK,
    "ensemble": {"use": "ensemble", "members": [SCALED, SCALED]},
    "distil": {"use": "distil", "teacher": SCALED, "student": SCALED},
    "recommender": {"use": "recommender", "dim": 4, "batch": 8, "max_users": 8},
}


def test_none_is_left_out() -> None:
    assert plugins.names(plugins.LEARNERS) == sorted(DECLARED)


@pytest.mark.parametrize("wraps", [[], ["replay"], ["twin"]], ids=["alone", "replay", "twin"])
@pytest.mark.parametrize("name", DECLARED)
def test_every_declared_learner_keeps_them(name: str, wraps: list[str]) -> None:
    if name in {"torch", "recommender"}:
        pytest.importorskip("torch")
        pytest.importorskip("safetensors")
    config = parse(
        {
            "app": "laws",
            "log": "sqlite:///laws.db",
            "task": "binary",
            "source": {"topic": "laws.labelled"},
            "learner": DECLARED[name],
            "wrap": [{"use": wrap} for wrap in wraps],
        }
    )
    events = [
        {**event, "user": index * index % 11, "item": index % 5}
        for index, event in enumerate(EVENTS)
    ]
    check_learner(components(config).make_learner, events, LABELS)
