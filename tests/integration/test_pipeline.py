"""The whole path on real events, as processes: produce, run, score; on both logs."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from river import compose, datasets, linear_model, optim, preprocessing, tree

from stream_update import ModelSubscriber
from stream_update.events import Record, TopicPartition
from stream_update.plugins import open_log
from stream_update.restore import read_range
from tests.programs import bare_loop, call, configure, elec2, report_of, start, write_jsonl

ROWS = 6000
KILLS = 4
FIGURES = ("accuracy", "f1", "kappa", "log_loss", "roc_auc")


def pipeline() -> Any:
    return compose.Pipeline(
        preprocessing.StandardScaler(),
        linear_model.LogisticRegression(l2=0.0, optimizer=optim.SGD(lr=0.01)),
    )


def prepare(folder: Path, log: str, app: str, **options: Any) -> Path:
    config = configure(folder, log, app, **options)
    call("produce", "elec2", "-c", config, "--limit", str(ROWS), cwd=folder)
    return config


def run(config: Path, *options: str) -> dict[str, Any]:
    return report_of(
        start("run", "-c", config, "--until-end", "--json", *options, cwd=config.parent)
    )


def figures(report: dict[str, Any]) -> dict[str, float]:
    return {name: report["metrics"][name] for name in FIGURES}


def test_equals_a_bare_river_loop(tmp_path: Path, log_url: str, app: str) -> None:
    config = prepare(tmp_path, log_url, app)
    report = run(config)
    assert figures(report) == bare_loop(pipeline, elec2(ROWS))
    assert report["events"] == report["learned"] == ROWS
    assert report["dead_letters"] == 0
    # The last checkpoint always has one; before it, only as many as cost little.
    assert 1 <= report["snapshots"] <= ROWS // 1000
    assert 0.5 < report["baselines"]["no_change"]["accuracy"] < 1


def test_a_tree_and_cuts_into_runs_change_nothing(tmp_path: Path, log_url: str, app: str) -> None:
    config = prepare(
        tmp_path,
        log_url,
        app,
        learner='use = "river.tree:HoeffdingTreeClassifier"\ngrace_period = 50',
        checkpoint=700,
    )
    for events in (1, 999, 1234):
        cut = report_of(
            start("run", "-c", config, "--max-events", str(events), "--json", cwd=tmp_path)
        )
        assert cut["run_events"] == events
    report = run(config)
    expected = bare_loop(lambda: tree.HoeffdingTreeClassifier(grace_period=50), elec2(ROWS))
    assert figures(report) == expected
    assert report["events"] == ROWS
    assert figures(run(config)) == expected, "a run with nothing left to do reports the same"


def segments() -> tuple[list[dict[str, Any]], Any]:
    """2,310 outdoor images in seven classes, in a random order."""
    rows = list(datasets.ImageSegments())
    random.Random(1).shuffle(rows)
    names = sorted({label for _, label in rows})
    events = [{**x, "class": names.index(label)} for x, label in rows]
    return events, lambda: compose.Pipeline(
        preprocessing.MinMaxScaler(), tree.HoeffdingTreeClassifier(grace_period=40)
    )


def approval() -> tuple[list[dict[str, Any]], Any]:
    """1,001 polls; some lack a feature."""
    events = [
        {**{k: v for k, v in x.items() if (i + len(k)) % 7}, "class": y}
        for i, (x, y) in enumerate(datasets.TrumpApproval())
    ]
    return events, lambda: compose.Pipeline(
        preprocessing.StandardScaler(), linear_model.LinearRegression(intercept_lr=0.1)
    )


@pytest.mark.parametrize(
    ("task", "stream", "scaler", "model"),
    [
        (
            "multiclass",
            segments,
            "river.preprocessing:MinMaxScaler",
            'use = "river.tree:HoeffdingTreeClassifier", grace_period = 40',
        ),
        (
            "regression",
            approval,
            "river.preprocessing:StandardScaler",
            'use = "river.linear_model:LinearRegression", intercept_lr = 0.1',
        ),
    ],
    ids=["multiclass", "regression"],
)
def test_other_tasks_equal_a_bare_river_loop(
    tmp_path: Path, log_url: str, app: str, task: str, stream: Any, scaler: str, model: str
) -> None:
    events, make = stream()
    learner = f'use = "river.compose:Pipeline"\nsteps = [{{ use = "{scaler}" }}, {{ {model} }}]'
    config = configure(tmp_path, log_url, app, learner=learner, task=task, checkpoint=137)
    file = write_jsonl(tmp_path / "events.jsonl", events)
    call("produce", file, "-c", config, cwd=tmp_path)
    call("run", "-c", config, "--max-events", "500", cwd=tmp_path)
    report = run(config)
    expected = bare_loop(make, events, task=task)
    assert {name: report["metrics"][name] for name in expected} == expected
    assert report["learned"] == len(events)


@pytest.mark.fault
def test_killed_at_any_moment(tmp_path: Path, log_url: str, app: str) -> None:
    config = prepare(tmp_path, log_url, app, checkpoint=300)
    chance = random.Random(7)
    for _ in range(KILLS):
        process = start("run", "-c", config, cwd=tmp_path)
        wait_for_member = 8 if log_url.startswith("kafka") else 2.0
        time.sleep(chance.uniform(0.8, wait_for_member))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    report = run(config)
    assert figures(report) == bare_loop(pipeline, elec2(ROWS))
    assert report["events"] == report["learned"] == ROWS


def test_sigterm_drains(tmp_path: Path, log_url: str, app: str) -> None:
    config = prepare(tmp_path, log_url, app)
    process = start("run", "-c", config, "--json", cwd=tmp_path)
    with ModelSubscriber(app, log=log_url) as model:
        model.wait(90)
        process.send_signal(signal.SIGTERM)
        report = report_of(process)
        assert report["lanes"][0]["next"] == {"0": report["events"]}
        deadline = time.monotonic() + 30
        while model.learned_up_to != {0: report["events"]}:
            assert time.monotonic() < deadline, model.version
            time.sleep(0.05)


def test_a_scorer_follows(tmp_path: Path, log_url: str, app: str) -> None:
    config = prepare(tmp_path, log_url, app)
    newest = f"{app}@{run(config)['snapshots']}"
    events = elec2(ROWS)
    with ModelSubscriber(app, log=log_url) as model:
        model.wait(60)
        assert model.version == newest
        assert model.learned_up_to == {0: ROWS}
        bare = pipeline()
        for event in events:
            x = {k: v for k, v in event.items() if k != "class"}
            bare.learn_one(x, bool(event["class"]))
        for event in events[:200]:
            x = {k: v for k, v in event.items() if k != "class"}
            assert model.predict_proba_one(x) == bare.predict_proba_one(x)
    out, _ = call("score", "-c", config, "--until-end", "--json", cwd=tmp_path)
    scored = json.loads(out)
    assert scored["predictions"] == ROWS
    assert scored["versions"] == {newest: ROWS}


def test_bad_events_become_dead_letters(tmp_path: Path, log_url: str, app: str) -> None:
    config = configure(tmp_path, log_url, app)
    good = elec2(50)
    bad = [
        '{"nswprice": 1e308, "class": 1}',
        '{"nswprice": 0.5}',
        '{"nswprice": 0.5, "class": "yes"}',
        '{"nswprice": 0.5, "nswprice": 0.6, "class": 1}',
        '{"nswprice": NaN, "class": 1}',
        '{"nswprice": {"deep": 1}, "class": 1}',
        "not json",
        '{"nswprice": "a word that a scaler cannot scale", "class": 0}',
    ]
    unlabelled = '{"nswprice": 0.5, "class": null}'
    path = tmp_path / "mixed.jsonl"
    lines = [json.dumps(event) for event in good]
    path.write_text("\n".join([*lines[:25], *bad, unlabelled, *lines[25:]]) + "\n")
    call("produce", path, "-c", config, cwd=tmp_path)
    report = run(config)
    assert report["events"] == len(good) + len(bad) + 1
    assert report["dead_letters"] == len(bad)
    assert report["unlabelled"] == 1
    assert figures(report) == bare_loop(pipeline, good)
    letters = read_all(log_url, f"{app}.dead-letters")
    assert sorted(value.decode() for value, _ in letters) == sorted(bad)
    for _, headers in letters:
        assert headers["topic"] == f"{app}.labelled".encode()
        assert headers["reason"]
        assert headers["detail"]


def test_three_trainers_one_killed(tmp_path: Path, log_url: str, app: str) -> None:
    partitions = 6
    config = configure(tmp_path, log_url, app, partitions=partitions, checkpoint=500)
    events = elec2(ROWS)
    lanes: list[list[dict[str, Any]]] = [events[p::partitions] for p in range(partitions)]
    produce_by_partition(log_url, config, app, lanes)
    options = ("run", "-c", config, "--until-end", "--json")
    trainers = [start(*options, cwd=tmp_path) for _ in range(3)]
    time.sleep(2.5)
    trainers[0].send_signal(signal.SIGKILL)
    trainers[0].communicate()
    reports = [report_of(trainer) for trainer in trainers[1:]]
    found = {lane["partition"]: lane for report in reports for lane in report["lanes"]}
    if set(found) != set(range(partitions)):
        # The killed one had finished its lanes: whoever starts now owns and reports them.
        found |= {lane["partition"]: lane for lane in run(config)["lanes"]}
    assert set(found) == set(range(partitions))
    for partition, lane in found.items():
        assert lane["learned"] == len(lanes[partition])
        assert figures(lane) == bare_loop(pipeline, lanes[partition])


def test_single_lane_and_its_standby(tmp_path: Path, log_url: str, app: str) -> None:
    partitions = 3
    config = configure(
        tmp_path, log_url, app, partitions=partitions, checkpoint=400, top='lanes = "single"'
    )
    events = elec2(ROWS)
    lanes = [events[p::partitions] for p in range(partitions)]
    produce_by_partition(log_url, config, app, lanes)
    first = start("run", "-c", config, "--max-events", "2500", "--json", cwd=tmp_path)
    first.communicate(timeout=100)
    owner = start("run", "-c", config, cwd=tmp_path)
    standby = start("run", "-c", config, "--until-end", "--json", cwd=tmp_path)
    time.sleep(2.0)
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    report = report_of(standby)
    if not report["lanes"]:
        report = run(config)
    out, _ = call("journal", "-c", config, "--json", cwd=tmp_path)
    order = []
    for partition, offset, count in map(json.loads, out.splitlines()):
        order += lanes[partition][offset : offset + count]
    assert len(order) == ROWS
    assert report["events"] == ROWS
    assert figures(report) == bare_loop(pipeline, order)


def test_changed_configuration_is_refused(tmp_path: Path, log_url: str, app: str) -> None:
    config = prepare(tmp_path, log_url, app)
    run(config, "--max-events", "2000")
    changed = "learner.steps[1].l2=0.5"
    _, err = call("run", "-c", config, "-s", changed, "--until-end", cwd=tmp_path, code=3)
    assert "learner.steps.1.l2: 0.0 -> 0.5" in err
    assert "lineage" in err
    report = run(config, "-s", changed, "-s", f"lineage={app}-v2")
    assert report["events"] == ROWS


def test_stop_when(tmp_path: Path, log_url: str, app: str) -> None:
    config = prepare(tmp_path, log_url, app)
    report = report_of(
        start(
            "run", "-c", config, "--stop-when", "accuracy > 0.5 over 1000", "--json", cwd=tmp_path
        )
    )
    assert 1000 <= report["events"] < ROWS


def read_all(log_url: str, topic: str) -> list[tuple[bytes, dict[str, bytes]]]:
    found = []
    with open_log(log_url) as log, log.reader() as reader:
        for partition in range(log.topics()[topic].partitions):
            where = TopicPartition(topic, partition)
            end = reader.end_offsets([where])[where]
            for batch in read_range(reader, where, 0, end):
                found += [
                    (value or b"", dict(headers))
                    for value, headers in zip(batch.values, batch.headers, strict=True)
                ]
    return found


def produce_by_partition(
    log_url: str, config: Path, app: str, lanes: list[list[dict[str, Any]]]
) -> None:
    call("topics", "create", "-c", config, cwd=config.parent)
    with open_log(log_url) as log, log.appender() as appender:
        for partition, lane in enumerate(lanes):
            appender.append(
                Record(f"{app}.labelled", json.dumps(event).encode(), partition=partition)
                for event in lane
            )
        appender.flush()
