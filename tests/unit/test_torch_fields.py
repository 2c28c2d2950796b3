from __future__ import annotations

import base64
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from stream_update.errors import ConfigError, CorruptSnapshot, LearnerFailed
from tests.streams import through_bytes

torch: Any = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from stream_update.learners.torch import TorchLearner, weights  # noqa: E402
from stream_update.learners.torch.texts import Text  # noqa: E402

Event = dict[str, Any]

FIELDS: dict[str, Any] = {
    "body": {"use": "text", "buckets": 64, "dim": 4},
    "picture": {"use": "image", "shape": [4, 5, 2], "channels": [3, 4], "dim": 5},
    "trail": {"use": "sequence", "width": 2, "max_length": 6, "dim": 3, "layers": 2},
}
WORDS = {"low": ["cold", "rain", "fog"], "high": ["sun", "beach"], "mid": ["cloud", "wind"]}


def stream(count: int, seed: int = 1, **more: Any) -> tuple[list[Event], list[str]]:
    """Events of which each part tells something of the class; a part is missing at times."""
    chance = random.Random(seed)
    labels = [chance.choice(list(WORDS)) for _ in range(count)]
    events = []
    for label in labels:
        bright = 10 + 20 * list(WORDS).index(label)
        pixels = bytes(chance.randrange(bright, bright + 30) for _ in range(40))
        whole: Event = {
            "n": chance.gauss(bright / 10, 1),
            "body": " ".join(chance.choices(WORDS[label], k=4)),
            "picture": base64.b64encode(pixels).decode(),
            "trail": [chance.gauss(bright, 9) for _ in range(2 * chance.randrange(9))],
            **more,
        }
        events.append({k: v for k, v in whole.items() if chance.random() > 0.2})
    return events, labels


def made(module: Any = "fusion", fields: Any = FIELDS, **options: Any) -> TorchLearner:
    options = {
        "optimizer": {"use": "adam", "lr": 0.01},
        "batch": 16,
        "seed": 3,
        "fields": fields,
    } | options
    return TorchLearner(options.pop("task", "multiclass"), module, **options)


def run(learner: TorchLearner, events: list[Event], labels: list[Any]) -> list[Any]:
    answers = []
    for start in range(0, len(events) - learner.batch + 1, learner.batch):
        xs, ys = (part[start : start + learner.batch] for part in (events, labels))
        answers.append(learner.predict(xs))
        learner.learn(xs, ys)
    return answers


def state(learner: TorchLearner) -> dict[str, Any]:
    optimizer = learner._network.optimizer  # type: ignore[union-attr]
    held = {**weights.weights_of(learner.module), **weights.moments_of(learner.module, optimizer)}
    return {name: tensor.detach().clone() for name, tensor in held.items()}


# -- the same as a bare loop


class Bare(torch.nn.Module):  # type: ignore[misc]
    """The same network, written as somebody without a pipeline would."""

    def __init__(self) -> None:
        super().__init__()
        nn = torch.nn
        self.first = nn.Linear(1, 6)
        self.bag = nn.EmbeddingBag(64, 4, mode="mean")
        self.one, self.two = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.out = nn.Linear(4, 5)
        self.gru = nn.GRU(2, 3, 2)
        self.missing = nn.ParameterList(nn.Parameter(torch.zeros(size)) for size in (4, 5, 3))
        self.hidden, self.last = nn.Linear(18, 7), nn.Linear(7, 3)

    def forward(self, events: list[Any]) -> Any:
        functional = torch.nn.functional
        rows = []
        for number, buckets, pixels, steps in events:
            parts = list(self.missing)
            if buckets is not None:
                parts[0] = self.bag(torch.tensor(buckets), torch.tensor([0]))[0]
            if pixels is not None:
                seen = functional.max_pool2d(torch.relu(self.one(pixels)), 2)
                seen = functional.max_pool2d(torch.relu(self.two(seen)), 2)
                parts[1] = torch.relu(self.out(seen.flatten()))
            if steps is not None:
                parts[2] = self.gru(steps)[0][-1] if len(steps) else torch.zeros(3)
            rows.append(torch.cat([torch.relu(self.first(number)), *parts]))
        return self.last(torch.relu(self.hidden(torch.stack(rows))))


def as_tensors(event: Event, text: Text) -> Any:
    pixels = event.get("picture")
    if pixels is not None:
        array = np.frombuffer(base64.b64decode(pixels), np.uint8).reshape(4, 5, 2)
        pixels = torch.from_numpy(array.astype(np.float32)).permute(2, 0, 1)
    steps = event.get("trail")
    if steps is not None:
        steps = torch.tensor(steps).reshape(-1, 2)[-6:]
    body = event.get("body")
    return torch.tensor([event["n"]]), body and text.read(body).tolist(), pixels, steps


def test_it_is_the_bare_loop_over_the_same_batches() -> None:
    events, labels = stream(160)
    events = [{"n": 0.5, **event} for event in events]
    learner = made(
        {"use": "fusion", "numeric": 6, "hidden": [7]},
        standardise=False,
        optimizer={"use": "sgd", "lr": 0.001},
    )
    names = {
        "first": "first", "bag": "encoders.0.bag", "one": "encoders.1.convolutions.0",
        "two": "encoders.1.convolutions.3", "out": "encoders.1.out", "gru": "encoders.2.gru",
        "missing": "missing", "hidden": "head.hidden0", "last": "last",
    }  # fmt: skip
    bare, text = Bare(), Text(buckets=64)
    optimizer = None
    classes = list(dict.fromkeys(labels))
    for start in range(0, 160, 16):
        xs, ys = events[start : start + 16], labels[start : start + 16]
        said = learner.predict(xs).probabilities
        if optimizer is None:
            assert list(dict.fromkeys(ys)) == classes
            learner._meet(xs, ys)
            begun = learner.module.state_dict()
            for name, parameter in bare.named_parameters():
                mine, _, rest = name.partition(".")
                parameter.data.copy_(begun[f"{names[mine]}.{rest}"])
            optimizer = torch.optim.SGD(bare.parameters(), lr=0.001)
        else:
            assert said is not None
            outputs = torch.softmax(bare([as_tensors(x, text) for x in xs]), 1).tolist()
            assert [list(p.values()) for p in said] == [
                pytest.approx(row, abs=1e-5) for row in outputs
            ]
        learner.learn(xs, ys)
        optimizer.zero_grad()
        outputs = bare([as_tensors(x, text) for x in xs])
        target = torch.tensor([classes.index(y) for y in ys])
        torch.nn.functional.cross_entropy(outputs, target).backward()
        optimizer.step()


# -- what is learned


@pytest.mark.parametrize("alone", ["n", *FIELDS])
def test_each_part_is_learned_from(alone: str) -> None:
    events, labels = stream(1600)
    events = [{k: v for k, v in event.items() if k == alone} for event in events]
    table = {"n": "text", alone: FIELDS[alone]} if alone in FIELDS else FIELDS
    # A field without numbers beside it; "n" as a text never occurs.
    learner = made({"use": "fusion", "hidden": []}, table)
    answers = run(learner, events, labels)
    late = [value for answer in answers[-30:] for value in answer.values]
    assert np.mean([a == b for a, b in zip(late, labels[-480:], strict=True)]) > 0.6


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_other_tasks(task: str) -> None:
    events, names = stream(320)
    labels = [name == "high" if task == "binary" else len(name) for name in names]
    learner = made(task=task)
    assert len(learner.fingerprint()) == 64
    run(learner, events, labels)
    said = learner.predict(events[:3])
    assert len(said.values) == 3
    assert learner.predict([]).values == []


def test_one_event_at_a_time() -> None:
    events, labels = stream(40)
    one, other = made(batch=1), made(batch=1)
    expected = []
    for event, label in zip(events, labels, strict=True):
        expected += one.predict([event]).values
        one.learn([event], [label])
    assert other.predict_then_learn(events, labels).values == expected
    assert one.dump() == other.dump()


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "rmsprop", "adam", "adamw"])
def test_numbers_and_classes_come_as_they_come(optimizer: str) -> None:
    events, labels = stream(96)
    events = [{k: v for k, v in event.items() if k != "n"} for event in events]
    learner = made(optimizer={"use": optimizer, "lr": 0.01})
    run(learner, events, labels)
    assert learner.columns == []
    old, said = state(learner), learner.predict(events)
    learner._meet([{"n": 1.0, "place": "hill", "body": "wind"}], ["storm"])
    assert learner.columns == ["n", "place=hill"]
    assert learner.classes[-1] == "storm"
    grown = state(learner)
    assert grown.keys() == old.keys()
    for name, tensor in old.items():
        kept = tuple(slice(size) for size in tensor.shape)
        assert torch.equal(grown[name][kept], tensor), name
    assert grown["first.weight"].shape[1] == 2
    assert grown["last.bias"].shape[0] == 4
    later = learner.predict(events).probabilities
    assert later is not None
    assert said.probabilities is not None
    for had, has in zip(said.probabilities, later, strict=True):
        share = sum(has[label] for label in had)
        assert had == pytest.approx({k: has[k] / share for k in had}, rel=1e-4)
    more, names = stream(96, seed=2, wet=1.5)
    run(learner, more, names)
    assert learner.columns == ["n", "place=hill", "wet"]


def test_a_new_number_in_the_place_of_a_field_is_seen() -> None:
    learner = made(fields={"body": "text"})
    learner.learn([{"n": 1.0, "body": "a"}] * 16, ["low"] * 16)
    learner.learn([{"n": 1.0, "m": 2.0}] * 16, ["low"] * 16)
    assert learner.columns == ["n", "m"]


# -- laws


def test_going_on_from_a_dump_is_going_on() -> None:
    events, labels = stream(160)
    later, names = stream(160, seed=2, late=2.5)
    events, labels = events + later, [*labels, *names[:80], *["new"] * 80]
    module = {"use": "fusion", "dropout": 0.2}
    whole = made(module)
    expected = run(whole, events, labels)
    cut = made(module)
    answers = []
    for start in range(0, 320, 16):
        tree = through_bytes(cut.dump())
        cut = made(module)
        cut.load(tree)
        assert cut.dump() == tree
        answers += run(cut, events[start : start + 16], labels[start : start + 16])
    assert answers == expected
    assert cut.dump() == whole.dump()


def test_predicting_changes_nothing() -> None:
    events, labels = stream(96)
    one, other = made(), made()
    for start in range(0, 96, 16):
        xs, ys = events[start : start + 16], labels[start : start + 16]
        copies = [dict(x) for x in xs]
        one.predict(xs)
        one.predict([{"body": "never seen"}, {}, {"trail": [1e9, 3]}])
        one.learn(xs, ys)
        other.learn(xs, ys)
        assert xs == copies
    assert one.dump() == other.dump()
    one.react("reset")
    assert one.dump() == made().dump()


BAD: list[tuple[str, Any, str]] = [
    ("picture", base64.b64encode(bytes(39)).decode(), "it has 39 values"),
    ("picture", "not base64", "no base64"),
    ("picture", 3.0, "it is a float"),
    ("body", 3.0, "it is a float, and not a text"),
    ("trail", [1.0], "a step has 2"),
    ("trail", "1;2", "could not convert"),
]


@pytest.mark.parametrize(("field", "value", "said"), BAD)
def test_what_a_field_cannot_be_is_refused_where_it_stands(
    field: str, value: Any, said: str
) -> None:
    events, labels = stream(32)
    spoiled = [*events[:5], {**events[5], field: value}, *events[6:16]]
    learner = made()
    with pytest.raises(LearnerFailed, match=said) as failed:
        learner.learn(spoiled, labels[:16])
    assert (failed.value.index, failed.value.phase) == (5, "learn")
    assert isinstance(failed.value.cause, ValueError)
    assert learner.dump() == made().dump()
    learner.learn(events[:16], labels[:16])
    before = learner.dump()
    with pytest.raises(LearnerFailed, match=said) as failed:
        learner.predict(spoiled)
    assert (failed.value.index, failed.value.phase) == (5, "predict")
    with pytest.raises(LearnerFailed, match=said) as failed:
        learner.learn(spoiled, labels[:16])
    assert (failed.value.index, failed.value.phase) == (5, "learn")
    assert learner.dump() == before


# -- followers


def test_a_follower_predicts_the_same() -> None:
    events, labels = stream(96)
    for module, fields in (
        ("fusion", FIELDS),
        ({"use": "text", "field": "body", "buckets": 32}, None),
        ({"use": "cnn", "field": "picture", "shape": [4, 5, 2]}, None),
        ({"use": "gru", "field": "trail", "width": 2, "hidden": [4]}, None),
    ):
        if fields is None:
            known = {"n", module["field"]}  # type: ignore[index]
            events = [{k: v for k, v in e.items() if k in known} for e in stream(96)[0]]
        learner = made(module, fields)
        run(learner, events, labels)
        follower = TorchLearner.restored(through_bytes(learner.dump()), "multiclass")
        assert follower.predict(events) == learner.predict(events)
        assert dict(follower.readable()) == dict(learner.readable())


def field(name: str, **options: Any) -> Callable[[dict[str, Any]], None]:
    def change(tree: dict[str, Any]) -> None:
        tree["settings"]["module"]["fields"][name].update(options)

    return change


def without(tree: dict[str, Any]) -> None:
    del tree["settings"]["module"]["fields"]["body"]


@pytest.mark.parametrize(
    "change",
    [
        field("body", buckets=1 << 28, dim=1 << 16),
        field("body", buckets=1 << 40),
        field("body", char_ngrams=[1, 1 << 40]),
        field("body", use="os:system"),
        field("body", use="image", shape=[4, 4, 1]),
        field("picture", shape=[4096, 4096, 4096]),
        field("picture", channels=[1] * 1000),
        field("picture", channels=[4096] * 8),
        field("trail", dim=1 << 16, layers=8),
        field("trail", layers=1 << 40),
        field("trail", width=3),
        without,
        lambda tree: tree["settings"]["module"].update(fields={}),
        lambda tree: tree["settings"]["module"].update(fields=None),
        lambda tree: tree["settings"]["module"].update(numeric=1 << 40),
        lambda tree: tree.update(fields={}),
        lambda tree: tree["fields"]["trail"].update(mean=b"\0" * 8),
    ],
    ids=map(str, range(17)),
)
def test_a_follower_refuses_what_is_spoiled(change: Callable[[dict[str, Any]], Any]) -> None:
    learner = made()
    learner.learn(*stream(16))
    tree = through_bytes(learner.dump())
    TorchLearner.restored(tree, "multiclass")
    change(tree)
    with pytest.raises(CorruptSnapshot):
        TorchLearner.restored(tree, "multiclass")


# -- configuration


def test_the_fingerprint_is_that_of_the_configuration() -> None:
    body = {"use": "text", "buckets": 64}
    prints = [
        made(**options).fingerprint()
        for options in (
            {},
            {"fields": {"body": body}},
            {"fields": {"text": body}},
            {"fields": {"body": {**body, "char_ngrams": [3, 4]}}},
            {"module": {"use": "fusion", "numeric": 8}},
        )
    ]
    assert len(set(prints)) == len(prints)
    assert made().fingerprint() == prints[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fields": {}}, "at least one field"),
        ({"module": {"use": "fusion", "hidden": [0]}}, "fusion: hidden"),
        ({"module": {"use": "fusion", "numeric": 0}}, "fusion: numeric"),
        ({"module": {"use": "fusion", "activation": "step"}}, "fusion: activation: 'step'"),
        ({"module": {"use": "fusion", "hiden": [3]}}, "did you mean hidden"),
        ({"module": "linear"}, "takes numbers only"),
        ({"module": "my_models:build"}, "takes numbers only"),
    ],
)
def test_a_configuration_that_cannot_work(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        made(**options).fingerprint()


def test_masked_columns_and_fields_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match=r"learner\.pretrain: it masks columns of numbers"):
        TorchLearner("binary", {"use": "text", "field": "body"}, pretrain={"batch": 8}, batch=8)


def test_a_field_that_never_comes_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    events, labels = stream(1400)
    misspelt = {**FIELDS, "pictures": FIELDS["picture"]}
    learner = made(fields=misspelt)
    run(learner, events[:992], labels[:992])
    assert not caplog.records
    run(learner, events[992:], labels[992:])
    (said,) = caplog.messages
    assert "has the field 'pictures': is it spelt" in said
    caplog.clear()
    run(made(), events, labels)
    assert not caplog.records
