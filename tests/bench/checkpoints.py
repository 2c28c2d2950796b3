"""How many checkpoints one broker takes: transactions a second, and how long each is.

    python -m tests.bench.checkpoints [--kafka HOST:PORT] [--processes 1 2 4] [--kilobytes 2 1000]
                                      [--seconds 5] [--client kafka-python|librdkafka] [--json FILE]

Processes that do nothing else: each is a member of one group that owns a partition, and
publishes its offset with a record on each of two topics (metrics, and a snapshot of so many
kilobytes in chunks), one transaction after the other. What comes out bounds how many
trainers a broker carries: they make a checkpoint each few seconds. Without --kafka a broker is
started, on the same cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from stream_update.errors import Refused
from stream_update.events import Committed, Record, TopicSpec
from stream_update.plugins import open_log
from stream_update.protocols import Member
from stream_update.snapshot import CHUNK_BYTES
from tests import broker
from tests.bench.stall import percentile

JOIN_S = 60.0


def topics(name: str) -> tuple[str, str, str]:
    return f"{name}.source", f"{name}.metrics", f"{name}.snapshots"


def own(member: Member, lead_s: float) -> int:
    """The one partition that this member has, when every other one has one as well."""
    deadline = time.monotonic() + JOIN_S
    mine: set[int] = set()
    quiet_since = time.monotonic()
    while len(mine) != 1 or time.monotonic() - quiet_since < lead_s or not member.stable():
        if time.monotonic() > deadline:
            raise SystemExit(f"after {JOIN_S:.0f} s this member has partitions {sorted(mine)}")
        poll = member.poll(0.1)
        if poll.gained or poll.lost:
            mine = (mine | set(poll.gained)) - set(poll.lost)
            quiet_since = time.monotonic()
        for partition in poll.gained:
            member.resume_at(partition, 0)
    return mine.pop()


def publish(options: argparse.Namespace) -> None:
    """One process: how long each checkpoint took, in ms, one after the other."""
    source, metrics, snapshots = topics(options.only)
    size = options.kilobytes[0] * 1000
    chunk = os.urandom(min(size, CHUNK_BYTES))
    took: list[float] = []
    with open_log(f"kafka://{options.kafka}", {"client": options.client}) as log:
        member = log.member(options.only, source)
        with log.publisher(options.only, [metrics, snapshots]) as publisher:
            partition = own(member, 3.0)
            chunks = [chunk] * max(1, size // len(chunk))
            records = [Record(metrics, b"{}" * 200, partition=partition)]
            records += [Record(snapshots, one, b"chunk", partition) for one in chunks]
            started = time.monotonic()
            # Whoever is done first leaves the group, which refuses the others.
            with suppress(Refused):
                while (began := time.monotonic()) < started + options.seconds:
                    publisher.publish(records, {partition: Committed(len(took) + 1)}, member)
                    took.append((time.monotonic() - began) * 1000)
                    member.poll(0.0)
        member.close()
    print(json.dumps(took))


def together(options: argparse.Namespace, processes: int, kilobytes: int) -> dict[str, Any]:
    name = f"bench-{uuid.uuid4().hex[:8]}"
    with open_log(f"kafka://{options.kafka}") as log:
        log.create_topics([TopicSpec(topic, processes) for topic in topics(name)])
    command = [
        *(sys.executable, "-m", "tests.bench.checkpoints", "--only", name),
        *("--kafka", options.kafka, "--client", options.client),
        *("--seconds", str(options.seconds), "--kilobytes", str(kilobytes)),
    ]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    each = [json.loads(process.communicate()[0]) for process in started]
    took = [one for times in each for one in times]
    rate = sum(len(times) / sum(times) * 1000 for times in each)
    return {
        "client": options.client,
        "processes": processes,
        "kilobytes": kilobytes,
        "a_second": round(rate, 1),
        "mb_a_second": round(rate * kilobytes / 1000, 1),
        "p50_ms": round(percentile(took, 0.5), 1),
        "p99_ms": round(percentile(took, 0.99), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kafka", metavar="HOST:PORT", help="a broker that runs already")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--kilobytes", type=int, nargs="+", default=[2, 1000])
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--client", choices=["kafka-python", "librdkafka"], default="kafka-python")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        publish(options)
        return
    rows = []
    with ExitStack() as opened:
        options.kafka = options.kafka or opened.enter_context(broker.Broker()).bootstrap
        head = ("processes", "kB", "a second", "MB/s", "p50 ms", "p99 ms")
        print("".join(f"{title:>11}" for title in head))
        for kilobytes in options.kilobytes:
            for processes in options.processes:
                rows.append(together(options, processes, kilobytes))
                shown = [*rows[-1].values()][1:]
                print("".join(f"{value:>11,}" for value in shown), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
