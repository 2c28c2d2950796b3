"""Events a second, side by side: our pipeline, the bare loops, and the frameworks.

    python -m tests.bench.throughput [--events 200000] [--rounds 3] [--log sqlite|kafka|both]
        [--only NAME ...] [--model linear|tree|forest] [--kafka HOST:PORT] [--json FILE]

Everybody reads the same events of about 300 bytes with ten features and learns the same
model; ours also publishes metrics and snapshots, in an atomic checkpoint every 10,000 events
or 5 s. "loop" is what everybody writes first: no group, no commits, no snapshots, with the same
client as the pipeline of that name. Every pass is a process of its own; they take turns,
and a ratio is the median over the rounds of what stood side by side. Imports do not count;
joining the group does. A contender whose library is missing is left out, and said so.
Without --kafka a broker is started.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from stream_update.assemble import Trainer
from stream_update.config import load
from stream_update.events import Record, TopicPartition
from stream_update.plugins import open_log
from stream_update.topics import create_topics
from tests.bench import logs
from tests.bench.rivals import MODELS, RIVALS, Model
from tests.programs import configure

FEATURES = 10


class Contender(NamedTuple):
    """How one of them is run, and what it is set beside."""

    logs: tuple[str, ...]
    needs: str = ""
    ours: str | None = None
    """The configuration that differs, for the pipeline; None for a loop or a framework."""
    learner: str = "river"
    beside: tuple[str, ...] = ()


CLIENT = '\n[kafka]\nclient = "librdkafka"\n'
FRAMEWORKS = ("quix", "bytewax", "faust")
CONTENDERS = {
    "loop": Contender(("sqlite", "kafka")),
    "loop, librdkafka": Contender(("kafka",), "confluent_kafka"),
    "quix": Contender(("kafka",), "quixstreams"),
    "bytewax": Contender(("kafka",), "bytewax"),
    "faust": Contender(("kafka",), "faust"),
    "run": Contender(("sqlite", "kafka"), "", "", beside=("loop", *FRAMEWORKS)),
    "run, librdkafka": Contender(
        ("kafka",), "confluent_kafka", CLIENT, beside=("loop, librdkafka", *FRAMEWORKS)
    ),
    "run, compiled": Contender(
        ("sqlite", "kafka"), "numba", "", "compiled", beside=("loop", *FRAMEWORKS)
    ),
    "run, librdkafka, compiled": Contender(
        ("kafka",), "numba", CLIENT, "compiled", beside=("loop, librdkafka", *FRAMEWORKS)
    ),
}
# River's more dearly learning models have no compiled form.
LINEAR_ONLY = {name for name, contender in CONTENDERS.items() if contender.learner == "compiled"}


def fill(config: Path, events: int, *, spoil: int = 0) -> None:
    """Write events of about 300 bytes with ten features to the source topic.

    One in ``spoil`` is cut off in the middle.
    """
    settings = load(config)
    chance = random.Random(1)
    with open_log(settings.log, settings.kafka) as log:
        create_topics(settings, log)
        with log.appender() as appender:
            for start in range(0, events, 1000):
                appender.append(
                    Record(
                        settings.source.topic,
                        _event(chance)[: 100 if spoil and place % spoil == 0 else None],
                    )
                    for place in range(start, min(events, start + 1000))
                )
            appender.flush()


def _event(chance: random.Random) -> bytes:
    event: dict[str, Any] = {f"feature_{i}": chance.gauss(0, 1) for i in range(FEATURES)}
    event["class"] = int(event["feature_0"] + event["feature_1"] + chance.gauss(0, 1) > 0)
    return orjson.dumps(event)


def loop(config: Path, events: int, model: Model) -> None:
    """The bare loop over the embedded log, with the same reader as the pipeline."""
    settings = load(config)
    where = TopicPartition(settings.source.topic, 0)
    with open_log(settings.log, settings.kafka) as log, log.reader() as reader:
        reader.seek({where: 0})
        model.begin()
        while model.events < events:
            for batch in reader.poll(1.0, 500):
                for value in batch.values:
                    model.learn(value)


def rival(name: str, config: Path, events: int, model: Model) -> dict[str, Any]:
    settings = load(config)
    scheme, _, address = settings.log.partition("://")
    if scheme == "sqlite":
        loop(config, events, model)
    else:
        RIVALS[name](address, settings.source.topic, events, model)
    return {
        "events_per_s": model.events / (time.perf_counter() - model.began),
        "accuracy": model.accuracy.get(),
    }


def pipeline(config: Path) -> dict[str, Any]:
    """The trainer, checkpoints and all, in a lineage of its own."""
    settings = load(config, [f"lineage=bench-{uuid.uuid4().hex[:8]}"])
    started = time.perf_counter()
    with open_log(settings.log, settings.kafka) as log:
        report = Trainer(settings, log, until_end=True).run()
    return {
        "events_per_s": report["events"] / (time.perf_counter() - started),
        "accuracy": report["metrics"]["accuracy"],
    }


def child(name: str, config: Path, events: int, model: str, answer: Path) -> None:
    """One pass, in a process that ends with it; frameworks say what they like on stdout."""
    if CONTENDERS[name].ours is None:
        found = rival(name, config, events, Model(model))
    else:
        found = pipeline(config)
    found["max_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    answer.write_text(json.dumps(found), encoding="utf-8")
    # Faust leaves a thread behind that never ends, and the interpreter would wait for it.
    os._exit(0)


def measure(name: str, config: Path, events: int, model: str) -> dict[str, Any]:
    answer = config.with_suffix(".json")
    options = [
        *("--config", str(config)),
        *("--events", str(events)),
        *("--model", model),
        *("--json", str(answer)),
    ]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.bench.throughput", "--child", name, *options],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    if done.returncode:
        raise SystemExit(f"{name} ended with {done.returncode}: {done.stdout}{done.stderr}")
    found: dict[str, Any] = json.loads(answer.read_bytes())
    return found


def compare(
    log: str, names: list[str], events: int, rounds: int, model: str, folder: Path
) -> dict[str, Any]:
    app = f"bench-{uuid.uuid4().hex[:8]}"
    configs = {}
    for name in names:
        contender = CONTENDERS[name]
        learner = MODELS[model].toml
        if contender.learner == "compiled":
            learner = f'use = "compiled"\n[learner.model]\n{learner}'
        inside = folder / name.replace(" ", "-").replace(",", "")
        inside.mkdir(exist_ok=True)
        configs[name] = configure(
            inside, log, app, learner=learner, checkpoint=10_000, extra=contender.ours or ""
        )
    fill(configs[names[0]], events)
    passes: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, found in passes.items():
            found.append(measure(name, configs[name], events, model))
    accuracies = {name: found[0]["accuracy"] for name, found in passes.items()}
    if len(set(accuracies.values())) != 1:
        raise SystemExit(f"they do not learn the same: {accuracies}")
    return {
        "log": log.partition("://")[0],
        "events": events,
        "rounds": rounds,
        "model": model,
        "accuracy": next(iter(accuracies.values())),
        "contenders": {name: _summary(name, passes) for name in names},
    }


def _summary(name: str, passes: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    rates = {other: [f["events_per_s"] for f in found] for other, found in passes.items()}
    beside = {}
    for other in CONTENDERS[name].beside:
        if other in rates:
            ratios = [a / b for a, b in zip(rates[name], rates[other], strict=True)]
            beside[other] = [
                round(value, 3) for value in (statistics.median(ratios), min(ratios), max(ratios))
            ]
    return {
        "events_per_s": round(statistics.median(rates[name])),
        "from": round(min(rates[name])),
        "to": round(max(rates[name])),
        "max_rss_mb": round(max(f["max_rss_mb"] for f in passes[name])),
        "times": beside,
    }


def chosen(log: str, only: list[str] | None, model: str) -> list[str]:
    """The contenders for this log that can be run here."""
    names = []
    for name, contender in CONTENDERS.items():
        if log not in contender.logs or (only and name not in only):
            continue
        if model != "linear" and name in LINEAR_ONLY:
            continue
        if contender.needs and find_spec(contender.needs) is None:
            print(f"{name} is left out: {contender.needs} is not installed (extra bench)")
            continue
        names.append(name)
    return names


def show(result: Mapping[str, Any]) -> None:
    print(
        f"\n{result['log']}, {result['model']}, {result['events']:,} events, "
        f"{result['rounds']} rounds, accuracy {result['accuracy']:.6f}"
    )
    print(f"{'':<27}{'events/s':>10}{'from':>9}{'to':>9}{'RSS MB':>8}  times (from, to)")
    for name, found in result["contenders"].items():
        times = "; ".join(
            f"{middle} ({low}, {high}) of {other}"
            for other, (middle, low, high) in found["times"].items()
        )
        print(
            f"{name:<27}{found['events_per_s']:>10,}{found['from']:>9,}{found['to']:>9,}"
            f"{found['max_rss_mb']:>8}  {times}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    logs.add_options(parser)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", choices=MODELS, default="linear")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, metavar="NAME")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--child", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--config", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.config, options.events, options.model, options.json)
    results = []
    with tempfile.TemporaryDirectory() as name, ExitStack() as opened:
        folder = Path(name)
        for log in logs.addresses(options, folder, opened):
            names = chosen(log.partition("://")[0], options.only, options.model)
            if names:
                results.append(
                    compare(log, names, options.events, options.rounds, options.model, folder)
                )
                show(results[-1])
    if options.json:
        options.json.write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
