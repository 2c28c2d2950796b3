"""What a trainer's memory does over a long run.

    python -m tests.bench.memory [--events 5000000] [--log sqlite|kafka|both]

One trainer learns the stream of tests.bench.throughput from its beginning to its end, with a
checkpoint every 10,000 events. The table has its resident memory after each tenth of the way;
what counts is that it does not grow. Without --kafka a broker is started.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import uuid
from contextlib import ExitStack
from pathlib import Path

from stream_update.assemble import Trainer, open_log
from stream_update.config import load
from stream_update.worker import Worker
from tests.bench import logs
from tests.bench.throughput import fill
from tests.programs import configure

TENTHS = 10


def resident_mb() -> float:
    """Of this process, now; Linux tells it."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return round(int(line.split()[1]) / 1024, 1)
    raise SystemExit("/proc/self/status has no VmRSS: this benchmark needs Linux")


def learn(path: Path, events: int, answer: Path) -> None:
    """In a process of its own: learn it all, and write the memory after each tenth."""
    config = load(path)
    seen: list[float] = []

    def look(worker: Worker) -> None:
        if worker.events * TENTHS >= events * (len(seen) + 1):
            seen.append(resident_mb())

    with open_log(config) as log:
        Trainer(config, log, until_end=True, on_checkpoint=look).run()
    answer.write_text(json.dumps(seen), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    logs.add_options(parser)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows = []
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name, ExitStack() as opened:
        folder = Path(name)
        for log in logs.addresses(options, folder, opened):
            app = f"bench-{uuid.uuid4().hex[:8]}"
            path = configure(folder, log, app, checkpoint=10_000)
            fill(path, options.events)
            answer = folder / f"{app}.json"
            child = spawn.Process(target=learn, args=(path, options.events, answer))
            child.start()
            child.join()
            seen = json.loads(answer.read_bytes())
            rows.append({"log": log.partition("://")[0], "events": options.events, "mb": seen})
            print(f"{rows[-1]['log']:<8}{options.events:,} events, MB after each tenth: {seen}")
    if options.json:
        options.json.write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
