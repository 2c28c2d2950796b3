"""Networks with an output for each class of which several may apply."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from stream_update.errors import ConfigError, LearnerFailed
from stream_update.testing import check_learner
from tests.streams import through_bytes

torch: Any = pytest.importorskip("torch")
safetensors_torch: Any = pytest.importorskip("safetensors.torch")

from stream_update.learners.torch import TorchLearner, weights  # noqa: E402

BATCH = 8
NAMES = ("a", "b", "c")


def stream(count: int, *, late: Sequence[str] = (), seed: int = 2) -> tuple[list[Any], list[Any]]:
    chance = random.Random(seed)
    events, labels = [], []
    for number in range(count):
        event = {name: chance.gauss(0, 1) for name in "xyz"}
        label = {
            "a": event["x"] > 0,
            "b": event["x"] + event["y"] > 0.5,
            "c": event["z"] < 0,
        }
        if number >= count // 2:
            label |= dict.fromkeys(late, event["y"] > 0)
        events.append(event)
        labels.append(label)
    return events, labels


def made(**options: Any) -> TorchLearner:
    defaults: dict[str, Any] = {
        "module": {"use": "mlp", "hidden": [6]},
        "optimizer": {"use": "adam", "lr": 0.02},
        "batch": BATCH,
        "seed": 3,
    }
    return TorchLearner("multilabel", **{**defaults, **options})


def run(learner: TorchLearner, events: Sequence[Any], labels: Sequence[Any]) -> list[Any]:
    said = []
    for start in range(0, len(events) - BATCH + 1, BATCH):
        xs, ys = events[start : start + BATCH], labels[start : start + BATCH]
        said.append(learner.predict(xs))
        learner.learn(xs, ys)
    return said


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> str:
    import sys  # noqa: PLC0415

    def build(inputs: int, outputs: int) -> Any:
        return torch.nn.Sequential(
            torch.nn.Linear(inputs, 5), torch.nn.Tanh(), torch.nn.Linear(5, outputs)
        )

    module = type(sys)("own_sets")
    monkeypatch.setitem(sys.modules, "own_sets", module)
    monkeypatch.setattr(build, "__module__", "own_sets")
    module.build = build  # type: ignore[attr-defined]
    return "own_sets:build"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"module": "linear"},
        {"classes": ["c", "a", "later"]},
        {"ema": 0.9, "l1": 0.001},
        {"precision": "bfloat16"},
    ],
    ids=str,
)
def test_the_laws_of_learners(options: dict[str, Any]) -> None:
    check_learner(lambda: made(**options), *stream(80, late=["d", "e"]))


def test_the_laws_hold_one_by_one_and_for_modules_of_the_users(own: str) -> None:
    check_learner(lambda: made(batch=1), *stream(24, late=["d"]))
    check_learner(lambda: made(module=own, first="0", last="2"), *stream(48, late=["d"]))


@pytest.mark.parametrize("module", ["mlp", "linear"])
def test_it_is_the_bare_loop_over_the_same_batches(module: str) -> None:
    events, labels = stream(160)
    table = {"use": "mlp", "hidden": [6]} if module == "mlp" else module
    learner = made(module=table, standardise=False)
    said = run(learner, events, labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layers = (
            [torch.nn.Linear(3, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3)]
            if module == "mlp"
            else [torch.nn.Linear(3, 3)]
        )
        net = torch.nn.Sequential(*layers)
    adam = torch.optim.Adam(net.parameters(), lr=0.02)
    for number, start in enumerate(range(0, len(events), BATCH)):
        x = torch.tensor([list(event.values()) for event in events[start : start + BATCH]])
        y = torch.tensor([list(label.values()) for label in labels[start : start + BATCH]])
        outputs = net(x)
        if start:
            chances = torch.sigmoid(outputs).tolist()
            assert said[number].probabilities == [
                dict(zip(NAMES, row, strict=True)) for row in chances
            ]
            assert said[number].values == [
                {name: chance > 0.5 for name, chance in zip(NAMES, row, strict=True)}
                for row in chances
            ]
        adam.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(outputs, y.float()).backward()
        adam.step()
    for ours, theirs in zip(learner.module.parameters(), net.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "adagrad"])
def test_a_new_class_leaves_old_weights_and_moments_as_they_are(optimizer: str) -> None:
    events, labels = stream(80)
    options: dict[str, Any] = {"use": optimizer, "lr": 0.01}
    if optimizer == "sgd":
        options["momentum"] = 0.9
    learner = made(optimizer=options, module="linear")
    run(learner, events, labels)
    before = {name: part.detach().clone() for name, part in learner.module.named_parameters()}
    network = learner._network
    assert network is not None
    held = {k: v.clone() for k, v in weights.moments_of(learner.module, network.optimizer).items()}
    answers = learner.predict(events[:5])
    network.grow(3, 4)
    for name, part in learner.module.named_parameters():
        assert torch.equal(part[:3], before[name])
        assert not part[3:].any()
    grown = weights.moments_of(learner.module, network.optimizer)
    assert grown.keys() == held.keys()
    for name, part in held.items():
        assert torch.equal(grown[name][: len(part)] if part.ndim else grown[name], part)
    # The answers for the old classes stay what they were.
    labels = [{**label, "new": True} for label in labels]
    learner._intake.targets.admit(labels)
    for row, chances in enumerate(learner.predict(events[:5]).probabilities or []):
        assert chances == {**(answers.probabilities or [])[row], "new": 0.5}


def test_an_event_says_of_each_class_that_it_does_not_name_that_it_does_not_apply() -> None:
    events, labels = stream(80)
    short = [
        {name: on for name, on in label.items() if on or not row}
        for row, label in enumerate(labels)
    ]
    one, other = made(), made()
    assert run(one, events, labels) == run(other, events, short)
    assert through_bytes(one.dump()) == through_bytes(other.dump())


def test_before_the_first_class_nothing_applies() -> None:
    events, labels = stream(48)
    nothing: list[Any] = [{}] * BATCH
    learner = made()
    assert learner.predict(events[:2]).values == [{}, {}]
    learner.learn(events[:BATCH], nothing)
    said = learner.predict(events[:2])
    assert said.values == [{}, {}]
    assert said.probabilities == [{}, {}]
    tree = through_bytes(learner.dump())
    back = made()
    back.load(tree)
    run(learner, events[BATCH:], labels[BATCH:])
    run(back, events[BATCH:], labels[BATCH:])
    assert learner.classes == list(NAMES)
    assert through_bytes(learner.dump()) == through_bytes(back.dump())
    restored = TorchLearner.restored(through_bytes(learner.dump()), "multilabel")
    assert restored.predict(events) == learner.predict(events)


def test_a_module_that_cannot_grow_learns_of_the_classes_that_it_has(own: str) -> None:
    events, labels = stream(48)
    learner = made(module=own)
    run(learner, events, labels)
    knows = [{**label, "new": False} for label in labels]
    learner.learn(events[:BATCH], knows[:BATCH])
    assert learner.classes == list(NAMES)
    knows[5] = {**knows[5], "new": True}
    with pytest.raises(LearnerFailed, match="class 'new' is new and the module") as caught:
        learner.learn(events[:BATCH], knows[:BATCH])
    assert caught.value.index == 5


def test_classes_may_be_numbers() -> None:
    events, labels = stream(40)
    numbered = [dict(enumerate(label.values())) for label in labels]
    learner = made()
    run(learner, events, numbered)
    back = made()
    back.load(through_bytes(learner.dump()))
    assert back.classes == [0, 1, 2]
    assert back.predict(events) == learner.predict(events)


def test_what_a_loss_may_be() -> None:
    with pytest.raises(ConfigError, match="no 'hinge' for the task 'multilabel'"):
        made(loss="hinge")
    events, labels = stream(40)
    named, default = (
        made(loss=loss) for loss in ("torch.nn.functional:binary_cross_entropy_with_logits", None)
    )
    run(named, events, labels)
    run(default, events, labels)
    for one, other in zip(named.module.parameters(), default.module.parameters(), strict=True):
        assert torch.equal(one, other)


def test_it_learns() -> None:
    events, labels = stream(1600, late=["d"])
    said = run(made(), events, labels)
    last = [value for answer in said[-40:] for value in answer.values]
    right = sum(one == two for one, two in zip(last, labels[-len(last) :], strict=True))
    assert right > 0.7 * len(last)


def test_a_start_keeps_the_head_and_learns_on_with_the_bases_own_events(tmp_path: Path) -> None:
    events, labels = stream(400)
    base = made(module="linear", standardise=False)
    run(base, events, labels)
    weights_file = tmp_path / "base.safetensors"
    safetensors_torch.save_file(
        {name: part.detach() for name, part in base.module.named_parameters()},
        weights_file,
        metadata={"features": '["x", "y", "z"]', "classes": '["a", "b", "c"]'},
    )
    rows = [
        {**event, "classes": [name for name, on in label.items() if on]}
        for event, label in zip(events[:64], labels[:64], strict=True)
    ]
    source = tmp_path / "source.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    start: dict[str, Any] = {
        "use": "safetensors",
        "file": str(weights_file),
        "head": "keep",
        "source": {"file": str(source), "label": "classes"},
        "joint": {"weight": 1.0, "batch": 16},
    }
    learner = made(module="linear", standardise=False, start=start)
    assert learner.classes == list(NAMES)
    learner.fingerprint()
    said = learner.predict(events[:5])
    assert said.values == base.predict(events[:5]).values
    run(learner, *stream(160, late=["d"], seed=5))
    assert learner.classes == [*NAMES, "d"]
    for row in rows:
        row["classes"] = "a"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(ConfigError, match="'a' is no list of classes"):
        made(module="linear", standardise=False, start=start).fingerprint()
