"""The same learning as people write it today: two bare loops, Quix Streams, Bytewax, Faust.

Each reads partition 0 of a topic from its beginning, decodes with orjson, and does the same
with every event: predict, update an accuracy and an ADWIN, learn. Quix Streams and Faust
commit their offsets with their exactly-once setting, every 10,000 events or 5 s, and have the
model in memory; Bytewax has it in a stateful step, and snapshots it every 5 s. None of them
publishes it.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from river import (
    compose,
    drift,
    forest,
    linear_model,
    metrics,
    naive_bayes,
    optim,
    preprocessing,
    tree,
)

from tests.programs import PIPELINE

__all__ = ["MODELS", "RIVALS", "Model"]

EVERY, SECONDS = 10_000, 5.0


class Kind(NamedTuple):
    """A model as a river user makes it, and as the configuration names it."""

    make: Callable[[], Any]
    toml: str


MODELS = {
    "linear": Kind(
        lambda: compose.Pipeline(
            preprocessing.StandardScaler(),
            linear_model.LogisticRegression(l2=0.0, optimizer=optim.SGD(lr=0.01)),
        ),
        PIPELINE,
    ),
    "bayes": Kind(naive_bayes.GaussianNB, 'use = "river.naive_bayes:GaussianNB"\n'),
    "tree": Kind(tree.HoeffdingTreeClassifier, 'use = "river.tree:HoeffdingTreeClassifier"\n'),
    "forest": Kind(
        lambda: forest.ARFClassifier(n_models=10, seed=1),
        'use = "river.forest:ARFClassifier"\nn_models = 10\nseed = 1\n',
    ),
}
"""From cheap to dear."""


class Model:
    """What all of them learn, and how: the body that their users would write."""

    def __init__(self, kind: str) -> None:
        self.model = MODELS[kind].make()
        self.accuracy = metrics.Accuracy()
        self.adwin = drift.ADWIN(delta=0.002)
        self.events = 0
        self.began = time.perf_counter()

    def begin(self) -> None:
        """The libraries are there: from here on it counts."""
        self.began = time.perf_counter()

    def learn(self, value: bytes | None) -> None:
        x = orjson.loads(value or b"")
        y = bool(x.pop("class"))
        probabilities = self.model.predict_proba_one(x)
        predicted = max(probabilities, key=lambda label: probabilities[label], default=None)
        self.accuracy.update(y, predicted)
        self.adwin.update(float(y != predicted))
        self.model.learn_one(x, y)
        self.events += 1


def loop(kafka: str, topic: str, events: int, model: Model) -> None:
    """A bare loop over kafka-python: no group, no commits."""
    from kafka import KafkaConsumer, TopicPartition

    model.begin()
    consumer = KafkaConsumer(
        bootstrap_servers=kafka, enable_auto_commit=False, isolation_level="read_committed"
    )
    where = TopicPartition(topic, 0)
    consumer.assign([where])
    consumer.seek_to_beginning(where)
    while model.events < events:
        for records in consumer.poll(1000).values():
            for record in records:
                model.learn(record.value)
    consumer.close()


def loop_librdkafka(kafka: str, topic: str, events: int, model: Model) -> None:
    """A bare loop over librdkafka's batches: no group, no commits."""
    from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

    model.begin()
    consumer = Consumer(
        {"bootstrap.servers": kafka, "group.id": "bench", "enable.auto.commit": False}
    )
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    while model.events < events:
        for message in consumer.consume(500, 1.0):
            model.learn(message.value())
    consumer.close()


def quix(kafka: str, topic: str, events: int, model: Model) -> None:
    """Quix Streams, exactly once; the model is in the process, so a crash loses it."""
    from quixstreams import Application

    model.begin()
    with tempfile.TemporaryDirectory() as folder:
        app = Application(
            broker_address=kafka,
            consumer_group=f"quix-{uuid.uuid4().hex[:8]}",
            auto_offset_reset="earliest",
            processing_guarantee="exactly-once",
            commit_every=EVERY,
            commit_interval=SECONDS,
            state_dir=folder,
            loglevel="WARNING",
        )
        source = app.topic(topic, value_deserializer="bytes")
        app.dataframe(source).update(model.learn)
        app.run(count=events, collect=False)


def bytewax(kafka: str, topic: str, events: int, model: Model) -> None:
    """Bytewax: the model is a stateful step, pickled for recovery every 5 s."""
    from bytewax import operators as op
    from bytewax.connectors.kafka import KafkaSource, KafkaSourceMessage
    from bytewax.dataflow import Dataflow
    from bytewax.recovery import RecoveryConfig, init_db_dir
    from bytewax.testing import TestingSink, cluster_main

    model.begin()

    def step(state: Model | None, message: Any) -> tuple[Model, None]:
        if state is None:
            state = model
        state.learn(message.value)
        return state, None

    def keyed(message: Any) -> tuple[str, Any]:
        assert isinstance(message, KafkaSourceMessage)
        return "model", message

    with tempfile.TemporaryDirectory() as folder:
        init_db_dir(Path(folder), 1)
        flow = Dataflow("bench")
        read = op.input("in", flow, KafkaSource([kafka], [topic], tail=False))
        learned = op.stateful_map("learn", op.map("key", read, keyed), step)
        op.output("out", op.filter("nothing", learned, lambda _: False), TestingSink([]))
        cluster_main(
            flow,
            [],
            0,
            epoch_interval=timedelta(seconds=SECONDS),
            recovery_config=RecoveryConfig(Path(folder)),
        )
    if model.events != events:
        raise SystemExit(f"Bytewax learned {model.events} of {events} events")


def faust(kafka: str, topic: str, events: int, model: Model) -> None:
    """Faust (faust-streaming), exactly once; the model is in the process."""
    import faust as framework

    model.begin()
    with tempfile.TemporaryDirectory() as folder:
        app = framework.App(
            f"faust-{uuid.uuid4().hex[:8]}",
            broker=f"kafka://{kafka}",
            processing_guarantee="exactly_once",
            broker_commit_every=EVERY,
            broker_commit_interval=SECONDS,
            datadir=folder,
            web_enabled=False,
            topic_disable_leader=True,
        )
        source = app.topic(topic, value_serializer="raw")
        worker = framework.Worker(app, loglevel="ERROR", quiet=True, redirect_stdouts=False)

        @app.agent(source)  # type: ignore[untyped-decorator]
        async def learn(stream: Any) -> None:
            async for value in stream:
                model.learn(value)
                if model.events == events:
                    worker.loop.call_soon(worker.loop.stop)

        worker.loop.create_task(worker.start())
        worker.loop.run_forever()


RIVALS: dict[str, Callable[[str, str, int, Model], None]] = {
    "loop": loop,
    "loop, librdkafka": loop_librdkafka,
    "quix": quix,
    "bytewax": bytewax,
    "faust": faust,
}
