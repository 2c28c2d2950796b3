"""What each part of an event's way costs, in microseconds of CPU an event, in memory.

    python -m tests.bench.parts [--events 200000] [--block 500] [--rounds 3]

The events are those of tests.bench.throughput. "echo" is a learner that costs next to nothing
and answers labels and probabilities as columns, so that what is left is the path's own cost.
Each line is measured in turn in every round; the median and the spread are given. A compiled
learner is measured where numba is.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson
from river import compose, drift, linear_model, metrics, optim, preprocessing

from stream_update.codecs import JsonCodec
from stream_update.config import Config, load
from stream_update.events import Batch, Block, Chances, Features, Outcomes, Predictions, Tree
from stream_update.lane import Lane
from stream_update.learners.compiled import CompiledLearner
from stream_update.learners.river import RiverLearner
from stream_update.monitors.drift import DriftMonitor
from stream_update.monitors.prequential import Prequential
from stream_update.protocols import Learner, Monitor
from tests.bench.throughput import _event
from tests.programs import configure

Way = Callable[[], object]


class Echo:
    """Answers from a column that was drawn ahead, and learns nothing."""

    batch = 1

    def __init__(self, block: int) -> None:
        self._true = np.random.default_rng(1).random(block)
        self._false = 1.0 - self._true
        self._values: list[Any] = (self._true > self._false).tolist()

    def predict(self, features: Sequence[Features]) -> Predictions:
        count = len(features)
        chances = Chances({False: self._false[:count], True: self._true[:count]})
        return Predictions(self._values[:count], chances)

    def learn(self, features: Sequence[Features], labels: Sequence[Any]) -> None:
        pass

    def predict_then_learn(
        self, features: Sequence[Features], labels: Sequence[Any]
    ) -> Predictions:
        return self.predict(features)

    def react(self, signal: str) -> None:
        pass

    def dump(self) -> Tree:
        return None

    def load(self, tree: Tree) -> None:
        pass


def model() -> Any:
    return compose.Pipeline(
        preprocessing.StandardScaler(),
        linear_model.LogisticRegression(l2=0.0, optimizer=optim.SGD(lr=0.01)),
    )


def detector() -> Any:
    return drift.ADWIN(delta=0.002)


def monitors(reaction: str = "alert") -> list[Monitor]:
    return [Prequential("binary"), DriftMonitor("binary", detector, "ADWIN", reaction=reaction)]


class Ways:
    """What is measured, by name, over one stream in memory."""

    def __init__(self, config: Config, events: int, block: int) -> None:
        chance = random.Random(1)
        values = [_event(chance) for _ in range(events)]
        self._config = config
        self._block = block
        self._batches = [
            Batch(
                config.source.topic,
                0,
                range(start, min(start + block, events)),
                values[start : start + block],
                timestamps=range(start, min(start + block, events)),
            )
            for start in range(0, events, block)
        ]
        self._blocks = list(self._decoded())
        self._answered = list(map(self._outcomes, self._blocks))
        # The learner says the same of every block, so one list of mappings stands for all.
        said = Echo(block).predict([{}] * block).probabilities
        mappings = list(said or ())
        self._answered_by_mappings = [
            outcomes._replace(
                predictions=Predictions(
                    outcomes.predictions.values, mappings[: len(outcomes.labels)]
                )
            )
            for outcomes in self._answered
        ]

    def _decoded(self, *, tables: bool = False) -> Iterator[Block]:
        codec = JsonCodec(self._config.source, "binary", tables=tables)
        return map(codec.decode, self._batches)

    def _outcomes(self, block: Block) -> Outcomes:
        said = Echo(self._block).predict(block.features)
        return Outcomes(block.partition, block.offsets, block.labels, said, block.time_of)

    def all(self) -> dict[str, Way]:
        return {
            "decode": self._decode,
            "decode, table": lambda: self._decode(tables=True),
            "lane, echo": lambda: self._feed(Echo(self._block), []),
            "river alone": self._river,
            "river learner": self._river_learner,
            "metrics": lambda: self._observe(Prequential("binary")),
            "metrics, mappings": lambda: self._observe(Prequential("binary"), mappings=True),
            "drift": lambda: self._observe(DriftMonitor("binary", detector, "ADWIN")),
            "ADWIN alone": self._adwin,
            "all but reading, echo": lambda: self._through(Echo(self._block), monitors()),
            "all but reading, river": lambda: self._through(
                RiverLearner(model, "binary"), monitors()
            ),
            "the same, reacting": lambda: self._through(
                RiverLearner(model, "binary"), monitors("reset")
            ),
            "all but reading, compiled": lambda: self._compiled(tables=True),
            "the same from dictionaries": lambda: self._compiled(tables=False),
            "bare loop": self._bare,
        }

    def _decode(self, *, tables: bool = False) -> None:
        for _ in self._decoded(tables=tables):
            pass

    def _compiled(self, *, tables: bool) -> None:
        self._through(CompiledLearner(model(), "binary"), monitors(), tables=tables)

    def _feed(self, learner: Learner, watching: Sequence[Monitor]) -> None:
        lane = Lane(learner, watching, {0: 0})
        for block in self._blocks:
            lane.feed(block)

    def _through(
        self, learner: Learner, watching: Sequence[Monitor], *, tables: bool = False
    ) -> None:
        lane = Lane(learner, watching, {0: 0})
        for block in self._decoded(tables=tables):
            lane.feed(block)

    def _river(self) -> None:
        made = model()
        ask, learn = made.predict_proba_one, made.learn_one
        for block in self._blocks:
            for x, y in zip(block.features, block.labels, strict=True):
                ask(x)
                learn(x, y)

    def _river_learner(self) -> None:
        learner = RiverLearner(model, "binary")
        for block in self._blocks:
            learner.predict_then_learn(block.features, block.labels)

    def _observe(self, monitor: Monitor, *, mappings: bool = False) -> None:
        for outcomes in self._answered_by_mappings if mappings else self._answered:
            monitor.observe(outcomes)
        monitor.report()

    def _adwin(self) -> None:
        update = detector().update
        for outcomes in self._answered:
            for label, value in zip(outcomes.labels, outcomes.predictions.values, strict=True):
                update(label != value)

    def _bare(self) -> None:
        made, accuracy, adwin = model(), metrics.Accuracy(), detector()
        for batch in self._batches:
            for value in batch.values:
                x = orjson.loads(value or b"")
                y = bool(x.pop("class"))
                probabilities = made.predict_proba_one(x)
                predicted = max(probabilities, key=lambda label: probabilities[label])
                accuracy.update(y, predicted)
                adwin.update(float(y != predicted))
                made.learn_one(x, y)


def seconds(way: Way) -> float:
    begun = time.process_time()
    way()
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--block", type=int, default=500, help="records of a batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="ways whose names hold this")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        path = Path(folder)
        config = load(configure(path, f"sqlite:///{path / 'none.db'}", "parts"))
    ways = Ways(config, options.events, options.block).all()
    if find_spec("numba") is None:
        del ways["all but reading, compiled"], ways["the same from dictionaries"]
    chosen = {name: way for name, way in ways.items() if options.only in name}
    costs: dict[str, list[float]] = {name: [] for name in chosen}
    for _ in range(options.rounds):
        for name, way in chosen.items():
            costs[name].append(seconds(way) / options.events * 1e6)
    print(f"{'part':<26}{'us an event':>12}{'spread':>16}")
    for name, found in costs.items():
        spread = f"{min(found):.3f}-{max(found):.3f}"
        print(f"{name:<26}{statistics.median(found):>12.3f}{spread:>16}")


if __name__ == "__main__":
    main()
