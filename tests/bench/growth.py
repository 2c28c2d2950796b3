"""What growing on the way is worth, against a network that is small or large from the first.

    python -m tests.bench.growth [--seeds 5] [--rows 20000]

The first events of Elec2 (will the price of electricity go up?) and ImageSegments (2,310 images
in 7 classes, in another order for each seed), an MLP with Adam, batches of 32, each predicted
before it is learned. Accuracy in % within parts of the stream, mean and standard error over the
seeds, and the processor's time of predict and learn in relation to the small network's, median
over the seeds. "replicated" is Net2WiderNet (Chen, Goodfellow and Shlens 2016) in place of what
the package does: new units are copies of old ones with a little noise, which share the weights on
the way out.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import torch
from river import datasets
from torch import nn

from stream_update.learners.torch import TorchLearner, hidden
from tests.programs import elec2

BATCH = 32
SMALL, LARGE = 4, 64
NOISE = 0.01
"""Of the copies, in standard deviations of the layer's weights."""
Rows = list[tuple[dict[str, Any], Any]]


def electricity(rows: int) -> Callable[[int], Rows]:
    made = [({k: v for k, v in e.items() if k != "class"}, e["class"] == 1) for e in elec2(rows)]
    return lambda _: made


def segments(seed: int) -> Rows:
    rows = [(dict(x), y) for x, y in datasets.ImageSegments()]
    random.Random(seed).shuffle(rows)
    return rows


def replicate(chain: Any, optimizer: Any, sizes: Sequence[int], seed: int) -> None:
    """Net2WiderNet, in place of :func:`~stream_update.learners.torch.hidden.stretch`."""
    layers = [layer for layer in chain if type(layer) is nn.Linear]
    old = [layer.out_features for layer in layers]
    stretched(chain, optimizer, sizes, seed)
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer, after, was, size in zip(layers, layers[1:], old, sizes, strict=False):
            copied = torch.randint(was, (size - was,), generator=draws)
            for part in (layer.weight, layer.bias):
                noise = torch.randn(part[was:].shape, generator=draws)
                part[was:] = part[copied] + NOISE * part[:was].std() * noise
            shares = torch.bincount(torch.cat([torch.arange(was), copied]), minlength=was)
            after.weight[:, :was] /= shares
            after.weight[:, was:] = after.weight[:, copied]


stretched = hidden.stretch


@contextmanager
def by(scheme: Callable[..., None]) -> Iterator[None]:
    with patch("stream_update.learners.torch.network.stretch", scheme):
        yield


def run(rows: Rows, task: str, options: Mapping[str, Any], seed: int) -> tuple[list[bool], float]:
    """Which predictions were right, and the processor's time."""
    learner = made(task, options, seed)
    right: list[bool] = []
    took = 0.0
    for start in range(0, len(rows) - BATCH + 1, BATCH):
        xs = [x for x, _ in rows[start : start + BATCH]]
        ys = [y for _, y in rows[start : start + BATCH]]
        began = time.process_time()
        said = learner.predict(xs)
        learner.learn(xs, ys)
        took += time.process_time() - began
        right += [a == b for a, b in zip(said.values, ys, strict=True)]
    return right, took


def made(task: str, options: Mapping[str, Any], seed: int) -> TorchLearner:
    return TorchLearner(
        task, optimizer={"use": "adam", "lr": 0.01}, batch=BATCH, seed=seed, **options
    )


def moved(rows: Rows, task: str, seed: int, step: Mapping[str, Any]) -> float:
    """How far a probability of a thousand events moves at most at a step, after a learned batch.

    The batch is learned by both, with the step behind it and without.
    """
    said = []
    for steps in ([], [{**step, "after": 640}]):
        learner = made(task, {"module": mlp(SMALL), "grow": steps}, seed)
        for start in range(0, 640, BATCH):
            part = rows[start : start + BATCH]
            learner.learn([x for x, _ in part], [y for _, y in part])
        found = learner.predict([x for x, _ in rows[:1000]]).probabilities
        assert found is not None
        said.append(found)
    return float(max(abs(a[k] - b[k]) for a, b in zip(*said, strict=True) for k in a))


def mlp(*hidden: int) -> dict[str, Any]:
    return {"use": "mlp", "hidden": list(hidden)}


def ways(after: int, plateau: int) -> dict[str, tuple[dict[str, Any], Any]]:
    wider = {"after": after, "widen": LARGE}
    flat = {"plateau": plateau, "min_delta": 0.01, "widen": LARGE}
    deeper = {"after": 2 * after, "deepen": True}
    return {
        f"{SMALL} units": ({"module": mlp(SMALL)}, hidden.stretch),
        f"{LARGE} units": ({"module": mlp(LARGE)}, hidden.stretch),
        "widen": ({"module": mlp(SMALL), "grow": [wider]}, hidden.stretch),
        "widen, replicated": ({"module": mlp(SMALL), "grow": [wider]}, replicate),
        f"widen at a plateau of {plateau}": (
            {"module": mlp(SMALL), "grow": [flat]},
            hidden.stretch,
        ),
        "widen, then deepen": ({"module": mlp(SMALL), "grow": [wider, deeper]}, hidden.stretch),
    }


def told(figures: Sequence[float]) -> str:
    error = statistics.stdev(figures) / len(figures) ** 0.5 if len(figures) > 1 else 0.0
    return f"{statistics.mean(figures):.1f} ± {error:.1f}"


def compare(
    name: str, stream: Callable[[int], Rows], task: str, after: int, plateau: int, seeds: int
) -> None:
    rows = stream(0)
    cuts = [0, after, after + after // 5, 2 * after, len(rows) // BATCH * BATCH]
    parts = [f"{a + 1}-{b}" for a, b in pairwise(cuts)]
    print(f"\n{name}, steps after {after} and {2 * after} events")
    print("| |", " | ".join(parts), "| time |")
    found: dict[str, list[list[float]]] = {}
    times: dict[str, list[float]] = {}
    run(rows[:1000], task, {"module": mlp(SMALL)}, 0)  # what happens only once
    for seed in range(seeds):
        for way, (options, scheme) in ways(after, plateau).items():
            with by(scheme):
                right, took = run(stream(seed), task, options, seed)
            parted = [100 * statistics.mean(right[a:b]) for a, b in pairwise(cuts)]
            found.setdefault(way, []).append(parted)
            times.setdefault(way, []).append(took)
    small = next(iter(times.values()))
    for way, shares in found.items():
        ratio = statistics.median(a / b for a, b in zip(times[way], small, strict=True))
        print(f"| {way} |", " | ".join(map(told, zip(*shares, strict=True))), f"| {ratio:.2f} |")
    for way, scheme, step in (
        ("widen", hidden.stretch, {"widen": LARGE}),
        ("widen, replicated", replicate, {"widen": LARGE}),
        ("deepen", hidden.stretch, {"deepen": True}),
    ):
        with by(scheme):
            most = max(moved(stream(seed), task, seed, step) for seed in range(seeds))
        print(f"an answer moves at most by {most:.1e} at a step: {way}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=20_000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    compare("Elec2", electricity(given.rows), "binary", 5000, 1000, given.seeds)
    compare("ImageSegments", segments, "multiclass", 800, 200, given.seeds)


if __name__ == "__main__":
    main()
