"""Events a second over partitions and processes, both logs.

    python -m tests.bench.scaling [--events 400000] [--rounds 3] [--counts 1 2 4]
                                  [--log sqlite|kafka|both] [--client kafka-python|librdkafka]

A topic of N partitions is learned to its end by ``run --processes N``. The rate is that of
the whole command, with the start of its processes and their waiting for each other at the end
("whole"), and from the moment at which a tenth of the events is committed to the one at which nine
tenths are ("steady").
Beside it stands the number of cores: more processes than cores learn no faster. Without
--kafka a broker is started.
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
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from stream_update.config import load
from stream_update.plugins import open_log
from tests.bench import logs
from tests.bench.throughput import fill
from tests.programs import configure

SHARES = (0.1, 0.9)
LOOK_S = 0.02


def learn(path: Path, processes: int, events: int) -> dict[str, float]:
    """One whole run, in a lineage of its own."""
    own = f"lineage=bench-{uuid.uuid4().hex[:8]}"
    config = load(path, [own])
    command = [
        *(sys.executable, "-m", "stream_update", "run", "-c", str(path), "--until-end", "--json"),
        *("--processes", str(processes), "-s", own),
    ]
    reached: list[float] = []
    with open_log(config.log, config.kafka) as log:
        began = time.perf_counter()
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        ) as process:
            while process.poll() is None and len(reached) < len(SHARES):
                at = log.committed(config.trainer_group, config.source.topic)
                if sum(one.offset for one in at.values()) >= SHARES[len(reached)] * events:
                    reached.append(time.perf_counter())
                time.sleep(LOOK_S)
            report = json.loads(process.communicate()[0])
        whole = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"the run ended with {process.returncode}")
    low, high = SHARES
    start, end = reached
    return {
        "events": report["events"],
        "whole": report["events"] / whole,
        "steady": (high - low) * events / (end - start),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--client", choices=["kafka-python", "librdkafka"], default="kafka-python")
    logs.add_options(parser)
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name, ExitStack() as opened:
        folder = Path(name)
        client = f'[kafka]\nclient = "{options.client}"\n'
        print(f"{'log':<8}{'partitions':>11}{'processes':>10}{'whole':>9}{'steady':>9}")
        for log in logs.addresses(options, folder, opened):
            configs = {}
            for count in options.counts:
                app = f"bench-{uuid.uuid4().hex[:8]}"
                configs[count] = configure(
                    folder,
                    log,
                    app,
                    partitions=count,
                    checkpoint=2000,
                    extra=client if log.startswith("kafka") else "",
                )
                fill(configs[count], options.events)
            found: dict[int, list[dict[str, float]]] = {count: [] for count in configs}
            for _ in range(options.rounds):
                for count, config in configs.items():
                    found[count].append(learn(config, count, options.events))
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
