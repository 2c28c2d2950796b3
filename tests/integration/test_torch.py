"""Torch modules on the whole path, as processes: cuts, kills, followers, verification."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from river import datasets

from stream_update import ModelSubscriber
from stream_update.components import components, fresh_lane
from stream_update.config import load
from stream_update.errors import StreamUpdateError
from tests.learning import Case, finished, learn, newest
from tests.programs import call, elec2, start

torch: Any = pytest.importorskip("torch")
pytest.importorskip("safetensors")

ROWS = 3000
KILLS = 3

NETWORK = """
use = "torch"
module = { use = "mlp", hidden = [16], dropout = 0.1 }
optimizer = { use = "adam", lr = 0.01 }
batch = 32
"""

TAUGHT = """
use = "torch"
module = { use = "mlp", hidden = [16] }
optimizer = { use = "adam", lr = 0.01 }
batch = 32
ema = 0.95
l1 = 0.0001
schedule = { use = "cosine", steps = 40, last = 0.2, warmup = 5 }
"""

OWN = """
from torch import nn

def build(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, outputs))
"""

SWAPPING = """
[[monitor]]
use = "drift"
name = "swapping"
detector = { use = "river.drift:ADWIN", delta = 0.05 }
warning = { use = "river.drift:ADWIN", delta = 0.3 }
reaction = "swap"
"""


def segments() -> list[dict[str, Any]]:
    """2,310 outdoor images in seven classes. One class, one feature and a text come late."""
    rows = list(datasets.ImageSegments())
    random.Random(1).shuffle(rows)
    rows = [row for row in rows if row[1] != "sky"] + [row for row in rows if row[1] == "sky"]
    rows[800:] = random.Random(2).sample(rows[800:], len(rows) - 800)
    return [
        {**x, "class": y, **({"late": i % 7, "word": "ab"[i % 2]} if i > 1200 else {})}
        for i, (x, y) in enumerate(rows)
    ]


def cases() -> dict[str, tuple[Any, dict[str, Any]]]:
    return {
        "binary": (lambda: elec2(ROWS), {}),
        "growing": (segments, {"task": "multiclass"}),
        "taught": (lambda: elec2(1000), {"learner": TAUGHT}),
        "without a graph": (
            lambda: elec2(1000),
            {"learner": NETWORK.replace(", dropout = 0.1", "")},
        ),
        "one by one": (lambda: elec2(700), {"learner": NETWORK.replace("32", "1")}),
        "swap": (lambda: elec2(ROWS), {"extra": SWAPPING}),
    }


@pytest.fixture(params=cases())
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    events, options = cases()[request.param]
    return Case(tmp_path, events(), **{"learner": NETWORK} | options)


def test_cuts_into_runs_and_checkpoints_change_nothing(case: Case) -> None:
    whole = case.config("whole")
    report = finished(whole)
    cut = case.config("cut", checkpoint=137)
    for events in (1, 33, 250):
        learn(cut, max_events=events)
    other = finished(cut)
    assert other["metrics"] == report["metrics"]
    assert report["metrics"]["accuracy"] > 0.6
    assert report["dead_letters"] == 0
    assert newest(cut).manifest.digest == newest(whole).manifest.digest
    call("snapshots", "verify", "-c", cut, cwd=cut.parent)
    out, _ = call("snapshots", "diff", "1", str(other["snapshots"]), "-c", cut, cwd=cut.parent)
    assert "norm[first.weight]" in out


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_kills_change_nothing(tmp_path: Path) -> None:
    case = Case(tmp_path, elec2(ROWS), learner=NETWORK)
    whole = case.config("whole")
    finished(whole)
    killed = case.config("killed")
    chance = random.Random(7)
    for _ in range(KILLS):
        process = start("run", "-c", killed, cwd=killed.parent)
        time.sleep(chance.uniform(2.5, 6.0))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    report = finished(killed)
    assert report["events"] == ROWS
    assert newest(killed).manifest.digest == newest(whole).manifest.digest


def test_followers_predict_with_what_was_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = NETWORK.replace('{ use = "mlp", hidden = [16], dropout = 0.1 }', '"ownnet:build"')
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "ownnet.py").write_text(OWN)
    build = importlib.import_module("ownnet").build
    events = elec2(1000)
    case = Case(tmp_path, events, learner=f'{learner}\nfirst = "0"\nlast = "2"')
    config = case.config("own")
    version = f"app@{finished(config)['snapshots']}"
    settings = load(config)
    lane = fresh_lane(settings, components(settings), {0: 0}).lane
    features = [{k: v for k, v in event.items() if k != "class"} for event in events]
    for start_at in range(0, 992, 32):
        xs, ys = (column[start_at : start_at + 32] for column in (features, events))
        lane.learner.learn(xs, [y["class"] == 1 for y in ys])
    log = f"sqlite:///{config.parent / 'log.db'}"
    with ModelSubscriber("app", log=log, allow=[build]) as model:
        model.wait(60)
        assert model.version == version
        expected = lane.learner.predict(features[:50]).probabilities
        assert expected is not None
        assert [model.predict_proba_one(x) for x in features[:50]] == [
            # One event is another product of matrices than fifty.
            pytest.approx(dict(chances), abs=1e-6)
            for chances in expected
        ]
    out, _ = call("score", "-c", config, "--until-end", "--json", cwd=config.parent)
    assert json.loads(out)["versions"] == {version: 1000}
    with ModelSubscriber("app", log=log) as model:
        with pytest.raises(StreamUpdateError, match="was not told to take"):
            model.wait(2)
        assert set(model.refused) == {"other-version"}


def test_the_code_of_a_module_is_in_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = NETWORK.replace('{ use = "mlp", hidden = [16], dropout = 0.1 }', '"ownnet:build"')
    config = Case(tmp_path, elec2(200), learner=learner).config("own")
    (config.parent / "ownnet.py").write_text(OWN)
    call("run", "-c", config, "--until-end", cwd=config.parent)
    out, _ = call("snapshots", "show", "-c", config, cwd=config.parent)
    identity = json.loads(out)["identity"]
    assert identity["learner"] == "torch"
    assert identity["sources"] == {"ownnet": hashlib.sha256(OWN.encode()).hexdigest()}
    assert identity["versions"].keys() == {"river", "torch"}
    (config.parent / "ownnet.py").write_text(OWN.replace("8", "9"))
    _, said = call("run", "-c", config, "--until-end", cwd=config.parent, code=3)
    assert "was made by another learner" in " ".join(said.split())
