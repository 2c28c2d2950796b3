"""The scorer's side: a snapshot topic becomes a model that is ready and fresh."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import Any, NamedTuple, Self

from stream_update import plugins
from stream_update.errors import (
    ConfigError,
    CorruptSnapshot,
    LineageMismatch,
    NoModelYet,
    StreamUpdateError,
    Transient,
)
from stream_update.events import Features, TopicPartition
from stream_update.partitions import partition_for
from stream_update.protocols import Learner, Log, Reader
from stream_update.restore import newest
from stream_update.signing import TrustedKeys
from stream_update.snapshot import Assembler, Manifest, Snapshot

__all__ = ["Answer", "Model", "ModelSubscriber"]

logger = logging.getLogger(__name__)

LEARNERS = "stream_update.learners"
WRAPS = "stream_update.wraps"


class Model(NamedTuple):
    """One lane's model as a snapshot gave it. ``predict`` changes nothing."""

    learner: Learner
    manifest: Manifest


class Answer(NamedTuple):
    """Predictions for some events, and the lanes whose models made each of them."""

    values: list[Any]
    probabilities: list[Mapping[Any, float]] | None
    models: list[tuple[Model, ...]]


class ModelSubscriber:
    """Follows the snapshots of an application and predicts with the newest.

    ``log`` is an address (``kafka://...``, ``sqlite:///...``) or an open log, ``kafka``
    the client's options, ``lineage`` the one to follow (the app's name by default) and
    ``allow`` classes of one's own that its models are made of. With ``trusted_keys``
    (``file:PATH``, ``env:NAME`` or base64) only signed snapshots are adopted. The following
    happens in a background thread; a new model takes the place of the old one in one assignment,
    so a prediction is made by one model or the other and never waits.

    With one model for each partition, ``key`` decides which model answers, by Kafka's
    own partitioner. Without a key the answer is the mean over the models, each weighted
    by the inverse of its recent loss.

    >>> with ModelSubscriber("fraud", log="kafka://broker:9092") as model:  # doctest: +SKIP
    ...     model.wait()
    ...     model.predict_one({"amount": 12.5}, key="card-7")
    """

    def __init__(
        self,
        app: str,
        *,
        log: str | Log,
        lineage: str = "",
        kafka: Mapping[str, Any] | None = None,
        allow: Sequence[type] = (),
        trusted_keys: Sequence[str] = (),
        poll_s: float = 0.2,
        on_model: Callable[[Model], None] | None = None,
    ) -> None:
        self.app = app
        self.lineage = lineage or app
        self.refused: dict[str, int] = {}
        self._topic = f"{app}.snapshots"
        self._allow = tuple(allow)
        self._trusted = TrustedKeys.load(trusted_keys) if trusted_keys else None
        self._poll_s = poll_s
        self._on_model = on_model
        self._models: dict[int, Model] = {}
        self._arrived = threading.Event()
        self._stopping = threading.Event()
        self._failure: StreamUpdateError | None = None
        self._owned = isinstance(log, str)
        self._log = plugins.open_log(log, kafka) if isinstance(log, str) else log
        self._partitions = 0
        self._thread = threading.Thread(
            target=self._run, name=f"stream-update-follow-{self.lineage}", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop following. The last model keeps answering."""
        self._stopping.set()
        self._thread.join(timeout=30)
        if self._owned:
            self._log.close()

    # -- what is known about the model

    def wait(self, timeout_s: float = 60.0) -> None:
        """Return when there is a model; raises :class:`NoModelYet` after the timeout."""
        self._arrived.wait(timeout_s)
        self._current()

    def _current(self) -> dict[int, Model]:
        models = self._models
        if models:
            return models
        if self._failure is not None:
            raise self._failure
        raise NoModelYet(
            f"no snapshot of lineage {self.lineage} has been seen on {self._topic} yet",
            hint="start a trainer (stream-update run), or wait for its first checkpoint",
        )

    @property
    def version(self) -> str:
        """The lineage and the number of its snapshot: ``fraud@12``, or one number for
        each partition, ``fraud@12.9.14``.
        """
        models = self._current()
        return f"{self.lineage}@{'.'.join(str(models[p].manifest.seq) for p in sorted(models))}"

    @property
    def learned_up_to(self) -> dict[int, int]:
        """For each input partition, the offset of the first event not yet learned."""
        learned: dict[int, int] = {}
        for model in self._current().values():
            learned |= model.manifest.positions
        return dict(sorted(learned.items()))

    @property
    def age(self) -> float:
        """Seconds since the oldest model in use was published."""
        oldest = min(model.manifest.created_ms for model in self._current().values())
        return max(0.0, time.time() - oldest / 1000)

    # -- predictions

    def predict_one(self, x: Features, key: str | bytes | None = None) -> Any:
        """The predicted label or number, None where the model has no answer yet.

        Raises :class:`NoModelYet` before the first snapshot.
        """
        return self.answer([x], [_bytes(key)]).values[0]

    def predict_proba_one(
        self, x: Features, key: str | bytes | None = None
    ) -> Mapping[Any, float] | None:
        """Label to probability, or None for models without probabilities."""
        probabilities = self.answer([x], [_bytes(key)]).probabilities
        return None if probabilities is None else probabilities[0]

    def predict_many(
        self, xs: Sequence[Features], keys: Sequence[str | bytes | None] | None = None
    ) -> list[Any]:
        """As :meth:`predict_one`, for many events, all by the same models."""
        return self.answer(xs, [_bytes(key) for key in keys] if keys else None).values

    def answer(self, xs: Sequence[Features], keys: Sequence[bytes | None] | None = None) -> Answer:
        """Values, probabilities and the models that made them, for many events."""
        models = self._current()
        if len(models) == 1:
            only = next(iter(models.values()))
            predictions = only.learner.predict(xs)
            return Answer(predictions.values, predictions.probabilities, [(only,)] * len(xs))
        values: list[Any] = []
        probabilities: list[Mapping[Any, float]] = []
        made_by: list[tuple[Model, ...]] = []
        for index, x in enumerate(xs):
            key = keys[index] if keys is not None else None
            chosen = self._chosen(models, key)
            value, probability = _mean(chosen, x)
            values.append(value)
            if probability is not None:
                probabilities.append(probability)
            made_by.append(chosen)
        return Answer(values, probabilities if len(probabilities) == len(values) else None, made_by)

    def _chosen(self, models: Mapping[int, Model], key: bytes | None) -> tuple[Model, ...]:
        if key is not None:
            model = models.get(partition_for(key, self._partitions))
            if model is not None:
                return (model,)
        return tuple(models[p] for p in sorted(models))

    # -- following

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._log.reader() as reader:
                    self._follow(reader)
            except Transient as error:
                logger.warning("%s: %s; trying again", self._topic, error)
                self._stopping.wait(1.0)
            except StreamUpdateError as error:
                self._failure = error
                self._arrived.set()
                logger.error("%s: stopped following: %s. %s", self._topic, error, error.hint)
                return

    def _follow(self, reader: Reader) -> None:
        while (info := self._log.topics().get(self._topic)) is None:
            if self._stopping.wait(self._poll_s):
                return
        self._partitions = info.partitions
        places = [TopicPartition(self._topic, p) for p in range(info.partitions)]
        tail = reader.end_offsets(places)
        for place in places:
            snapshot = newest(reader, self._topic, place.partition, self.lineage, self._trusted)
            if snapshot is not None:
                self._adopt(snapshot, place.partition)
        assemblers = {place.partition: Assembler(self.lineage, self._trusted) for place in places}
        reader.seek(tail)
        while not self._stopping.is_set():
            for batch in reader.poll(self._poll_s):
                assembler = assemblers[batch.partition]
                seqs = [
                    seq
                    for value, headers in zip(batch.values, batch.headers, strict=True)
                    if (seq := assembler.add(value, headers)) is not None
                ]
                for text in assembler.refused:
                    self._refuse(text)
                assembler.refused.clear()
                if seqs:
                    self._take(assembler, max(seqs), batch.partition)

    def _take(self, assembler: Assembler, seq: int, partition: int) -> None:
        try:
            snapshot = assembler.complete(seq)
        except CorruptSnapshot as error:
            self._refuse(str(error))
            return
        if snapshot is not None:
            self._adopt(snapshot, partition)
            assembler.forget(seq + 1)

    def _adopt(self, snapshot: Snapshot, partition: int) -> None:
        manifest = snapshot.manifest
        if (manifest.identity.app, manifest.partition) != (self.app, partition):
            self._refuse(
                f"snapshot {manifest.seq} is of partition {manifest.partition} of app "
                f"{manifest.identity.app}, and stands in partition {partition}"
            )
            return
        current = self._models.get(manifest.partition)
        if current is not None and manifest.seq <= current.manifest.seq:
            return
        try:
            model = Model(_learner(snapshot, self._allow), manifest)
        except CorruptSnapshot as error:
            self._refuse(str(error))
            return
        except LineageMismatch as error:
            if current is None:
                raise
            self._refuse(str(error))
            return
        self._models = {**self._models, manifest.partition: model}
        self._arrived.set()
        if self._on_model is not None:
            self._on_model(model)

    def _refuse(self, reason: str) -> None:
        self.refused[reason] = self.refused.get(reason, 0) + 1
        logger.error("%s: refused, the current model stays: %s", self._topic, reason)


def _learner(snapshot: Snapshot, allow: Sequence[type]) -> Learner:
    identity = snapshot.manifest.identity
    for library, needed in identity.versions.items():
        try:
            installed = version(library)
        except PackageNotFoundError:
            installed = "missing"
        if installed.split(".")[:2] != needed.split(".")[:2]:
            raise LineageMismatch(
                f"snapshot {snapshot.manifest.seq} of lineage {identity.lineage} was made with "
                f"{library} {needed}; installed is {installed}",
                hint=f"install {library} {needed}, or let a trainer with this version rebuild the "
                "model by replay under a new lineage",
            )
    state, name = snapshot.state(), identity.learner
    if not isinstance(state, dict) or "learner" not in state:
        raise CorruptSnapshot(f"snapshot {snapshot.manifest.seq} holds no learner")
    tree = state["learner"]
    try:
        # "twin(river)" is a wrap around a learner: the scorer needs only the one that serves.
        while name.endswith(")"):
            wrap, _, name = name.removesuffix(")").partition("(")
            tree = plugins.resolve(wrap, "learner", WRAPS).serving(tree)
        kind = plugins.resolve(name, "learner", LEARNERS)
    except ConfigError as error:
        raise LineageMismatch(
            f"lineage {identity.lineage} has learners of kind {identity.learner!r}, which is not "
            "installed here",
            hint=error.hint,
        ) from error
    learner: Learner = kind.restored(tree, identity.task, allow=allow)
    return learner


def _mean(models: Sequence[Model], x: Features) -> tuple[Any, Mapping[Any, float] | None]:
    """The mean over models, each weighted by the inverse of its recent loss."""
    answers = [(model, model.learner.predict([x])) for model in models]
    if len(answers) == 1:
        only = answers[0][1]
        return only.values[0], None if only.probabilities is None else only.probabilities[0]
    weights = [1.0 / (model.manifest.recent_loss + 1e-9) for model, _ in answers]
    if models[0].manifest.identity.task == "regression":
        known = [
            (w, a.values[0])
            for w, (_, a) in zip(weights, answers, strict=True)
            if a.values[0] is not None
        ]
        total = sum(w for w, _ in known)
        return (sum(w * v for w, v in known) / total if known else None), None
    votes: dict[Any, float] = {}
    for weight, (_, answer) in zip(weights, answers, strict=True):
        if answer.probabilities is not None:
            for label, probability in answer.probabilities[0].items():
                votes[label] = votes.get(label, 0.0) + weight * probability
        elif answer.values[0] is not None:
            votes[answer.values[0]] = votes.get(answer.values[0], 0.0) + weight
    total = sum(votes.values())
    if not total:
        return None, {}
    shares = {label: vote / total for label, vote in votes.items()}
    return max(shares, key=shares.__getitem__), shares


def _bytes(key: str | bytes | None) -> bytes | None:
    return key.encode() if isinstance(key, str) else key
