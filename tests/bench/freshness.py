"""How fresh a scorer's model is: from an event's production to a prediction that knows it.

    python -m tests.bench.freshness --kafka HOST:PORT [--rate 1000] [--seconds 20]
                                    [--checkpoint-events 100] [--checkpoint-seconds 5]
                                    [--client kafka-python|librdkafka]

Three processes on one machine, so on one clock: a producer at a steady rate, a trainer
(``stream-update run``), and a scorer that predicts with every model as soon as it has it.
For each event, the milliseconds between the moment it was handed to the producer and the
end of the first prediction by a model that has learned it. Without --kafka the log is the
embedded one.

Events that arrive one by one wait for the checkpoint that carries them: of a checkpoint after
each 100 at 1,000 a second the first waits 99 ms, whatever the rest costs. So "behind" is told
too, the time from the last event of each checkpoint, which is what the path itself takes;
"learned" is its part until the trainer began the checkpoint, "followed" the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from bisect import bisect_left
from pathlib import Path
from typing import Any

from stream_update.config import load
from stream_update.events import Record
from stream_update.follower import Model, ModelSubscriber
from stream_update.plugins import open_log
from stream_update.topics import create_topics
from tests.bench.stall import percentile
from tests.programs import configure, elec2

WARM_UP = 0.25
"""The share of the events that are not counted: processes start, brokers load, caches fill."""


def produce(config: Path, rate: float, count: int) -> list[float]:
    """Append events at a steady rate; when each was handed over."""
    settings = load(config)
    values = [json.dumps(event).encode() for event in elec2(min(count, 45_000))]
    sent: list[float] = []
    with open_log(settings.log, settings.kafka) as log, log.appender() as appender:
        began = time.monotonic() + 0.5
        for number in range(count):
            due = began + number / rate
            while (left := due - time.monotonic()) > 0:
                time.sleep(left)
            sent.append(time.time())
            appender.append([Record(settings.source.topic, values[number % len(values)])])
    return sent


def follow(config: Path, count: int) -> list[tuple[float, int, float]]:
    """When a prediction was first made by each model, how many events that had learned, and
    when its checkpoint was begun.
    """
    settings = load(config)
    seen: list[tuple[float, int, float]] = []
    done = threading.Event()
    (event,) = elec2(1)
    del event["class"]

    def predict(model: Model) -> None:
        model.learner.predict([event])
        made = model.manifest.created_ms / 1000
        seen.append((time.time(), model.manifest.positions[0], made))
        if seen[-1][1] >= count:
            done.set()

    with ModelSubscriber(
        settings.app, log=settings.log, kafka=settings.kafka, on_model=predict
    ):  # fmt: skip
        done.wait(120)
    return seen


def measure(config: Path, rate: float, count: int) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONHASHSEED": "0"}

    def start(*arguments: str, module: str = "tests.bench.freshness") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    own = ["--config", str(config), "--rate", str(rate), "--count", str(count)]
    trainer = start("run", "-c", str(config), "--json", module="stream_update")
    scorer = start("--only", "follow", *own)
    time.sleep(5)  # until they have joined; those who are late are part of the warm-up
    producer = start("--only", "produce", *own)
    sent = json.loads(producer.communicate()[0])
    seen = json.loads(scorer.communicate()[0])
    trainer.send_signal(signal.SIGTERM)
    trainer.communicate()
    first = int(count * WARM_UP)
    learned = [up_to for _, up_to, _ in seen]
    waits = []
    for offset in range(first, count):
        known = bisect_left(learned, offset + 1)
        if known < len(seen):
            waits.append((seen[known][0] - sent[offset]) * 1000)
    counted = [one for one in seen if first < one[1] <= count]
    parts = {
        "event": waits,
        "behind": [(at - sent[up_to - 1]) * 1000 for at, up_to, _ in counted],
        "learned": [(made - sent[up_to - 1]) * 1000 for _, up_to, made in counted],
        "followed": [(at - made) * 1000 for at, _, made in counted],
    }
    return {
        "events": len(waits),
        "models": len(counted),
        **{
            f"{name}_p{round(share * 100)}_ms": round(percentile(values, share), 1)
            for name, values in parts.items()
            for share in (0.5, 0.99)
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=1000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--checkpoint-events", type=int, default=100)
    parser.add_argument("--checkpoint-seconds", type=float, default=5)
    parser.add_argument("--kafka", metavar="HOST:PORT", help="a broker that runs already")
    parser.add_argument("--client", choices=["kafka-python", "librdkafka"], default="kafka-python")
    parser.add_argument("--only", choices=["produce", "follow"], help=argparse.SUPPRESS)
    parser.add_argument("--config", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only == "produce":
        print(json.dumps(produce(options.config, options.rate, options.count)))
        return
    if options.only == "follow":
        print(json.dumps(follow(options.config, options.count)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url = f"kafka://{options.kafka}" if options.kafka else f"sqlite:///{folder / 'bench.db'}"
        config = configure(
            folder, url, f"fresh-{uuid.uuid4().hex[:8]}", checkpoint=options.checkpoint_events
        )
        text = config.read_text(encoding="utf-8")
        text = text.replace("seconds = 5", f"seconds = {options.checkpoint_seconds}")
        if options.kafka:
            text += f'\n[kafka]\nclient = "{options.client}"\n'
        config.write_text(text, encoding="utf-8")
        settings = load(config)
        with open_log(settings.log, settings.kafka) as log:
            create_topics(settings, log)
        # The last checkpoint has to hold all of them.
        count = int(options.rate * options.seconds) // options.checkpoint_events
        found = measure(config, options.rate, count * options.checkpoint_events)
    print(f"{url.partition(':')[0]}: {json.dumps(found)}")


if __name__ == "__main__":
    main()
