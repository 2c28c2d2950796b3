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
from stream_update.bounds import Limits
from stream_update.errors import (
    CorruptSnapshot,
    Fatal,
    LineageMismatch,
    NoModelYet,
    StaleModel,
    StreamUpdateError,
    Transient,
)
from stream_update.events import Features, TopicPartition
from stream_update.freshness import Freshness, WhenStale
from stream_update.heartbeat import Heartbeat
from stream_update.partitions import partition_for
from stream_update.protocols import Learner, Log, Reader
from stream_update.refusals import Refusal, Refusals
from stream_update.restore import survey
from stream_update.signing import TrustedKeys
from stream_update.snapshot import Assembler, Manifest, Snapshot

__all__ = ["Answer", "Model", "ModelSubscriber"]

logger = logging.getLogger(__name__)

LEARNERS = "stream_update.learners"
WRAPS = "stream_update.wraps"
MAX_KIND = 200


class Model(NamedTuple):
    """One lane's model as a snapshot gave it. ``predict`` changes nothing."""

    learner: Learner
    manifest: Manifest


class Answer(NamedTuple):
    """Predictions for some events, the lanes whose models made each of them, and whether
    these were stale.
    """

    values: list[Any]
    probabilities: list[Mapping[Any, float]] | None
    models: list[tuple[Model, ...]]
    stale: bool = False


class ModelSubscriber:
    """Follows the snapshots of an application and predicts with the newest.

    ``log`` is an address (``kafka://...``, ``sqlite:///...``) or an open log, ``kafka``
    the client's options, ``lineage`` the one to follow (the app's name by default) and
    ``allow`` classes of one's own that its models are made of. The following happens in a
    background thread; a new model takes the place of the old one in one assignment, so a
    prediction is made by one model or the other and never waits.

    With ``trusted_keys`` (``file:PATH``, ``env:NAME`` or base64) only signed snapshots are
    adopted. What is refused leaves the model as it is, and is counted in ``refused`` by the
    words in :data:`stream_update.refusals.REASONS`; ``limits`` bound what one may be. The
    number of the snapshot in use never goes back.

    A model is stale when nothing newer than ``max_age`` seconds, neither a snapshot nor a
    heartbeat that names the one in use, was heard of its trainer, or when its snapshot has
    expired. ``when_stale`` says what becomes of predictions then: ``"warn"`` logs it once
    and answers, ``"flag"`` answers and sets :attr:`Answer.stale`, ``"refuse"`` raises
    :class:`~stream_update.errors.StaleModel`. Ages compare the clocks of two machines.

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
        max_age: float | None = None,
        when_stale: WhenStale = "warn",
        limits: Limits = Limits(),  # noqa: B008 - it never changes
        poll_s: float = 0.2,
        on_model: Callable[[Model], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.app = app
        self.lineage = lineage or app
        self.when_stale = when_stale
        self._topic = f"{app}.snapshots"
        self._refusals = Refusals(self._topic)
        self._freshness = Freshness(max_age)
        self._warned = False
        self._limits = limits
        self._clock = clock
        self._digests: dict[int, str] = {}
        self._read_to: dict[int, int] = {}
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
        if self.refused:
            raise NoModelYet(
                f"no snapshot of lineage {self.lineage} on {self._topic} could be taken: "
                f"{self._refusals}",
                hint="the log of this process says what was wrong with each",
            )
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
        """Seconds since the newest snapshot or heartbeat; of several lanes, the oldest."""
        self._current()
        return self._freshness.age(self._now())

    @property
    def stale(self) -> bool:
        """Whether the model is older than ``max_age``, or has expired."""
        return bool(self._freshness.why_stale(self._now()))

    @property
    def refused(self) -> Mapping[str, int]:
        """How often something on the snapshot topic was refused, by reason."""
        return self._refusals.counts

    def _now(self) -> int:
        return int(self._clock() * 1000)

    def _is_stale(self) -> bool:
        """As :attr:`stale`, but does what ``when_stale`` asks for."""
        why = self._freshness.why_stale(self._now()) if self._freshness.limited else ""
        if why and self.when_stale == "refuse":
            raise StaleModel(
                f"the model {self.version} is stale: {why}",
                hint="start its trainer again, or see why its snapshots do not arrive "
                f"(refused so far: {self._refusals or 'none'})",
            )
        if why and self.when_stale == "warn" and not self._warned:
            logger.warning("%s: the model %s is stale: %s", self._topic, self.version, why)
        self._warned = bool(why)
        return bool(why)

    # -- predictions

    def predict_one(self, x: Features, key: str | bytes | None = None) -> Any:
        """The predicted label or number, None where the model has no answer yet.

        Raises :class:`NoModelYet` before the first snapshot, and :class:`StaleModel` with
        ``when_stale="refuse"``.
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
        """Values, probabilities and the models that made them, for many events.

        Raises :class:`NoModelYet`, and :class:`StaleModel` with ``when_stale="refuse"``.
        """
        models, stale = self._current(), self._is_stale()
        if len(models) == 1:
            only = next(iter(models.values()))
            predictions = only.learner.predict(xs)
            return Answer(predictions.values, predictions.probabilities, [(only,)] * len(xs), stale)
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
        complete = len(probabilities) == len(values)
        return Answer(values, probabilities if complete else None, made_by, stale)

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
            except Exception as error:
                self._stop_at(error)
                if not isinstance(error, StreamUpdateError):
                    raise
                return

    def _stop_at(self, error: Exception) -> None:
        if isinstance(error, StreamUpdateError):
            failure = error
        else:
            failure = Fatal(f"{type(error).__name__}: {error}")
        self._failure = failure
        self._arrived.set()
        logger.error("%s: stopped following: %s. %s", self._topic, failure, failure.hint)

    def _follow(self, reader: Reader) -> None:
        while (info := self._log.topics().get(self._topic)) is None:
            if self._stopping.wait(self._poll_s):
                return
        self._partitions = info.partitions
        assemblers: dict[int, Assembler] = {}
        ends: dict[TopicPartition, int] = {}
        for place in (TopicPartition(self._topic, p) for p in range(info.partitions)):
            assembler = assemblers[place.partition] = self._assembler(place.partition)
            ends[place] = self._survey(reader, place, assembler)
        self._tell_failure()
        reader.seek(ends)
        while not self._stopping.is_set():
            for batch in reader.poll(self._poll_s):
                assembler, partition = assemblers[batch.partition], batch.partition
                heard = assembler.heartbeat
                seqs = [
                    seq
                    for index, offset in enumerate(batch.offsets)
                    if (seq := assembler.add(batch.values[index], batch.headers[index], offset))
                    is not None
                ]
                for refusal in assembler.refused:
                    self._refuse(partition, *refusal)
                assembler.refused.clear()
                self._take_newest(assembler, seqs, partition)
                self._tell_failure()
                if assembler.heartbeat is not None and assembler.heartbeat is not heard:
                    self._hear(assembler.heartbeat, partition)
                self._read_to[partition] = batch.offsets[-1] + 1

    def _tell_failure(self) -> None:
        """Whoever waits need not go on waiting for what another program has made."""
        if self._failure is not None:
            self._arrived.set()

    def _assembler(self, partition: int) -> Assembler:
        return Assembler(
            self.lineage, self._trusted, app=self.app, partition=partition, limits=self._limits
        )

    def _survey(self, reader: Reader, where: TopicPartition, assembler: Assembler) -> int:
        """Take what the topic holds already; where reading goes on."""
        partition = where.partition

        def take(snapshot: Snapshot, beat: Heartbeat | None, offset: int) -> bool:
            if self._digests.get(partition) == snapshot.sha256:
                return True
            return self._adopt(snapshot, partition, beat, offset)

        found = survey(reader, where, self._assembler(partition), take)
        for refusal in found.refused:
            self._refuse(partition, *refusal)
        self._read_to[partition] = found.end
        assembler.heartbeat = found.heartbeat
        if found.heartbeat is not None:
            self._hear(found.heartbeat, partition)
        return found.end

    def _take_newest(self, assembler: Assembler, seqs: Sequence[int], partition: int) -> None:
        """Adopt the newest of these that can be; the others are refused, or outdated."""
        adopted = False
        for seq in sorted(set(seqs), reverse=True):
            at = assembler.offset_of(seq)
            if not adopted and not self._goes_back(partition, seq, at):
                try:
                    snapshot = assembler.complete(seq)
                except CorruptSnapshot as error:
                    self._refuse(partition, error.reason, str(error), at)
                else:
                    if snapshot is None:
                        text = f"snapshot {seq} lacks some of its chunks"
                        self._refuse(partition, "bad-chunks", text, at)
                    else:
                        adopted = self._adopt(snapshot, partition, assembler.heartbeat, at)
            assembler.discard(seq)
        if adopted:
            assembler.forget(self._models[partition].manifest.seq)

    def _adopt(
        self, snapshot: Snapshot, partition: int, beat: Heartbeat | None, offset: int
    ) -> bool:
        manifest, now = snapshot.manifest, self._now()
        if self._goes_back(partition, manifest.seq, offset):
            return False
        expires = manifest.expires_ms
        if beat is not None and beat.sha256 == snapshot.sha256 and beat.expires_ms is not None:
            expires = max(expires or 0, beat.expires_ms)
        if expires is not None and expires <= now:
            text = f"snapshot {manifest.seq} expired {(now - expires) / 1000:.0f} s ago"
            self._refuse(partition, "expired", text, offset)
            return False
        try:
            model = Model(_learner(snapshot, self._allow), manifest)
        except CorruptSnapshot as error:
            self._refuse(partition, error.reason, str(error), offset)
            return False
        except LineageMismatch as error:
            self._refuse(partition, "other-version", str(error), offset)
            if partition not in self._models:
                self._failure = error  # what `wait` says, unless another one fits
            return False
        self._digests = {**self._digests, partition: snapshot.sha256}
        self._freshness.seen(partition, manifest.created_ms, expires, now)
        self._models = {**self._models, partition: model}
        self._arrived.set()
        if self._on_model is not None:
            self._on_model(model)
        return True

    def _goes_back(self, partition: int, seq: int, offset: int) -> bool:
        current = self._models.get(partition)
        if current is None or seq > current.manifest.seq:
            return False
        text = f"snapshot {seq}, and {current.manifest.seq} is in use"
        self._refuse(partition, "rollback", text, offset)
        return True

    def _hear(self, beat: Heartbeat, partition: int) -> None:
        """A heartbeat vouches for the model in use, and for no other."""
        current = self._models.get(partition)
        if current is None or beat.seq != current.manifest.seq:
            return
        if beat.sha256 != self._digests[partition]:
            self._refuse(
                partition,
                "bad-digest",
                f"a heartbeat names another snapshot {beat.seq} than the one in use",
                self._read_to[partition],
            )
            return
        known = self._freshness.at(partition)
        if known is None or beat.time_ms > known:
            self._freshness.seen(
                partition, beat.time_ms, beat.expires_ms or current.manifest.expires_ms, self._now()
            )

    def _refuse(self, partition: int, reason: str, text: str, offset: int) -> None:
        # After a connection was lost, what has been counted is met again.
        if offset >= self._read_to.get(partition, 0):
            self._refusals.add(partition, Refusal(reason, text, offset))


def _learner(snapshot: Snapshot, allow: Sequence[type]) -> Learner:
    try:
        return _restored(snapshot, allow)
    except (CorruptSnapshot, LineageMismatch):
        raise
    except Exception as error:
        # Whatever a state that none of ours has written makes the code that reads it do.
        identity = snapshot.manifest.identity
        raise CorruptSnapshot(
            f"snapshot {snapshot.manifest.seq} of lineage {identity.lineage} holds no "
            f"{identity.learner:.200} for the task {identity.task:.200}: "
            f"{type(error).__name__}: {error!s:.200}"
        ) from error


def _restored(snapshot: Snapshot, allow: Sequence[type]) -> Learner:
    identity = snapshot.manifest.identity
    for library, needed in identity.versions.items():
        try:
            installed = version(library)
        except (PackageNotFoundError, ValueError):
            installed = "missing"
        if installed.split(".")[:2] != needed.split(".")[:2]:
            raise LineageMismatch(
                f"snapshot {snapshot.manifest.seq} of lineage {identity.lineage} was made with "
                f"{library} {needed}; installed is {installed}",
                hint=f"install {library} {needed}, or let a trainer with this version rebuild the "
                "model by replay under a new lineage",
            )
    if len(identity.learner) > MAX_KIND:
        raise LineageMismatch(f"no learner is called {identity.learner!r:.200}")
    # "twin(river)" is a wrap around a learner: the scorer needs only the one that serves.
    *wraps, name = identity.learner.replace(")", "").split("(")
    kind = _installed(name, LEARNERS, identity.lineage)
    serving = [_installed(wrap, WRAPS, identity.lineage).serving for wrap in wraps]
    tree = snapshot.state()["learner"]
    for part in serving:
        tree = part(tree)
    learner: Learner = kind.restored(tree, identity.task, allow=allow)
    return learner


def _installed(name: str, group: str, lineage: str) -> Any:
    """An installed learner or wrap. A snapshot never says what is to be imported."""
    if name not in plugins.names(group):
        raise LineageMismatch(
            f"lineage {lineage} has learners of the kind {name!r}, which is not installed here",
            hint=f"installed: {', '.join(plugins.names(group))}",
        )
    return plugins.resolve(name, "learner", group)


def _mean(models: Sequence[Model], x: Features) -> tuple[Any, Mapping[Any, float] | None]:
    """The mean over models, each weighted by the inverse of its recent loss."""
    answers = [(model, model.learner.predict([x])) for model in models]
    if len(answers) == 1:
        only = answers[0][1]
        return only.values[0], None if only.probabilities is None else only.probabilities[0]
    # Rounding may have made a loss of nothing a little less than that.
    weights = [1.0 / (max(0.0, model.manifest.recent_loss) + 1e-9) for model, _ in answers]
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
