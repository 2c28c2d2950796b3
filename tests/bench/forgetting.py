"""What a learner still knows of classes that have left the stream, with replay and without.

    python -m tests.bench.forgetting [--seeds 5] [--buffer 140]

River's ImageSegments (2,310 outdoor images, seven classes), one class after the other: 230
events of each are learned, 100 are kept back. The order of the classes and of the events
depends on the seed. At the end each learner is asked for what was kept back. "Twice" learns
as many events as replay does, and "in any order" has the events shuffled: no forgetting is to
be had there, so it is what replay could reach at best.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from river import datasets

from stream_update.components import components
from stream_update.config import parse
from stream_update.protocols import Learner

TRAINED = 230

LEARNERS: dict[str, dict[str, Any]] = {
    "torch, MLP 64, batch 8": {
        "use": "torch",
        "module": {"use": "mlp", "hidden": [64]},
        "optimizer": {"use": "adam", "lr": 0.01},
        "batch": 8,
    },
    "river, softmax regression": {
        "use": "river.compose:Pipeline",
        "steps": [
            {"use": "river.preprocessing:StandardScaler"},
            {
                "use": "river.linear_model:SoftmaxRegression",
                "optimizer": {"use": "river.optim:SGD", "lr": 0.05},
            },
        ],
    },
    "river, Hoeffding tree": {
        "use": "river.tree:HoeffdingTreeClassifier",
        "grace_period": 50,
    },
}
BUFFERS = ("reservoir", "class-balanced", "recency")

Rows = list[tuple[dict[str, float], str]]


class Scores(NamedTuple):
    """Accuracy at the end, on the classes before the last one, on that one, and on all."""

    old: float
    last: float
    every: float


def stream(seed: int) -> tuple[Rows, Rows, str]:
    """What is learned, class by class; what is kept back; and the class that comes last."""
    chance = random.Random(seed)
    rows = list(datasets.ImageSegments())
    names = sorted({label for _, label in rows})
    chance.shuffle(names)
    learned: Rows = []
    kept: Rows = []
    for name in names:
        own = [row for row in rows if row[1] == name]
        chance.shuffle(own)
        learned += own[:TRAINED]
        kept += own[TRAINED:]
    return learned, kept, names[-1]


def learner(table: dict[str, Any], wraps: Sequence[dict[str, Any]], seed: int) -> Learner:
    tree = {
        "app": "forgetting",
        "log": "sqlite:///none.db",
        "task": "multiclass",
        "source": {"topic": "segments", "label": "class", "features": "*"},
        "learner": table,
        "wrap": list(wraps),
        "seed": seed,
    }
    return components(parse(tree)).make_learner()


def scores(learner: Learner, learned: Rows, kept: Rows, last: str, times: int) -> Scores:
    for start in range(0, len(learned), learner.batch):
        events, labels = zip(*learned[start : start + learner.batch], strict=True)
        for _ in range(times):
            learner.learn(events, labels)
    said = learner.predict([event for event, _ in kept]).values
    right = [(label, label == value) for value, (_, label) in zip(said, kept, strict=True)]
    return Scores(
        statistics.mean(hit for label, hit in right if label != last),
        statistics.mean(hit for label, hit in right if label == last),
        statistics.mean(hit for _, hit in right),
    )


def ways(most: int) -> Iterator[tuple[str, list[dict[str, Any]], int, bool]]:
    """Name, wraps, how often each batch is learned, and whether the events are shuffled."""
    yield "no replay", [], 1, False
    yield "no replay, twice", [], 2, False
    for buffer in BUFFERS:
        yield (
            f"replay, {buffer}",
            [{"use": "replay", "buffer": buffer, "max_events": most}],
            1,
            False,
        )
    yield "no replay, in any order", [], 1, True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--buffer", type=int, default=140, help="events in the buffer")
    options = parser.parse_args()
    print(f"{options.seeds} seeds; {options.buffer} of {7 * TRAINED} events in the buffer\n")
    print("| learner | stream | old classes | last class | all classes |\n|---|---|---|---|---|")
    for name, table in LEARNERS.items():
        for way, wraps, times, shuffled in ways(options.buffer):
            found = []
            for seed in range(options.seeds):
                learned, kept, last = stream(seed)
                if shuffled:
                    random.Random(seed).shuffle(learned)
                found.append(scores(learner(table, wraps, seed), learned, kept, last, times))
            columns = [
                f"{statistics.mean(column):.1%} ± {statistics.stdev(column):.1%}"
                for column in zip(*found, strict=True)
            ]
            print(f"| {name} | {way} | {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main()
