"""Events with texts, images and sequences on the whole path, over the embedded log."""

from __future__ import annotations

import base64
import gzip
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream_update import ModelSubscriber
from stream_update.assemble import open_log
from stream_update.config import load
from stream_update.events import TopicPartition
from stream_update.restore import read_range
from tests.learning import Case, finished, learn, newest
from tests.programs import call

DIGITS = Path(__file__).parents[1] / "data" / "digits.csv.gz"
BATCH = 16
ADAM = f"""
optimizer = {{ use = "adam", lr = 0.01 }}
batch = {BATCH}
"""
CNN = """
use = "torch"
module = { use = "cnn", field = "picture", shape = [8, 8, 1], channels = [8], dim = 24 }
standardise = false
""" + ADAM.replace("0.01", "0.004")
FUSED = (
    """
use = "torch"
module = { use = "fusion", hidden = [24] }
"""
    + ADAM
    + """
[learner.fields]
picture = { use = "image", shape = [8, 8, 1], channels = [8], dim = 16 }
body = { use = "text", buckets = 512, dim = 8 }
trail = { use = "sequence", width = 8, dim = 8 }
"""
)
RIVER = """
use = "river.compose:Pipeline"
steps = [
  { use = "river.feature_extraction:TRANSFORMER", on = "body" },
  { use = "river.naive_bayes:MultinomialNB" },
]
"""
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def digits() -> list[tuple[list[int], int]]:
    """1,797 handwritten digits of 8 by 8 pixels, shuffled."""
    with gzip.open(DIGITS, "rt") as file:
        rows = [list(map(int, line.split(","))) for line in file]
    random.Random(1).shuffle(rows)
    return [(row[:64], row[64]) for row in rows]


def pictures() -> list[dict[str, Any]]:
    """As a text in base64 and as a list in turn."""
    return [
        {
            "picture": base64.b64encode(bytes(pixels)).decode() if place % 2 else pixels,
            "class": digit,
        }
        for place, (pixels, digit) in enumerate(digits())
    ]


def mixed() -> list[dict[str, Any]]:
    """Each digit by a part of what is known of it. Of the nines, and of their ink, nothing is
    heard before half of the stream.
    """
    chance = random.Random(5)
    early: list[dict[str, Any]] = []
    late: list[dict[str, Any]] = []
    for place, (pixels, digit) in enumerate(digits()):
        ink = {"ink": sum(pixels) / 64} if place > 900 else {}
        # One word in three is about another digit.
        words = chance.choices(NAMES, k=1) + [NAMES[digit]] * 2
        parts: dict[str, Any] = {
            "body": " ".join(chance.sample(words, 3)),
            "picture": base64.b64encode(bytes(pixels)).decode(),
            "trail": pixels,
        }
        missing = chance.choice([*parts, None, None])
        event = {k: v for k, v in parts.items() if k != missing} | ink | {"class": digit}
        (early if place < 900 and digit != 9 else late).append(event)
    return early + late


STREAM: dict[str, Any] = {"task": "multiclass", "source": "max_list = 64"}


def messages(count: int = 1200) -> list[dict[str, Any]]:
    """Short messages as a rule makes them; the unwanted ones shout and offer something."""
    chance = random.Random(2)
    wanted = re.findall("[a-z]+", "see you at home later ok call me when the bus is here love mum")
    unwanted = re.findall("[a-zA-Z]+", "WIN free prize claim now urgent cash call txt STOP offer")
    events = []
    for _ in range(count):
        spam = chance.random() < 0.3
        own, other = (unwanted, wanted) if spam else (wanted, unwanted)
        words = chance.choices(own, k=5) + chance.choices(other, k=2)
        chance.shuffle(words)
        events.append({"body": " ".join(words), "class": "spam" if spam else "ham"})
    return events


def test_the_pipeline_is_a_bare_loop_over_the_same_batches(tmp_path: Path) -> None:
    torch: Any = pytest.importorskip("torch")
    from stream_update.learners.torch.fusion import fusion  # noqa: PLC0415

    events = pictures()
    declared = f"max_list = 64\nclasses = {list(range(10))}"
    config = Case(tmp_path, events, **STREAM | {"learner": CNN, "source": declared}).config("whole")
    report = finished(config)
    nn, functional = torch.nn, torch.nn.functional
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        table = {"use": "image", "shape": [8, 8, 1], "channels": [8], "dim": 24}
        begun = fusion(0, 10, {"picture": table}, hidden=[]).state_dict()
    net = nn.ModuleDict(
        {
            "conv": nn.Conv2d(1, 8, 3, padding=1),
            "out": nn.Linear(128, 24),
            "last": nn.Linear(56, 10),
        }
    )
    bias = nn.Parameter(begun["first.bias"].clone())
    net["conv"].load_state_dict(
        {key: begun[f"encoders.0.convolutions.0.{key}"] for key in ("weight", "bias")}
    )
    net["out"].load_state_dict({key: begun[f"encoders.0.out.{key}"] for key in ("weight", "bias")})
    net["last"].load_state_dict({key: begun[f"last.{key}"] for key in ("weight", "bias")})
    adam = torch.optim.Adam([bias, *net.parameters()], lr=0.004)
    right = 0
    for start in range(0, len(events) - BATCH + 1, BATCH):
        rows = [pixels for pixels, _ in digits()[start : start + BATCH]]
        x = torch.tensor(rows, dtype=torch.float32).reshape(BATCH, 1, 8, 8)
        y = torch.tensor([event["class"] for event in events[start : start + BATCH]])
        seen = functional.max_pool2d(torch.relu(net["conv"](x)), 2)
        seen = torch.relu(net["out"](seen.flatten(1)))
        outputs = net["last"](torch.cat([torch.relu(bias).expand(BATCH, -1), seen], 1))
        if start:
            right += int((outputs.argmax(1) == y).sum())
        adam.zero_grad()
        functional.cross_entropy(outputs, y).backward()
        adam.step()
    torch.set_num_threads(before)
    learned = len(events) // BATCH * BATCH
    assert report["learned"] == learned
    assert report["metrics"]["accuracy"] == pytest.approx(right / learned, abs=1e-9)
    assert right / learned > 0.5
    module = newest(config).learner.module  # type: ignore[attr-defined]
    ours = dict(module.named_parameters())
    for name, mine in {
        "encoders.0.convolutions.0.weight": net["conv"].weight,
        "encoders.0.out.weight": net["out"].weight,
        "last.weight": net["last"].weight,
    }.items():
        assert torch.equal(ours[name], mine), name


def test_cuts_growth_and_missing_parts(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    case = Case(tmp_path, mixed(), **STREAM, learner=FUSED)
    whole = case.config("whole")
    report = finished(whole)
    cut = case.config("cut", checkpoint=137)
    for events in (1, 33, 500):
        learn(cut, max_events=events)
    other = finished(cut)
    assert other["metrics"] == report["metrics"]
    assert newest(cut).manifest.digest == newest(whole).manifest.digest
    assert report["dead_letters"] == 0
    assert report["rolling"]["accuracy"] > 0.6
    model: Any = newest(whole).learner
    assert model.columns == ["ink"]
    assert sorted(model.classes) == list(range(10))
    assert model.classes[-1] == 9
    call("snapshots", "verify", "-c", cut, cwd=cut.parent)
    out, _ = call("score", "-c", whole, "--until-end", "--json", cwd=whole.parent)
    assert json.loads(out)["predictions"] == 1797


def test_what_is_no_image_is_a_dead_letter(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    events = pictures()[:300]
    bad = {3: "AAAA", 40: "no base64!", 41: [1.0] * 63, 250: 7.5}
    for place, value in bad.items():
        events[place] = {"picture": value, "class": 1}
    config = Case(tmp_path, events, **STREAM, learner=CNN).config("bad")
    report = finished(config)
    assert report["dead_letters"] == len(bad)
    assert report["events"] == 300
    where = TopicPartition("app.dead-letters", 0)
    with open_log(load(config)) as log, log.reader() as reader:
        batches = list(read_range(reader, where, 0, reader.end_offsets([where])[where]))
    letters = [dict(headers) for batch in batches for headers in batch.headers]
    assert [int(letter["offset"]) for letter in letters] == sorted(bad)
    assert {letter["reason"] for letter in letters} == {b"learner-failed"}
    assert all(b"field 'picture': it " in letter["detail"] for letter in letters)


@pytest.mark.parametrize(("transformer", "least"), [("BagOfWords", 0.9), ("TFIDF", 0.72)])
def test_texts_with_river(tmp_path: Path, transformer: str, least: float) -> None:
    events = messages()
    case = Case(tmp_path, events, **STREAM, learner=RIVER.replace("TRANSFORMER", transformer))
    reports = []
    for name, seed in {"one": "1", "two": "2", "three": "2"}.items():
        config = case.config(name)
        out = subprocess.run(
            [sys.executable, "-m", "stream_update", "run", "-c", config, "--until-end", "--json"],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=config.parent, capture_output=True, text=True, timeout=100, check=True,
        ).stdout  # fmt: skip
        reports.append(json.loads(out))
        assert reports[-1]["metrics"]["accuracy"] > least
        assert reports[-1]["dead_letters"] == 0
    assert reports[0]["metrics"] == reports[1]["metrics"] == reports[2]["metrics"]
    # TFIDF counts the terms of a text in the order of a set.
    first, second = (newest(tmp_path / name / "app.toml") for name in ("two", "three"))
    assert first.manifest.digest == second.manifest.digest


def test_texts_with_torch(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    module = '{ use = "text", field = "body", buckets = 2048, dim = 8 }'
    learner = f'use = "torch"\nmodule = {module}\n{ADAM.replace("0.01", "0.05")}'
    config = Case(tmp_path, messages(), **STREAM, learner=learner).config("text")
    report = finished(config)
    assert report["metrics"]["accuracy"] > 0.85
    events = messages()
    with ModelSubscriber("app", log=f"sqlite:///{config.parent / 'log.db'}") as model:
        model.wait(60)
        said = [model.predict_one({"body": event["body"]}) for event in events[-200:]]
    assert np.mean([a == e["class"] for a, e in zip(said, events[-200:], strict=True)]) > 0.95
