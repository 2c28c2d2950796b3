"""What a chaos run learns from: streams with bad events and duplicates, and learners."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from river.datasets import synth

from tests.programs import PIPELINE, elec2

__all__ = ["LEARNERS", "STREAMS", "Learner", "Stream", "lines", "open_learner", "open_stream"]

LABEL = "_label"
ID = "_id"
WINDOW = 500
"""How many ids a lane remembers; duplicates are of events not older than half of that."""


class Stream(NamedTuple):
    """Events without end: features and label, in an order that the seed decides."""

    task: str
    make: Callable[[int], Iterator[tuple[dict[str, Any], Any]]]


def _elec2(_: int) -> Iterator[tuple[dict[str, Any], Any]]:
    for event in itertools.cycle(elec2(45_312)):
        yield {k: v for k, v in event.items() if k != "class"}, event["class"]


def _sea(seed: int) -> Iterator[tuple[dict[str, Any], Any]]:
    """With another concept every 3,000 events, so that something drifts in short runs too."""
    for turn in itertools.count():
        part = synth.SEA(variant=turn % 4, seed=seed + turn, noise=0.05)
        for x, y in part.take(3000):
            yield {str(k): v for k, v in x.items()}, int(y)


def _led(seed: int) -> Iterator[tuple[dict[str, Any], Any]]:
    for turn in itertools.count():
        part = synth.LEDDrift(seed=seed + turn, noise_percentage=0.1, n_drift_features=turn % 7)
        for x, y in part.take(3000):
            yield {str(k): int(v) for k, v in x.items()}, int(y)


def _friedman(seed: int) -> Iterator[tuple[dict[str, Any], Any]]:
    for turn in itertools.count():
        part = synth.Friedman(seed=seed + turn)
        for x, y in part.take(3000):
            yield {str(k): float(v) for k, v in x.items()}, float(y) + 5.0 * (turn % 3)


STREAMS = {
    "elec2": Stream("binary", _elec2),
    "sea": Stream("binary", _sea),
    "led": Stream("multiclass", _led),
    "friedman": Stream("regression", _friedman),
}


def open_stream(name: str, label: str = "", task: str = "") -> Stream:
    """One of :data:`STREAMS`, or a CSV file (its last column is the label if none is named)."""
    if name in STREAMS:
        return STREAMS[name]
    path = Path(name)
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    table = csv.DictReader(io.StringIO(text, newline=""))
    rows = [{k: _value(v) for k, v in row.items() if v != ""} for row in table]
    if not rows:
        raise SystemExit(f"{path} has no rows")
    label = label or list(rows[0])[-1]
    rows = [row for row in rows if label in row]
    labels = {row[label] for row in rows}
    task = task or _task(labels)
    if task == "binary":
        numbers = {value: number for number, value in enumerate(sorted(labels, key=str))}
        rows = [{**row, label: numbers[row[label]]} for row in rows]

    def make(_: int) -> Iterator[tuple[dict[str, Any], Any]]:
        for row in itertools.cycle(rows):
            yield {k: v for k, v in row.items() if k != label}, row[label]

    return Stream(task, make)


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _task(labels: Iterable[Any]) -> str:
    found = set(labels)
    if len(found) == 2:
        return "binary"
    return "regression" if any(isinstance(label, float) for label in found) else "multiclass"


class Learner(NamedTuple):
    """What stands in the configuration: the learner, and the monitors in full."""

    table: str
    monitors: str


def _watching(reaction: str) -> str:
    return f"""
[[monitor]]
use = "drift"
detector = {{ use = "river.drift:ADWIN", delta = 0.002 }}
reaction = "{reaction}"
"""


ALERT = _watching("alert")

NETWORK = """
use = "torch"
module = { use = "mlp", hidden = [8], dropout = 0.1 }
optimizer = { use = "adam", lr = 0.01 }
batch = 32
"""

REPLAY = """
[[wrap]]
use = "replay"
buffer = "class-balanced"
max_events = 200
"""

LEARNERS = {
    "logistic": Learner(PIPELINE, ALERT),
    "tree": Learner('use = "river.tree:HoeffdingTreeClassifier"\ngrace_period = 50', ALERT),
    "adaptive": Learner(
        'use = "river.tree:HoeffdingAdaptiveTreeClassifier"\ngrace_period = 50\nseed = 1', ALERT
    ),
    "forest": Learner('use = "river.forest:ARFClassifier"\nn_models = 3\nseed = 1', ALERT),
    "bayes": Learner('use = "river.naive_bayes:GaussianNB"', ALERT),
    "reset": Learner(
        'use = "river.tree:HoeffdingTreeClassifier"\ngrace_period = 50', _watching("reset")
    ),
    "swap": Learner(PIPELINE, _watching("swap")),
    "linear": Learner(
        'use = "river.compose:Pipeline"\nsteps = [{ use = "river.preprocessing:StandardScaler" }, '
        '{ use = "river.linear_model:LinearRegression", intercept_lr = 0.1 }]',
        ALERT,
    ),
    "network": Learner(NETWORK, ALERT),
    "replay": Learner(NETWORK, REPLAY + _watching("swap")),
    "ensemble": Learner(
        'use = "ensemble"\ncombine = "stacking"\nbatch = 32\n[[learner.members]]\n'
        f'use = "river.naive_bayes:GaussianNB"\n[[learner.members]]\n{NETWORK}',
        ALERT,
    ),
    "regression-tree": Learner(
        'use = "river.tree:HoeffdingTreeRegressor"\ngrace_period = 50', ALERT
    ),
}


def open_learner(name: str) -> Learner:
    """One of :data:`LEARNERS`, ``module:Class``, or a TOML file with [learner] and monitors."""
    if name in LEARNERS:
        return LEARNERS[name]
    if ":" in name:
        return Learner(f'use = "{name}"', ALERT)
    text = Path(name).read_text(encoding="utf-8")
    head, found, rest = text.partition("[learner]")
    if not found or head.strip():
        raise SystemExit(f"{name} has to begin with [learner]; [[monitor]] tables may follow it")
    table, monitor, monitors = rest.partition("[[monitor]]")
    return Learner(table, monitor + monitors)


BAD = (
    '{"a": 1e308, "_label": 1}',
    '{"a": 0.5}',
    '{"a": 0.5, "_label": [1]}',
    '{"a": 0.5, "a": 0.6, "_label": 1}',
    '{"a": NaN, "_label": 1}',
    '{"a": {"deep": 1}, "_label": 1}',
    "not json",
    "",
)


def lines(stream: Stream, seed: int, bad: float, duplicates: float) -> Iterator[bytes]:
    """The stream's events as JSON, with a share of bad ones and of events sent again."""
    chance = random.Random(seed)
    recent: list[bytes] = []
    for number, (features, label) in enumerate(stream.make(seed)):
        draw = chance.random()
        if draw < bad:
            yield chance.choice(BAD).encode()
            if chance.random() < 0.2:
                yield json.dumps({**features, ID: f"u{number}", LABEL: None}).encode()
        elif draw < bad + duplicates and recent:
            yield chance.choice(recent)
        line = json.dumps({**features, ID: number, LABEL: label}).encode()
        recent = [*recent[-(WINDOW // 2) :], line] if number % 8 == 0 else recent
        yield line
