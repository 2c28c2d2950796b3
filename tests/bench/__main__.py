"""The benchmarks that deploy/benchmarks.md takes its figures from, in one run.

    python -m tests.bench [--short] [--only NAME ...] [--kafka HOST:PORT] [--json FILE]

They run one after the other, those on Kafka over one broker, and print their tables; at the
end there is one JSON object with all of them. On an idle machine they take most of an hour;
``--short`` only shows that each of them runs. What is compared with is in the extra ``bench``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from tests import broker


class Bench(NamedTuple):
    """A module of this folder and its options, for good and in short; whether it says JSON."""

    module: str
    options: str
    short: str
    json: bool = True
    kafka: bool = True


BENCHES = {
    "side by side": Bench("throughput", "--events 300000 --rounds 3", "--events 5000 --rounds 1"),
    "trees": Bench(
        "throughput",
        "--model tree --log kafka --events 50000 --rounds 3",
        "--model tree --log kafka --events 2000 --rounds 1",
    ),
    "forests": Bench(
        "throughput",
        "--model forest --log kafka --events 10000 --rounds 3",
        "--model forest --log kafka --events 500 --rounds 1",
    ),
    "parts": Bench("parts", "--events 50000", "--events 2000 --rounds 1", json=False, kafka=False),
    "compiled": Bench("compiled", "--rounds 5", "--events 2000 --rounds 1", kafka=False),
    "stall": Bench("stall", "--sizes 1 10", "--sizes 1 --checkpoints 2", json=False),
    "freshness": Bench("freshness", "--seconds 20", "--seconds 3", json=False),
    "freshness, often": Bench(
        "freshness",
        "--seconds 20 --checkpoint-seconds 0.02",
        "--seconds 3 --checkpoint-seconds 0.02",
        json=False,
    ),
    "freshness, often, librdkafka": Bench(
        "freshness",
        "--seconds 20 --checkpoint-seconds 0.02 --client librdkafka",
        "--seconds 3 --checkpoint-seconds 0.02 --client librdkafka",
        json=False,
    ),
    "scaling": Bench(
        "scaling",
        "--log kafka --client librdkafka --rounds 2",
        "--log kafka --events 20000 --rounds 1",
        json=False,
    ),
    "checkpoints": Bench("checkpoints", "", "--seconds 1 --processes 1 2"),
    "dead letters": Bench("dead_letters", "--log kafka", "--log kafka --events 5000 --rounds 1"),
    "replay": Bench("replay", "--log kafka", "--log kafka --events 20000 --rounds 1"),
    "restart": Bench("restart", "--log kafka", "--log kafka --rounds 1", json=False),
    "rebalance": Bench("rebalance", "--log kafka", "--log kafka --rounds 1", json=False),
    "memory": Bench("memory", "--log kafka", "--log kafka --events 50000"),
}
LIBRARIES = (
    *("kafka-python", "confluent-kafka", "river", "numpy", "orjson", "msgspec", "numba"),
    *("quixstreams", "bytewax", "faust-streaming"),
)


def run(bench: Bench, options: str, kafka: str, folder: Path) -> dict[str, Any]:
    """Run one, with its tables on the terminal; what it found, or what it printed."""
    answer = folder / f"{bench.module}.json"
    arguments = options.split()
    command = " ".join(["python -m", f"tests.bench.{bench.module}", *arguments])
    print(f"\n== {command}", flush=True)
    if bench.json:
        arguments += ["--json", str(answer)]
    if bench.kafka:
        arguments += ["--kafka", kafka]
    lines, started = [], time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", f"tests.bench.{bench.module}", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return {
        "command": command,
        "seconds": round(time.monotonic() - started),
        "found": json.loads(answer.read_bytes()) if bench.json else lines,
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    installed = {}
    for library in LIBRARIES:
        try:
            installed[library] = version(library)
        except PackageNotFoundError:
            installed[library] = "not installed"
    return {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "libraries": installed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--only", nargs="+", choices=BENCHES, metavar="NAME", default=BENCHES)
    parser.add_argument("--kafka", metavar="HOST:PORT", help="a broker that runs already")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    found: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory() as name, ExitStack() as opened:
        kafka = options.kafka or opened.enter_context(broker.Broker()).bootstrap
        for title in options.only:
            bench = BENCHES[title]
            wanted = bench.short if options.short else bench.options
            found[title] = run(bench, wanted, kafka, Path(name))
    said = json.dumps(found)
    print(f"\n{said}")
    if options.json:
        options.json.write_text(said, encoding="utf-8")


if __name__ == "__main__":
    main()
