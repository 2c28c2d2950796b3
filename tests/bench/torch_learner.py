"""Events a second of a torch learner in the trainer, against two bare loops, as ratios.

    python -m tests.bench.torch_learner [--events 100000] [--rounds 3]

An MLP of 10-64-2 with Adam on the embedded log. Both bare loops read the same topic with
the same client, decode with orjson, and do what everybody writes: predict, update an
accuracy and an ADWIN, learn; one in batches of 32, one event by event. Every pass is a
process of its own; they take turns. Ratios are given twice: by the clock, and by the time
that the processor gave to each, which others on the machine disturb less.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import orjson
import torch
from river import drift, metrics
from torch.nn import functional

from stream_update.assemble import Trainer, open_log
from stream_update.config import load
from stream_update.events import TopicPartition
from tests.bench.throughput import FEATURES, fill
from tests.programs import configure

BATCH = 32
SINGLE_EVENTS = 5000
LEARNER = f"""
use = "torch"
module = {{ use = "mlp", hidden = [64] }}
optimizer = {{ use = "adam", lr = 0.001 }}
batch = {BATCH}
standardise = false
"""


def bare(config: Path, batch: int, most: int) -> dict[str, Any]:
    """The loop that everybody writes, in batches of this size."""
    settings = load(config)
    torch.set_num_threads(1)
    torch.manual_seed(settings.seed)
    net = torch.nn.Sequential(
        torch.nn.Linear(FEATURES, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2)
    )
    adam = torch.optim.Adam(net.parameters(), lr=0.001)
    accuracy, adwin = metrics.Accuracy(), drift.ADWIN(delta=0.002)
    numbers = itemgetter(*[f"feature_{i}" for i in range(FEATURES)])
    label = itemgetter("class")

    def take(events: Sequence[Any]) -> None:
        x = torch.tensor(list(map(numbers, events)))
        labels = list(map(label, events))
        with torch.no_grad():
            chances = torch.softmax(net(x), 1).tolist()
        for said, right in zip(chances, labels, strict=True):
            predicted = int(said[1] > said[0])
            accuracy.update(right, predicted)
            adwin.update(float(right != predicted))
        adam.zero_grad()
        functional.cross_entropy(net(x), torch.tensor(labels)).backward()
        adam.step()

    where = TopicPartition(settings.source.topic, 0)
    waiting: list[Any] = []
    count = 0
    started, worked = time.perf_counter(), time.process_time()
    with open_log(settings) as log, log.reader() as reader:
        end = min(most, reader.end_offsets([where])[where])
        reader.seek({where: 0})
        while count < end:
            for block in reader.poll(1.0, 500):
                for value in block.values:
                    waiting.append(orjson.loads(value or b""))
                    count += 1
                    if len(waiting) == batch:
                        take(waiting)
                        waiting = []
    return {
        "events_per_s": count / (time.perf_counter() - started),
        "events_per_cpu_s": count / (time.process_time() - worked),
        "accuracy": accuracy.get(),
    }


def pipeline(config: Path) -> dict[str, Any]:
    """The trainer, checkpoints and all, in a lineage of its own."""
    settings = load(config, [f"lineage=bench-{uuid.uuid4().hex[:8]}"])
    started, worked = time.perf_counter(), time.process_time()
    with open_log(settings) as log:
        report = Trainer(settings, log, until_end=True).run()
    return {
        "events_per_s": report["events"] / (time.perf_counter() - started),
        "events_per_cpu_s": report["events"] / (time.process_time() - worked),
        "accuracy": report["metrics"]["accuracy"],
    }


def run_one(name: str, config: Path, events: int) -> dict[str, Any]:
    # The first optimizer of a process imports a second's worth of modules.
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    if name == "run":
        return pipeline(config)
    return bare(config, 1, SINGLE_EVENTS) if name == "single" else bare(config, BATCH, events)


def measure(name: str, config: Path, events: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.bench.torch_learner", "--only", name]
    out = subprocess.run(
        [*command, "--config", str(config), "--events", str(events)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    ).stdout
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["bare", "single", "run"], help=argparse.SUPPRESS)
    parser.add_argument("--config", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(run_one(options.only, options.config, options.events)))
        return
    kinds = ("bare", "run", "single")
    measures = {"by the clock": "events_per_s", "by the processor": "events_per_cpu_s"}
    rates: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = configure(
            folder,
            f"sqlite:///{folder / 'bench.db'}",
            "bench",
            learner=LEARNER,
            task="multiclass",
            source="classes = [0, 1]",
            checkpoint=10_000,
        )
        fill(config, options.events)
        for _ in range(options.rounds):
            passes = {kind: measure(kind, config, options.events) for kind in kinds}
            for kind, one in passes.items():
                rates[kind].append(one)
            # The first batch is predicted with nothing learned: by chance, or not at all.
            apart = abs(passes["run"]["accuracy"] - passes["bare"]["accuracy"])
            if apart > 2 * BATCH / options.events:
                raise SystemExit(f"the two do not learn the same: {passes}")
    for said, measure_of in measures.items():
        found = {kind: [one[measure_of] for one in rates[kind]] for kind in kinds}
        for kind in kinds:
            print(f"{kind:<8}{statistics.median(found[kind]):>10,.0f} events/s {said}")
        for kind in ("bare", "single"):
            ratios = [run / other for run, other in zip(found["run"], found[kind], strict=True)]
            print(
                f"run / {kind:<8}{statistics.median(ratios):>8.2f}  "
                f"({min(ratios):.2f} to {max(ratios):.2f}) {said}"
            )
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
