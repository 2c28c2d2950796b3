"""An encoder that learns from events without labels."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import pytest

from stream_update.errors import ConfigError, CorruptSnapshot, LearnerFailed
from stream_update.events import Features
from stream_update.protocols import LearnsUnlabelled
from stream_update.wraps import BackgroundTwin
from tests.streams import through_bytes

torch: Any = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from stream_update.learners.torch import TorchLearner  # noqa: E402

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.05, "momentum": 0.9},
    "adagrad": {"lr": 0.05, "initial_accumulator_value": 0.1},
    "adam": {"lr": 0.01, "amsgrad": True},
}


def stream(count: int, names: str = "abcd", seed: int = 1) -> tuple[list[Features], list[str]]:
    """Columns that tell of each other."""
    chance = random.Random(seed)
    events = []
    for _ in range(count):
        hidden = chance.gauss(0, 1)
        events.append({name: hidden + chance.gauss(0, 0.3) for name in names})
    return events, ["low" if event["a"] < 0 else "high" for event in events]


def made(pretrain: dict[str, Any] | None = None, **options: Any) -> TorchLearner:
    defaults: dict[str, Any] = {"optimizer": {"use": "adam", "lr": 0.01}, "batch": 16, "seed": 3}
    options = defaults | options
    module = options.pop("module", {"use": "mlp", "hidden": [8], "dropout": 0.1})
    table = {"mask": 0.3, "batch": 16} if pretrain is None else pretrain
    return TorchLearner(options.pop("task", "multiclass"), module, pretrain=table, **options)


def parameters(learner: TorchLearner) -> dict[str, Any]:
    return {name: part.detach().clone() for name, part in learner.module.named_parameters()}


def error(learner: TorchLearner, events: Sequence[Features]) -> float:
    """Of the columns, each told from the others."""
    autoencoder, network = learner._autoencoder, learner._network
    assert autoencoder is not None
    assert network is not None
    network.module.eval()
    inputs = learner._intake.tensor(events)
    total = 0.0
    with torch.no_grad():
        for column in range(inputs.shape[1]):
            seen = inputs.clone()
            seen[:, column] = 0.0
            told = autoencoder._decoder(network.below(seen))[:, column]
            total += float(((told - inputs[:, column]) ** 2).mean()) / inputs.shape[1]
    return total


def test_it_is_the_bare_loop_over_the_same_batches() -> None:
    events, _ = stream(320)
    learner = made(module={"use": "mlp", "hidden": [8]}, standardise=False, classes=["low", "high"])
    for start in range(0, 320, 16):
        learner.learn_unlabelled(events[start : start + 16])

    functional = torch.nn.functional
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = torch.nn.Sequential(
            OrderedDict(
                first=torch.nn.Linear(4, 8), act=torch.nn.ReLU(), last=torch.nn.Linear(8, 2)
            )
        )
        torch.manual_seed(3 + (1 << 40))
        decoder = torch.nn.Linear(8, 4)
        bare = torch.optim.Adam([*net.first.parameters(), *decoder.parameters()], lr=0.01)
        for number, start in enumerate(range(0, 320, 16)):
            x = torch.tensor([list(event.values()) for event in events[start : start + 16]])
            torch.manual_seed(3 + (1 << 40) + 1 + number)
            masked = torch.rand(16, 4) < 0.3
            others = torch.randint(16, (16, 4))
            seen = torch.where(masked, x[others, torch.arange(4)], x)
            bare.zero_grad()
            hidden = torch.relu(net.first(seen))
            functional.mse_loss(decoder(hidden), x).backward()
            bare.step()
    for ours, theirs in zip(parameters(learner).values(), net.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_it_learns_what_columns_say_of_each_other_and_answers_nothing_yet() -> None:
    events, labels = stream(3200)
    learner = made()
    assert isinstance(learner, LearnsUnlabelled)
    assert learner.unlabelled_batch == 16
    learner.learn_unlabelled(events[:16])
    before = error(learner, events)
    for start in range(16, 3200, 16):
        learner.learn_unlabelled(events[start : start + 16])
    assert error(learner, events) < before / 3
    assert learner.predict(events[:2]).values == [None, None]
    follower = TorchLearner.restored(through_bytes(learner.dump()), "multiclass")
    assert follower.predict(events[:2]).values == [None, None]
    learner.learn(events[:16], labels[:16])
    assert set(learner.predict(events).values) <= {"low", "high"}
    assert learner.steps == 1


def test_the_head_is_the_one_that_labels_alone_begin_with() -> None:
    events, labels = stream(32)
    plain, learner = made(optimizer={"use": "sgd", "lr": 1e-30}), made()
    learner._optimizers = plain._optimizers
    learner.learn_unlabelled(events[:16])
    for one in (plain, learner):
        one.learn(events[16:], labels[16:])
    assert torch.equal(learner.module.last.weight, plain.module.last.weight)
    assert not torch.equal(learner.module.first.weight, plain.module.first.weight)
    assert bool((learner.module.last.weight != 0).all())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_going_on_from_a_dump_is_going_on(optimizer: str) -> None:
    events, labels = stream(96)
    more, others = stream(96, names="abcdef", seed=5)
    events, labels = events + more, [*labels, *others[:48], *["new"] * 48]
    table = {"mask": 0.2, "batch": 8, "labelled": optimizer == "adam", "weight": 0.5}
    options: dict[str, Any] = {"optimizer": {"use": optimizer, **OPTIMIZERS[optimizer]}}
    whole, cut = made(table, **options), made(table, **options)
    for start in range(0, 192, 16):
        for learner in (whole, cut):
            learner.learn_unlabelled(events[start : start + 8])
        tree = through_bytes(cut.dump())
        cut = made(table, **options)
        cut.load(tree)
        assert cut.dump() == tree
        for learner in (whole, cut):
            learner.learn(events[start : start + 16], labels[start : start + 16])
    assert cut.dump() == whole.dump()
    assert cut.columns == list("abcdef")
    follower = TorchLearner.restored(through_bytes(cut.dump()), "multiclass")
    assert follower.predict(events) == whole.predict(events)


def test_growth_keeps_the_decoder_and_its_moments() -> None:
    events, _ = stream(64)
    learner = made(optimizer={"use": "adagrad", **OPTIMIZERS["adagrad"]})
    for start in range(0, 64, 16):
        learner.learn_unlabelled(events[start : start + 16])
    autoencoder = learner._autoencoder
    assert autoencoder is not None
    decoder, optimizer = autoencoder._decoder, autoencoder._optimizer
    first = learner.module.first.weight
    old = decoder.weight.detach().clone()
    sums = [optimizer.state[part]["sum"].clone() for part in (first, decoder.weight)]
    learner._meet([{"z": 1.0}], [])
    assert torch.equal(decoder.weight[:4], old)
    assert bool((decoder.weight[4:] == 0).all())
    now = [optimizer.state[part]["sum"] for part in (first, decoder.weight)]
    assert torch.equal(now[0][:, :4], sums[0])
    assert torch.equal(now[1][:4], sums[1])
    assert bool((now[0][:, 4:] == 0.1).all())


def test_what_cannot_be_told_is_left_out() -> None:
    events, _ = stream(32)
    learner = made(standardise=False)
    learner.learn_unlabelled(events[:16])
    before = parameters(learner)
    learner.learn_unlabelled([{**event, "a": 1e30} for event in events[16:]])
    assert learner._autoencoder is not None
    assert (learner._autoencoder.steps, learner._autoencoder.skipped) == (2, 1)
    assert all(torch.equal(part, before[name]) for name, part in parameters(learner).items())
    with pytest.raises(LearnerFailed) as failed:
        learner.learn_unlabelled([*events[:3], {"a": [1]}, *events[4:16]])
    assert failed.value.index == 3


def test_a_twin_lets_both_learn() -> None:
    events, labels = stream(64)
    twin = BackgroundTwin(made)
    assert twin.unlabelled_batch == 16
    twin.react("warning")
    twin.learn_unlabelled(events[:16])
    twin.learn(events[:16], labels[:16])
    assert twin.dump()["active"] == twin.dump()["background"]
    assert BackgroundTwin(lambda: TorchLearner("binary")).unlabelled_batch == 0


def test_a_snapshot_without_a_decoder_does_not_fit() -> None:
    events, _ = stream(16)
    learner = made()
    learner.learn_unlabelled(events)
    tree = learner.dump()
    before = made().dump()
    other = made()
    with pytest.raises(CorruptSnapshot, match="no decoder"):
        other.load({**tree, "pretraining": None})
    assert other.dump() == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mask": 0.0}, "not between 0 and 1"),
        ({"weight": -1.0}, "not positive"),
        ({"batch": 1}, "two or more"),
        ({"masks": 0.2}, "did you mean mask"),
        ({"optimizer": "adam"}, "needs a learning rate"),
        ({"module": "linear"}, "no hidden layer"),
    ],
)
def test_a_configuration_that_cannot_work(options: dict[str, Any], said: str) -> None:
    module = options.pop("module", "mlp")
    with pytest.raises(ConfigError, match=said):
        made(options, module=module).fingerprint()


def test_one_event_alone_has_no_others_to_be_masked_with() -> None:
    for labelled, batch in ((True, 2), (False, 1)):
        TorchLearner("binary", pretrain={"labelled": labelled}, batch=batch)
    with pytest.raises(ConfigError, match="a batch of one event"):
        TorchLearner("binary", pretrain={"labelled": True}, batch=1)


def test_the_fingerprint_tells_them_apart() -> None:
    prints = {made(table).fingerprint() for table in ({}, {"mask": 0.5}, {"labelled": True})}
    assert len(prints | {TorchLearner("multiclass", seed=3).fingerprint()}) == 4
