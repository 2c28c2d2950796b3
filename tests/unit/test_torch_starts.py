"""A network that begins with another one's weights, and is held near it."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from stream_update.errors import ConfigError
from stream_update.events import Features
from stream_update.exchange import write_snapshot
from stream_update.proof.held import Held
from stream_update.snapshot import Identity, encode_manifest, seal
from tests.streams import through_bytes

torch: Any = pytest.importorskip("torch")
pytest.importorskip("safetensors")

import safetensors.torch  # noqa: E402

from stream_update.learners.torch import TorchLearner  # noqa: E402
from stream_update.learners.torch.steps import Batch  # noqa: E402
from stream_update.learners.torch.transfers import whole_of  # noqa: E402

functional = torch.nn.functional
ADAM = {"use": "adam", "lr": 0.01}


def stream(count: int, names: str = "abcd", seed: int = 1) -> tuple[list[Features], list[bool]]:
    chance = random.Random(seed)
    events = [{name: chance.gauss(0, 1) for name in names} for _ in range(count)]
    return events, [event["a"] + event["b"] > 0 for event in events]


def batches(events: Sequence[Any], labels: Sequence[Any]) -> Iterator[Any]:
    for start in range(0, len(events) - 15, 16):
        yield events[start : start + 16], labels[start : start + 16]


def run(learner: TorchLearner, events: Sequence[Any], labels: Sequence[Any]) -> None:
    for xs, ys in batches(events, labels):
        learner.learn(xs, ys)


def made(start: dict[str, Any] | None = None, task: str = "binary", **options: Any) -> TorchLearner:
    defaults: dict[str, Any] = {"optimizer": ADAM, "batch": 16, "seed": 3}
    options = defaults | options
    module = options.pop("module", {"use": "mlp", "hidden": [8, 6]})
    return TorchLearner(task, module, start=start, **options)


def net(inputs: int = 4, outputs: int = 1, seed: int = 9) -> Any:
    """The same layers as our ``mlp`` has, filled by torch itself."""
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(inputs, 8), torch.nn.ReLU(), torch.nn.Linear(8, 6), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(6, outputs))


LAYERS = {"first": "net.0", "hidden1": "net.2", "last": "net.4"}


def saved(path: Path, module: Any, features: Sequence[str] = "abcd", **more: Any) -> dict[str, Any]:
    """The table of a start from this module."""
    told = {"features": json.dumps(list(features))} if features else {}
    tensors = {f"net.{name}": part for name, part in module.state_dict().items()}
    safetensors.torch.save_file(
        tensors | more.pop("tensors", {}), path, metadata=told | more.pop("told", {})
    )
    return {"use": "safetensors", "file": str(path), "layers": LAYERS, **more}


def snapshot(path: Path, learner: TorchLearner, kind: str = "torch", task: str = "binary") -> Path:
    """What ``snapshots export`` would write of it."""
    identity = Identity(
        app="base", lineage="base", task=task, topic="t", topic_id="1", learner=kind,
        fingerprint="f", config={}, versions={}, seed=0,
    )  # fmt: skip
    tree = learner.dump()
    state = {"learner": {"active": tree, "background": None} if kind == "twin(torch)" else tree}
    made = seal(
        state, identity, partition=0, seq=1, parent="", next={"0": 9}, events=9, learned=9,
        rejected=0, unlabelled=0, recent_loss=0.1, event_time=None, created_ms=1,
    )  # fmt: skip
    headers = [
        ("kind", b"manifest"), ("app", b"base"), ("lineage", b"base"), ("seq", b"1"),
    ]  # fmt: skip
    write_snapshot(path, Held(made, encode_manifest(made.manifest), headers))
    return path


def parameters(learner: TorchLearner) -> dict[str, Any]:
    return {name: part.detach().clone() for name, part in learner.module.named_parameters()}


# -- against a plain loop


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_frozen_layers_and_rates_by_depth_are_torchs_own(tmp_path: Path, optimizer: str) -> None:
    events, labels = stream(320)
    base = net()
    learner = made(
        saved(tmp_path / "base", base, freeze=160, lr_scale=0.5),
        optimizer={"use": optimizer, "lr": 0.02, "weight_decay": 0.1},
        standardise=False,
        clip_norm=1.0,
    )
    torch.manual_seed(3)
    fresh = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 6), torch.nn.Linear(6, 1))
    with torch.no_grad():
        base[4].weight.copy_(fresh[2].weight)
        base[4].bias.copy_(fresh[2].bias)
    bare = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[
        optimizer
    ](
        [
            {"params": base[layer].parameters(), "lr": 0.02 * 0.5**depth}
            for layer, depth in ((0, 2), (2, 1), (4, 0))
        ],
        lr=0.02,
        weight_decay=0.1,
    )
    for number, (xs, ys) in enumerate(batches(events, labels)):
        for layer in (0, 2):
            base[layer].requires_grad_(number >= 10)
        bare.zero_grad()
        x = torch.tensor([list(event.values()) for event in xs])
        y = torch.tensor(ys, dtype=torch.float32).reshape(-1, 1)
        functional.binary_cross_entropy_with_logits(base(x), y).backward()
        torch.nn.utils.clip_grad_norm_(base.parameters(), 1.0)
        bare.step()
        learner.learn(xs, ys)
    ours, theirs = list(parameters(learner).values()), list(base.parameters())
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("use", ["l2-sp", "ewc"])
def test_an_anchor_is_the_penalty_that_one_would_write(tmp_path: Path, use: str) -> None:
    events, labels = stream(320)
    base = net()
    start = [part.detach().clone() for part in base.parameters()]
    matters = [torch.rand(part.shape) for part in start]
    names = [f"fisher.net.{name}" for name, _ in base.named_parameters()]
    learner = made(
        saved(
            tmp_path / "base",
            base,
            head="keep",
            anchor={"use": use, "alpha": 0.1, **({"beta": 0.3} if use == "l2-sp" else {})},
            tensors=dict(zip(names, matters, strict=True)),
        ),
        standardise=False,
    )
    bare = torch.optim.Adam(base.parameters(), lr=0.01)
    for xs, ys in batches(events, labels):
        learner.learn(xs, ys)
        x = torch.tensor([list(event.values()) for event in xs])
        y = torch.tensor(ys, dtype=torch.float32).reshape(-1, 1)
        loss = functional.binary_cross_entropy_with_logits(base(x), y)
        parts = list(base.parameters())
        for part, was, weight in list(zip(parts, start, matters, strict=True))[:4]:
            apart = (part - was) ** 2
            loss = loss + 0.1 / 2 * ((weight * apart) if use == "ewc" else apart).sum()
        if use == "l2-sp":
            loss = loss + 0.3 / 2 * (parts[4] ** 2).sum() + 0.3 / 2 * (parts[5] ** 2).sum()
        bare.zero_grad()
        loss.backward()
        bare.step()
    for ours, theirs in zip(parameters(learner).values(), base.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_an_anchor_holds(tmp_path: Path) -> None:
    events, labels = stream(640)
    base = net()

    def moved(**options: Any) -> float:
        learner = made(saved(tmp_path / "base", base, **options))
        run(learner, events, labels)
        return float(torch.norm(parameters(learner)["first.weight"] - base[0].weight.detach()))

    free, held = moved(), moved(anchor={"use": "l2-sp", "alpha": 1.0})
    assert held < free / 3
    assert moved(freeze="all") == 0.0


def test_the_fisher_information_is_estimated_on_events_of_the_source(tmp_path: Path) -> None:
    events, labels = stream(100)
    source = tmp_path / "source.jsonl"
    source.write_text(
        "".join(json.dumps({**x, "y": y}) + "\n" for x, y in zip(events, labels, strict=True))
    )
    base = net()
    table = saved(
        tmp_path / "base",
        base,
        source={"file": str(source), "label": "y", "limit": 50},
        anchor={"use": "ewc", "alpha": 1.0},
    )
    learner = made(table, standardise=False)
    learner.learn(events[:16], labels[:16])
    assert learner._transfer is not None
    whole = whole_of(learner._transfer._start, learner._recipe)
    assert learner._transfer._start.source is not None
    found = whole.fisher(learner._transfer._start.source)
    expected = torch.zeros(8, 4)
    for event, label in zip(events[:50], labels, strict=False):
        base.zero_grad()
        out = base(torch.tensor([list(event.values())]))
        functional.binary_cross_entropy_with_logits(out, torch.tensor([[float(label)]])).backward()
        expected += base[0].weight.grad ** 2 / 50
    assert torch.allclose(found["first.weight"], expected, rtol=1e-4)


def test_a_joint_loss_keeps_what_the_base_could_do(tmp_path: Path) -> None:
    events, labels = stream(600)
    source = tmp_path / "source.jsonl"
    source.write_text(
        "".join(json.dumps({**x, "y": y}) + "\n" for x, y in zip(events, labels, strict=True))
    )
    teacher = made(standardise=False)
    for _ in range(5):
        run(teacher, events, labels)
    file = snapshot(tmp_path / "base.snapshot", teacher)
    others = [event["c"] - event["d"] > 0 for event in events]

    def kept(**options: Any) -> float:
        table = {"use": "snapshot", "file": str(file), **options}
        learner = made(table, standardise=False, optimizer={"use": "adam", "lr": 0.02})
        for _ in range(5):
            run(learner, events, others)
        assert learner._network is not None
        # With the base's own head.
        said = functional.linear(
            learner._network.below(learner._intake.tensor(events)),
            teacher.module.last.weight,
            teacher.module.last.bias,
        )
        right = (said[:, 0] > 0) == torch.tensor(labels)
        return float(right.float().mean())

    joint = kept(source={"file": str(source), "label": "y"}, joint={"weight": 1.0, "batch": 32})
    assert joint > kept() + 0.05
    assert joint > 0.9


# -- inputs and outputs


def test_inputs_are_matched_by_name(tmp_path: Path) -> None:
    base = net()
    table = saved(tmp_path / "base", base, head="keep", freeze="all")
    events, labels = stream(32, names="dxcba")
    learner = made(table, standardise=False)
    said = [p[True] for p in learner.predict(events).probabilities or ()]
    inputs = torch.tensor([[event[name] for name in "abcd"] for event in events])
    assert said == pytest.approx(torch.sigmoid(base(inputs))[:, 0].tolist(), abs=1e-6)
    learner.learn(events[:16], labels[:16])
    assert learner.columns == ["a", "b", "c", "d", "x"]
    weight = parameters(learner)["first.weight"]
    assert torch.equal(weight[:, :4], base[0].weight)
    assert bool((weight[:, 4] == 0).all())


def test_without_names_the_inputs_have_to_be_as_many(tmp_path: Path) -> None:
    events, labels = stream(16)
    table = saved(tmp_path / "base", net(), features="")
    learner = made(table)
    learner.fingerprint()
    learner.learn(events, labels)
    assert learner.columns == list("abcd")
    other = made(table)
    with pytest.raises(ConfigError, match=r"needs \(8, 5\) of the base, and 'net.0.weight' .*8, 4"):
        other.learn([{**event, "e": 1.0} for event in events], labels)
    named = made({**table, "features": list("dcba")})
    named.learn(events, labels)
    assert named.columns == list("dcba")


@pytest.mark.parametrize("kind", ["torch", "twin(torch)"])
def test_a_base_from_another_lineage(tmp_path: Path, kind: str) -> None:
    chance = random.Random(4)
    events: list[Features] = [
        {"n": chance.gauss(5, 2), "city": chance.choice("xyz")} for _ in range(160)
    ]
    labels = [chance.choice(["low", "high"]) for _ in events]
    base = made(task="multiclass", missing="mask")
    run(base, events, labels)
    file = snapshot(tmp_path / "base.snapshot", base, kind, "multiclass")
    table = {"use": "snapshot", "file": str(file), "head": "keep"}
    learner = made(table, task="multiclass", missing="mask", classes=["new"])
    assert learner.columns == base.columns
    assert learner.classes == [*base.classes, "new"]
    learner = made(table, task="multiclass", missing="mask")
    assert learner.predict(events[:9]) == base.predict(events[:9])
    learner.learn(events[:16], ["mid"] * 16)
    assert learner.classes == [*base.classes, "mid"]
    fresh = made({**table, "head": "new"}, task="multiclass", missing="mask")
    assert fresh.predict(events[:2]).values == [None, None]
    fresh.learn(events[:16], ["mid", "odd"] * 8)
    assert fresh.classes == ["mid", "odd"]
    with pytest.raises(ConfigError, match="has the input 'n is missing'"):
        made({**table, "head": "new"}, task="multiclass").fingerprint()


def test_a_base_with_an_average_begins_as_it_answered(tmp_path: Path) -> None:
    events, labels = stream(160)
    base = made(ema=0.9)
    run(base, events, labels)
    file = snapshot(tmp_path / "base.snapshot", base)
    learner = made({"use": "snapshot", "file": str(file), "head": "keep"})
    assert learner.predict(events) == base.predict(events)


def test_a_base_that_was_only_pretrained(tmp_path: Path) -> None:
    events, _ = stream(32)
    base = made(task="multiclass", ema=0.9, pretrain={"batch": 16})
    base.learn_unlabelled(events[:16])
    base.learn_unlabelled(events[16:])
    file = snapshot(tmp_path / "base.snapshot", base, task="multiclass")
    table = {"use": "snapshot", "file": str(file)}
    learner = made({**table, "freeze": "all"}, task="multiclass")
    learner.learn(events[:16], ["low", "high"] * 8)
    assert torch.equal(learner.module.first.weight, base.module.first.weight)
    with pytest.raises(ConfigError, match="does not say what the base's classes are"):
        made({**table, "head": "keep"}, task="multiclass")


def test_a_base_of_raw_numbers_says_nothing_of_their_deviation(tmp_path: Path) -> None:
    events, labels = stream(160)
    base = made(standardise=False)
    run(base, events, labels)
    file = snapshot(tmp_path / "base.snapshot", base)
    table = {"use": "snapshot", "file": str(file), "head": "keep"}
    learner = made(table, standardise=False)
    assert learner.predict(events) == base.predict(events)
    assert learner._start is not None
    whole = whole_of(learner._start, learner._recipe)
    assert torch.equal(whole.tensor(events), base._intake.tensor(events))


def test_a_base_with_fields_answers_as_it_did(tmp_path: Path) -> None:
    fields = {
        "body": {"use": "text", "buckets": 16, "dim": 3},
        "trail": {"use": "sequence", "dim": 3},
    }
    events, labels = stream(64)
    events = [{**event, "body": "sun", "trail": [event["b"] * 9 + 50] * 2} for event in events]
    options: dict[str, Any] = {"module": "fusion", "fields": fields}
    base = made(**options)
    run(base, events, labels)
    file = snapshot(tmp_path / "base.snapshot", base)
    table: dict[str, Any] = {"use": "snapshot", "file": str(file), "head": "keep"}
    learner = made(table, **options)
    assert learner.predict(events) == base.predict(events)
    assert made({**table, "standardiser": 0}, **options).predict(events) != base.predict(events)
    run(learner, events, labels)
    other = made(table, **options)
    other.load(through_bytes(learner.dump()))
    assert other.predict(events) == learner.predict(events)
    source = tmp_path / "source.jsonl"
    source.write_text("".join(json.dumps({**x, "y": True}) + "\n" for x in events))
    table = {**table, "source": {"file": str(source), "label": "y"}}
    with pytest.raises(ConfigError, match="Fisher information of fields is not estimated"):
        made({**table, "anchor": {"use": "ewc", "alpha": 1.0}}, **options)


def test_what_the_base_knew_of_means_gives_way(tmp_path: Path) -> None:
    events, labels = stream(160)
    base = made()
    run(base, events, labels)
    file = snapshot(tmp_path / "base.snapshot", base)
    scaler = base._intake.scaler
    table = {"use": "snapshot", "file": str(file), "head": "keep"}
    for count, expected in ((10**6, 160.0), (10, 10.0), (1, 1.0)):
        learner = made({**table, "standardiser": count})
        assert learner._intake.scaler._count == pytest.approx([expected] * 4)
        assert learner._intake.scaler._mean == pytest.approx(scaler._mean)
        assert learner._intake.scaler._divisor == pytest.approx(scaler._divisor)
        assert learner.predict(events) == base.predict(events)
    assert len(made({**table, "standardiser": 0})._intake.scaler._count) == 0


# -- state


@pytest.mark.parametrize(
    "options",
    [
        {"freeze": 64},
        {"freeze": "all", "lr_scale": 0.5},
        {"anchor": {"use": "l2-sp", "alpha": 0.1}, "lr_scale": 0.4},
        {"head": "keep", "freeze": 48, "joint": {"weight": 2.0, "batch": 8}},
        {"anchor": {"use": "ewc", "alpha": 1.0}},
    ],
    ids="-".join,
)
def test_going_on_from_a_dump_is_going_on(tmp_path: Path, options: dict[str, Any]) -> None:
    events, labels = stream(96)
    more, others = stream(64, names="abcdef", seed=5)
    events, labels = events + more, labels + others
    source = tmp_path / "source.jsonl"
    source.write_text(
        "".join(json.dumps({**x, "y": y}) + "\n" for x, y in zip(events[:30], labels, strict=False))
    )
    if "joint" in options or options.get("anchor", {}).get("use") == "ewc":
        options = options | {"source": {"file": str(source), "label": "y"}}
    table = saved(tmp_path / "base", net(), **options)
    module = {"use": "mlp", "hidden": [8, 6], "dropout": 0.2}
    whole, cut = made(table, module=module), made(table, module=module)
    assert whole.fingerprint() == cut.fingerprint()
    for xs, ys in batches(events, labels):
        whole.learn(xs, ys)
        tree = through_bytes(cut.dump())
        cut = made(table, module=module)
        cut.load(tree)
        assert cut.dump() == tree
        cut.learn(xs, ys)
        assert cut.predict(events) == whole.predict(events)
    assert cut.dump() == whole.dump()
    follower = TorchLearner.restored(through_bytes(cut.dump()), "binary")
    assert follower.predict(events) == whole.predict(events)


def test_a_reset_starts_from_the_base_again(tmp_path: Path) -> None:
    events, labels = stream(64)
    learner = made(saved(tmp_path / "base", net(), head="keep", freeze=32))
    begun = learner.dump()
    run(learner, events, labels)
    assert learner.dump() != begun
    learner.react("reset")
    assert learner.dump() == begun


def test_the_file_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    table = saved(tmp_path / "base", net())
    prints = [made().fingerprint(), made(table).fingerprint()]
    prints.append(made({**table, "freeze": 10}).fingerprint())
    prints.append(made(saved(tmp_path / "base", net(seed=10))).fingerprint())
    assert len(set(prints)) == 4
    with pytest.raises(ConfigError, match="has the SHA-256"):
        made({**table, "sha256": "0" * 64})


# -- modules and steps of the user's own


def build(inputs: int, outputs: int) -> Any:
    parts = {
        "body": torch.nn.Linear(inputs, 8),
        "norm": torch.nn.BatchNorm1d(8),
        "head": torch.nn.Linear(8, outputs),
    }
    made = torch.nn.Sequential()
    for name, part in parts.items():
        made.add_module(name, part)
    return made


class Smoothed:
    """Labels that are not quite sure."""

    def __init__(self, loss: Any, amount: float) -> None:
        self.loss, self.amount = loss, amount
        self.seeds: list[int] = []

    def __call__(self, module: Any, batch: Batch) -> Any:
        self.seeds.append(batch.seed)
        noise = torch.rand(batch.targets.shape)
        targets = batch.targets * (1 - self.amount) + self.amount * noise
        return self.loss(module(batch.inputs), targets)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    module = type(sys)("my_models")
    monkeypatch.setitem(sys.modules, "my_models", module)
    monkeypatch.setattr(build, "__module__", "my_models")
    module.build, module.Smoothed = build, Smoothed  # type: ignore[attr-defined]


def test_a_frozen_module_of_ones_own_keeps_its_running_statistics(
    tmp_path: Path, own: None
) -> None:
    events, labels = stream(64)
    options: dict[str, Any] = {"module": "my_models:build", "first": "body", "last": "head"}
    base = made(**options)
    run(base, events, labels)
    table = {"use": "snapshot", "file": str(snapshot(tmp_path / "b", base)), "freeze": 32}
    learner = made(table, **options)
    learner.fingerprint()
    states = []
    for xs, ys in batches(events, labels):
        learner.learn(xs, ys)
        state = learner.module.state_dict()
        states.append({k: v.clone() for k, v in state.items() if not k.startswith("head")})
    old = {k: v for k, v in base.module.state_dict().items() if k in states[0]}
    assert all(torch.equal(states[1][name], part) for name, part in old.items())
    assert not any(torch.equal(states[3][name], part) for name, part in old.items())


def test_a_step_of_ones_own(own: None) -> None:
    events, labels = stream(64)
    table = {"use": "my_models:Smoothed", "amount": 0.2}
    one, other, plain = made(step=table), made(step=table), made()
    for learner in (one, other, plain):
        run(learner, events, labels)
    assert one.dump() == other.dump() != plain.dump()
    step: Any = one._own_step[1]
    assert step.seeds == [4, 5, 6, 7]
    assert len({made(step=table).fingerprint(), plain.fingerprint()}) == 2
    with pytest.raises(ConfigError, match="which cannot be called"):
        made(step="builtins:object")


# -- configuration


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"use": "lineage"}, "there is no 'lineage'"),
        ({"file": "/nowhere"}, "cannot be read"),
        ({"freez": 3}, "did you mean freeze"),
        ({"freeze": "none"}, "no number of events"),
        ({"lr_scale": 0.0}, "not in"),
        ({"standardiser": -1}, "standardiser: -1 is no number"),
        ({"head": "old"}, "'old' is none"),
        ({"anchor": {"use": "l1", "alpha": 1.0}}, "there is no 'l1'"),
        ({"anchor": {"use": "l2-sp"}}, "refused its options"),
        ({"anchor": {"use": "ewc", "alpha": 1.0}}, "needs events of the task"),
        ({"joint": {"weight": 1.0}}, "events of the task that the base was made for"),
        ({"source": {"file": "/nowhere", "label": "y"}}, "source: /nowhere cannot be read"),
        ({"use": "snapshot"}, "is no snapshot"),
        ({"layers": {"first": "net.2", "hidden1": "net.2"}}, r"needs \(8, 4\) of the base"),
        ({"layers": {}}, "'first.weight' in the file is not there"),
        ({"module": "linear"}, "nothing but a head"),
        ({"module": {"use": "mlp", "hidden": [7, 6]}}, r"needs \(7, 4\) of the base"),
        ({"module": "my_models:build"}, "the head has to be told"),
        ({"max_columns": 3}, "has the input 'd'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_start_that_cannot_work(
    tmp_path: Path, own: None, options: dict[str, Any], said: str
) -> None:
    others = {key: options.pop(key) for key in ("module", "max_columns") if key in options}
    table = saved(tmp_path / "base", net()) | options
    with pytest.raises(ConfigError, match=said):
        made(table, **others).fingerprint()


def test_a_head_that_says_numbers_is_not_taken_for_one_that_says_deviations(
    tmp_path: Path,
) -> None:
    table = saved(tmp_path / "base", net())
    made(table, "regression", standardise_target=True)
    with pytest.raises(ConfigError, match=r"learner\.start\.head: the base's head says numbers"):
        made({**table, "head": "keep"}, "regression", standardise_target=True)
    events, _ = stream(16)
    base = made(None, "regression", standardise_target=True)
    base.learn(events, [event["a"] for event in events])
    file = snapshot(tmp_path / "base.snapshot", base, task="regression")
    table = {"use": "snapshot", "file": str(file)}
    made(table, "regression").learn(events, [event["a"] for event in events])
    with pytest.raises(ConfigError, match=r"start\.head: the base was made with standardise_t"):
        made({**table, "head": "keep"}, "regression")
    with pytest.raises(ConfigError, match=r"start\.joint: the base was made with standardise_t"):
        made({**table, "joint": {}}, "regression")
