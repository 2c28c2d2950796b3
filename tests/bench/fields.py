"""How fast texts, images and sequences are learned, and how well: predict and learn alone.

    python -m tests.bench.fields [--rounds N]

Digits are real (tests/data), each pass over them in an order of its own; the messages are made
by a rule (tests/integration/test_fields.py has the same). Each event is predicted before it is
learned.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import random
import time
from pathlib import Path
from typing import Any

from stream_update.learners.torch import TorchLearner

DIGITS = Path(__file__).parents[1] / "data" / "digits.csv.gz"
WANTED = ["see", "you", "home", "later", "ok", "call", "me", "when", "bus", "love", "mum"]
UNWANTED = ["WIN", "free", "prize", "claim", "now", "urgent", "cash", "call", "STOP", "offer"]

Stream = list[tuple[dict[str, Any], Any]]


def digits(passes: int) -> list[tuple[list[int], int]]:
    with gzip.open(DIGITS, "rt") as file:
        rows = [list(map(int, line.split(","))) for line in file]
    chance = random.Random(1)
    return [(row[:64], row[64]) for _ in range(passes) for row in chance.sample(rows, len(rows))]


def messages(count: int) -> Stream:
    chance = random.Random(2)
    made: Stream = []
    for _ in range(count):
        spam = chance.random() < 0.3
        own, other = (UNWANTED, WANTED) if spam else (WANTED, UNWANTED)
        words = chance.choices(own, k=12) + chance.choices(other, k=6)
        chance.shuffle(words)
        made.append(({"body": " ".join(words)}, "spam" if spam else "ham"))
    return made


def cases(passes: int) -> dict[str, tuple[Stream, dict[str, Any], float]]:
    rows = digits(passes)
    return {
        "text": (messages(len(rows)), {"use": "text", "field": "body"}, 0.03),
        "cnn": (
            [({"picture": base64.b64encode(bytes(x)).decode()}, y) for x, y in rows],
            {"use": "cnn", "field": "picture", "shape": [8, 8, 1]},
            0.005,
        ),
        "gru": (
            [({"trail": x}, y) for x, y in rows],
            {"use": "gru", "field": "trail", "width": 8},
            0.01,
        ),
    }


def run(stream: Stream, module: dict[str, Any], rate: float, batch: int) -> tuple[float, float]:
    """Accuracy and events a second."""
    learner = TorchLearner(
        "multiclass", module, optimizer={"use": "adam", "lr": rate}, batch=batch, seed=1
    )
    right = 0
    begun = time.perf_counter()
    for start in range(0, len(stream) - batch + 1, batch):
        events = [event for event, _ in stream[start : start + batch]]
        labels = [label for _, label in stream[start : start + batch]]
        said = learner.predict(events).values
        right += sum(a == b for a, b in zip(said, labels, strict=True))
        learner.learn(events, labels)
    return right / len(stream), len(stream) / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1, help="passes over the digits")
    rounds = parser.parse_args().rounds
    print(f"{'module':8}{'batch':>6}{'accuracy':>10}{'events/s':>10}")
    for name, (stream, module, rate) in cases(rounds).items():
        for batch in (1, 8, 32):
            accuracy, speed = run(stream, module, rate, batch)
            print(f"{name:8}{batch:6}{accuracy:10.3f}{speed:10,.0f}", flush=True)


if __name__ == "__main__":
    main()
