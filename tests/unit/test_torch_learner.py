from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream_update.components import components
from stream_update.config import load
from stream_update.errors import ConfigError, CorruptSnapshot, LearnerFailed, LineageMismatch
from stream_update.protocols import Learner
from tests.programs import configure
from tests.streams import through_bytes

torch: Any = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from stream_update.learners.torch import TorchLearner, weights  # noqa: E402

Event = dict[str, Any]

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.05, "momentum": 0.9},
    "adagrad": {"lr": 0.05, "initial_accumulator_value": 0.1},
    "rmsprop": {"lr": 0.01, "momentum": 0.5, "centered": True},
    "adam": {"lr": 0.01, "betas": [0.8, 0.99], "amsgrad": True},
    "adamw": {"lr": 0.01, "weight_decay": 0.1},
}
CLASSES: dict[str, Any] = {
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def stream(count: int, task: str = "multiclass", names: str = "abcd", seed: int = 1) -> Any:
    """Events that can be learned, and their labels."""
    chance = random.Random(seed)
    events = [{name: chance.gauss(0, 1) for name in names} for _ in range(count)]
    sums = [sum(event.values()) for event in events]
    kinds: dict[str, list[Any]] = {
        "binary": [total > 0 for total in sums],
        "multiclass": ["low" if total < -1 else "high" if total > 1 else "mid" for total in sums],
        "regression": sums,
    }
    return events, kinds[task]


def batches(events: Sequence[Any], labels: Sequence[Any], size: int = 16) -> Iterator[Any]:
    for start in range(0, len(events) - size + 1, size):
        yield events[start : start + size], labels[start : start + size]


def run(learner: TorchLearner, events: Sequence[Any], labels: Sequence[Any]) -> list[Any]:
    answers = []
    for xs, ys in batches(events, labels, learner.batch):
        answers.append(learner.predict(xs))
        learner.learn(xs, ys)
    return answers


def made(task: str = "multiclass", **options: Any) -> TorchLearner:
    defaults: dict[str, Any] = {"optimizer": {"use": "adam", "lr": 0.01}, "batch": 16, "seed": 3}
    options = defaults | options
    return TorchLearner(task, options.pop("module", {"use": "mlp", "hidden": [8]}), **options)


def parameters(learner: TorchLearner) -> dict[str, Any]:
    return {name: part.detach().clone() for name, part in learner.module.named_parameters()}


def moments(learner: TorchLearner) -> dict[str, Any]:
    held = weights.moments_of(learner.module, learner._network.optimizer)  # type: ignore[union-attr]
    return {name: part.clone() for name, part in held.items()}


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def build(inputs: int, outputs: int, features: list[str], classes: list[Any]) -> Any:
    """A module such as a user has, with dropout and a batch norm."""
    assert len(features) == inputs
    assert len(classes) in {0, outputs}
    return torch.nn.Sequential(
        OrderedDict(
            body=torch.nn.Linear(inputs, 8),
            norm=torch.nn.BatchNorm1d(8),
            act=torch.nn.Tanh(),
            drop=torch.nn.Dropout(0.3),
            head=torch.nn.Linear(8, outputs),
        )
    )


OWN = f"{__name__}:build"


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of ``build`` as a configuration has it."""
    import sys  # noqa: PLC0415

    module = type(sys)("my_models")
    monkeypatch.setitem(sys.modules, "my_models", module)
    monkeypatch.setattr(build, "__module__", "my_models")
    module.build = build  # type: ignore[attr-defined]
    return "my_models:build"


# -- the same as a bare loop


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_it_is_the_bare_loop_over_the_same_batches(task: str, optimizer: str) -> None:
    events, labels = stream(320, task)
    options = OPTIMIZERS[optimizer]
    learner = made(
        task,
        optimizer={"use": optimizer, **options},
        standardise=False,
        clip_norm=1.0,
        epochs_per_batch=2,
    )
    answers = run(learner, events, labels)

    classes = list(dict.fromkeys(labels)) if task == "multiclass" else []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, max(1, len(classes)))
        )
    bare = CLASSES[optimizer](net.parameters(), **options)
    functional = torch.nn.functional
    for number, (xs, ys) in enumerate(batches(events, labels)):
        x = torch.tensor([list(event.values()) for event in xs])
        if task == "multiclass":
            y = torch.tensor([classes.index(label) for label in ys])
        else:
            y = torch.tensor(ys, dtype=torch.float32).reshape(-1, 1)
        with torch.no_grad():
            out = net(x)
        if number:
            expected = {
                "binary": lambda out: torch.sigmoid(out)[:, 0].tolist(),
                "multiclass": lambda out: torch.softmax(out, 1).tolist(),
                "regression": lambda out: out[:, 0].tolist(),
            }[task](out)
            said = answers[number]
            if task == "regression":
                assert said.values == expected
            elif task == "binary":
                assert [p[True] for p in said.probabilities] == expected
                assert said.values == [p > 0.5 for p in expected]
            else:
                assert [list(p.values()) for p in said.probabilities] == expected
                assert all(list(p) == classes for p in said.probabilities)
        loss = {
            "binary": functional.binary_cross_entropy_with_logits,
            "multiclass": functional.cross_entropy,
            "regression": functional.mse_loss,
        }[task]
        for _ in range(2):
            bare.zero_grad()
            loss(net(x), y).backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            bare.step()
    ours, theirs = list(parameters(learner).values()), list(net.parameters())
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


ACTIVATIONS: dict[str, Any] = {
    "relu": torch.nn.ReLU,
    "tanh": torch.nn.Tanh,
    "gelu": torch.nn.GELU,
    "silu": torch.nn.SiLU,
}
SHAPES: list[tuple[int, list[int], str, str]] = [
    (10, [64], "relu", "log"),
    (5, [33, 7], "tanh", "squared"),
    (1, [1], "gelu", "huber"),
    (3, [16, 16, 48], "silu", "hinge"),
]
USUAL: dict[str, tuple[str, Any]] = {
    "log": ("multiclass", torch.nn.functional.cross_entropy),
    "hinge": ("multiclass", torch.nn.functional.multi_margin_loss),
    "squared": ("regression", torch.nn.functional.mse_loss),
    "huber": ("regression", torch.nn.functional.huber_loss),
}


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("width", "hidden", "activation", "loss"), SHAPES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_short_cuts_change_no_bit(
    optimizer: str, width: int, hidden: list[int], activation: str, loss: str
) -> None:
    """A step without a graph, by an optimizer of one parameter, is torch's plain one."""
    task, function = USUAL[loss]
    table = torch.randn(480, width, generator=torch.Generator().manual_seed(1))
    events = [{f"x{i}": x for i, x in enumerate(row)} for row in table.tolist()]
    numbers = table.sum(1, keepdim=True) * 3
    targets = numbers if task == "regression" else numbers.abs()[:, 0].clamp(0, 2).long()
    learner = made(
        task,
        module={"use": "mlp", "hidden": hidden, "activation": activation},
        optimizer={"use": optimizer, **OPTIMIZERS[optimizer]},
        loss=loss,
        classes=[0, 1, 2] if task == "multiclass" else [],
        batch=24,
        standardise=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layers = [
            layer
            for before, after in zip([width, *hidden], hidden, strict=False)
            for layer in (torch.nn.Linear(before, after), ACTIVATIONS[activation]())
        ]
        last = torch.nn.Linear(hidden[-1], 3 if task == "multiclass" else 1)
        net = torch.nn.Sequential(*layers, last)
    bare = CLASSES[optimizer](net.parameters(), **OPTIMIZERS[optimizer])
    for start in range(0, 480, 24):
        part = slice(start, start + 24)
        # Of its own, aligned as every tensor is that is no part of another.
        xs, ys = table[part].clone(), targets[part].clone()
        if start % 48:
            learner.predict(events[part])
        learner.learn(events[part], ys.flatten().tolist())
        bare.zero_grad()
        function(net(xs), ys).backward()
        bare.step()
    network = learner._network
    assert network is not None
    assert network._flat is not None
    assert network._chain is not None
    for name, other in zip(parameters(learner), net.parameters(), strict=True):
        assert torch.equal(parameters(learner)[name], other), name
    held, remembered = moments(learner), weights.moments_of(net, bare)
    assert len(held) == len(remembered)
    for name, other in zip(held, remembered.values(), strict=True):
        assert torch.equal(held[name], other), name


def test_only_the_answers_to_a_batch_are_kept_for_its_step() -> None:
    events, labels = stream(64)
    learner = made(standardise=False)
    run(learner, events, labels)
    network = learner._network
    assert network is not None
    for answered, kept in ((events[:16], True), (events, False), (events[:3], False)):
        learner.predict(answered)
        assert (network._answered is not None) == kept
    learner.predict(events[:16])
    # Other events, or the same with other numbers: nothing of these answers is learned.
    other = made(standardise=False)
    run(other, events, labels)
    for one in (learner, other):
        one.learn([{**event, "a": 0.5} for event in events[:16]], labels[:16])
        assert one._network is not None
        assert one._network._answered is None
    assert learner.dump() == other.dump()


@pytest.mark.usefixtures("one_thread")
def test_a_users_layers_in_a_row_are_updated_in_one_piece(
    own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import my_models  # type: ignore[import-not-found]  # noqa: PLC0415

    def plain(inputs: int, outputs: int) -> Any:
        return torch.nn.Sequential(
            torch.nn.Linear(inputs, 8), torch.nn.Sigmoid(), torch.nn.Linear(8, outputs)
        )

    monkeypatch.setattr(plain, "__module__", "my_models")
    monkeypatch.setattr(my_models, "plain", plain, raising=False)
    events, labels = stream(320, "regression")
    learner = made("regression", module="my_models:plain", standardise=False)
    run(learner, events, labels)
    network = learner._network
    assert network is not None
    assert network._flat is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = plain(4, 1)
    bare = torch.optim.Adam(net.parameters(), lr=0.01)
    for xs, ys in batches(events, labels):
        bare.zero_grad()
        torch.nn.functional.mse_loss(net(floats(xs)), torch.tensor(ys).unsqueeze(1)).backward()
        bare.step()
    assert same(parameters(learner), {n: p.detach() for n, p in net.named_parameters()})
    mixed = made("regression", module=own)
    run(mixed, events, labels)
    assert mixed._network is not None
    assert mixed._network._flat is None, "a batch norm is no row of layers that it knows"


def test_a_module_that_was_tampered_with_is_learned_on(own: str) -> None:
    """Whoever moves, freezes or replaces a parameter finds the optimizer with it."""
    events, labels = stream(64)
    learner, other = made(), made()
    for number, (xs, ys) in enumerate(batches(events, labels)):
        for one in (learner, other):
            if number == 2:
                one.module.first.bias.requires_grad_(False)
        if number == 1:
            for part in learner.module.parameters():
                part.data = part.data.clone()
        learner.predict(xs)
        learner.learn(xs, ys)
        other.learn(xs, ys)
        if number == 1:
            frozen = other.module.first.bias.detach().clone()
    assert learner.dump() == other.dump()
    assert torch.equal(learner.module.first.bias, frozen)
    assert not torch.equal(learner.module.last.bias, torch.zeros(3))


def test_it_learns_and_knows_nothing_at_first() -> None:
    events, labels = stream(2000)
    learner = made()
    first = learner.predict(events[:2])
    assert first.values == [None, None]
    assert first.probabilities == [{}, {}]
    answers = run(learner, events, labels)
    late = [value for answer in answers[-20:] for value in answer.values]
    assert np.mean([a == b for a, b in zip(late, labels[-320:], strict=True)]) > 0.85
    assert made("regression").predict(events[:2]).values == [0.0, 0.0]


def test_one_event_at_a_time_is_predict_and_then_learn() -> None:
    events, labels = stream(60)
    one, other = made(batch=1), made(batch=1)
    expected = []
    for event, label in zip(events, labels, strict=True):
        expected += one.predict([event]).values
        one.learn([event], [label])
    assert other.predict_then_learn(events, labels).values == expected
    assert same(parameters(one), parameters(other))


# -- how it is taught


def bare_net(width: int, outputs: int) -> Any:
    """What ``made`` builds, by hand."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return torch.nn.Sequential(
            torch.nn.Linear(width, 8), torch.nn.ReLU(), torch.nn.Linear(8, outputs)
        )


def floats(events: Sequence[Any]) -> Any:
    return torch.tensor([list(event.values()) for event in events])


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_l1_and_a_schedule_are_those_of_a_bare_loop(optimizer: str) -> None:
    events, labels = stream(320, "regression")
    learner = made(
        "regression",
        optimizer={"use": optimizer, **OPTIMIZERS[optimizer]},
        schedule={"use": "linear", "steps": 10, "last": 0.1, "warmup": 4},
        l1=0.01,
        clip_norm=1.0,
        standardise=False,
    )
    run(learner, events, labels)
    net = bare_net(4, 1)
    bare = CLASSES[optimizer](net.parameters(), **OPTIMIZERS[optimizer])
    rate = bare.param_groups[0]["lr"]
    for number, (xs, ys) in enumerate(batches(events, labels)):
        fallen = max(0.0, 1.0 - (number - 4) / 10)
        factor = (number + 1) / 5 if number < 4 else 0.1 + (1.0 - 0.1) * fallen
        bare.param_groups[0]["lr"] = rate * factor
        bare.zero_grad()
        loss = torch.nn.functional.mse_loss(net(floats(xs)), torch.tensor(ys).unsqueeze(1))
        penalty = sum(part.abs().sum() for part in net.parameters())
        (loss + 0.01 * penalty).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        bare.step()
    for (name, one), other in zip(learner.module.named_parameters(), net.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_averaged_weights_answer_and_are_followed(own: str) -> None:
    events, labels = stream(320)
    for module in (own, {"use": "mlp", "hidden": [8]}):
        learner = made(module=module, ema=0.9, first="body", last="head")
        mean: dict[str, Any] = {}
        average: Any = None
        for number, (xs, ys) in enumerate(batches(events, labels)):
            learner.learn(xs, ys)
            assert learner._network is not None
            average = learner._network.average
            assert average is not None
            if not number:
                mean = {name: part.clone() for name, part in average.module.named_parameters()}
                continue
            share = 1.0 - min(0.9, (1 + number) / (10 + number))
            mean = {
                name: mean[name].lerp(part, share) for name, part in parameters(learner).items()
            }
        assert same(mean, dict(average.module.named_parameters()))
        assert not same(mean, parameters(learner))
        plain = made(module=module, first="body", last="head")
        run(plain, events, labels)
        assert same(parameters(plain), parameters(learner))
        follower = TorchLearner.restored(through_bytes(learner.dump()), "multiclass", allow=[build])
        assert same(mean, dict(follower.module.named_parameters()))
        assert follower.predict(events) == learner.predict(events)
        assert follower.predict(events) != plain.predict(events)


def test_standardised_targets_are_learned_sooner() -> None:
    events, labels = stream(640, "regression")
    labels = [1000.0 + 50.0 * label for label in labels]
    errors = []
    for standardise_target in (False, True):
        learner = made("regression", standardise_target=standardise_target)
        answers = run(learner, events, labels)
        late = [value for answer in answers[-10:] for value in answer.values]
        errors.append(np.mean(np.abs(np.subtract(late, labels[-160:]))))
    assert errors[0] > 500
    assert errors[1] < 30
    follower = TorchLearner.restored(through_bytes(learner.dump()), "regression")
    assert follower.predict(events) == learner.predict(events)


def test_bfloat16_is_torchs_own_autocast() -> None:
    events, labels = stream(160)
    learner = made(precision="bfloat16", standardise=False)
    run(learner, events, labels)
    net = learner.module
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = net(floats(events[:20]))
    assert expected.dtype == torch.bfloat16
    said = learner.predict(events[:20]).probabilities
    assert said is not None
    assert [list(p.values()) for p in said] == torch.softmax(expected.float(), 1).tolist()
    assert {part.dtype for part in net.parameters()} == {torch.float32}
    plain = made(standardise=False)
    run(plain, events, labels)
    assert not same(parameters(plain), parameters(learner))
    follower = TorchLearner.restored(through_bytes(learner.dump()), "multiclass")
    assert follower.predict(events) == learner.predict(events)


TAUGHT: list[tuple[str, dict[str, Any]]] = [
    ("multiclass", {"ema": 0.9}),
    ("multiclass", {"ema": 0.5, "module": {"use": "mlp", "hidden": [6], "dropout": 0.2}}),
    ("multiclass", {"schedule": {"use": "cosine", "steps": 12, "last": 0.2, "warmup": 3}}),
    ("multiclass", {"schedule": {"use": "exponential", "half_life": 5}, "l1": 0.01}),
    ("multiclass", {"schedule": {"use": "inverse-sqrt", "steps": 4}, "precision": "bfloat16"}),
    ("regression", {"standardise_target": True, "ema": 0.9, "epochs_per_batch": 2}),
]


@pytest.mark.parametrize(("task", "options"), TAUGHT)
def test_what_it_is_taught_by_goes_on_from_a_dump(task: str, options: dict[str, Any]) -> None:
    events, labels = stream(160, task)
    later, more = stream(160, task, names="abcdef", seed=5)
    events += later
    labels += ["new", *more[1:]] if task == "multiclass" else more
    whole = made(task, **options)
    expected = run(whole, events, labels)
    cut = made(task, **options)
    answers = []
    for xs, ys in batches(events, labels):
        tree = through_bytes(cut.dump())
        cut = made(task, **options)
        cut.load(tree)
        answers.append(cut.predict(xs))
        cut.learn(xs, ys)
    assert answers == expected
    assert cut.dump() == whole.dump()
    assert made(task, **options).fingerprint() != made(task).fingerprint()


def test_how_it_is_taught_comes_from_the_configuration(tmp_path: Path) -> None:
    learner = """
use = "torch"
module = { use = "mlp", hidden = [4] }
optimizer = { use = "adam", lr = 0.01 }
schedule = { use = "cosine", steps = 100, last = 0.1, warmup = 10 }
l1 = 0.001
ema = 0.99
precision = "bfloat16"
standardise_target = true
"""
    log = f"sqlite:///{tmp_path / 'log.db'}"
    config = configure(tmp_path, log, "app", task="regression", label="y", learner=learner)
    made = components(load(config)).make_learner()
    assert isinstance(made, TorchLearner)
    training = made._training
    assert (training.l1, training.ema, training.precision) == (0.001, 0.99, "bfloat16")
    assert training.schedule.factor(109) == pytest.approx(0.1, abs=0.001)
    assert made.dump()["target"] is not None


def test_settings_that_followers_need_are_compared() -> None:
    for changed in ({"ema": 0.9}, {"precision": "bfloat16"}):
        one, other = made(), made(**changed)
        for learner, tree in ((one, other.dump()), (other, one.dump())):
            with pytest.raises(CorruptSnapshot, match="settings differ"):
                learner.load(tree)


# -- growth


@pytest.mark.parametrize("module", ["linear", "mlp", "own"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_growth_keeps_answers_weights_and_moments(optimizer: str, module: str, own: str) -> None:
    events, labels = stream(160)
    learner = made(
        module=own if module == "own" else module,
        first="body",
        last="head",
        optimizer={"use": optimizer, **OPTIMIZERS[optimizer]},
        missing="mask",
    )
    run(learner, events, labels)
    answers = learner.predict(events)
    old, remembered = parameters(learner), moments(learner)
    assert remembered
    network = learner._network
    assert network is not None
    learner._intake.columns.admit([{"z": 1.0, "w": "text"}])
    learner._intake.targets.admit(["new", "newer"])
    network.grow(len(learner._intake.columns), learner._intake.targets.outputs)
    grown, now = parameters(learner), moments(learner)
    assert learner.columns[-3:] == ["z", "z is missing", "w=text"]
    assert grown.keys() == old.keys()
    assert now.keys() == remembered.keys()
    widened = 0
    for before, after in ((old, grown), (remembered, now)):
        for name, tensor in before.items():
            kept = tuple(slice(size) for size in tensor.shape)
            assert torch.equal(after[name][kept], tensor), name
            rest = torch.ones(after[name].shape, dtype=torch.bool)
            rest[kept] = False
            fresh = 0.1 if name.startswith("sum:") else 0.0
            assert bool((after[name][rest] == fresh).all()), name
            widened += int(rest.sum())
    assert widened
    assert answers.probabilities is not None
    later = learner.predict(events).probabilities
    assert later is not None
    for had, has in zip(answers.probabilities, later, strict=True):
        share = sum(has[label] for label in had)
        assert had == pytest.approx({k: has[k] / share for k in had}, rel=1e-5)


def test_new_features_and_classes_come_as_they_come() -> None:
    events, labels = stream(320)
    more, _ = stream(320, names="abcde", seed=2)
    learner = made()
    run(learner, events, labels)
    assert learner.columns == list("abcd")
    before = set(labels)
    run(learner, more, ["other" if event["e"] > 0 else "high" for event in more])
    assert learner.columns == list("abcde")
    assert learner.classes == [*dict.fromkeys(labels), "other"]
    assert len(before) == 3
    answers = [learner.predict(more[-100:]).values]
    assert "other" in answers[0]


def test_a_module_that_names_no_layers_does_not_grow(own: str) -> None:
    events, labels = stream(64)
    learner = made(module=own, classes=["low", "mid", "high"])
    run(learner, events, labels)
    richer = [{**event, "e": 1.0} for event in events]
    run(learner, richer, labels)
    assert learner.columns == list("abcd")
    with pytest.raises(LearnerFailed, match="class 'odd' is new") as failed:
        learner.learn(events[:16], [*labels[:5], "odd", *labels[6:16]])
    assert (failed.value.index, failed.value.phase) == (5, "learn")


# -- features


def test_texts_and_declared_numbers_are_categories() -> None:
    events = [{"n": float(i), "city": "ab"[i % 2], "code": i % 3} for i in range(16)]
    learner = made("binary", categorical=["code"], missing="mask")
    learner.learn(events, [i % 2 == 0 for i in range(16)])
    assert learner.columns == [
        "n", "n is missing", "city=a", "code=0", "city=b", "code=1", "code=2",
    ]  # fmt: skip
    seen = learner._intake.tensor([{"city": "b", "code": 2}, {"n": 7.5, "city": "c"}]).tolist()
    assert seen[0] == [0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0]
    assert seen[1] == [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    with pytest.raises(ConfigError, match="'code' is no list of names"):
        made("binary", categorical="code")


@pytest.mark.parametrize("standardise", [True, False])
def test_a_missing_number_is_the_running_mean(standardise: bool) -> None:
    events = [{"x": 1.0, "y": 2.0}, {"x": 3.0}, {"y": 6.0}, {"x": 8.0, "y": float("nan")}]
    learner = made("binary", standardise=standardise)
    learner.learn(events, [True, False, True, False])
    seen = learner._intake.tensor([{"x": 4.0}, {"y": 8.0}]).tolist()
    expected = [[0.0, 0.0], [0.0, 2.0]] if standardise else [[4.0, 4.0], [4.0, 8.0]]
    assert seen == expected


def test_the_scaler_knows_all_that_was_learned() -> None:
    events, labels = stream(320, "binary")
    learner = made("binary")
    run(learner, events, labels)
    table = np.array([list(event.values()) for event in events])
    expected = (table[:5] - table.mean(axis=0)) / table.std(axis=0)
    assert learner._intake.tensor(events[:5]).numpy() == pytest.approx(expected, rel=1e-5)


def test_no_more_columns_than_allowed() -> None:
    learner = made("binary", max_columns=3)
    learner.learn([{f"x{i}": 1.0, "t": f"{i}"} for i in range(9)], [True] * 9)
    assert learner.columns == ["x0", "t=0", "x1"]


def test_events_without_features_teach_nothing() -> None:
    learner = made("binary")
    learner.learn([{}, {}], [True, False])
    learner.learn([], [])
    assert learner.module is None
    events, labels = stream(32, "binary")
    run(learner, events, labels)
    assert len(learner.predict([{}, *events[:2]]).values) == 3
    assert learner.predict([]).values == []


# -- laws


def test_it_has_the_shape_of_a_learner() -> None:
    assert isinstance(made(), Learner)


def test_nothing_outside_changes(own: str) -> None:
    events, labels = stream(64)
    copies = [dict(event) for event in events]
    learner = made(module=own, first="body", last="head", threads=1)
    before = torch.random.get_rng_state(), torch.get_num_threads(), torch.is_grad_enabled()
    run(learner, events, labels)
    learner.fingerprint()
    after = torch.random.get_rng_state(), torch.get_num_threads(), torch.is_grad_enabled()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert events == copies


def test_predicting_changes_nothing(own: str) -> None:
    events, labels = stream(160)
    for module in (own, "mlp"):
        one, other = (made(module=module, first="body", last="head") for _ in range(2))
        for xs, ys in batches(events, labels):
            one.predict(xs)
            one.predict([{"never": 1.0}, {"a": "text"}, {}])
            one.learn(xs, ys)
            other.learn(xs, ys)
        assert one.dump() == other.dump()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_going_on_from_a_dump_is_going_on(optimizer: str, own: str) -> None:
    events, labels = stream(320)
    grown, _ = stream(320, names="abcdef", seed=5)
    events += grown
    labels += [*labels[:160], *["new"] * 160]
    for module in (own, {"use": "mlp", "hidden": [6, 5], "dropout": 0.2}):
        options: dict[str, Any] = {
            "module": module,
            "optimizer": {"use": optimizer, **OPTIMIZERS[optimizer]},
            "first": "body",
            "last": "head",
        }
        whole = made(**options)
        expected = run(whole, events, labels)
        cut = made(**options)
        answers = []
        for xs, ys in batches(events, labels):
            tree = through_bytes(cut.dump())
            cut = made(**options)
            cut.load(tree)
            assert cut.dump() == tree
            answers.append(cut.predict(xs))
            cut.learn(xs, ys)
        assert answers == expected
        assert cut.dump() == whole.dump()


def test_a_reset_forgets_everything() -> None:
    events, labels = stream(64)
    learner = made()
    fresh = learner.dump()
    run(learner, events, labels)
    learner.react("warning")
    assert learner.dump() != fresh
    learner.react("reset")
    assert learner.dump() == fresh


def test_a_step_that_is_not_finite_is_left_out() -> None:
    events, labels = stream(64, "regression")
    learner = made("regression", standardise=False)
    run(learner, events, labels)
    before = parameters(learner)
    learner.learn([{"a": 1e30}], [1e30])
    assert learner.skipped == 1
    assert same(parameters(learner), before)


def test_what_cannot_be_learned_is_named() -> None:
    events, labels = stream(16)
    with pytest.raises(LearnerFailed, match="feature 'b' is a list") as failed:
        made().learn([*events[:7], {"b": [1]}, *events[8:]], labels)
    assert (failed.value.index, failed.value.phase) == (7, "learn")


# -- followers


def test_a_follower_predicts_the_same(own: str) -> None:
    events, labels = stream(160)
    events[3] = {"a": 1.0, "t": "text"}
    for module in (own, "linear", {"use": "mlp", "hidden": [4, 4]}):
        learner = made(module=module, first="body", last="head", missing="mask")
        for expected in (learner.predict(events), None):
            if expected is None:
                run(learner, events, labels)
                expected = learner.predict(events)  # noqa: PLW2901
            follower = TorchLearner.restored(
                through_bytes(learner.dump()), "multiclass", allow=[build]
            )
            assert follower.predict(events) == expected
    with pytest.raises(LearnerFailed, match="only predicts"):
        follower.learn(events, labels)


def test_a_follower_takes_only_factories_that_it_was_given(own: str) -> None:
    learner = made(module=own)
    learner.learn(*stream(16))
    with pytest.raises(LineageMismatch, match="was not told to take"):
        TorchLearner.restored(learner.dump(), "multiclass")


def spoiled(change: Callable[[dict[str, Any]], Any]) -> Any:
    learner = made()
    learner.learn(*stream(16))
    tree = through_bytes(learner.dump())
    change(tree)
    return tree


def put(name: str, tensor: Any) -> Callable[[dict[str, Any]], None]:
    def change(tree: dict[str, Any]) -> None:
        held = weights.read(tree["learned"]["weights"], "weights")
        tree["learned"]["weights"] = weights.write({**held, name: tensor})

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put("first.bias", torch.full((8,), float("nan"))), "non-finite"),
        (put("first.bias", torch.zeros(9)), "bad-state"),
        (put("first.bias", torch.zeros(8, dtype=torch.float64)), "bad-state"),
        (put("other", torch.zeros(1)), "bad-state"),
        (lambda tree: tree["learned"].update(weights=b"no tensors"), "bad-state"),
        (lambda tree: tree["learned"].update(weights="text"), "bad-state"),
        (lambda tree: tree["settings"]["module"].update(hidden=[10**12]), "bad-state"),
        (lambda tree: tree["settings"]["module"].update(hidden=[1] * 10**6), "bad-state"),
        (lambda tree: tree["scaler"].update(mean=b"\0" * 80), "bad-state"),
        (
            lambda tree: tree["scaler"].update(mean=np.full(4, np.inf).tobytes()),
            "non-finite",
        ),
    ],
    ids=[
        "NaN",
        "shape",
        "type",
        "more",
        "bytes",
        "text",
        "huge",
        "deep",
        "scaler",
        "infinite",
    ],
)
def test_a_follower_refuses_what_is_spoiled(
    change: Callable[[dict[str, Any]], Any], reason: str
) -> None:
    with pytest.raises(CorruptSnapshot) as refused:
        TorchLearner.restored(spoiled(change), "multiclass")
    assert refused.value.reason == reason


def test_a_trainer_keeps_what_it_has_if_a_snapshot_does_not_fit() -> None:
    events, labels = stream(64)
    learner = made()
    run(learner, events, labels)
    before = learner.dump()
    with pytest.raises(CorruptSnapshot, match=r"weight first.bias is float32 \(9,\)"):
        learner.load(spoiled(put("first.bias", torch.zeros(9))))
    other = made(module={"use": "mlp", "hidden": [9]})
    with pytest.raises(
        CorruptSnapshot, match=r"settings differ: module \(.*9.*, not .*8"
    ) as refused:
        learner.load(other.dump())
    assert "another configuration" in refused.value.hint
    assert learner.dump() == before


# -- configuration


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"module": "mpl"}, "there is no module 'mpl'"),
        ({"module": {"use": "mlp", "hiden": [3]}}, "did you mean hidden"),
        ({"module": {"use": "mlp", "hidden": []}}, "at least one size"),
        ({"module": {"use": "mlp", "hidden": 32}}, "hidden: 32 is no list of sizes"),
        ({"module": {"use": "mlp", "activation": "step"}}, "activation: 'step'"),
        ({"module": {"hidden": [3]}}, "with the key use"),
        ({"optimizer": "adam"}, "needs a learning rate"),
        ({"optimizer": {"use": "lion"}}, "there is no 'lion'"),
        ({"optimizer": {"use": "adam", "lr": 0.1, "beta": 1}}, "did you mean betas"),
        ({"optimizer": {"use": "adam", "lr": -1.0}}, "refused its options"),
        ({"loss": "hing"}, "there is no 'hing'"),
        ({"batch": 0}, "no positive whole number"),
        ({"threads": 1000}, "more than 256"),
        ({"missing": "median"}, "'median' is none"),
        ({"clip_norm": 0.0}, "not positive"),
        ({"device": "tpu"}, "'tpu' is none"),
        ({"l1": -1.0}, "l1: -1.0 is negative"),
        ({"ema": 1.0}, "not between 0 and 1"),
        ({"precision": "float16"}, "'float16' is none"),
        ({"standardise_target": True}, "no numbers as labels"),
        ({"schedule": "cosin"}, "there is no 'cosin'"),
        ({"schedule": "cosine"}, "steps"),
        ({"schedule": {"use": "cosine", "steps": 0}}, "0 is not positive"),
        ({"schedule": {"use": "linear", "steps": 9, "last": 2}}, "no number from 0 to 1"),
        ({"schedule": {"use": "linear", "step": 9}}, "step"),
        ({"task": "ranking"}, "'ranking' is none"),
        ({"module": "my_models:build", "first": "act"}, "only a torch.nn.Linear grows"),
        ({"module": "my_models:build", "first": "bdy"}, "has no layer 'bdy'"),
        ({"module": "my_models:build", "first": "head"}, "takes 8 inputs"),
        ({"module": "random:Random"}, "is no torch.nn.Module"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_configuration_that_cannot_work(options: dict[str, Any], said: str, own: str) -> None:
    with pytest.raises(ConfigError, match=said):
        made(options.pop("task", "multiclass"), **options).fingerprint()


def test_the_fingerprint_is_that_of_the_configuration(own: str) -> None:
    prints = [
        made(**options).fingerprint()
        for options in (
            {},
            {"seed": 4},
            {"batch": 8},
            {"loss": "hinge"},
            {"module": "linear"},
            {"module": own},
            {"optimizer": {"use": "adam", "lr": 0.02}},
            {"l1": 0.1},
            {"schedule": {"use": "linear", "steps": 9}},
        )
    ]
    assert len(set(prints)) == len(prints)
    assert made().fingerprint() == prints[0]
