"""Linear models by river and compiled: events a second in the learner, and whether they agree.

    python -m tests.bench.compiled [--events 20000] [--rounds 5] [--whole] [--json FILE]

The table of speeds is of CPU time, blocks of 1,000 events of 10 features as a trainer hands them
over, river and the compiled one in turns; median and spread of the rounds. ``RiverLearner``
is what ``use = "river"`` runs, which leaves out what river's pipeline does beside the work.
``--whole`` then learns whole streams with every pipeline of ``tests.linear`` both ways and
prints how far apart any two predictions are. The start is timed with an empty cache and again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from river import facto, linear_model, optim, preprocessing

from stream_update.learners.compiled import CompiledLearner
from stream_update.learners.river import RiverLearner
from stream_update.protocols import Learner
from tests.linear import CASES, numbers, stream

BLOCK = 1000
FEATURES = 10

MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "scaler + logistic regression, SGD": (
        lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(),
        "binary",
    ),
    "scaler + logistic regression, Adam": (
        lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.Adam(0.01)),
        "binary",
    ),
    "scaler + logistic regression, FTRL": (
        lambda: (
            preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.FTRLProximal())
        ),
        "binary",
    ),
    "logistic regression alone": (linear_model.LogisticRegression, "binary"),
    "scaler + PA classifier": (
        lambda: preprocessing.StandardScaler() | linear_model.PAClassifier(),
        "binary",
    ),
    "scaler + linear regression": (
        lambda: preprocessing.StandardScaler() | linear_model.LinearRegression(),
        "regression",
    ),
    "scaler + softmax, 5 classes": (
        lambda: preprocessing.StandardScaler() | linear_model.SoftmaxRegression(),
        "multiclass",
    ),
    "scaler + FM, 5 factors": (
        lambda: preprocessing.StandardScaler() | facto.FMClassifier(n_factors=5, seed=1),
        "binary",
    ),
    "hashed to 1,000": (
        lambda: preprocessing.FeatureHasher(1000, seed=1) | linear_model.LogisticRegression(),
        "binary",
    ),
}

START = """
import time
from river import linear_model, preprocessing
from stream_update.learners.compiled import CompiledLearner
begun = time.process_time()
CompiledLearner(preprocessing.StandardScaler() | linear_model.LogisticRegression(), "binary")
print(time.process_time() - begun)
"""


def events(count: int, task: str) -> tuple[list[dict[str, float]], list[Any]]:
    rng = random.Random(1)
    names = [f"feature_{number}" for number in range(FEATURES)]
    xs = [{name: rng.gauss(0, 1) for name in names} for _ in range(count)]
    if task == "regression":
        return xs, [sum(x.values()) for x in xs]
    if task == "multiclass":
        return xs, [rng.choice("abcde") for _ in xs]
    return xs, [sum(x.values()) + rng.gauss(0, 1) > 0 for x in xs]


def microseconds(learner: Learner, xs: list[Any], ys: list[Any]) -> float:
    """CPU time an event."""
    begun = time.process_time()
    for start in range(0, len(xs), BLOCK):
        learner.predict_then_learn(xs[start : start + BLOCK], ys[start : start + BLOCK])
    return (time.process_time() - begun) / len(xs) * 1e6


def speeds(count: int, rounds: int) -> list[dict[str, Any]]:
    rows = []
    print(f"{'':36}{'river us':>10}{'compiled us':>13}{'events/s':>12}{'ratio':>8}   of rounds")
    for name, (make, task) in MODELS.items():
        xs, ys = events(count, task)
        few = count // 10
        river, compiled = RiverLearner(make, task), CompiledLearner(make(), task)
        pairs = [
            (microseconds(river, xs[:few], ys[:few]), microseconds(compiled, xs, ys))
            for _ in range(rounds)
        ]
        slow, fast = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratios = sorted(one / other for one, other in pairs)
        ratio = statistics.median(ratios)
        print(
            f"{name:36}{slow:>10.2f}{fast:>13.2f}{1e6 / fast:>12,.0f}{ratio:>8.1f}   "
            f"{ratios[0]:.1f} to {ratios[-1]:.1f}"
        )
        rows.append({"model": name, "river_us": slow, "compiled_us": fast, "ratio": ratio,
                     "ratios": ratios})  # fmt: skip
    return rows


def agreement() -> dict[str, Any]:
    worst, apart, said = 0.0, 0, 0
    for case in CASES.values():
        xs, ys = stream(case.stream)
        river = RiverLearner(case.make, case.task).predict_then_learn(xs, ys)
        compiled = CompiledLearner(case.make(), case.task).predict_then_learn(xs, ys)
        pairs = list(zip(numbers(river), numbers(compiled), strict=True))
        differ = [abs(a - b) for a, b in pairs if a != b and (a == a or b == b)]  # noqa: PLR0124 - NaN is none
        furthest = max(differ, default=0.0)
        worst, apart, said = max(worst, furthest), apart + len(differ), said + len(pairs)
        print(f"{case.name:44}{case.stream:>15}{len(xs):>8,} events, apart {furthest:g}")
    print(f"{len(CASES)} pipelines, {said:,} numbers, {apart} differ, the furthest by {worst:g}")
    return {"pipelines": len(CASES), "numbers": said, "differ": apart, "furthest": worst}


def starts() -> dict[str, float]:
    """CPU seconds of making the first learner of a process."""
    with tempfile.TemporaryDirectory() as folder:
        took = [
            float(
                subprocess.run(
                    [sys.executable, "-c", START],
                    env={**os.environ, "NUMBA_CACHE_DIR": folder},
                    capture_output=True,
                    text=True,
                    check=True,
                ).stdout
            )
            for _ in range(2)
        ]
    print(f"start, CPU: {took[0]:.1f} s with an empty cache, {took[1]:.1f} s with a full one")
    return {"cold_s": took[0], "warm_s": took[1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report: dict[str, Any] = {"speeds": speeds(options.events, options.rounds)}
    report["start"] = starts()
    if options.whole:
        report["agreement"] = agreement()
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
