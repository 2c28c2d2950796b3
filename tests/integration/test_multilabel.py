"""Several classes at once on the whole path: bare loops, cuts, kills, followers, the preset.

The stream is handwritten digits: whether a digit is even, prime or above four. From the middle
on it is also told whether it is a square, so one class comes late.
"""

from __future__ import annotations

import gzip
import json
import random
import signal
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import river.metrics
from river import linear_model, multioutput, preprocessing, tree

from stream_update import ModelSubscriber
from stream_update.assemble import open_log
from stream_update.config import load
from stream_update.events import TopicPartition
from stream_update.restore import read_range
from tests.learning import Case, finished, learn, newest
from tests.programs import call, start

metrics: Any = river.metrics

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "tests" / "data" / "digits.csv.gz"
LATE = 900
BATCH = 16

CHAIN = """
use = "river.compose:Pipeline"
steps = [
  { use = "river.preprocessing:StandardScaler" },
  { use = "river.multioutput:CHAIN", model = { use = "river.linear_model:LogisticRegression" } },
]
"""
ENCODER = """
use = "river.multioutput:MultiClassEncoder"
model = { use = "river.tree:HoeffdingTreeClassifier", grace_period = 50 }
"""
NETWORK = f"""
use = "torch"
module = {{ use = "mlp", hidden = [24] }}
optimizer = {{ use = "adam", lr = 0.01 }}
batch = {BATCH}
"""


def digits(*, objects: bool = False) -> list[dict[str, Any]]:
    """1,797 images, as the ink of 4 by 4 squares, with lists or objects as labels."""
    with gzip.open(DIGITS, "rt") as file:
        rows = [list(map(int, line.split(","))) for line in file]
    random.Random(1).shuffle(rows)
    events = []
    for place, (*pixels, digit) in enumerate(rows):
        ink = {
            f"p{x}{y}": sum(pixels[16 * y + 2 * x + at] for at in (0, 1, 8, 9)) / 64
            for x in range(4)
            for y in range(4)
        }
        label = {"even": digit % 2 == 0, "prime": digit in {2, 3, 5, 7}, "above 4": digit > 4}
        if place >= LATE:
            label["square"] = digit in {0, 1, 4, 9}
        named = [name for name, applies in label.items() if applies]
        random.Random(place).shuffle(named)
        events.append({**ink, "class": label if objects else named})
    return events


def split(events: list[dict[str, Any]]) -> tuple[list[Any], list[dict[Any, bool]]]:
    """Features, and labels as a learner sees them."""
    features, labels = [], []
    known: dict[Any, bool] = {}
    for event in events:
        features.append({key: value for key, value in event.items() if key != "class"})
        raw = event["class"]
        said = raw if isinstance(raw, dict) else dict.fromkeys(raw, True)
        known.update(dict.fromkeys(said, False))
        labels.append({**known, **said})
    return features, labels


class Bare:
    """river's metrics, by our names."""

    def __init__(self) -> None:
        multi = metrics.multioutput
        self.metrics = {
            "exact_match": multi.ExactMatch(),
            "jaccard": multi.SampleAverage(metrics.Jaccard()),
            "micro_f1": multi.MicroAverage(metrics.F1()),
            "micro_recall": multi.MicroAverage(metrics.Recall()),
            "macro_f1": multi.MacroAverage(metrics.F1()),
            "macro_precision": multi.MacroAverage(metrics.Precision()),
        }
        self.loss = multi.SampleAverage(metrics.LogLoss())

    def update(self, label: dict[Any, bool], value: Any, chances: Any) -> None:
        for metric in self.metrics.values():
            metric.update(label, {name: bool(value.get(name, False)) for name in label})
        self.loss.update(label, {name: {True: chances.get(name, 0.0)} for name in label})

    def compare(self, report: dict[str, Any]) -> None:
        for name, metric in self.metrics.items():
            assert report["metrics"][name] == metric.get(), name
        assert report["metrics"]["log_loss"] == self.loss.get()


def predictions(config: Path) -> list[dict[str, Any]]:
    with open_log(load(config)) as log, log.reader() as reader:
        topic = "app.predictions"
        place = TopicPartition(topic, 0)
        stop = reader.end_offsets([place])[place]
        return [
            json.loads(value)
            for batch in read_range(reader, place, 0, stop)
            for value in batch.values
            if value is not None
        ]


RIVERS: dict[str, tuple[str, Any]] = {
    "ClassifierChain": (
        CHAIN.replace("CHAIN", "ClassifierChain"),
        lambda: (
            preprocessing.StandardScaler()
            | multioutput.ClassifierChain(linear_model.LogisticRegression())
        ),
    ),
    "MonteCarloClassifierChain": (
        CHAIN.replace("CHAIN", "MonteCarloClassifierChain"),
        lambda: (
            preprocessing.StandardScaler()
            | multioutput.MonteCarloClassifierChain(linear_model.LogisticRegression(), seed=0)
        ),
    ),
    "MultiClassEncoder": (
        ENCODER,
        lambda: multioutput.MultiClassEncoder(tree.HoeffdingTreeClassifier(grace_period=50)),
    ),
}


@pytest.mark.parametrize("name", RIVERS)
def test_river_on_the_whole_path_is_a_bare_loop(name: str, tmp_path: Path) -> None:
    learner, make = RIVERS[name]
    events = digits(objects=name == "ClassifierChain")
    case = Case(tmp_path, events, task="multilabel", learner=learner)
    whole = case.config("whole")
    report = finished(whole)
    model: Any = make()
    bare = Bare()
    for x, y in zip(*split(events), strict=True):
        value = model.predict_one(x)
        said = model.predict_proba_one(x)
        bare.update(y, value, {one: chances.get(True, 0.0) for one, chances in said.items()})
        model.learn_one(x, y)
    bare.compare(report)
    assert report["learned"] == len(events)
    assert report["dead_letters"] == 0

    cut = case.config("cut", checkpoint=137)
    for count in (1, 33, 500):
        learn(cut, max_events=count)
    other = finished(cut)
    assert {key: other[key] for key in ("metrics", "rolling", "fading", "classes")} == {
        key: report[key] for key in ("metrics", "rolling", "fading", "classes")
    }
    assert newest(cut).manifest.digest == newest(whole).manifest.digest
    call("snapshots", "verify", "-c", cut, cwd=cut.parent)


def test_torch_on_the_whole_path_is_a_bare_loop(tmp_path: Path) -> None:
    torch: Any = pytest.importorskip("torch")
    names = ["even", "prime", "above 4", "square"]
    events = digits()
    case = Case(
        tmp_path,
        events,
        task="multilabel",
        learner=NETWORK + "standardise = false",
        source=f"classes = {json.dumps(names)}",
    )
    config = case.config("whole")
    report = finished(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(16, 24), torch.nn.ReLU(), torch.nn.Linear(24, 4))
    adam = torch.optim.Adam(net.parameters(), lr=0.01)
    bare = Bare()
    learned = len(events) // BATCH * BATCH
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for at in range(0, learned, BATCH):
        chosen = events[at : at + BATCH]
        x = torch.tensor([[v for k, v in event.items() if k != "class"] for event in chosen])
        y = torch.tensor([[float(one in event["class"]) for one in names] for event in chosen])
        outputs = net(x)
        for row, chances in enumerate(torch.sigmoid(outputs).tolist()):
            said = dict(zip(names, chances, strict=True)) if at else {}
            value = {one: chance > 0.5 for one, chance in said.items()}
            bare.update({one: one in chosen[row]["class"] for one in names}, value, said)
        adam.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(outputs, y).backward()
        adam.step()
    torch.set_num_threads(before)
    bare.compare(report)
    assert report["learned"] == learned
    assert report["rolling"]["micro_f1"] > report["baselines"]["majority"]["micro_f1"]
    module = newest(config).learner.module  # type: ignore[attr-defined]
    for ours, theirs in zip(module.parameters(), net.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_cuts_change_nothing_while_a_network_grows_and_waits(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    case = Case(tmp_path, digits(), task="multilabel", learner=NETWORK)
    whole = case.config("whole")
    report = finished(whole)
    cut = case.config("cut", checkpoint=137)
    for count in (1, 33, 500):
        learn(cut, max_events=count)
    other = finished(cut)
    assert other["metrics"] == report["metrics"]
    assert newest(cut).manifest.digest == newest(whole).manifest.digest
    model: Any = newest(whole).learner
    assert model.classes[-1] == "square"
    assert [row["class"] for row in report["classes"]] == model.classes
    call("snapshots", "verify", "-c", cut, cwd=cut.parent)
    out, _ = call("snapshots", "diff", "1", str(other["snapshots"]), "-c", cut, cwd=cut.parent)
    assert "output['square']" in out
    out, _ = call("why", "1700", "-c", whole, cwd=whole.parent)
    assert "square" in out


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("learner", ["river", "torch"])
def test_kills_change_nothing(learner: str, tmp_path: Path) -> None:
    if learner == "torch":
        pytest.importorskip("torch")
    table = NETWORK if learner == "torch" else RIVERS["MonteCarloClassifierChain"][0]
    case = Case(tmp_path, digits(), task="multilabel", learner=table, checkpoint=100)
    whole = case.config("whole")
    finished(whole)
    killed = case.config("killed")
    chance = random.Random(7)
    for _ in range(3):
        process = start("run", "-c", killed, cwd=killed.parent)
        time.sleep(chance.uniform(1.5, 4.0))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert finished(killed)["events"] == 1797
    assert newest(killed).manifest.digest == newest(whole).manifest.digest


def test_predictions_are_lists_and_probabilities_by_class(tmp_path: Path) -> None:
    events = digits()
    bad = {**events[0], "class": ["even", "even"]}
    learner = RIVERS["ClassifierChain"][0]
    case = Case(tmp_path, [*events, bad], task="multilabel", learner=learner)
    config = case.config("scored")
    report = finished(config)
    assert report["dead_letters"] == 1
    call("score", "-c", config, "--until-end", "--json", cwd=config.parent)
    written = predictions(config)
    # What is no label for a trainer is none of a scorer's business.
    assert len(written) == len(events) + 1
    model: Any = newest(config).learner
    said = model.predict(split(events)[0])
    for row, value, chances in zip(written, said.values, said.probabilities, strict=False):
        assert row["prediction"] == [name for name, applies in value.items() if applies]
        assert row["probabilities"] == chances
    settings = load(config)
    with (
        open_log(settings) as log,
        ModelSubscriber(settings.app, log=log) as subscriber,
    ):
        subscriber.wait(60)
        x = split(events)[0][3]
        assert subscriber.predict_one(x) == said.values[3]
        assert subscriber.predict_proba_one(x) == said.probabilities[3]


def test_lanes_answer_together(tmp_path: Path) -> None:
    events = digits()
    learner = RIVERS["ClassifierChain"][0]
    case = Case(tmp_path, events, task="multilabel", learner=learner, partitions=2)
    config = case.config("two")
    report = finished(config)
    assert report["learned"] == len(events)
    assert report["rolling"]["micro_f1"] > 0.6
    settings = load(config)
    models: dict[int, Any] = {}
    with (
        open_log(settings) as log,
        ModelSubscriber(
            settings.app,
            log=log,
            on_model=lambda model: models.update({min(model.manifest.positions): model}),
        ) as subscriber,
    ):
        subscriber.wait(60)
        deadline = time.monotonic() + 60
        while len(models) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(models) == 2
        x = split(events)[0][0]
        weights = {at: 1 / (m.manifest.recent_loss + 1e-9) for at, m in sorted(models.items())}
        answers = {at: models[at].learner.predict([x]).probabilities[0] for at in weights}
        mean = {
            name: sum(weights[at] * answers[at][name] for at in weights) / sum(weights.values())
            for name in answers[0]
        }
        found = subscriber.predict_proba_one(x)
        assert found is not None
        assert found == pytest.approx(mean)
        assert subscriber.predict_one(x) == {name: chance > 0.5 for name, chance in found.items()}


def test_the_preset(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    text = (ROOT / "deploy" / "presets" / "multilabel.toml").read_text(encoding="utf-8")
    preset = tomllib.loads(text)
    assert preset["task"] == "multilabel"
    config = tmp_path / "multilabel.toml"
    config.write_text(text, encoding="utf-8")
    events = tmp_path / "events.jsonl"
    events.write_text("".join(json.dumps(event) + "\n" for event in digits()), encoding="utf-8")
    call("check", "-c", config, cwd=tmp_path)
    call("produce", events, "-c", config, cwd=tmp_path)
    out, _ = call("run", "-c", config, "--until-end", "--json", cwd=tmp_path)
    report = json.loads(out.splitlines()[-1])
    assert report["learned"] == 1792
    assert report["rolling"]["micro_f1"] > report["baselines"]["majority"]["micro_f1"]
    assert report["rolling"]["exact_match"] > 0.6


WRAPPED = {
    "replay of torch": (NETWORK, '[[wrap]]\nuse = "replay"\nmax_events = 100\n'),
    "ensemble": (
        'use = "ensemble"\ncombine = "weighted"\n[[learner.members]]'
        + RIVERS["MultiClassEncoder"][0]
        + "[[learner.members]]"
        + NETWORK,
        "",
    ),
    "distilled": (
        'use = "distil"\nunlabelled = true\n[learner.teacher]'
        + RIVERS["MultiClassEncoder"][0]
        + "[learner.student]"
        + NETWORK,
        "",
    ),
}
METRIC = """
[[metric]]
use = "river.metrics.multioutput:MicroAverage"
metric = { use = "river.metrics:Jaccard" }
name = "micro_jaccard"
[[monitor]]
use = "drift"
name = "exact"
watch = "exact"
detector = { use = "river.drift.binary:DDM" }
reaction = "swap"
"""


@pytest.mark.parametrize("name", WRAPPED)
def test_numbers_as_classes_and_learners_made_of_learners(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    learner, wraps = WRAPPED[name]
    numbers = {"even": 2, "prime": 7, "above 4": 5, "square": 9}
    events = [
        {**event, "class": [numbers[one] for one in event["class"]] if place % 9 else None}
        for place, event in enumerate(digits()[:1100])
    ]
    case = Case(tmp_path, events, task="multilabel", learner=learner, extra=wraps + METRIC)
    whole = case.config("whole")
    report = finished(whole)
    cut = case.config("cut", checkpoint=137)
    for count in (1, 500):
        learn(cut, max_events=count)
    other = finished(cut)
    assert other["metrics"] == report["metrics"]
    assert newest(cut).manifest.digest == newest(whole).manifest.digest
    assert report["unlabelled"] == sum(event["class"] is None for event in events)
    assert {row["class"] for row in report["classes"]} == set(numbers.values())
    assert report["metrics"]["micro_jaccard"] > 0.3
    call("snapshots", "verify", "-c", cut, cwd=cut.parent)
