"""Events a second of ``run`` against a bare loop, on both logs, as ratios in one run.

    python -m tests.bench.throughput [--events 200000] [--rounds 3] [--kafka HOST:PORT]

The bare loop reads the same topic with the same client, decodes with orjson, and does
what everybody writes: predict, update an accuracy and an ADWIN, learn. Every pass is a
process of its own; the two take turns. Without --kafka a broker is started.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import orjson
from river import compose, drift, linear_model, metrics, optim, preprocessing

from stream_update.assemble import Trainer
from stream_update.config import load
from stream_update.events import Record, TopicPartition
from stream_update.plugins import open_log
from stream_update.topics import create_topics
from tests import broker
from tests.programs import configure

FEATURES = 10


def fill(config: Path, events: int) -> None:
    """Write events of about 300 bytes with ten features to the source topic."""
    settings = load(config)
    chance = random.Random(1)
    with open_log(settings.log, settings.kafka) as log:
        create_topics(settings, log)
        with log.appender() as appender:
            for start in range(0, events, 1000):
                appender.append(
                    Record(settings.source.topic, orjson.dumps(_event(chance)))
                    for _ in range(start, min(events, start + 1000))
                )
            appender.flush()


def _event(chance: random.Random) -> dict[str, Any]:
    event: dict[str, Any] = {f"feature_{i}": chance.gauss(0, 1) for i in range(FEATURES)}
    event["class"] = int(event["feature_0"] + event["feature_1"] + chance.gauss(0, 1) > 0)
    return event


def bare(config: Path) -> dict[str, Any]:
    """The loop that everybody writes."""
    settings = load(config)
    model = compose.Pipeline(
        preprocessing.StandardScaler(),
        linear_model.LogisticRegression(l2=0.0, optimizer=optim.SGD(lr=0.01)),
    )
    accuracy, adwin = metrics.Accuracy(), drift.ADWIN(delta=0.002)
    where = TopicPartition(settings.source.topic, 0)
    started = time.perf_counter()
    with open_log(settings.log, settings.kafka) as log, log.reader() as reader:
        end = reader.end_offsets([where])[where]
        reader.seek({where: 0})
        count = 0
        while reader.position(where) < end:
            for batch in reader.poll(1.0, 500):
                for value in batch.values:
                    x = orjson.loads(value or b"")
                    y = bool(x.pop("class"))
                    probabilities = model.predict_proba_one(x)
                    predicted = max(probabilities, key=lambda label: probabilities[label])
                    accuracy.update(y, predicted)
                    adwin.update(float(y != predicted))
                    model.learn_one(x, y)
                    count += 1
    return {
        "events_per_s": count / (time.perf_counter() - started),
        "accuracy": accuracy.get(),
        "max_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def pipeline(config: Path) -> dict[str, Any]:
    """The trainer, checkpoints and all, in a lineage of its own."""
    settings = load(config, [f"lineage=bench-{uuid.uuid4().hex[:8]}"])
    started = time.perf_counter()
    with open_log(settings.log, settings.kafka) as log:
        report = Trainer(settings, log, until_end=True).run()
    return {
        "events_per_s": report["events"] / (time.perf_counter() - started),
        "accuracy": report["metrics"]["accuracy"],
        "max_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def measure(name: str, config: Path) -> dict[str, Any]:
    out = subprocess.run(
        [sys.executable, "-m", "tests.bench.throughput", "--only", name, "--config", str(config)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    ).stdout
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def compare(log: str, events: int, rounds: int, folder: Path) -> dict[str, Any]:
    config = configure(folder, log, f"bench-{uuid.uuid4().hex[:8]}", checkpoint=10_000)
    fill(config, events)
    passes: dict[str, list[dict[str, Any]]] = {"bare": [], "run": []}
    for _ in range(rounds):
        for name, found in passes.items():
            found.append(measure(name, config))
    accuracies = {found["accuracy"] for both in passes.values() for found in both}
    if len(accuracies) != 1:
        raise SystemExit(f"the two do not learn the same: {accuracies}")
    rates = {name: [f["events_per_s"] for f in found] for name, found in passes.items()}
    ratios = [run / alone for run, alone in zip(rates["run"], rates["bare"], strict=True)]
    return {
        "log": log.partition("://")[0],
        "events": events,
        "bare": round(statistics.median(rates["bare"])),
        "run": round(statistics.median(rates["run"])),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
        "max_rss_mb": round(max(f["max_rss_mb"] for f in passes["run"])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kafka", metavar="HOST:PORT", help="a broker that runs already")
    parser.add_argument("--log", choices=["sqlite", "kafka", "both"], default="both")
    parser.add_argument("--only", choices=["bare", "run"], help=argparse.SUPPRESS)
    parser.add_argument("--config", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps({"bare": bare, "run": pipeline}[options.only](options.config)))
        return
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.log in {"sqlite", "both"}:
            log = f"sqlite:///{folder / 'bench.db'}"
            results.append(compare(log, options.events, options.rounds, folder))
        if options.log in {"kafka", "both"} and options.kafka:
            log = f"kafka://{options.kafka}"
            results.append(compare(log, options.events, options.rounds, folder))
        elif options.log in {"kafka", "both"}:
            with broker.Broker() as own:
                log = f"kafka://{own.bootstrap}"
                results.append(compare(log, options.events, options.rounds, folder))
    print(f"{'log':<8}{'bare':>10}{'run':>10}{'ratio':>8}{'spread':>16}{'RSS MB':>8}")
    for r in results:
        spread = f"{r['ratio_min']}-{r['ratio_max']}"
        print(
            f"{r['log']:<8}{r['bare']:>10,}{r['run']:>10,}{r['ratio']:>8}{spread:>16}"
            f"{r['max_rss_mb']:>8}"
        )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
