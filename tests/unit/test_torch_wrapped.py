"""Torch learners inside of others, fed by a lane with events of both kinds."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from river import linear_model, multiclass, preprocessing

from stream_update.events import Alarm, Block, DeadLetter, Features, Outcomes, Unlabelled
from stream_update.lane import Lane
from stream_update.learners.river import RiverLearner
from stream_update.protocols import Learner
from stream_update.wraps import BackgroundTwin, Distilled, Ensemble, Replay
from tests.streams import through_bytes

pytest.importorskip("torch")
pytest.importorskip("safetensors")

from stream_update.learners.torch import TorchLearner

BATCH = 8
EVENTS = 300
SIGNALS = {48: "warning", 104: "swap", 160: "reset", 208: "warning", 248: "swap"}
"""What a monitor says at the event with this offset."""
TORCH: dict[str, Any] = {
    "module": {"use": "mlp", "hidden": [6], "dropout": 0.2},
    "optimizer": {"use": "adam", "lr": 0.01},
    "batch": BATCH,
    "ema": 0.8,
}
PRETRAIN: dict[str, Any] = {"mask": 0.4, "batch": 6, "labelled": True}


def torch(seed: int = 0, **options: Any) -> TorchLearner:
    return TorchLearner("multiclass", seed=seed, **(TORCH | options))


def river() -> RiverLearner:
    def model() -> Any:
        return preprocessing.StandardScaler() | multiclass.OneVsRestClassifier(
            linear_model.LogisticRegression()
        )

    return RiverLearner(model, "multiclass")


def make_member(
    member: Mapping[str, Any], _option: str, number: int
) -> tuple[str, Callable[[], Any]]:
    options = {key: value for key, value in member.items() if key != "use"}
    return member["use"], (lambda: torch(number, **options)) if member["use"] == "torch" else river


def twin() -> Learner:
    return BackgroundTwin(lambda: torch(pretrain=PRETRAIN), stale_after=100)


def replay() -> Learner:
    return Replay(lambda: torch(pretrain=PRETRAIN), "multiclass", replays=3, max_events=20, seed=4)


def ensemble() -> Learner:
    members: list[dict[str, Any]] = [
        {"use": "torch", "pretrain": PRETRAIN},
        {"use": "river"},
        {"use": "torch", "batch": 4, "pretrain": {**PRETRAIN, "batch": 4}},
    ]
    return Ensemble("multiclass", members, combine="weighted", make_member=make_member)


def distil(student: str = "torch", **options: Any) -> Learner:
    return Distilled(
        "multiclass",
        {"use": "torch", "pretrain": PRETRAIN},
        {"use": student, **options},
        unlabelled=True,
        seed=2,
        make_member=make_member,
    )


def both_pretrained() -> Learner:
    return distil(batch=4, pretrain={**PRETRAIN, "batch": 10})


def to_river() -> Learner:
    return distil("river")


class Signals:
    """A monitor that has its signals from a table, and writes down what was predicted."""

    name = "signals"
    reactive = True

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def observe(self, outcomes: Outcomes) -> list[Alarm]:
        self.seen += outcomes.predictions.values
        return [
            Alarm("warning", self.name, "", 0, offset, None, 0, 0, 0, 0, "worse", SIGNALS[offset])
            for offset in outcomes.offsets
            if offset in SIGNALS
        ]

    def report(self) -> dict[str, Any]:
        return {}

    def dump(self) -> Any:
        return list(self.seen)

    def load(self, tree: Any) -> None:
        self.seen = list(tree)


def stream() -> tuple[list[Features], list[Any]]:
    """Labels for three of four events, and more columns and classes in the second half."""
    chance = random.Random(3)
    events, labels = [], []
    for number in range(EVENTS):
        late = number > EVENTS // 2
        event = {name: chance.gauss(1, 1) for name in ("abcd" if late else "abc")}
        total = int(abs(event["a"] + event["b"]))
        known = number % 4 and number > 20
        labels.append("xyzuv"[total % (5 if late else 3)] if known or number in SIGNALS else None)
        events.append(event)
    return events, labels


def block(events: Sequence[Features], labels: Sequence[Any], first: int) -> Block:
    places = range(first, first + len(events))
    labelled = [i for i, label in enumerate(labels) if label is not None]
    others = [i for i, label in enumerate(labels) if label is None]

    def letters(index: int, reason: str, detail: str) -> DeadLetter:
        raise AssertionError(f"{index}: {reason}: {detail}")

    return Block(
        0, first, first + len(events), len(events), [places[i] for i in labelled],
        [events[i] for i in labelled], [labels[i] for i in labelled], len(others), [],
        lambda _: None, letters, 0,
        Unlabelled([places[i] for i in others], [events[i] for i in others], letters),
    )  # fmt: skip


@pytest.mark.parametrize("make", [twin, replay, ensemble, to_river, both_pretrained])
def test_cuts_and_answers_between_change_nothing(make: Callable[[], Learner]) -> None:
    events, labels = stream()

    def fed(cuts: Sequence[int], *, restored: bool) -> Any:
        lane = Lane(make(), [Signals()], {0: 0})
        for start, stop in zip([0, *cuts], [*cuts, EVENTS], strict=True):
            if restored:
                state = through_bytes(lane.freeze())
                lane = Lane(make(), [Signals()], {0: 0})
                lane.thaw(state)
                assert through_bytes(lane.freeze()) == state
                lane.learner.predict(events[start : start + BATCH])
            lane.feed(block(events[start:stop], labels[start:stop], start))
        lane.runs.clear()
        return lane.freeze(), lane.learner.predict(events)

    whole = fed([], restored=False)
    chance = random.Random(5)
    assert len(set(whole[0]["monitors"]["signals"][-50:])) > 1
    for _ in range(2):
        cuts = sorted(chance.sample(range(1, EVENTS), 25))
        assert fed(cuts, restored=True) == whole
