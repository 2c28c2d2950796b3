"""How long a trainer that is started again needs to its first event, by learner and size.

    python -m tests.bench.restart [--events 1000 20000] [--rounds 5] [--log sqlite|kafka|both]

A trainer learns so many events and ends; then it is started again, as a process, with
events waiting. Milliseconds are medians of the rounds: "start" is the interpreter and the
imports, "join" the way to the partition (the former process has left its group),
"restore" the newest snapshot read and made a learner, and "first event" everything, from
the start of the process until an event has been learned. Without --kafka a broker is
started.
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
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from stream_update.assemble import Trainer
from stream_update.config import Config, load
from stream_update.events import Committed, Record
from stream_update.plugins import open_log
from stream_update.restore import newest
from stream_update.slots import Slot
from stream_update.topics import create_topics
from tests.bench import logs
from tests.fault.matter import LEARNERS
from tests.programs import configure, elec2

STEPS = ("start", "join", "restore", "first event")
CHOSEN = ("logistic", "bayes", "tree", "forest")


def append(config: Config, events: list[dict[str, Any]]) -> None:
    with open_log(config.log, config.kafka) as log:
        create_topics(config, log)
        with log.appender() as appender:
            appender.append(
                Record(config.source.topic, json.dumps(event).encode()) for event in events
            )


def child(path: Path, started: float) -> None:
    """Learn one event, and print when what was over; ``started`` is the parent's clock."""
    times = {"start": time.monotonic() - started}
    restoring = Slot.restore

    def restore(slot: Slot, committed: Mapping[int, Committed | None]) -> None:
        times["join"] = time.monotonic() - started - times["start"]
        before = time.monotonic()
        restoring(slot, committed)
        times["restore"] = time.monotonic() - before

    Slot.restore = restore  # type: ignore[method-assign, assignment]

    def learned(_: object) -> None:
        times.setdefault("first event", time.monotonic() - started)

    config = load(path)
    with open_log(config.log, config.kafka) as log:
        Trainer(
            config, log, max_events=1, on_slot=lambda slot: slot.lane.taps.append(learned)
        ).run()
    print(json.dumps(times))


def measure(path: Path, size: int, rounds: int) -> dict[str, Any]:
    """Medians over the rounds, and the snapshot's bytes."""
    config, events = load(path), elec2(size + rounds)
    append(config, events[:size])
    with open_log(config.log, config.kafka) as log:
        Trainer(config, log, until_end=True).run()
    append(config, events[size:])
    found: dict[str, list[float]] = {step: [] for step in STEPS}
    for _ in range(rounds):
        command = [sys.executable, "-m", "tests.bench.restart", "--child", str(path)]
        done = subprocess.run(
            [*command, "--started", str(time.monotonic())],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        for step, seconds in json.loads(done.stdout.splitlines()[-1]).items():
            found[step].append(seconds * 1000)
    with open_log(config.log, config.kafka) as log, log.reader() as reader:
        snapshot = newest(reader, config.topic("snapshots"), 0, config.lineage_name)
    assert snapshot is not None
    medians = {step: round(statistics.median(values)) for step, values in found.items()}
    return {**medians, "bytes": snapshot.manifest.size}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, nargs="+", default=[1_000, 20_000])
    parser.add_argument("--rounds", type=int, default=5)
    logs.add_options(parser)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.started)
        return
    print(
        f"{'log':<8}{'learner':<10}{'events':>8}"
        + "".join(f"{step:>13}" for step in STEPS)
        + f"{'bytes':>11}"
    )
    with tempfile.TemporaryDirectory() as name, ExitStack() as opened:
        folder = Path(name)
        for url in logs.addresses(options, folder, opened):
            for learner in CHOSEN:
                for size in options.events:
                    app = f"bench-{uuid.uuid4().hex[:8]}"
                    path = configure(folder, url, app, learner=LEARNERS[learner].table)
                    row = measure(path, size, options.rounds)
                    print(
                        f"{url.partition(':')[0]:<8}{learner:<10}{size:>8,}"
                        + "".join(f"{row[step]:>13,}" for step in STEPS)
                        + f"{row['bytes']:>11,}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
