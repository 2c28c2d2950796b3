"""Starts and learning without labels on the whole path: cuts, kills, verification, presets."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from stream_update import ModelSubscriber
from stream_update.assemble import open_log
from stream_update.config import load
from stream_update.errors import ConfigError, LineageMismatch
from tests.learning import learn, newest
from tests.programs import call, configure, elec2, start, write_jsonl

torch: Any = pytest.importorskip("torch")
pytest.importorskip("safetensors")

PRESETS = Path(__file__).parents[2] / "deploy" / "presets"
ROWS = 2000

BASE = """
use = "torch"
module = { use = "mlp", hidden = [16], dropout = 0.1 }
optimizer = { use = "adam", lr = 0.01 }
batch = 32
"""
UNLABELLED = f"{BASE}pretrain = {{ mask = 0.3, batch = 16 }}\n"
TRANSFER = """
[learner.start]
use = "snapshot"
file = "FILE"
freeze = 400
lr_scale = 0.5
anchor = { use = "l2-sp", alpha = 0.01 }
"""


def mostly_unlabelled(rows: int) -> list[dict[str, Any]]:
    chance = random.Random(1)
    return [
        {**event, "class": event["class"] if chance.random() < 0.3 else None}
        for event in elec2(rows)
    ]


def stream(folder: Path, events: list[dict[str, Any]], learner: str, name: str = "app") -> Path:
    """The configuration of an application whose events are on a log of its own."""
    folder.mkdir(exist_ok=True)
    log = f"sqlite:///{folder / 'log.db'}?session_timeout_ms=3000"
    config = configure(folder, log, name, learner=learner, checkpoint=300)
    call("produce", write_jsonl(folder / "events.jsonl", events), "-c", config, cwd=folder)
    return config


def copy_of(config: Path, name: str, checkpoint: int = 300) -> Path:
    """The same, with nothing learned, in another folder."""
    folder = config.parent / name
    folder.mkdir()
    for file in config.parent.glob("log.db*"):
        shutil.copy(file, folder)
    text = config.read_text().replace(f"{config.parent}/log.db", f"{folder}/log.db")
    copy = folder / config.name
    copy.write_text(text.replace("events = 300", f"events = {checkpoint}"))
    return copy


def base(folder: Path) -> Path:
    """A snapshot that another application has exported."""
    folder.mkdir(exist_ok=True)
    config = stream(folder / "base", elec2(1000), BASE, "base")
    learn(config, until_end=True)
    file = folder / "base.snapshot"
    call("snapshots", "export", "-o", file, "-c", config, cwd=folder)
    return file


@pytest.fixture(params=["unlabelled", "transfer"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "unlabelled":
        return stream(tmp_path / "app", mostly_unlabelled(ROWS), UNLABELLED)
    file = base(tmp_path)
    return stream(
        tmp_path / "app", elec2(2 * ROWS)[ROWS:], BASE + TRANSFER.replace("FILE", str(file))
    )


def test_cuts_into_runs_and_checkpoints_change_nothing(case: Path) -> None:
    whole, cut = copy_of(case, "whole"), copy_of(case, "cut", checkpoint=137)
    report = learn(whole, until_end=True)
    for events in (1, 33, 250):
        learn(cut, max_events=events)
    other = learn(cut, until_end=True)
    assert other["metrics"] == report["metrics"]
    assert newest(cut).manifest.digest == newest(whole).manifest.digest
    assert report["events"] == ROWS
    assert report["dead_letters"] == 0
    call("snapshots", "verify", "-c", cut, cwd=cut.parent)


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_kills_change_nothing(case: Path) -> None:
    whole, killed = copy_of(case, "whole"), copy_of(case, "killed")
    learn(whole, until_end=True)
    chance = random.Random(7)
    for _ in range(2):
        process = start("run", "-c", killed, cwd=killed.parent)
        time.sleep(chance.uniform(3.0, 7.0))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    learn(killed, until_end=True)
    assert newest(killed).manifest.digest == newest(whole).manifest.digest


def test_what_has_no_label_is_learned_and_counted_apart(tmp_path: Path) -> None:
    events = mostly_unlabelled(600)
    config = stream(tmp_path / "app", events, UNLABELLED)
    report = learn(copy := copy_of(config, "one"), until_end=True)
    lacking = [i for i, event in enumerate(events) if event["class"] is None]
    assert report["unlabelled"] == len(lacking)
    for offset in (lacking[0], lacking[-1]):
        out, _ = call("why", str(offset), "-c", copy, "--json", cwd=copy.parent)
        found = json.loads(out)
        assert (found["fate"], found["proven"]) == ("unlabelled", True)
    settings = load(copy)
    with open_log(settings) as log, ModelSubscriber("app", log=log) as model:
        model.wait(60)
        x = {k: v for k, v in events[0].items() if k != "class"}
        assert (model.predict_proba_one(x) or {}).keys() == {True, False}


def test_another_base_is_another_learner(tmp_path: Path) -> None:
    file, other = base(tmp_path), tmp_path / "other.snapshot"
    call(
        "snapshots", "export", "1", "-o", other, "-c", tmp_path / "base" / "base.toml", cwd=tmp_path
    )
    config = stream(tmp_path / "app", elec2(300), BASE + TRANSFER.replace("FILE", str(file)))
    learn(config, until_end=True)
    other.replace(file)
    with pytest.raises(LineageMismatch, match="was made by another learner"):
        learn(config, until_end=True)
    file.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        learn(config, until_end=True)


@pytest.mark.parametrize("name", ["self-supervised", "transfer"])
def test_presets(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(PRESETS / f"{name}.toml", tmp_path)
    preset = tmp_path / f"{name}.toml"
    events = mostly_unlabelled(1500)
    if name == "transfer":
        learner = BASE.replace("[16], dropout = 0.1", "[64]")
        config = stream(tmp_path / "base", elec2(1000), learner, "base")
        learn(config, until_end=True)
        call("snapshots", "export", "-o", "base.snapshot", "-c", config, cwd=tmp_path)
        events = elec2(2500)[1000:]
    call("produce", write_jsonl(tmp_path / "e.jsonl", events), "-c", preset, cwd=tmp_path)
    report = learn(preset, until_end=True)
    assert report["events"] == 1500
    assert report["dead_letters"] == 0
    assert report["metrics"]["accuracy"] > 0.6
