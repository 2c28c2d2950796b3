"""Options of a torch learner that meet: none of them may break what each keeps alone."""

from __future__ import annotations

import random
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from stream_update.errors import LearnerFailed
from stream_update.events import Features
from tests.streams import through_bytes

torch: Any = pytest.importorskip("torch")
pytest.importorskip("safetensors")

import safetensors.torch  # noqa: E402

from stream_update.learners.torch import TorchLearner  # noqa: E402
from stream_update.learners.torch.steps import Batch  # noqa: E402

Options = dict[str, Any]
Act = tuple[str, list[Features], list[Any]]
"""What is done to a learner: with which events, and with which labels."""

BATCH = 8
NAMES = ["a", "b", "c"]
MLP = {"use": "mlp", "hidden": [6, 5]}
PRETRAIN = {"mask": 0.4, "batch": BATCH}
L2_SP = {"use": "l2-sp", "alpha": 0.1, "beta": 0.01}
WORDS = {"body": {"use": "text", "buckets": 16, "dim": 3}}
TRAIL = {"trail": {"use": "sequence", "width": 1, "max_length": 4, "dim": 3}}
PIXELS = {"picture": {"use": "image", "shape": [2, 2, 1], "channels": [2], "dim": 2}}

WIDER = [{"after": 3 * BATCH, "widen": 9}]
DEEPER = [{"after": 4 * BATCH, "deepen": 2}, {"after": 5 * BATCH, "widen": 7, "layer": 1}]
FLAT = [{"plateau": BATCH, "min_delta": 9.0, "widen": 8}, {"after": 6 * BATCH, "deepen": True}]

CHOICES: dict[str, list[Options]] = {
    "task": [{"task": "binary"}, {"task": "multiclass"}, {"task": "regression"}],
    "optimizer": [
        {"optimizer": {"use": "sgd", "lr": 0.05}},
        {"optimizer": {"use": "sgd", "lr": 0.05, "momentum": 0.9}},
        {"optimizer": {"use": "adagrad", "lr": 0.05, "initial_accumulator_value": 0.1}},
        {"optimizer": {"use": "rmsprop", "lr": 0.01, "centered": True}},
        {"optimizer": {"use": "adam", "lr": 0.01, "amsgrad": True}},
        {"optimizer": {"use": "adamw", "lr": 0.01}},
    ],
    "schedule": [{}, {"schedule": {"use": "cosine", "steps": 9, "last": 0.2, "warmup": 2}}],
    "ema": [{}, {"ema": 0.8}],
    "bounds": [{}, {"l1": 0.01}, {"clip_norm": 0.5}, {"l1": 0.01, "clip_norm": 0.5}],
    "inputs": [{}, {"standardise": False}, {"missing": "mask"}, {"categorical": ["k"]}],
    "targets": [{}, {"standardise_target": True}],
    "epochs": [{}, {"epochs_per_batch": 2}],
    "precision": [{}, {}, {"precision": "bfloat16"}],
    "module": [
        {"module": MLP},
        {"module": MLP},
        {"module": {**MLP, "activation": "gelu"}},
        {"module": {**MLP, "dropout": 0.3}},
        {"module": "linear"},
        {"module": "fusion", "fields": WORDS | TRAIL},
        {"module": {"use": "fusion", "hidden": [4], "dropout": 0.3}, "fields": PIXELS | WORDS},
    ],
    "start": [
        {},
        {},
        {"start": {"freeze": 2 * BATCH}},
        {"start": {"freeze": "all", "anchor": L2_SP}},
        {"start": {"freeze": 3 * BATCH, "lr_scale": 0.5, "head": "keep"}},
        {"start": {"head": "keep"}},
        {"start": {"anchor": L2_SP, "lr_scale": 0.5}},
        {"start": {"features": None, "freeze": BATCH}},
        {"start": {"features": None, "anchor": L2_SP}},
    ],
    "pretrain": [
        {},
        {"pretrain": PRETRAIN},
        {"pretrain": {**PRETRAIN, "labelled": True}},
        {"pretrain": {**PRETRAIN, "labelled": True, "optimizer": {"use": "sgd", "lr": 0.1}}},
    ],
    "grow": [{}, {"grow": WIDER}, {"grow": DEEPER}, {"grow": FLAT}],
}


def chosen(number: int) -> Options:
    """One option of each kind, as far as they go together."""
    chance = random.Random(number)
    options: Options = {"batch": BATCH, "seed": number}
    for kinds in CHOICES.values():
        options |= chance.choice(kinds)
    layers = options["module"]
    if options["task"] != "regression" or options.get("start", {}).get("head") == "keep":
        options.pop("standardise_target", None)
    if "fields" in options or layers == "linear":
        options.pop("pretrain", None)
    if "fields" in options:
        options.pop("start", None)
    if layers == "linear" and options.get("start", {}).get("head") != "keep":
        options.pop("start", None)
    if (
        layers not in (MLP, {**MLP, "dropout": 0.3})
        or options.get("start", {}).get("freeze") == "all"
    ):
        options.pop("grow", None)
    if options.get("start", {}).get("features", NAMES) is None and "missing" in options:
        del options["missing"]
    return options


def base(where: Path, options: Options) -> Options:
    """The options with a start from a file, for which they may name no file."""
    if "start" not in options:
        return options
    torch.manual_seed(1)
    count = 3 if options["task"] == "multiclass" else 1
    sizes = {"first": (6, 3), "hidden1": (5, 6), "last": (count, 5)}
    if options["module"] == "linear":
        sizes = {"only": (count, 3)}
    tensors = {f"{name}.weight": torch.randn(size) / 2 for name, size in sizes.items()}
    tensors |= {f"{name}.bias": torch.randn(size[0]) / 2 for name, size in sizes.items()}
    told = {"classes": '["x", "y", "z"]'}
    safetensors.torch.save_file(tensors, where, metadata=told)
    table = {"use": "safetensors", "file": str(where), "features": NAMES, **options["start"]}
    if "source" in table:
        file = where.with_suffix(".jsonl")
        file.write_text('{"a": 1, "b": 2, "c": 0, "y": "x"}\n{"a": 0, "b": 1, "c": 1, "y": "z"}\n')
        table["source"] = {"file": str(file), "label": "y"}
    missing = {"missing": "mean"} if options.get("missing") else {}
    return options | missing | {"start": table}


def event(chance: random.Random, names: Sequence[str]) -> Features:
    """Numbers, some of them missing, a category and three fields."""
    made: Features = {name: chance.gauss(1, 2) for name in names}
    if len(names) > len(NAMES):
        made["k"] = chance.choice([1, 2, 3])
        if chance.random() < 0.2:
            del made["b"]
    made["body"] = chance.choice(["rain and fog", "sun", "wind, rain"])
    made["trail"] = [chance.random() for _ in range(chance.randrange(3))]
    if chance.random() < 0.7:
        made["picture"] = [chance.randrange(256) for _ in range(4)]
    return made


def label(task: str, features: Features, classes: str) -> Any:
    total = features["a"] + features["c"]
    if task == "regression":
        return 3.0 + total / 2
    return total > 2 if task == "binary" else classes[int(abs(total)) % len(classes)]


def acts(options: Options, seed: int) -> list[Act]:
    """Events with and without labels, more columns and classes later on, and a reset."""
    chance = random.Random(seed)
    apart = {"body", "trail", "picture"} - set(options.get("fields", {}))
    unlabelled = "pretrain" in options
    done: list[Act] = []
    for number in range(14):
        late = number > 5
        events = [event(chance, [*NAMES, "d"] if late else NAMES) for _ in range(BATCH)]
        events = [{k: v for k, v in one.items() if k not in apart} for one in events]
        labels = [label(options["task"], one, "xyzuv" if late else "xyz") for one in events]
        without = unlabelled and (number in {0, 1} or number % 3 == 0)
        done.append(("without", events, []) if without else ("learn", events, labels))
    if options.get("start", {}).get("features", NAMES) is not None:
        # It could not begin with events that have more columns than a base without names.
        done.insert(11, ("reset", [], []))
    return done


def go_on(
    learner: TorchLearner,
    script: Sequence[Act],
    before: Callable[[TorchLearner, list[Features]], TorchLearner],
) -> tuple[Any, Any]:
    """What it says after each act, and what it is in the end."""
    probe = [one for _, events, _ in script for one in events[:2]]
    said = []
    for what, events, labels in script:
        learner = before(learner, events)
        if what == "reset":
            learner.react("reset")
        elif what == "without":
            learner.learn_unlabelled(events)
        else:
            learner.learn(events, labels)
        said.append(learner.predict(probe))
    return said, learner.dump()


MEETINGS: list[Options] = [
    {"task": "multiclass", "module": "linear", "start": {"head": "keep"}},
    {"task": "multiclass", "module": MLP, "start": {"head": "keep", "freeze": 3 * BATCH}},
    {"task": "multiclass", "module": MLP, "start": {"features": None, "anchor": L2_SP}},
    {"task": "binary", "module": MLP, "clip_norm": 0.5, "start": {"freeze": 2 * BATCH}},
    {"task": "regression", "module": MLP, "standardise": False, "standardise_target": True},
    {"task": "multiclass", "module": MLP, "start": {"head": "keep", "anchor": L2_SP}, "grow": FLAT},
    {"task": "binary", "module": MLP, "start": {"lr_scale": 0.5, "freeze": BATCH}, "grow": DEEPER},
    {"task": "multiclass", "module": MLP, "precision": "bfloat16", "ema": 0.8, "grow": DEEPER},
    {
        "task": "multiclass",
        "module": MLP,
        "pretrain": {**PRETRAIN, "labelled": True},
        "ema": 0.8,
        "grow": DEEPER,
        "optimizer": {"use": "adam", "lr": 0.01, "amsgrad": True},
    },
    {
        "task": "binary",
        "module": MLP,
        "schedule": {"use": "cosine", "steps": 9, "warmup": 2},
        "grow": FLAT,
        "clip_norm": 0.5,
        "l1": 0.01,
    },
    {"task": "multiclass", "module": {**MLP, "activation": "gelu"}, "grow": WIDER},
    {
        "task": "multiclass",
        "module": MLP,
        "grow": DEEPER,
        "start": {"joint": {"weight": 0.5, "batch": 4}, "source": True},
    },
    {
        "task": "multiclass",
        "module": MLP,
        "grow": FLAT,
        "start": {"anchor": {"use": "ewc", "alpha": 0.1}, "source": True, "lr_scale": 0.5},
    },
]
"""What the draws leave out."""


def check(options: Options, number: int) -> None:
    """Cut, dump and ask a learner everywhere: it goes on as one that was left alone."""
    script = acts(options, number)
    others = [one for _, events, _ in acts(options, 99) for one in events]

    def fresh() -> TorchLearner:
        return TorchLearner(**options)

    def asked(learner: TorchLearner, events: list[Features]) -> TorchLearner:
        learner.predict(events)
        for some in (others[:BATCH], events[::-1], events[:3], [*events, *others[-2:]], []):
            learner.predict(some)
        learner.predict(events if number % 2 else others[-BATCH:])
        return learner

    def dumped(learner: TorchLearner, events: list[Features]) -> TorchLearner:
        learner.predict(events)
        learner.dump()
        return learner

    grown = set()

    def cut(learner: TorchLearner, events: list[Features]) -> TorchLearner:
        tree = through_bytes(learner.dump())
        other = fresh()
        other.load(tree)
        assert other.dump() == tree
        grown.add(len(tree.get("growth", {"taken": []})["taken"]))
        follower = TorchLearner.restored(tree, options["task"], allow=[mine, Chained, rowed])
        assert follower.predict(others) == other.predict(others) == learner.predict(others)
        other.predict(events)
        return other

    whole = go_on(fresh(), script, lambda learner, _: learner)
    for before in (asked, dumped, cut):
        assert go_on(fresh(), script, before) == whole
    assert grown == set(range(1 + len(options.get("grow", []))))


@pytest.mark.parametrize("number", range(20 + len(MEETINGS)))
def test_all_that_the_future_depends_on_is_in_a_dump(number: int, tmp_path: Path) -> None:
    met = {"batch": BATCH, **MEETINGS[number]} if number < len(MEETINGS) else chosen(number)
    check(base(tmp_path / "base", met), number)


def mine(inputs: int, outputs: int) -> Any:
    """A module with running statistics, and with parts that only learn in a mood."""
    layers = OrderedDict(
        first=torch.nn.Linear(inputs, 6),
        norm=torch.nn.BatchNorm1d(6),
        relu=torch.nn.ReLU(),
        dropout=torch.nn.Dropout(0.2),
        hidden1=torch.nn.Linear(6, 5, bias=False),
        tanh=torch.nn.Tanh(),
        last=torch.nn.Linear(5, outputs),
    )
    return torch.nn.Sequential(layers)


class Chained(torch.nn.Module):  # type: ignore[misc]
    """A part with hidden layers that can grow, between others."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Linear(inputs, 6),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.2),
            torch.nn.Linear(6, 5, bias=False),
            torch.nn.ReLU(),
            torch.nn.Linear(5, 4),
        )
        self.norm = torch.nn.LayerNorm(4)
        self.last = torch.nn.Linear(4, outputs)

    def forward(self, inputs: Any) -> Any:
        return self.last(torch.tanh(self.norm(self.body(inputs))))


def rowed(inputs: int, outputs: int) -> Any:
    """Layers that go by numbers."""
    return torch.nn.Sequential(
        torch.nn.Linear(inputs, 6),
        torch.nn.Tanh(),
        torch.nn.Linear(6, 5),
        torch.nn.ReLU(),
        torch.nn.Linear(5, outputs),
    )


def mixed(loss: Callable[[Any, Any], Any]) -> Callable[[Any, Batch], Any]:
    """A step of one's own that draws."""

    def step(module: Any, batch: Batch) -> Any:
        moved = batch.inputs + torch.rand_like(batch.inputs) / 9
        return loss(module(moved), batch.targets) + loss(module(batch.inputs), batch.targets)

    return step


MINE: list[Options] = [
    {"task": "multiclass"},
    {"task": "binary", "step": "my_models:mixed", "clip_norm": 0.5},
    {"task": "multiclass", "pretrain": {**PRETRAIN, "labelled": True}, "ema": 0.8},
    {"task": "binary", "start": {"freeze": 2 * BATCH}, "ema": 0.8, "pretrain": PRETRAIN},
    {"task": "multiclass", "start": {"freeze": "all", "head": "keep"}, "pretrain": PRETRAIN},
    {"task": "regression", "start": {"freeze": BATCH, "anchor": L2_SP}, "standardise_target": True},
]


@pytest.mark.parametrize("number", range(len(MINE)))
def test_a_module_of_ones_own_is_no_exception(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("my_models")
    for made in (mine, mixed):
        monkeypatch.setattr(made, "__module__", module.__name__)
        setattr(module, made.__name__, made)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    options = MINE[number]
    if "start" in options:
        torch.manual_seed(2)
        count = 3 if options["task"] == "multiclass" else 1
        told = {"classes": '["x", "y", "z"]'}
        safetensors.torch.save_file(mine(3, count).state_dict(), tmp_path / "base", metadata=told)
        table = {"use": "safetensors", "file": str(tmp_path / "base"), "features": NAMES}
        options = options | {"start": table | options["start"]}
    own = {"module": "my_models:mine", "first": "first", "last": "last", "batch": BATCH}
    check(own | options, number)


GROWING: list[Options] = [
    {"task": "multiclass", "module": "my_models:Chained", "first": "body.0", "chain": "body",
     "grow": DEEPER},
    {"task": "binary", "module": "my_models:Chained", "first": "body.0", "chain": "body",
     "grow": FLAT, "pretrain": {**PRETRAIN, "labelled": True}, "ema": 0.8, "clip_norm": 0.5},
    {"task": "multiclass", "module": "my_models:rowed", "first": "0", "last": "4", "grow": DEEPER},
    {"task": "binary", "module": "my_models:rowed", "first": "0", "last": "4", "grow": FLAT,
     "pretrain": PRETRAIN, "precision": "bfloat16"},
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(GROWING)))
def test_a_module_of_ones_own_grows(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("my_models")
    for made in (Chained, rowed):
        monkeypatch.setattr(made, "__module__", module.__name__)
        setattr(module, made.__name__, made)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    check({"last": "last", "batch": BATCH} | GROWING[number], number)


def test_an_average_begins_with_what_was_learned_without_labels() -> None:
    options: Options = {"module": MLP, "ema": 0.9, "pretrain": PRETRAIN, "batch": BATCH}
    learner = TorchLearner("multiclass", **options)
    for what, events, labels in acts({"task": "multiclass", "pretrain": PRETRAIN}, 1)[:3]:
        if what == "without":
            learner.learn_unlabelled(events)
            continue
        before = learner.module.first.weight.detach().clone()
        learner.learn(events, labels)
        network = learner._network
        assert network is not None
        assert network.average is not None
        after = learner.module.first.weight.detach()
        assert torch.equal(network.average.module.first.weight, before.lerp(after, 0.9))


@pytest.mark.parametrize("fields", [None, WORDS | TRAIL | PIXELS])
def test_no_events_have_no_answers(fields: Options | None) -> None:
    options: Options = {"module": "fusion", "fields": fields} if fields else {"module": MLP}
    _, events, labels = acts({"task": "binary", "fields": fields or {}}, 1)[0]
    learner, other = (TorchLearner("binary", batch=BATCH, **options) for _ in range(2))
    learner.learn(events, labels)
    other.load(through_bytes(learner.dump()))
    assert other.predict([]) == ([], [])
    other.learn([], [])
    assert other.dump() == learner.dump()


@pytest.mark.parametrize("standardise", [True, False])
def test_a_number_that_no_network_can_take_is_missing(standardise: bool) -> None:
    def made() -> TorchLearner:
        return TorchLearner("binary", MLP, batch=BATCH, features=NAMES, standardise=standardise)

    learner, other = made(), made()
    for _, events, labels in acts({"task": "binary"}, 1)[:4]:
        learner.learn([*events[1:], events[0] | {"a": 1e200}], labels)
        other.learn([*events[1:], {k: v for k, v in events[0].items() if k != "a"}], labels)
        loaded = made()
        loaded.load(through_bytes(learner.dump()))
        assert loaded.dump() == learner.dump() == other.dump()
        assert loaded.predict(events) == other.predict(events)
    assert learner.skipped == 0


def test_a_label_that_no_network_can_take_is_left_out() -> None:
    learner = TorchLearner("regression", MLP, batch=BATCH, standardise_target=True)
    for _, events, labels in acts({"task": "regression"}, 1)[:2]:
        learner.learn(events, [*labels[1:], 1e200])
        loaded = TorchLearner("regression", MLP, batch=BATCH, standardise_target=True)
        loaded.load(through_bytes(learner.dump()))
        learner.learn(events, labels)
        loaded.learn(events, labels)
        assert loaded.dump() == learner.dump()
    assert learner.skipped == 2


def test_a_whole_number_of_too_many_digits_is_the_failure_of_its_event() -> None:
    _, events, labels = acts({"task": "binary"}, 1)[0]
    for learned in (False, True):
        for name, categorical in (("a", []), ("c", ["c"])):
            learner = TorchLearner("binary", MLP, batch=BATCH, categorical=categorical)
            if learned:
                learner.learn(events, labels)
            before = learner.dump()
            bad = [*events[:3], events[3] | {name: 10**400}, *events[4:]]
            with pytest.raises(LearnerFailed, match=f"feature '{name}'") as caught:
                learner.learn(bad, labels)
            assert caught.value.index == 3
            if learned:
                assert learner.dump() == before


def test_what_was_refused_has_not_spoiled_the_columns() -> None:
    _, events, labels = acts({"task": "binary"}, 1)[0]
    learner = TorchLearner("binary", MLP, batch=BATCH)
    learner.learn(events, labels)
    with pytest.raises(LearnerFailed, match="feature 'a' is a list") as caught:
        learner.learn([events[0] | {"e": 1.0}, {"a": []}], labels[:2])
    assert caught.value.index == 1
    learner.learn([one | {"e": 1.0} for one in events], labels)
    assert learner.columns == [*NAMES, "e"]
