"""Events a second over partitions and processes, both logs.

    python -m tests.bench.scaling [--events 100000] [--rounds 3] [--counts 1 2 4]
                                  [--kafka HOST:PORT]

A topic of N partitions is learned to its end by ``run --processes N``. The rate is that of
the whole command, with the start of its processes ("whole"), and of the time in which
checkpoints arrived ("steady": from the first checkpoint of any lane to the last of all).
Beside it stands the number of cores: more processes than cores learn no faster.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from tests.bench.throughput import fill
from tests.programs import configure

CHECKPOINT = re.compile(r"^\[(\d)\] .* checkpoint: (\d+) events")


def learn(config: Path, processes: int) -> dict[str, float]:
    """One whole run, in a lineage of its own."""
    began = time.perf_counter()
    command = [
        *(sys.executable, "-m", "stream_update", "run", "-c", str(config), "--until-end", "--json"),
        *("--processes", str(processes), "-s", f"lineage=bench-{uuid.uuid4().hex[:8]}"),
    ]
    arrived: list[tuple[float, str, int]] = []
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stderr:
            found = CHECKPOINT.match(line if processes > 1 else f"[1] {line}")
            if found is not None:
                arrived.append((time.perf_counter(), found[1], int(found[2])))
        report = json.loads(process.stdout.read())
    if process.returncode:
        raise SystemExit(f"the run ended with {process.returncode}")
    whole = time.perf_counter() - began
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    moved = arrived[0][0]
    for at, number, events in arrived:
        first.setdefault(number, events)
        if events > last.get(number, 0):
            last[number], moved = events, at
    steady = sum(last.values()) - first[arrived[0][1]]
    return {
        "events": report["events"],
        "whole": report["events"] / whole,
        "steady": steady / (moved - arrived[0][0]) if moved > arrived[0][0] else 0.0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--kafka", metavar="HOST:PORT", help="a broker that runs already")
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        logs = [f"sqlite:///{folder / 'bench.db'}"]
        if options.kafka:
            logs.append(f"kafka://{options.kafka}")
        print(f"{'log':<8}{'partitions':>11}{'processes':>10}{'whole':>9}{'steady':>9}")
        for log in logs:
            configs = {}
            for count in options.counts:
                app = f"bench-{uuid.uuid4().hex[:8]}"
                configs[count] = configure(folder, log, app, partitions=count, checkpoint=2000)
                fill(configs[count], options.events)
            found: dict[int, list[dict[str, float]]] = {count: [] for count in configs}
            for _ in range(options.rounds):
                for count, config in configs.items():
                    found[count].append(learn(config, count))
            for count, passes in found.items():
                row = {
                    "log": log.partition("://")[0],
                    "partitions": count,
                    "processes": count,
                    "cores": os.cpu_count(),
                    **{
                        key: round(statistics.median(one[key] for one in passes))
                        for key in ("whole", "steady")
                    },
                }
                results.append(row)
                print(
                    f"{row['log']:<8}{count:>11}{count:>10}{row['whole']:>9,}{row['steady']:>9,}",
                    flush=True,
                )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
