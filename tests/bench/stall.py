"""How long a checkpoint holds its lane up, by the size of the model.

    python -m tests.bench.stall [--sizes 1 10 30] [--checkpoints 8] [--kafka HOST:PORT]

The model is river's adaptive random forest, grown on a stream until its state has so many
MB (unpacked, as a snapshot has it). Then a trainer goes on with it, and every time that it
is not learning because of a checkpoint is measured, in milliseconds: once with snapshots
that are made in a copy of the process, once with those that are made in the lane. A
checkpoint has several such times (its beginning, its publication, its end); "stall" is
the longest of each, "total" their sum.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from stream_update.assemble import Trainer
from stream_update.config import load
from stream_update.events import Record
from stream_update.plugins import open_log
from stream_update.restore import newest
from stream_update.slots import Slot
from stream_update.topics import create_topics
from stream_update.worker import Worker
from tests.programs import configure

FOREST = """
use = "river.forest:ARFClassifier"
seed = 1
n_models = 10
grace_period = 20
delta = 0.9
tau = 0.9
leaf_prediction = "mc"
max_features = 30
"""
FEATURES = 30
EVENTS_PER_MB = 250


def events() -> Iterator[bytes]:
    """Eight classes that three of thirty features decide."""
    chance = random.Random(1)
    while True:
        event: dict[str, Any] = {f"feature_{i}": chance.gauss(0, 1) for i in range(FEATURES)}
        event["class"] = sum((event[f"feature_{i}"] > 0) << i for i in range(3))
        yield orjson.dumps(event)


def grow(config: Path, learned: int) -> int:
    """Learn so many events; the size of the state then, in bytes."""
    settings = load(config, ["snapshot.every=1000000"])
    made = events()
    with open_log(settings.log, settings.kafka) as log:
        create_topics(settings, log)
        with log.appender() as appender:
            appender.append(
                Record(settings.source.topic, next(made)) for _ in range(learned + 20_000)
            )
        trainer = Trainer(settings, log, max_events=learned)
        trainer.run()
        found = newest(log.reader(), settings.topic("snapshots"), 0, settings.lineage_name)
        assert found is not None
        return found.manifest.unpacked_size


class Stopwatch:
    """Measures how long each checkpoint keeps the worker from learning."""

    def __init__(self) -> None:
        self.pieces: list[list[float]] = []
        self._depth = 0
        self._sealing = False
        seal = Slot._seal

        def note(slot: Slot, **options: Any) -> Any:
            self._sealing = True
            return seal(slot, **options)

        setattr(Slot, "_seal", note)  # noqa: B010 - mypy would not have it otherwise

    def watch(self, name: str) -> None:
        method = getattr(Worker, name)

        def timed(worker: Worker, *arguments: Any, **options: Any) -> Any:
            self._depth += 1
            if name == "_begin":
                self.pieces.append([])
                self._sealing = False
            began = time.perf_counter()
            try:
                return method(worker, *arguments, **options)
            finally:
                self._depth -= 1
                if name == "_begin" and not self._sealing:
                    self.pieces.pop()  # it carried no snapshot
                elif not self._depth and self.pieces:
                    self.pieces[-1].append((time.perf_counter() - began) * 1000)

        setattr(Worker, name, timed)


def train(config: Path, checkpoints: int, fork: bool) -> dict[str, Any]:
    """Go on with the forest; the times of its checkpoints."""
    settings = load(
        config,
        [
            f"snapshot.fork={str(fork).lower()}",
            "snapshot.max_overhead=1.0",
            "checkpoint.events=50",
            "checkpoint.seconds=3600",
            "max_poll_records=10",
        ],
    )
    watch = Stopwatch()
    for name in ("_begin", "_go_on", "_settle", "_publish"):
        watch.watch(name)
    with open_log(settings.log, settings.kafka) as log:

        def count(worker: Worker) -> None:
            if sum(slot.published for slot in worker.slots.values()) >= checkpoints:
                worker.stop()

        trainer = Trainer(settings, log, on_checkpoint=count)
        trainer.run()
    stalls = [max(pieces) for pieces in watch.pieces[:checkpoints]]
    return {
        "stalls": stalls,
        "totals": [sum(pieces) for pieces in watch.pieces[:checkpoints]],
        "max_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "copies_rss_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
    }


def step(name: str, config: Path, number: int) -> Any:
    """One step in a process of its own."""
    out = subprocess.run(
        [sys.executable, "-m", "tests.bench.stall", "--only", name, "--config", str(config),
         "--number", str(number)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    ).stdout  # fmt: skip
    return json.loads(out.splitlines()[-1])


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=float, nargs="+", default=[1, 10, 30], metavar="MB")
    parser.add_argument("--checkpoints", type=int, default=8)
    parser.add_argument("--kafka", metavar="HOST:PORT", help="a broker that runs already")
    parser.add_argument("--only", choices=["grow", "fork", "lane"], help=argparse.SUPPRESS)
    parser.add_argument("--config", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only == "grow":
        print(grow(options.config, options.number))
        return
    if options.only:
        print(json.dumps(train(options.config, options.number, options.only == "fork")))
        return
    results = []
    print(f"{'MB':>6}{'made in':>9}{'stall p50':>11}{'p99':>9}{'total p50':>11}{'p99':>9}"
          f"{'RSS MB':>8}{'copy':>7}")  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url = f"kafka://{options.kafka}" if options.kafka else f"sqlite:///{folder / 'bench.db'}"
        for size in options.sizes:
            app = f"stall-{uuid.uuid4().hex[:8]}"
            config = configure(folder, url, app, learner=FOREST, task="multiclass", checkpoint=5000)
            mb = step("grow", config, int(size * EVENTS_PER_MB)) / 1e6
            for where in ("lane", "fork"):
                found = step(where, config, options.checkpoints)
                row = {
                    "mb": round(mb, 2),
                    "made_in": where,
                    "stall_p50_ms": round(percentile(found["stalls"], 0.5), 1),
                    "stall_p99_ms": round(percentile(found["stalls"], 0.99), 1),
                    "total_p50_ms": round(percentile(found["totals"], 0.5), 1),
                    "total_p99_ms": round(percentile(found["totals"], 0.99), 1),
                    "max_rss_mb": round(found["max_rss_mb"]),
                    "copies_rss_mb": round(found["copies_rss_mb"]),
                }
                results.append(row)
                print(
                    f"{row['mb']:>6}{where:>9}{row['stall_p50_ms']:>11}{row['stall_p99_ms']:>9}"
                    f"{row['total_p50_ms']:>11}{row['total_p99_ms']:>9}{row['max_rss_mb']:>8}"
                    f"{row['copies_rss_mb']:>7}",
                    flush=True,
                )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
