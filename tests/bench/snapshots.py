"""What a snapshot costs, by learner: taking it, reading it back, and its size.

    python -m tests.bench.snapshots [--events 10000] [--rounds 5] [--kafka HOST:PORT]

Milliseconds are medians of the rounds. "freeze" stops the learning, "seal" packs,
compresses and hashes, "publish" is the checkpoint's transaction, "read" finds the newest
snapshot in the topic, and "thaw" makes a learner of it. Without --kafka the log is the
embedded one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from river import forest, linear_model, naive_bayes, neighbors, preprocessing, tree

from stream_update.config import load
from stream_update.events import Committed
from stream_update.learners.river import RiverLearner
from stream_update.plugins import open_log
from stream_update.protocols import Log, Member
from stream_update.restore import newest
from stream_update.snapshot import Identity, Snapshot, records, seal
from stream_update.topics import create_topics
from tests.programs import configure, elec2

STEPS = ("freeze", "seal", "publish", "read", "thaw")

MODELS: dict[str, Callable[[], Any]] = {
    "scaler, logistic regression": lambda: (
        preprocessing.StandardScaler() | linear_model.LogisticRegression()
    ),
    "Gaussian naive Bayes": naive_bayes.GaussianNB,
    "Hoeffding tree": tree.HoeffdingTreeClassifier,
    "Hoeffding adaptive tree": lambda: tree.HoeffdingAdaptiveTreeClassifier(seed=1),
    "adaptive forest of 10": lambda: forest.ARFClassifier(n_models=10, seed=1),
    "nearest neighbours": neighbors.KNNClassifier,
}


class Timer:
    """Collects milliseconds by the name of a step."""

    def __init__(self) -> None:
        self._ms: dict[str, list[float]] = {}

    def time(self, name: str, step: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = step()
        self._ms.setdefault(name, []).append((time.perf_counter() - started) * 1000)
        return result

    def medians(self) -> dict[str, float]:
        return {name: round(statistics.median(values), 2) for name, values in self._ms.items()}


def join(member: Member) -> None:
    """Wait for the partition and let it rest: nothing is read here."""
    while not member.poll(0.1).gained:
        pass


def sealed_state(state: Any, app: str, seq: int) -> Snapshot:
    """A snapshot that holds nothing but a learner."""
    identity = Identity(
        app=app,
        lineage=app,
        task="binary",
        topic=f"{app}.labelled",
        topic_id="",
        learner="river",
        fingerprint="",
        config={},
        versions={},
        seed=0,
    )
    return seal(
        {"learner": state},
        identity,
        partition=0,
        seq=seq,
        parent="",
        next={"0": 0},
        events=0,
        learned=0,
        rejected=0,
        unlabelled=0,
        recent_loss=0.0,
        event_time=None,
        created_ms=0,
    )


def restore(learner: RiverLearner, snapshot: Snapshot) -> None:
    learner.load(snapshot.state()["learner"])


def measure(
    log: Log, app: str, make: Callable[[], Any], events: list[dict[str, Any]], rounds: int
) -> dict[str, Any]:
    """Learn the events, then take and restore a snapshot so many times."""
    learner = RiverLearner(make, "binary")
    features = [{k: v for k, v in event.items() if k != "class"} for event in events]
    learner.learn(features, [bool(event["class"]) for event in events])
    timer, topic = Timer(), f"{app}.snapshots"
    with (
        log.member(app, f"{app}.labelled") as member,
        log.publisher(app, [topic]) as publisher,
        log.reader() as reader,
    ):
        join(member)
        for seq in range(1, rounds + 1):
            tree_of = timer.time("freeze", learner.dump)
            sealed = timer.time("seal", partial(sealed_state, tree_of, app, seq))
            made = records(sealed, topic)
            at = {0: Committed(len(events))}
            timer.time("publish", partial(publisher.publish, made, at, member))
            found = timer.time("read", partial(newest, reader, topic, 0, app))
            while found is None or found.manifest.seq != seq:
                # The end of a transaction becomes visible a little after its commit.
                found = newest(reader, topic, 0, app)
            timer.time("thaw", partial(restore, learner, found))
    return {**timer.medians(), "bytes": sealed.manifest.size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kafka", metavar="HOST:PORT", help="a broker that runs already")
    options = parser.parse_args()
    events = elec2(options.events)
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url = f"kafka://{options.kafka}" if options.kafka else f"sqlite:///{folder / 'bench.db'}"
        print(f"{'learner':<30}" + "".join(f"{step:>10}" for step in (*STEPS, "bytes")))
        for model, make in MODELS.items():
            app = f"bench-{uuid.uuid4().hex[:8]}"
            config = load(configure(folder, url, app))
            with open_log(config.log, config.kafka) as log:
                create_topics(config, log)
                found[model] = measure(log, app, make, events, options.rounds)
            row = found[model]
            print(
                f"{model:<30}"
                + "".join(f"{row[step]:>10.2f}" for step in STEPS)
                + f"{row['bytes']:>10,}"
            )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
