"""What is published for those who only predict: how many bytes, and how different its answers.

    python -m tests.bench.serving [--events N]

The presets' networks, and one for each kind of field, learn the first events of a stream in a
lane with its monitors, as a trainer has it. A snapshot is taken, and what would be published
beside it in each precision: bytes with the manifest, and against the trainer's own model on
the next 500 events the largest difference of a probability (of a rating: relative to the
standard deviation of the labels), and how many answers are others.
"""

from __future__ import annotations

import argparse
import base64
import json
import statistics
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from stream_update import plugins
from stream_update.components import components, fresh_lane
from stream_update.config import Config, parse
from stream_update.errors import ConfigError
from stream_update.events import Batch, Predictions
from stream_update.protocols import Precision
from stream_update.serving import Serving
from stream_update.snapshot import Identity, Snapshot, encode_manifest, seal
from tests.bench.fields import digits, messages
from tests.programs import elec2
from tests.ratings import ratings

PRESETS = Path(__file__).parents[2] / "deploy" / "presets"
ASKED = 500

Event = dict[str, Any]


def preset(name: str) -> dict[str, Any]:
    tree = tomllib.loads((PRESETS / f"{name}.toml").read_text(encoding="utf-8"))
    tree["learner"].pop("start", None)  # it changes what is learned and not how much
    return tree


def network(task: str = "multiclass", **learner: Any) -> dict[str, Any]:
    adam = {"use": "adam", "lr": 0.005}
    return {
        "app": "app",
        "log": "sqlite:///none.db",
        "task": task,
        "source": {"topic": "app.labelled", "label": "class", "features": "*", "max_list": 64},
        "learner": {"use": "torch", "optimizer": adam, "batch": 32, **learner},
    }


def pictures(count: int) -> list[Event]:
    return [
        {"picture": base64.b64encode(bytes(x)).decode(), "class": y} for x, y in digits(4)[:count]
    ]


def trails(count: int) -> list[Event]:
    return [{"trail": x, "class": y} for x, y in digits(4)[:count]]


def texts(count: int) -> list[Event]:
    return [{**x, "class": y} for x, y in messages(count)]


CASES: dict[str, tuple[Callable[[], dict[str, Any]], Callable[[int], list[Event]]]] = {
    "preset replay": (lambda: preset("replay"), elec2),
    "preset transfer": (lambda: preset("transfer"), elec2),
    "preset self-supervised": (lambda: preset("self-supervised"), elec2),
    "preset ensemble": (lambda: preset("ensemble"), elec2),
    "preset distil": (lambda: preset("distil"), elec2),
    "preset recommender": (lambda: preset("recommender"), ratings),
    "mlp 512, 256": (
        lambda: network("binary", module={"use": "mlp", "hidden": [512, 256]}),
        elec2,
    ),
    "text": (lambda: network(module={"use": "text", "field": "body"}), texts),
    "cnn": (
        lambda: network(module={"use": "cnn", "field": "picture", "shape": [8, 8, 1]}),
        pictures,
    ),
    "gru": (lambda: network(module={"use": "gru", "field": "trail", "width": 8}), trails),
}


def measured(config: Config, events: list[Event]) -> list[tuple[Any, ...]]:
    """A row for the snapshot and for each precision: name, bytes, difference, other answers."""
    parts = components(config)
    kit = fresh_lane(config, parts, {0: 0})
    values = [json.dumps(event).encode() for event in events[:-ASKED]]
    kit.lane.feed(kit.decode(Batch("t", 0, range(len(values)), values)))
    state = kit.lane.freeze()
    identity = Identity(
        app="app", lineage="app", task=config.task, topic="t", topic_id="i", learner=parts.kind,
        fingerprint=parts.fingerprint, config={"learner": config.learner},
        versions=parts.versions, seed=0,
    )  # fmt: skip
    full = seal(
        state, identity, partition=0, seq=1, parent="", next={"0": len(values)},
        events=len(values), learned=len(values), rejected=0, unlabelled=0, recent_loss=0.1,
        event_time=None, created_ms=1,
    )  # fmt: skip
    label = config.source.label
    asked = [{k: v for k, v in event.items() if k != label} for event in events[-ASKED:]]
    expected = kit.lane.learner.predict(asked)
    labels = [event[label] for event in events]
    rows: list[tuple[Any, ...]] = [("snapshot", size(full), "", "")]
    for precision in get_args(Precision):
        try:
            made = Serving("s", precision).seal(full, state["learner"])
        except ConfigError:
            rows.append((precision, "refused", "", ""))
            continue
        kind, tree = made.manifest.identity.learner, made.state()["learner"]
        found = plugins.restored(kind, tree, config.task, where="here").predict(asked)
        rows.append((precision, size(made), *difference(expected, found, labels)))
    return rows


def size(made: Snapshot) -> int:
    return len(made.payload) + len(encode_manifest(made.manifest))


def difference(one: Predictions, two: Predictions, labels: list[Any]) -> tuple[str, str]:
    if one.probabilities is None or two.probabilities is None:
        spread = statistics.pstdev(labels)
        apart = max(abs(a - b) / spread for a, b in zip(one.values, two.values, strict=True))
        return f"{apart:.1e}", "-"
    apart = max(
        abs(a[label] - b[label])
        for a, b in zip(one.probabilities, two.probabilities, strict=True)
        for label in a
    )
    others = sum(a != b for a, b in zip(one.values, two.values, strict=True))
    return f"{apart:.1e}", f"{others} of {len(one.values)}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.serving")
    parser.add_argument("--events", type=int, default=5000)
    count = parser.parse_args().events
    print("| | published | bytes | of the snapshot's | largest difference | other answers |")
    print("|---|---|---|---|---|---|")
    for name, (tree, stream) in CASES.items():
        rows = measured(parse(tree()), stream(count + ASKED))
        whole = rows[0][1]
        for what, made, apart, others in rows:
            share = f"{made / whole:.0%}" if isinstance(made, int) else ""
            shown = f"{made:,}" if isinstance(made, int) else made
            print(f"| {name} | {what} | {shown} | {share} | {apart} | {others} |", flush=True)
            name = ""  # noqa: PLW2901 - once is enough


if __name__ == "__main__":
    main()
