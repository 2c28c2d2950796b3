"""What events that cannot be used cost: events a second by their share in the stream.

    python -m tests.bench.dead_letters [--events 100000] [--rounds 3] [--log sqlite|kafka|both]

The stream is that of tests.bench.throughput; every so many events is cut off in the middle, so
that it is no JSON, and becomes a dead letter in the next checkpoint. Passes take turns,
each in a process of its own, and the ratio is to the stream in which all is well. Without
--kafka a broker is started.
"""

from __future__ import annotations

import statistics
import uuid
from pathlib import Path
from typing import Any

from tests.bench import logs
from tests.bench.throughput import fill, measure
from tests.programs import configure

EVERY = (0, 1000, 100, 10)


def compare(log: str, events: int, rounds: int, folder: Path) -> list[dict[str, Any]]:
    configs = {}
    for every in EVERY:
        app = f"bench-{uuid.uuid4().hex[:8]}"
        configs[every] = configure(folder, log, app, checkpoint=10_000)
        fill(configs[every], events, spoil=every)
    rates: dict[int, list[float]] = {every: [] for every in EVERY}
    for _ in range(rounds):
        for every, config in configs.items():
            rates[every].append(measure("run", config, events, "linear")["events_per_s"])
    return [
        {
            "log": log.partition("://")[0],
            "one_in": every,
            "events_per_s": round(statistics.median(rates[every])),
            "times": logs.times(rates[every], rates[0]),
        }
        for every in EVERY
    ]


def line(row: dict[str, Any]) -> str:
    share = f"1 in {row['one_in']}" if row["one_in"] else "none"
    return f"{row['log']:<8}{share:<14}{row['events_per_s']:>10,}{row['times']:>8}"


if __name__ == "__main__":
    head = f"{'log':<8}{'dead letters':<14}{'events/s':>10}{'times':>8}"
    logs.compare_on_each(__doc__, compare, head, line)
