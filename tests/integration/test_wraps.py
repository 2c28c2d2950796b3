"""Learners made of learners on the whole path: presets, cuts, kills, followers."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from stream_update.assemble import ScorerProcess, open_log
from stream_update.config import load
from tests.learning import learn, newest
from tests.programs import call, elec2, start, write_jsonl

PRESETS = Path(__file__).parents[2] / "deploy" / "presets"
ROWS = 1000
KINDS = {"replay": "replay(torch)", "ensemble": "ensemble", "distil": "distil(river)"}

RIVER = """
app = "app"
log = "sqlite:///stream.db"
task = "binary"
[source]
topic = "app.labelled"
label = "class"
features = "*"
[learner]
use = "ensemble"
combine = "stacking"
[[learner.members]]
use = "river.tree:HoeffdingTreeClassifier"
[[learner.members]]
use = "river.naive_bayes:GaussianNB"
[[wrap]]
use = "replay"
buffer = "recency"
max_events = 200
[[monitor]]
use = "drift"
detector = { use = "river.drift:ADWIN", delta = 0.05 }
warning = { use = "river.drift:ADWIN", delta = 0.3 }
reaction = "swap"
"""
"""All of it around river learners, one event at a time."""

WITHOUT_TORCH = """
import sys

class NoTorch:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoTorch)
from stream_update.cli import main
main()
"""


def configured(name: str, folder: Path, checkpoint: int = 400) -> Path:
    """A preset on a log in a folder."""
    folder.mkdir()
    text = RIVER if name == "river" else (PRESETS / f"{name}.toml").read_text(encoding="utf-8")
    log = f"sqlite:///{folder / 'log.db'}?session_timeout_ms=3000"
    path = folder / "app.toml"
    path.write_text(
        text.replace("sqlite:///stream.db", log)
        + f"\n[checkpoint]\nevents = {checkpoint}\nseconds = 5\n",
        encoding="utf-8",
    )
    return path


def filled(config: Path) -> Path:
    events = write_jsonl(config.parent / "events.jsonl", elec2(ROWS))
    call("produce", events, "-c", config, cwd=config.parent)
    return config


def copied(config: Path, name: str, **options: Any) -> Path:
    """The same stream for an application that has learned nothing of it."""
    copy = configured(name, config.parent.with_name("copy"), **options)
    for file in config.parent.glob("log.db*"):
        shutil.copy(file, copy.parent)
    return copy


@pytest.fixture(params=[*KINDS, "river"])
def name(request: pytest.FixtureRequest) -> str:
    if request.param != "river":
        pytest.importorskip("torch")
        pytest.importorskip("safetensors")
    return str(request.param)


@pytest.mark.timeout(300)
def test_a_preset_learns_and_cuts_change_nothing(name: str, tmp_path: Path) -> None:
    whole = filled(configured(name, tmp_path / "whole"))
    cut = copied(whole, name, checkpoint=137)
    report = learn(whole, until_end=True)
    for events in (1, 33, 250):
        learn(cut, max_events=events)
    other = learn(cut, until_end=True)

    assert report["metrics"]["accuracy"] > 0.7
    assert report["metrics"]["accuracy"] > report["baselines"]["majority"]["accuracy"] + 0.1
    assert (report["events"], report["dead_letters"]) == (ROWS, 0)
    assert other["metrics"] == report["metrics"]
    assert newest(cut).manifest.digest == newest(whole).manifest.digest
    assert newest(whole).manifest.identity.learner == KINDS.get(name, "twin(replay(ensemble))")
    settings = load(whole)
    with open_log(settings) as log:
        scored = ScorerProcess(settings, log, until_end=True).run()
    assert scored["versions"] == {f"app@{report['snapshots']}": ROWS}


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_kills_change_nothing(name: str, tmp_path: Path) -> None:
    whole = filled(configured(name, tmp_path / "whole"))
    killed = copied(whole, name, checkpoint=100)
    learn(whole, until_end=True)
    chance = random.Random(7)
    for _ in range(2):
        process = start("run", "-c", killed, cwd=killed.parent)
        time.sleep(chance.uniform(2.5, 6.0))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert learn(killed, until_end=True)["events"] == ROWS
    assert newest(killed).manifest.digest == newest(whole).manifest.digest


@pytest.mark.timeout(300)
def test_what_was_learned_can_be_verified_and_told(tmp_path: Path) -> None:
    config = filled(configured("river", tmp_path / "app"))
    report = learn(config, until_end=True)
    call("snapshots", "verify", "-c", config, cwd=config.parent)
    out, _ = call(
        "snapshots", "diff", "1", str(report["snapshots"]), "-c", config, cwd=config.parent
    )
    assert "active.replayed" in out
    assert "active.learner.weight[1]" in out
    _, said = call("run", "-c", config, "-s", "wrap.0.max_events=300", cwd=config.parent, code=3)
    assert "wrap.0.max_events: 200 -> 300" in " ".join(said.split())


@pytest.mark.timeout(300)
def test_a_scorer_of_a_student_needs_no_torch(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    config = filled(configured("distil", tmp_path / "app"))
    learn(config, until_end=True)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "score", "-c", str(config), "--until-end", "--json"],
        cwd=config.parent,
        env={k: v for k, v in os.environ.items() if not k.startswith("STREAM_UPDATE_")},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    assert json.loads(done.stdout)["predictions"] == ROWS
