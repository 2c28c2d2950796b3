"""The laws of learners, for every learner made of learners, as a configuration makes it."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from stream_update import plugins
from stream_update.components import Components, allowed, components
from stream_update.config import parse
from stream_update.errors import ConfigError
from stream_update.events import Predictions
from stream_update.protocols import Learner
from tests.streams import through_bytes

Table = dict[str, Any]

TASKS = ("binary", "multiclass", "multilabel", "regression")
BATCH = 8
SCALER: Table = {"use": "river.preprocessing:StandardScaler"}
RIVER: dict[str, Table] = {
    "binary": {"use": "river.linear_model:LogisticRegression"},
    "multiclass": {"use": "river.tree:HoeffdingTreeClassifier", "grace_period": 20},
    "multilabel": {
        "use": "river.multioutput:ClassifierChain",
        "model": {"use": "river.tree:HoeffdingTreeClassifier", "grace_period": 20},
    },
    "regression": {
        "use": "river.compose:Pipeline",
        "steps": [SCALER, {"use": "river.linear_model:LinearRegression", "intercept_lr": 0.1}],
    },
}
TORCH: Table = {
    "use": "torch",
    "module": {"use": "mlp", "hidden": [6]},
    "optimizer": {"use": "adam", "lr": 0.01},
    "batch": BATCH,
}


def kinds() -> dict[str, Any]:
    """By name: the learner's table of a task, and the wraps."""

    def torch_or_river(use: str) -> Any:
        return lambda task: RIVER[task] if use == "river" else TORCH

    found: dict[str, Any] = {}
    for use in ("river", "torch"):
        for name, wraps in {
            "twin": [{"use": "twin"}],
            "reservoir": [{"use": "replay", "max_events": 40}],
            "class-balanced": [{"use": "replay", "buffer": "class-balanced", "max_events": 40}],
            "recency": [{"use": "replay", "buffer": "recency", "max_bytes": 900, "replays": 3}],
            "twin of replay": [{"use": "replay", "max_events": 40}, {"use": "twin"}],
        }.items():
            found[f"{name} of {use}"] = (torch_or_river(use), wraps)

    def ensemble(combine: str, *uses: str) -> Any:
        members = [torch_or_river(use) for use in uses]
        return lambda task: {
            "use": "ensemble",
            "combine": combine,
            "members": [member(task) for member in members],
        }

    def distilled(teacher: str, student: str) -> Any:
        of = {"teacher": torch_or_river(teacher), "student": torch_or_river(student)}
        return lambda task: {"use": "distil", **{role: table(task) for role, table in of.items()}}

    for combine in ("mean", "vote", "weighted", "stacking"):
        found[f"{combine} of rivers"] = (ensemble(combine, "river", "river"), [])
    for combine in ("weighted", "stacking"):
        found[f"{combine} of torch and river"] = (ensemble(combine, "torch", "river"), [])
    for teacher, student in [("river", "river"), ("torch", "river"), ("river", "torch")]:
        found[f"{student} distilled from {teacher}"] = (distilled(teacher, student), [])
    replay = [{"use": "replay", "max_events": 40}]
    found["replay of an ensemble"] = (ensemble("weighted", "river", "torch", "torch"), replay)
    return found


KINDS = kinds()


def needs_torch(name: str) -> bool:
    return "torch" in name or "ensemble" in name


REFUSED = {
    "multilabel": ("class-balanced", "stacking"),
    "regression": ("class-balanced", "vote"),
}
CASES = [
    (task, name)
    for task in TASKS
    for name in KINDS
    if not name.startswith(REFUSED.get(task, ("none",)))
]
ONE_BY_ONE = [(task, name) for task, name in CASES if not needs_torch(name)]


def parts(task: str, name: str, **changes: Any) -> Components:
    if needs_torch(name):
        pytest.importorskip("torch")
        pytest.importorskip("safetensors")
    table, wraps = KINDS[name]
    tree = {
        "app": "laws",
        "log": "sqlite:///laws.db",
        "task": task,
        "source": {"topic": "laws.labelled", "label": "y", "features": "*"},
        "learner": table(task),
        "wrap": wraps,
        "seed": 3,
    }
    return components(parse({**tree, **changes}))


def stream(task: str, count: int = 120) -> tuple[list[Table], list[Any]]:
    """Half-way a feature goes, another one comes, and so does a class."""
    chance = random.Random(4)
    events: list[Table] = []
    labels: list[Any] = []
    for index in range(count):
        late = index >= count // 2
        event: Table = {"a": chance.gauss(0, 1), "b": chance.gauss(2, 1)}
        if task == "multiclass":
            event["word"] = chance.choice("xy")
        if late:
            del event["b"]
            event["c"] = chance.gauss(0, 3)
        total = event["a"] + event.get("c", 0)
        events.append(event)
        labels.append(
            {
                "binary": total > 0,
                "multiclass": "low" if total < -0.5 else "new" if late and total > 2 else "high",
                "multilabel": {"low": total < -0.5, "high": total > 1, "mid": event["a"] > 0}
                | ({"new": total > 2} if late else {}),
                "regression": total,
            }[task]
        )
    return events, labels


def run(learner: Learner, events: Sequence[Table], labels: Sequence[Any]) -> list[Any]:
    """Prequentially, in the batches of the learner; a warning comes on the way."""
    said: list[Predictions] = []
    for start in range(0, len(events) - learner.batch + 1, learner.batch):
        xs, ys = events[start : start + learner.batch], labels[start : start + learner.batch]
        if start == 48:
            learner.react("warning")
        said.append(learner.predict(xs))
        learner.learn(xs, ys)
    return said


every = pytest.mark.parametrize(("task", "name"), CASES)


@every
def test_to_predict_changes_nothing_and_inputs_stay_as_they_are(task: str, name: str) -> None:
    made = parts(task, name)
    events, labels = stream(task)
    given = copy.deepcopy((events, labels))
    learner, other = made.make_learner(), made.make_learner()
    expected = run(learner, events, labels)

    assert isinstance(learner, Learner)
    said = []
    for start in range(0, len(events) - other.batch + 1, other.batch):
        xs, ys = events[start : start + other.batch], labels[start : start + other.batch]
        if start == 48:
            other.react("warning")
        other.predict(events[:11])
        said.append(other.predict(xs))
        assert other.predict(xs) == said[-1]
        other.learn(xs, ys)
    assert said == expected
    assert through_bytes(other.dump()) == through_bytes(learner.dump())
    assert (events, labels) == given


@every
def test_a_dump_goes_on_as_if_nothing_had_been(task: str, name: str) -> None:
    made = parts(task, name)
    events, labels = stream(task)
    cut = 64
    learner, whole = made.make_learner(), made.make_learner()
    run(learner, events[:cut], labels[:cut])
    run(whole, events[:cut], labels[:cut])
    tree = through_bytes(learner.dump())
    back = made.make_learner()
    back.load(tree)

    assert run(back, events[cut:], labels[cut:]) == run(whole, events[cut:], labels[cut:])
    assert through_bytes(back.dump()) == through_bytes(whole.dump())


@every
def test_the_same_configuration_is_the_same_learner(task: str, name: str) -> None:
    one, other = parts(task, name), parts(task, name)
    events, labels = stream(task)

    assert one.fingerprint == other.fingerprint
    assert one.kind == other.kind
    assert run(one.make_learner(), events, labels) == run(other.make_learner(), events, labels)


@every
def test_who_follows_predicts_the_same_from_the_part_that_serves(task: str, name: str) -> None:
    made = parts(task, name)
    events, labels = stream(task)
    learner = made.make_learner()
    run(learner, events, labels)
    tree = through_bytes(learner.dump())
    served = plugins.restored(made.kind, tree, task, where="here")

    assert served.predict(events) == learner.predict(events)
    assert any(value is not None for value in served.predict(events).values)


@pytest.mark.parametrize(("task", "name"), ONE_BY_ONE)
def test_single_events_may_come_in_blocks_of_any_size(task: str, name: str) -> None:
    made = parts(task, name)
    events, labels = stream(task)
    whole, cut = made.make_learner(), made.make_learner()
    expected = whole.predict_then_learn(events, labels)
    values: list[Any] = []
    for start in range(0, len(events), 23):
        values += cut.predict_then_learn(
            events[start : start + 23], labels[start : start + 23]
        ).values

    assert values == expected.values
    assert through_bytes(cut.dump()) == through_bytes(whole.dump())


@pytest.mark.parametrize(
    ("name", "hint"),
    [("class-balanced of river", "reservoir"), ("stacking of rivers", "mean, vote or weighted")],
)
def test_what_several_classes_at_once_cannot_have_is_refused(name: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parts("multilabel", name)
    assert hint in caught.value.hint


def test_wraps_are_named_from_the_inside_out_and_a_swap_has_its_twin_outermost() -> None:
    drift = {"use": "drift", "reaction": "swap"}
    plain = parts("binary", "reservoir of river")
    swapping = parts("binary", "reservoir of river", monitor=[drift])
    own = parts("binary", "twin of river", monitor=[drift])
    bare = parts("binary", "twin of river", wrap=[])

    assert plain.kind == "replay(river)"
    assert swapping.kind == "twin(replay(river))"
    assert own.kind == "twin(river)"
    assert bare.kind == "river"
    assert plain.fingerprint == swapping.fingerprint
    assert len({plain.fingerprint, own.fingerprint, bare.fingerprint}) == 3
    assert "replay(max_events=40)" in plain.description


def test_own_code_of_members_may_be_in_a_snapshot_and_a_teachers_is_not_needed_to_serve() -> None:
    taught = {
        "use": "distil",
        "teacher": {"use": "torch", "module": {"use": "fractions:Fraction"}},
        "student": {"use": "river.naive_bayes:GaussianNB", "allow": ["decimal:Decimal"]},
    }
    tree = {
        "app": "laws",
        "log": "sqlite:///laws.db",
        "task": "binary",
        "source": {"topic": "laws.labelled"},
        "learner": {"use": "ensemble", "members": [RIVER["binary"], taught]},
    }
    config = parse(tree)
    assert allowed(config) == [Fraction, Decimal]
    assert allowed(config, serving=True) == [Decimal]


@pytest.mark.parametrize(
    ("learner", "words"),
    [
        ({"use": "ensemble", "members": [{"use": "river.tree:Tree"}]}, ("members[0].use", "Tree")),
        ({"use": "ensemble", "members": [RIVER["regression"]]}, ("no classifier",)),
        ({"use": "ensemble", "members": [RIVER["binary"]], "combin": "x"}, ("combine",)),
        ({"use": "distil", "teacher": RIVER["binary"]}, ("student",)),
        ({"use": "distil", "teacher": {"use": "no"}, "student": {}}, ("learner.teacher.use",)),
    ],
)
def test_errors_of_members(learner: Table, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        parts("binary", "twin of river", wrap=[], learner=learner)
    message = f"{caught.value} {caught.value.hint}"
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("wrap", "words"),
    [
        ({"use": "reply"}, ("wrap[0].use", "'reply'", "replay")),
        ({"use": "my_wraps:Clip"}, ("wrap[0].use", "follower")),
        ({"use": "replay", "replay": 3}, ("wrap[0].replay", "did you mean replays")),
        ({"use": "replay", "max_events": "many"}, ("wrap[0].max_events", "expected int")),
        ({}, ("[[wrap]] number 1", "use")),
    ],
)
def test_errors_of_wraps(wrap: Table, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        parts("binary", "twin of river", wrap=[wrap])
    message = f"{caught.value} {caught.value.hint}"
    assert all(word in message for word in words), message
