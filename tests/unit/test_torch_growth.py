"""Hidden layers get wider and more of them, and what was learned stays, bit for bit."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pytest

from stream_update.errors import ConfigError, CorruptSnapshot, LineageMismatch
from tests.streams import through_bytes

torch: Any = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from torch import nn  # noqa: E402

from stream_update.learners.torch import TorchLearner, weights  # noqa: E402

BATCH = 16
OPTIMIZERS: list[dict[str, Any]] = [
    {"use": "sgd", "lr": 0.05, "momentum": 0.9},
    {"use": "adagrad", "lr": 0.05, "initial_accumulator_value": 0.1},
    {"use": "rmsprop", "lr": 0.01, "momentum": 0.5, "centered": True},
    {"use": "adam", "lr": 0.01, "amsgrad": True},
    {"use": "adamw", "lr": 0.01, "weight_decay": 0.1},
]
WIDEN = [{"after": 160, "widen": 24}]
ONE = [{"after": 160, "widen": 24, "layer": 1}]
DEEPEN = [{"after": 160, "deepen": 2}]
ROUNDED = 1e-6
"""A product over more columns may be summed in another order, though they have weights of 0."""


def stream(count: int) -> tuple[list[dict[str, Any]], list[str]]:
    chance = random.Random(1)
    events = [{name: chance.gauss(0, 1) for name in "abcd"} for _ in range(count)]
    return events, ["xyz"[(x["a"] > 0) + (x["b"] * x["c"] > 0)] for x in events]


EVENTS, LABELS = stream(480)


def made(**options: Any) -> TorchLearner:
    defaults: dict[str, Any] = {
        "module": {"use": "mlp", "hidden": [8, 6]},
        "optimizer": OPTIMIZERS[3],
        "batch": BATCH,
        "seed": 3,
    }
    return TorchLearner("multiclass", **defaults | options)


def learn(learner: TorchLearner, start: int, stop: int) -> None:
    for at in range(start, stop, BATCH):
        learner.predict(EVENTS[at : at + BATCH])
        learner.learn(EVENTS[at : at + BATCH], LABELS[at : at + BATCH])


def parameters(learner: TorchLearner) -> dict[str, Any]:
    return {name: part.detach().clone() for name, part in learner.module.named_parameters()}


def moments(learner: TorchLearner) -> dict[str, Any]:
    network = learner._network
    assert network is not None
    return {k: v.clone() for k, v in weights.moments_of(learner.module, network.optimizer).items()}


def chances(learner: TorchLearner) -> Any:
    found = learner.predict(EVENTS).probabilities
    assert found is not None
    return torch.tensor([[*row.values()] for row in found], dtype=torch.float64)


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("grow", [WIDEN, ONE, DEEPEN])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda table: table["use"])
def test_old_weights_and_moments_keep_their_bits(
    optimizer: dict[str, Any], grow: list[dict[str, Any]], ema: float | None
) -> None:
    # The same steps with and without the growth at their end.
    plain, learner = (made(optimizer=optimizer, ema=ema, grow=g) for g in ([], grow))
    for one in (plain, learner):
        learn(one, 0, 160)
    assert learner.dump()["hidden"] == {0: [24, 24], 1: [8, 24]}.get(
        grow[0].get("layer", 0) if "widen" in grow[0] else 2, [8, 6, 6, 6]
    )
    for before, after in (
        (parameters(plain), parameters(learner)),
        (moments(plain), moments(learner)),
    ):
        assert before
        for name, part in before.items():
            kept = after[name][tuple(slice(size) for size in part.shape)]
            assert torch.equal(kept, part), name
    assert (chances(learner) - chances(plain)).abs().max() < ROUNDED
    learn(learner, 160, 480)
    new = parameters(learner)
    assert all(torch.isfinite(part).all() for part in new.values())
    if grow is WIDEN:
        # The new units learn (some are never active), and no two of them the same.
        fresh = new["first.weight"][8:]
        learned = (new["last.weight"][:, 6:] != 0).all(dim=0)
        assert int(learned.sum()) > 12
        assert len({tuple(row) for row in fresh.tolist()}) == len(fresh)


def test_what_is_drawn_is_drawn_from_the_seed() -> None:
    drawn = []
    for seed in (3, 3, 4):
        learner = made(grow=WIDEN, seed=seed)
        learn(learner, 0, 160)
        drawn.append(parameters(learner)["first.weight"][8:])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_a_deeper_network_is_that_of_a_longer_list() -> None:
    table = {"use": "mlp", "hidden": [8, 6], "dropout": 0.1}
    learner = made(module=table, grow=[*WIDEN, {"after": 160, "deepen": 2}])
    learn(learner, 0, 160)
    other = made(module={**table, "hidden": [24, 24, 24, 24]})
    learn(other, 0, 16)
    assert repr(learner.module) == repr(other.module)
    assert [*learner.module.state_dict()] == [*other.module.state_dict()]


def test_a_reset_begins_small_again() -> None:
    learner = made(grow=WIDEN)
    learn(learner, 0, 320)
    learner.react("reset")
    learn(learner, 0, 144)
    assert learner.module.first.out_features == 8
    learn(learner, 144, 160)
    assert learner.module.first.out_features == 24


# -- what cannot grow


class Part(nn.Module):  # type: ignore[misc]
    def __init__(self, inputs: int, outputs: int, *body: Any) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, 4)
        self.body = nn.Sequential(*body)
        self.last = nn.Linear(4, outputs)

    def forward(self, inputs: Any) -> Any:
        return self.last(self.body(self.first(inputs)))


def part(*body: Any) -> Callable[..., Any]:
    def build(inputs: int, outputs: int) -> Any:
        with torch.no_grad():
            return Part(inputs, outputs, *body)

    return build


SHARED = nn.Linear(4, 4)
REFUSED: list[tuple[dict[str, Any], Sequence[Any], str]] = [
    ({"module": "linear"}, (), "no hidden layer"),
    ({"module": "fusion", "fields": {"t": {"use": "text"}}}, (), "is a Fusion"),
    ({"module": {"use": "mlp", "activation": "gelu"}, "grow": DEEPEN}, (), "there is GELU"),
    ({"module": {"use": "mlp", "activation": "tanh"}, "grow": DEEPEN}, (), "there is Tanh"),
    ({"grow": [{"after": 1, "widen": 7}]}, (), "no layer gets narrower"),
    ({"grow": [*WIDEN, {"after": 200, "widen": 24}]}, (), "one at least has to get wider"),
    ({"grow": [{"after": 1, "widen": 24, "layer": 2}]}, (), "no hidden layer 2"),
    ({}, (nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), "is a Part"),
    ({"chain": "tail"}, (nn.ReLU(),), "no part 'tail'"),
    ({"chain": "first"}, (nn.ReLU(),), "is a Linear"),
    ({"chain": "body"}, (nn.Linear(4, 4), nn.ReLU()), "no hidden layer"),
    ({"chain": "body"}, (SHARED, nn.ReLU(), SHARED), "no hidden layer"),
    ({"chain": "body"}, (nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4)), "is a LayerNorm"),
    (
        {"chain": "body", "grow": DEEPEN},
        (nn.Linear(4, 4), nn.ReLU(), nn.Hardtanh(), nn.Linear(4, 4)),
        "there is ReLU, Hardtanh",
    ),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_what_cannot_grow_says_so_before_the_first_event(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, body, said = REFUSED[number]
    if body:
        module = ModuleType("my_models")
        monkeypatch.setitem(sys.modules, "my_models", module)
        module.build = part(*body)  # type: ignore[attr-defined]
        options = {"module": "my_models:build", "first": "first", "last": "last"} | options
    learner = made(**{"grow": WIDEN} | options)
    with pytest.raises(ConfigError, match=said):
        learner.fingerprint()


def test_steps_are_no_part_of_the_fingerprint() -> None:
    assert made(grow=WIDEN).fingerprint() == made().fingerprint()


def test_a_plateau_on_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    made(device="cuda", grow=WIDEN)
    with pytest.raises(ConfigError, match="on a GPU the losses differ"):
        made(device="cuda", grow=[{"plateau": 16, "widen": 24}])


# -- snapshots


def test_other_steps_than_those_taken_are_refused_and_change_nothing() -> None:
    learner = made(grow=WIDEN)
    learn(learner, 0, 160)
    other = made(grow=ONE)
    learn(other, 0, 32)
    before = other.dump()
    with pytest.raises(LineageMismatch, match="it has taken the step"):
        other.load(through_bytes(learner.dump()))
    assert other.dump() == before


@pytest.mark.parametrize("hidden", [[24], [24, 1 << 40], [24, 25], [24, 24, 24], [1] * 100_000])
def test_forged_sizes_are_refused_before_there_is_memory_for_them(hidden: list[int]) -> None:
    learner = made(grow=WIDEN)
    learn(learner, 0, 160)
    tree = through_bytes(learner.dump()) | {"hidden": hidden}
    with pytest.raises(CorruptSnapshot):
        made(grow=WIDEN).load(tree)
    with pytest.raises(CorruptSnapshot):
        TorchLearner.restored(tree, "multiclass")


@pytest.mark.parametrize("hidden", [[24], [24, 1 << 40], [24, 25], [4096, 4096], [3, 4]])
def test_forged_sizes_of_a_module_of_ones_own(
    hidden: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("my_models")
    monkeypatch.setitem(sys.modules, "my_models", module)

    def build(inputs: int, outputs: int) -> Any:
        layers = [nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(6, outputs))

    build.__module__, build.__qualname__ = "my_models", "build"
    module.build = build  # type: ignore[attr-defined]
    options: dict[str, Any] = {"module": "my_models:build", "first": "0", "last": "4"}
    learner = made(grow=WIDEN, **options)
    learn(learner, 0, 160)
    good = through_bytes(learner.dump())
    assert TorchLearner.restored(good, "multiclass", allow=[build]).predict(
        EVENTS
    ) == learner.predict(EVENTS)
    with pytest.raises(CorruptSnapshot):
        made(grow=WIDEN, **options).load(good | {"hidden": hidden})
    with pytest.raises(CorruptSnapshot):
        TorchLearner.restored(good | {"hidden": hidden}, "multiclass", allow=[build])
