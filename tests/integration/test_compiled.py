"""A compiled learner on the whole path: its preset, cuts, wraps, followers, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stream_update.assemble import open_log
from stream_update.codecs import tables
from stream_update.components import components, fresh_lane
from stream_update.config import load
from stream_update.errors import ConfigError
from stream_update.events import Batch, Table
from stream_update.follower import ModelSubscriber
from stream_update.learners.compiled import CompiledLearner
from stream_update.learners.river import RiverLearner
from tests.learning import Case, finished, learn, newest
from tests.programs import PIPELINE, call, configure, elec2, write_jsonl

pytest.importorskip("numba")

PRESETS = Path(__file__).parents[2] / "deploy" / "presets"
COMPILED = f'use = "compiled"\n[learner.model]\n{PIPELINE}'
WRAPPED = """
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
ENSEMBLE = f"""
use = "ensemble"
combine = "stacking"
[[learner.members]]
use = "river.naive_bayes:GaussianNB"
[[learner.members]]
use = "compiled"
[learner.members.model]
{PIPELINE}
"""


def figures(report: dict[str, Any]) -> dict[str, Any]:
    names = ("events", "learned", "dead_letters", "metrics", "rolling", "fading", "baselines")
    return {name: report[name] for name in names}


def test_the_same_figures_as_river(tmp_path: Path) -> None:
    """With events among the others that neither can learn."""
    events = elec2(1500)
    events[700]["nswprice"] = "high"
    case = Case(tmp_path, events)
    river = finished(case.config("river"))
    compiled = finished(case.config("compiled", learner=COMPILED))
    assert figures(compiled) == figures(river)
    assert compiled["dead_letters"] == 1


@pytest.mark.parametrize(
    ("learner", "extra"),
    [(COMPILED, ""), (COMPILED, WRAPPED), (ENSEMBLE, "")],
    ids=["alone", "wrapped", "ensemble"],
)
def test_cuts_change_nothing(tmp_path: Path, learner: str, extra: str) -> None:
    case = Case(tmp_path, elec2(1200), learner=learner, extra=extra)
    whole = case.config("whole", learner=learner, extra=extra)
    expected = finished(whole)
    cut = case.config("cut", learner=learner, extra=extra, checkpoint=170)
    learn(cut, max_events=333)
    learn(cut, max_events=500)
    assert figures(finished(cut)) == figures(expected)
    assert newest(cut).manifest.digest == newest(whole).manifest.digest


SOURCE = 'id = "n"\ntime = "at"\nduplicate_window = 50'


def test_whether_events_come_as_tables_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ids that come again, and events that are of another kind, late or no events."""
    events = [
        {"n": f"e:{number - (number % 100 == 99)}", "at": f"2026-01-01T00:{number % 60:02}:00"}
        | event
        for number, event in enumerate(elec2(1200))
    ]
    for number in range(300, 340, 3):
        events[number] = dict(reversed(events[number].items()))
    for number in range(700, 1200):
        events[number]["late"] = number % 7
    events[400]["nswprice"] = "high"
    events[500]["nswprice"] = None
    events[600]["class"] = None
    case = Case(tmp_path, events, learner=COMPILED, source=SOURCE)
    # Or it would rest for most of a stream that is so short.
    monkeypatch.setattr(tables, "REST", 0)
    monkeypatch.setattr(tables, "MOST", 1)
    tabled = case.config("tabled", learner=COMPILED, source=SOURCE)
    learn(tabled, max_events=333)
    found = finished(tabled)
    monkeypatch.setattr(CompiledLearner, "takes_tables", False)
    plain = case.config("plain", learner=COMPILED, source=SOURCE)
    assert figures(found) == figures(finished(plain))
    assert found["dead_letters"] == 1
    assert newest(tabled).manifest.digest == newest(plain).manifest.digest


@pytest.mark.parametrize(("extra", "kind"), [("", Table), (WRAPPED, list)], ids=["alone", "wrap"])
def test_who_takes_tables_gets_them(tmp_path: Path, extra: str, kind: type) -> None:
    config = load(configure(tmp_path, "sqlite:///none.db", "app", learner=COMPILED, extra=extra))
    kit = fresh_lane(config, components(config), {0: 0})
    values = [json.dumps(event).encode() for event in elec2(900)]
    blocks = [
        kit.decode(Batch("t", 0, range(start, start + 300), values[start : start + 300]))
        for start in range(0, 900, 300)
    ]
    assert type(blocks[-1].features) is kind
    assert sum(len(block.features) for block in blocks) == 900


def test_who_follows_predicts_with_river(tmp_path: Path) -> None:
    case = Case(tmp_path, elec2(600))
    config = case.config("compiled", learner=COMPILED)
    finished(config)
    settings = load(config)
    with open_log(settings) as log, ModelSubscriber(settings.app, log=log) as model:
        model.wait(60)
        chances = model.predict_proba_one({"nswprice": 0.08, "nswdemand": 0.5})
        assert chances is not None
        assert sum(chances.values()) == pytest.approx(1.0)
    learner = newest(config).learner
    assert isinstance(learner, RiverLearner)
    assert call("snapshots", "verify", "-c", config, cwd=config.parent)


def test_the_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    preset = PRESETS / "compiled.toml"
    call("produce", write_jsonl(tmp_path / "e.jsonl", elec2(1500)), "-c", preset, cwd=tmp_path)
    report = learn(preset, until_end=True)
    assert report["events"] == 1500
    assert report["dead_letters"] == 0
    assert report["metrics"]["accuracy"] > 0.7


def test_what_cannot_be_compiled_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    case = Case(tmp_path, elec2(10))
    config = case.config(
        "other", learner='use = "compiled"\nmodel = { use = "river.naive_bayes:GaussianNB" }'
    )
    with pytest.raises(ConfigError, match="cannot be compiled: step 'GaussianNB'"):
        finished(config)
    nothing = case.config("nothing", learner='use = "compiled"')
    with pytest.raises(ConfigError, match="model"):
        finished(nothing)
