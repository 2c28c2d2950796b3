"""What a base, and what events without labels, are worth: accuracy after so many labels.

    python -m tests.bench.transfer [--seeds 10]

**transfer**: streams are stretches of 2,000 events of the later part of Elec2 (will the
price of electricity go up?), one for each seed, learned from nothing and from a base. The
base has learned 10,000 events before them, either with the same labels or with those of a
related task: will the demand be higher half an hour later? (Three of the
features are constant in the first 17,760 events, which are left out.) Each mini-batch is predicted
before it is learned. "to reach" is the number of events until the accuracy over 200
predictions, mean over the seeds, is what learning from nothing has over its last 500.

**labels**: ImageSegments (2,310 images in 7 classes, 18 features) in another order for each
seed; one event in ten has its label. Accuracy is that on 500 events that are never learned,
after so many labels. "standardiser" learns mean and variance from events without labels,
and nothing else.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from river import datasets

from stream_update.learners.torch import TorchLearner
from tests.programs import elec2

FIRST = 18_000
BASE = 10_000
LENGTH = 2000
WINDOW = 200
PARTS = ((0, 200), (200, 500), (500, 1000), (1000, 2000))
LABELS = (16, 32, 64, 128)
HELD_OUT = 500

Rows = list[tuple[dict[str, Any], Any]]


def batches(rows: Rows, size: int) -> Iterator[tuple[list[Any], list[Any]]]:
    for start in range(0, len(rows) - size + 1, size):
        chosen = rows[start : start + size]
        yield [x for x, _ in chosen], [y for _, y in chosen]


def network(task: str, seed: int, **options: Any) -> TorchLearner:
    defaults: dict[str, Any] = {"optimizer": {"use": "adam", "lr": 0.01}, "batch": 32}
    return TorchLearner(
        task, {"use": "mlp", "hidden": [64]}, seed=seed, threads=1, **defaults | options
    )


# -- from a base


def save(learner: TorchLearner, path: Path) -> Path:
    """A safetensors file with all that a start can use."""
    scaler = learner.dump()["scaler"]
    tensors = {name: part.contiguous() for name, part in learner.module.state_dict().items()}
    for part, raw in scaler.items():
        tensors[f"scaler.{part}"] = torch.frombuffer(bytearray(raw), dtype=torch.float64)
    told = {"features": json.dumps(learner.columns)}
    safetensors.torch.save_file(tensors, path, metadata=told)
    return path


def transfer(seeds: int, folder: Path) -> None:
    rows = [({k: v for k, v in e.items() if k != "class"}, e["class"] == 1) for e in elec2(45_312)]
    rows = rows[FIRST:]
    demand = [
        (x, after["nswdemand"] > x["nswdemand"])
        for (x, _), (after, _) in pairwise(rows[: BASE + 1])
    ]
    files = {}
    for name, learned in {"same": rows[:BASE], "related": demand}.items():
        base = network("binary", 0)
        for xs, ys in batches(learned, 32):
            base.learn(xs, ys)
        files[name] = save(base, folder / f"{name}.safetensors")
    ways: dict[str, Mapping[str, Any] | None] = {"from nothing": None}
    for name, file in files.items():
        start = {"use": "safetensors", "file": str(file)}
        if name == "same":
            ways["same task, head kept"] = start | {"head": "keep"}
            ways["same task, head kept, lr_scale 0.4"] = start | {"head": "keep", "lr_scale": 0.4}
        ways |= {
            f"{name} task, new head": start,
            f"{name} task, frozen": start | {"freeze": "all"},
            f"{name} task, frozen for 320, lr_scale 0.4": start | {"freeze": 320, "lr_scale": 0.4},
            f"{name} task, L2-SP 0.001": start | {"anchor": {"use": "l2-sp", "alpha": 0.001}},
        }
    places = [random.Random(seed).randrange(BASE, len(rows) - LENGTH) for seed in range(seeds)]
    curves = {
        way: [curve(rows[at : at + LENGTH], seed, start) for seed, at in enumerate(places)]
        for way, start in ways.items()
    }
    mean = {way: [statistics.mean(at) for at in zip(*found, strict=True)]
            for way, found in curves.items()}  # fmt: skip
    aim = statistics.mean(mean["from nothing"][-500:])
    print(f"\ntransfer, {seeds} streams: accuracy of events; to reach {aim:.1%}")
    shown = "".join(f"{f'{a}-{b}':>14}" for a, b in PARTS)
    print(f"{'':<44}{shown}{'to reach':>10}")
    for way, found in curves.items():
        cells = "".join(f"{_cell([statistics.mean(c[a:b]) for c in found]):>14}" for a, b in PARTS)
        print(f"{way:<44}{cells}{_reached(mean[way], aim):>10}")


def curve(rows: Rows, seed: int, start: Mapping[str, Any] | None) -> list[bool]:
    """Of each event, whether its prediction was right."""
    learner = network("binary", seed, start=start)
    right: list[bool] = []
    for xs, ys in batches(rows, 32):
        right += [a == b for a, b in zip(learner.predict(xs).values, ys, strict=True)]
        learner.learn(xs, ys)
    return right


def _reached(mean: Sequence[float], aim: float) -> str:
    for end in range(WINDOW, len(mean) + 1):
        if statistics.mean(mean[end - WINDOW : end]) >= aim:
            return str(end)
    return "never"


# -- from events without labels


def labels(seeds: int) -> None:
    rows = list(datasets.ImageSegments())
    ways: dict[str, Mapping[str, Any] | None] = {
        "labels alone": None,
        "standardiser": {"weight": 1e-12},
        "mask 0.3": {"mask": 0.3},
        "mask 0.6": {"mask": 0.6},
    }
    print(f"\nlabels, {seeds} orders: accuracy after so many labels")
    print(f"{'':<44}{''.join(f'{count:>14}' for count in LABELS)}")
    for epochs in (1, 10):
        for way, pretrain in ways.items():
            found = [few(rows, seed, pretrain, epochs) for seed in range(seeds)]
            cells = "".join(f"{_cell([one[count] for one in found]):>14}" for count in LABELS)
            print(f"{f'{way}, epochs_per_batch {epochs}':<44}{cells}")


def few(rows: Rows, seed: int, pretrain: Mapping[str, Any] | None, epochs: int) -> dict[int, float]:
    """Accuracy on what is held out, by the number of labels learned."""
    chance = random.Random(seed)
    rows = chance.sample(rows, len(rows))
    rows, held_out = rows[HELD_OUT:], rows[:HELD_OUT]
    options = None if pretrain is None else {"batch": 8, **pretrain}
    learner = network(
        "multiclass",
        seed,
        optimizer={"use": "adam", "lr": 0.003},
        batch=8,
        epochs_per_batch=epochs,
        pretrain=options,
    )
    labelled: Rows = []
    others: list[Any] = []
    found: dict[int, float] = {}
    learned = 0
    for x, y in rows:
        if chance.random() < 0.1:
            labelled.append((x, y))
        else:
            others.append(x)
        if len(labelled) == learner.batch:
            learner.learn([x for x, _ in labelled], [y for _, y in labelled])
            learned += len(labelled)
            labelled = []
            if learned in LABELS:
                said = learner.predict([x for x, _ in held_out]).values
                found[learned] = statistics.mean(
                    a == y for a, (_, y) in zip(said, held_out, strict=True)
                )
        if len(others) == learner.unlabelled_batch:
            learner.learn_unlabelled(others)
            others = []
    return found


def _cell(values: Sequence[float]) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{100 * statistics.mean(values):.1f} ± {100 * error:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        transfer(options.seeds, Path(name))
    labels(options.seeds)


if __name__ == "__main__":
    main()
