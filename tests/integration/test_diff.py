"""What changed between two snapshots is told in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stream_update.assemble import Trainer
from stream_update.comparing import compare
from stream_update.config import load
from stream_update.proof.held import held_snapshots
from stream_update.proof.replay import Replay
from tests.integration.test_proof import TREE, Setting
from tests.programs import call, configure, elec2, write_jsonl


@pytest.fixture
def setting(tmp_path: Path) -> Any:
    made = Setting(tmp_path)
    Trainer(made.config, made.log, max_events=300).run()
    yield made
    made.log.close()


def diff(setting: Setting, folder: Path, *arguments: str) -> Any:
    out, _ = call("snapshots", "diff", *arguments, "-c", setting.path, "--json", cwd=folder)
    return json.loads(out)


def test_weights_figures_and_detectors(setting: Setting, tmp_path: Path) -> None:
    found = diff(setting, tmp_path, "1", "3")
    assert found["facts"]["events"] == [100, 300]
    assert "rejected" not in found["facts"], "the one bad event is in both"
    assert found["facts"]["next"] == [{"0": 100}, {"0": 300}]
    assert found["configuration"] == []
    assert found["same_state"] is False
    sections = {
        name: {change["name"]: change for change in section["changes"]}
        for name, section in found["sections"].items()
    }
    with setting.log.reader() as reader:
        held = held_snapshots(setting.config, reader, 0)
        replay = Replay(setting.config, setting.log, reader)
    lanes = [replay.lane(s, s.manifest.positions).lane for s in (held[0], held[2])]
    weights = [
        list(lane.learner.model.steps.values())[1].weights["nswprice"]  # type: ignore[attr-defined]
        for lane in lanes
    ]
    change = sections["learner"]["LogisticRegression.weights['nswprice']"]
    assert [change["old"], change["new"]] == weights
    figures = [lane.monitor("metrics").report()["metrics"]["accuracy"] for lane in lanes]
    change = sections["metrics"]["metrics.accuracy"]
    assert [change["old"], change["new"]] == figures
    assert sections["drift"]["detector.ADWIN.width"]["new"] > 200
    out, _ = call("snapshots", "diff", "1", "3", "-c", setting.path, cwd=tmp_path)
    assert "events  100 -> 300  (+200)" in out
    assert "LogisticRegression.weights['nswprice']  " in out
    assert "metrics.accuracy  " in out
    assert "[" not in out.split("learner:")[1].split("StandardScaler")[0], "no codec paths"


def test_nothing_changes_from_a_snapshot_to_itself(setting: Setting, tmp_path: Path) -> None:
    found = diff(setting, tmp_path, "2", "2")
    assert (found["facts"], found["same_state"]) == ({}, True)
    assert all(not section["changes"] for section in found["sections"].values())
    out, _ = call("snapshots", "diff", "2", "2", "-c", setting.path, cwd=tmp_path)
    assert "the states are the same" in out


def test_what_is_not_there_is_said(setting: Setting, tmp_path: Path) -> None:
    _, said = call("snapshots", "diff", "1", "77", "-c", setting.path, cwd=tmp_path, code=2)
    assert "no snapshot 77" in said
    assert "1, 2, 3" in said


def test_another_configuration_still_compares_manifests(setting: Setting, tmp_path: Path) -> None:
    out, _ = call("snapshots", "diff", "1", "2", "-c", setting.path, "-s", "seed=5", cwd=tmp_path)
    assert "events  100 -> 200" in out
    assert "cannot read them" in out
    assert "seed: 0 -> 5" in out


def test_a_tree_grows_and_new_names_appear(tmp_path: Path) -> None:
    setting = Setting(tmp_path, learner=TREE)
    setting.learn()
    with setting.log.reader() as reader:
        held = held_snapshots(setting.config, reader, 0)
        replay = Replay(setting.config, setting.log, reader)
    found = compare(held[0], held[-1], lambda s: replay.lane(s, s.manifest.positions).lane)
    changes = {change.name: change for change in found.sections["learner"].changes}
    grown = changes["HoeffdingAdaptiveTreeClassifier.root.n_nodes"]
    assert grown.moved is not None
    assert grown.moved > 0
    assert any(change.missing == "old" and ".splits[" in name for name, change in changes.items())
    setting.log.close()


def test_a_learner_in_the_background_and_new_classes(tmp_path: Path) -> None:
    events = [
        {"x": float(number % 5), f"f{number // 100}": 1.0, "label": "abc"[number // 60 % 3]}
        for number in range(300)
    ]
    path = configure(
        tmp_path,
        f"sqlite:///{tmp_path / 'swap.db'}",
        "swap",
        task="multiclass",
        label="label",
        learner='use = "river.naive_bayes:GaussianNB"',
        checkpoint=100,
        extra="[snapshot]\nmax_overhead = 1.0",
        source='id = "x"\nduplicate_window = 2',
    )
    path.write_text(path.read_text().replace('reaction = "alert"', 'reaction = "swap"'))
    write_jsonl(tmp_path / "events.jsonl", events)
    call("produce", "events.jsonl", "-c", path, cwd=tmp_path)
    for _ in range(3):
        call("run", "-c", path, "--max-events", "100", cwd=tmp_path)
    out, _ = call("snapshots", "diff", "1", "3", "-c", path, cwd=tmp_path)
    assert "active.GaussianNB.class_counts[" in out
    assert "feature['f2']  new: True" in out
    assert "class['c']  new: True" in out


def test_other_code_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from river import linear_model\n\ndef model():\n"
        "    return linear_model.LogisticRegression()\n"
    )
    path = configure(
        tmp_path, f"sqlite:///{tmp_path / 'c.db'}", "code", learner='factory = "mine:model"',
        checkpoint=100, extra="[snapshot]\nmax_overhead = 1.0",
    )  # fmt: skip
    write_jsonl(tmp_path / "events.jsonl", elec2(200))
    call("produce", "events.jsonl", "-c", path, cwd=tmp_path)
    call("run", "-c", path, "--max-events", "100", cwd=tmp_path)
    (tmp_path / "mine.py").write_text((tmp_path / "mine.py").read_text() + "# more\n")
    call("run", "-c", path, "--max-events", "100", cwd=tmp_path)
    out, _ = call("snapshots", "diff", "1", "2", "-c", path, cwd=tmp_path)
    assert "the source of module mine (SHA-256 " in out
    assert load(path).app == "code"
