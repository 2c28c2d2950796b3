"""A recommender on the whole path: cuts, kills, dead letters, followers, lists."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from msgspec.structs import replace

from stream_update import ModelSubscriber
from stream_update.assemble import open_log
from stream_update.components import components, fresh_lane
from stream_update.config import load
from stream_update.errors import ConfigError
from stream_update.restore import newest as newest_snapshot
from stream_update.snapshot import Snapshot, records, tree_digest
from tests.learning import learn, newest
from tests.programs import call, configure, elec2, start, write_jsonl
from tests.ratings import clicks, ratings

pytest.importorskip("torch")
pytest.importorskip("safetensors")

ROWS = 1800

FACTORS = """
use = "recommender"
module = "mf"
max_users = 70
max_items = 80
"""

SEQUENCE = """
use = "recommender"
module = "gru"
negatives = 2
max_users = 70
optimizer = { use = "adam", lr = 0.02 }
repeats = false
"""

CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "ratings": (ratings, {"learner": FACTORS, "task": "regression", "label": "rating"}),
    "clicks": (clicks, {"learner": SEQUENCE}),
}


def prepared(folder: Path, name: str, events: list[dict[str, Any]], **options: Any) -> Path:
    """The configuration of an application with these events on a log of its own."""
    place = folder / name
    place.mkdir()
    log = f"sqlite:///{place / 'log.db'}?session_timeout_ms=3000"
    config = configure(place, log, "app", **{"checkpoint": 300} | options)
    produced = folder / "log.db"
    if not produced.exists():
        call("produce", write_jsonl(folder / "events.jsonl", events), "-c", config, cwd=place)
        shutil.copy(place / "log.db", produced)
    shutil.copy(produced, place / "log.db")
    return config


PRESET = Path(__file__).parents[2] / "deploy" / "presets" / "recommender.toml"


@pytest.mark.parametrize("case", CASES)
def test_cuts_into_runs_and_checkpoints_change_nothing(case: str, tmp_path: Path) -> None:
    make, options = CASES[case]
    events = make(ROWS)
    whole = prepared(tmp_path, "whole", events, **options)
    report = learn(whole, until_end=True)
    cut = prepared(tmp_path, "cut", events, **options | {"checkpoint": 137})
    for some in (1, 70, 250):
        learn(cut, max_events=some)
    other = learn(cut, until_end=True)
    assert other["metrics"] == report["metrics"]
    assert other["rolling"] == report["rolling"]
    assert report["metrics"]["hit_rate@10"] > report["metrics"]["ndcg@10"] > 0.05
    assert newest(cut).manifest.digest == newest(whole).manifest.digest
    call("snapshots", "verify", "-c", cut, cwd=cut.parent)
    out, _ = call("snapshots", "diff", "1", str(other["snapshots"]), "-c", cut, cwd=cut.parent)
    assert "norm[items]" in out


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_kills_change_nothing(tmp_path: Path) -> None:
    make, options = CASES["clicks"]
    events = make(ROWS)
    whole = prepared(tmp_path, "whole", events, **options)
    learn(whole, until_end=True)
    killed = prepared(tmp_path, "killed", events, **options)
    chance = random.Random(7)
    for _ in range(3):
        process = start("run", "-c", killed, cwd=killed.parent)
        time.sleep(chance.uniform(2.5, 6.0))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    report = learn(killed, until_end=True)
    assert report["events"] == ROWS
    assert newest(killed).manifest.digest == newest(whole).manifest.digest


def test_followers_recommend_with_what_was_learned(tmp_path: Path) -> None:
    events = ratings(1300)
    spoiled = {40: {"item": "i1", "rating": 3}, 700: {**events[700], "user": 1.5}}
    events = [spoiled.get(index, event) for index, event in enumerate(events)]
    config = prepared(tmp_path, "app", events, **CASES["ratings"][1])
    report = learn(config, until_end=True)
    assert report["dead_letters"] == 2
    settings = load(config)
    lane: Any = fresh_lane(settings, components(settings), {0: 0}).lane
    good = [event for index, event in enumerate(events) if index not in spoiled]
    features = [{k: v for k, v in event.items() if k != "rating"} for event in good]
    for begin in range(0, len(good) - 63, 64):
        xs, ys = (column[begin : begin + 64] for column in (features, good))
        lane.learner.learn(xs, [y["rating"] for y in ys])
    user = good[-1]["user"]
    with ModelSubscriber("app", log=settings.log) as model:
        model.wait(60)
        assert model.recommend_one(user, 5) == lane.learner.recommend(user, 5)
        best = [item for item, _ in model.recommend_one(user, 3)]
        assert best[0] not in dict(model.recommend_one(user, 3, exclude=best[:1]))
        assert model.predict_one({"user": "nobody", "item": "nothing"}) == pytest.approx(
            lane.learner.predict([{"user": "nobody", "item": "nothing"}]).values[0]
        )
    out, _ = call("score", "-c", config, "--until-end", "--json", cwd=config.parent)
    scored = json.loads(out)
    assert (scored["predictions"], scored["dead_letters"]) == (1298, 2)


def spoiled(genuine: Snapshot, change: Callable[[Any], None]) -> list[Any]:
    """The records of the next snapshot, in good order but for what its learner holds."""
    state = genuine.state()
    change(state["learner"])
    packed = msgspec.msgpack.encode(state)
    payload = zstandard.compress(packed)
    manifest = replace(
        genuine.manifest,
        seq=genuine.manifest.seq + 1,
        digest=tree_digest(packed),
        sha256=hashlib.sha256(payload).hexdigest(),
        size=len(payload),
        unpacked_size=len(packed),
        chunks=1,
    )
    digest = hashlib.sha256(msgspec.json.encode(manifest)).hexdigest()
    return records(Snapshot(manifest, digest, payload), "app.snapshots")


@pytest.mark.parametrize(
    "change",
    [
        lambda learner: learner["settings"].update(dim=10**12),
        lambda learner: learner["settings"].update(history=1000),
        lambda learner: learner["model"]["users"].update(ids=["a"] * 10**6),
        lambda learner: learner["model"].update(weights=b""),
    ],
    ids=["huge", "history", "ids", "weights"],
)
def test_a_spoiled_snapshot_leaves_the_model_as_it_is(
    change: Callable[[Any], None], tmp_path: Path
) -> None:
    config = prepared(tmp_path, "app", ratings(700), **CASES["ratings"][1])
    learn(config, until_end=True)
    with open_log(load(config)) as log:
        with log.reader() as reader:
            genuine = newest_snapshot(reader, "app.snapshots", 0, "app")
        assert genuine is not None
        with ModelSubscriber("app", log=log) as model:
            model.wait(60)
            version = model.version
            with log.appender() as appender:
                appender.append(spoiled(genuine, change))
            deadline = time.monotonic() + 60
            while not model.refused and time.monotonic() < deadline:
                time.sleep(0.05)
            assert dict(model.refused) == {"bad-state": 1}
            assert model.version == version
            assert model.recommend_one("u1", 3)


def test_the_preset_learns_ratings(tmp_path: Path) -> None:
    events = write_jsonl(tmp_path / "events.jsonl", ratings(2000))
    shutil.copy(PRESET, tmp_path / "app.toml")
    call("produce", events, "-c", "app.toml", cwd=tmp_path)
    out, _ = call("run", "-c", "app.toml", "--until-end", "--json", cwd=tmp_path)
    report = json.loads(out)
    # Of all events the first 64 are predicted with nothing learned.
    assert report["rolling"]["rmse"] < 0.9 * report["baselines"]["mean"]["rmse"]
    assert report["rolling"]["hit_rate@10"] > 0.1


def test_lanes_know_their_own_users(tmp_path: Path) -> None:
    options = CASES["ratings"][1] | {"partitions": 2}
    events = ratings(1500)
    config = prepared(tmp_path, "app", events, **options)
    report = learn(config, until_end=True)
    assert 0 < report["metrics"]["hit_rate@10"] < 1
    lanes = [lane["metrics"]["hit_rate@10"] for lane in report["lanes"]]
    assert min(lanes) < report["metrics"]["hit_rate@10"] < max(lanes)
    user = events[-1]["user"]
    with ModelSubscriber("app", log=load(config).log) as model:
        model.wait(60)
        deadline = time.monotonic() + 60
        while len(model.learned_up_to) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(model.recommend_one(user, 5, key=user)) == 5
        with pytest.raises(ConfigError, match="know different users"):
            model.recommend_one(user, 5)


@pytest.mark.parametrize(("source", "name"), [('key = "user"', "user"), ('id = "item"', "item")])
def test_a_field_that_is_no_feature_is_no_user(source: str, name: str, tmp_path: Path) -> None:
    log = f"sqlite:///{tmp_path / 'log.db'}"
    config = configure(tmp_path, log, "app", source=source, **CASES["ratings"][1])
    with pytest.raises(ConfigError, match=f"needs the feature '{name}'"):
        components(load(config))
    config.write_text(config.read_text().replace('features = "*"\n', ""))
    assert components(load(config)).kind == "recommender"


def test_other_learners_recommend_nothing(tmp_path: Path) -> None:
    config = prepared(tmp_path, "app", elec2(200))
    learn(config, until_end=True)
    with ModelSubscriber("app", log=load(config).log) as model:
        model.wait(60)
        with pytest.raises(ConfigError, match="'river', which does not recommend"):
            model.recommend_one("u1")
