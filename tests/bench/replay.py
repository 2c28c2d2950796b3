"""How fast the past is learned again: events a second of a backfill, and of catching up.

    python -m tests.bench.replay [--events 100000] [--rounds 3] [--log sqlite|kafka|both]

"run" learns a topic from nothing. "backfill" learns the same events under a lineage of its own.
"catch up" is what a restored lane does with events that were spoken of after its newest
snapshot: it learns them once more, and says nothing. Each is timed in this process, joining
the group included; they take turns, and ratios are to "run". Without --kafka a broker is
started.
"""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from stream_update.assemble import Trainer, open_log
from stream_update.backfill import backfill, planned
from stream_update.config import Config, load
from stream_update.worker import Worker
from tests.bench import logs
from tests.bench.throughput import fill
from tests.programs import configure

CHECKPOINT = 10_000


def run(config: Config, events: int) -> float:
    """Seconds to learn all of it; metrics every 10,000 events, no snapshot before the end."""
    with open_log(config) as log:
        started = time.perf_counter()
        report = Trainer(config, log, until_end=True).run()
        assert report["learned"] == events
        return time.perf_counter() - started


def again(config: Config, events: int) -> float:
    """Seconds of a backfill over all of it."""
    with open_log(config) as log:
        started = time.perf_counter()
        report = backfill(config, log, planned(config, log)).run()
        assert report["learned"] == events
        return time.perf_counter() - started


class Crash(BaseException):
    """Ends a trainer where a kill would."""


def catch_up(config: Config, events: int) -> float:
    """Seconds to learn in silence what was committed, of which there is no snapshot."""

    def crash(worker: Worker) -> None:
        if worker.events >= events - CHECKPOINT:
            raise Crash

    with open_log(config) as log, suppress(Crash):
        Trainer(config, log, until_end=True, on_checkpoint=crash).run()
    return run(config, events)


WAYS: dict[str, Callable[[Config, int], float]] = {
    "run": run,
    "backfill": again,
    "catch up": catch_up,
}


def compare(log: str, events: int, rounds: int, folder: Path) -> list[dict[str, Any]]:
    app = f"bench-{uuid.uuid4().hex[:8]}"
    path = configure(folder, log, app, checkpoint=CHECKPOINT, extra="[snapshot]\nevery = 1000000\n")
    fill(path, events)
    rates: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, way in WAYS.items():
            config = load(path, [f"lineage=bench-{uuid.uuid4().hex[:8]}"])
            rates[name].append(events / way(config, events))
    return [
        {
            "log": log.partition("://")[0],
            "way": name,
            "events_per_s": round(statistics.median(rates[name])),
            "times": logs.times(rates[name], rates["run"]),
        }
        for name in WAYS
    ]


def line(row: dict[str, Any]) -> str:
    return f"{row['log']:<8}{row['way']:<10}{row['events_per_s']:>10,}{row['times']:>8}"


if __name__ == "__main__":
    head = f"{'log':<8}{'way':<10}{'events/s':>10}{'times':>8}"
    logs.compare_on_each(__doc__, compare, head, line)
