"""The scorer's side: a snapshot topic becomes a model that is ready and fresh."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, get_args

from stream_update import plugins
from stream_update.answers import applying, certain
from stream_update.bounds import Limits
from stream_update.control import Control
from stream_update.errors import (
    ConfigError,
    Fatal,
    NoModelYet,
    StaleModel,
    StreamUpdateError,
    Transient,
)
from stream_update.events import Features
from stream_update.following import Following, Model, Rules
from stream_update.freshness import WhenStale
from stream_update.partitions import partition_for
from stream_update.protocols import Closing, Log, Reader
from stream_update.refusals import Refusals
from stream_update.serving import Follow
from stream_update.signing import TrustedKeys
from stream_update.snapshot import Manifest, ServingManifest

__all__ = ["Answer", "Model", "ModelSubscriber"]

logger = logging.getLogger(__name__)

GROWN_S = 5.0
"""How often to look whether there are more partitions."""


class Answer(NamedTuple):
    """Predictions for some events, the lanes whose models made each of them, and whether
    these were stale.
    """

    values: list[Any]
    probabilities: Sequence[Mapping[Any, float]] | None
    models: list[tuple[Model, ...]]
    stale: bool = False


class ModelSubscriber(Closing):
    """Follows the snapshots of an application and predicts with the newest.

    With ``follow="serving"`` the models are those that ``[snapshot] serving`` publishes: the
    same predictions but for rounding, in fewer bytes.

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
        follow: Follow = "snapshots",
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
        if follow not in get_args(Follow):
            raise ConfigError(f"follow: {follow!r} is neither of {get_args(Follow)}")
        self.app = app
        self.when_stale = when_stale
        self._name = lineage or app
        self._topic = f"{app}.{follow}"
        self._refusals = Refusals(self._topic)
        self._warned = False
        self._clock = clock
        self._rules = Rules(
            app,
            self._topic,
            Manifest if follow == "snapshots" else ServingManifest,
            tuple(allow),
            TrustedKeys.load(trusted_keys) if trusted_keys else None,
            limits,
            max_age,
            self._now,
            self._refusals,
        )
        self._poll_s = poll_s
        self._on_model = on_model
        self._serving = Following(self._name, self._rules, 0, self._adopted)
        self._arrived = threading.Event()
        self._stopping = threading.Event()
        self._failure: StreamUpdateError | None = None
        self._owned = isinstance(log, str)
        self._log = plugins.open_log(log, kafka) if isinstance(log, str) else log
        self._thread = threading.Thread(
            target=self._run, name=f"stream-update-follow-{self._name}", daemon=True
        )
        self._thread.start()

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

    def _current(self) -> Following:
        serving = self._serving
        if serving.models:
            return serving
        if self._failure is not None:
            raise self._failure
        if self.refused:
            raise NoModelYet(
                f"no snapshot of lineage {serving.lineage} on {self._topic} could be taken: "
                f"{self._refusals}",
                hint="the log of this process says what was wrong with each",
            )
        raise NoModelYet(
            f"no snapshot of lineage {serving.lineage} has been seen on {self._topic} yet",
            hint="start a trainer (stream-update run), or wait for its first checkpoint",
        )

    @property
    def lineage(self) -> str:
        """The lineage that answers; a promotion changes it."""
        return self._serving.lineage

    @property
    def version(self) -> str:
        """The lineage and the number of its snapshot: ``fraud@12``, or one number for
        each partition, ``fraud@12.9.14``.
        """
        return self._current().version

    @property
    def learned_up_to(self) -> dict[int, int]:
        """For each input partition, the offset of the first event not yet learned."""
        learned: dict[int, int] = {}
        for model in self._current().models.values():
            learned |= model.manifest.positions
        return dict(sorted(learned.items()))

    @property
    def age(self) -> float:
        """Seconds since the newest snapshot or heartbeat; of several lanes, the oldest."""
        return self._current().freshness.age(self._now())

    @property
    def stale(self) -> bool:
        """Whether the model is older than ``max_age``, or has expired."""
        return bool(self._serving.freshness.why_stale(self._now()))

    @property
    def refused(self) -> Mapping[str, int]:
        """How often something on the snapshot topic was refused, by reason."""
        return self._refusals.counts

    def _now(self) -> int:
        return int(self._clock() * 1000)

    def _is_stale(self, serving: Following) -> bool:
        """As :attr:`stale`, but does what ``when_stale`` asks for."""
        freshness = serving.freshness
        why = freshness.why_stale(self._now()) if freshness.limited else ""
        if why and self.when_stale == "refuse":
            raise StaleModel(
                f"the model {serving.version} is stale: {why}",
                hint="start its trainer again, or see why its snapshots do not arrive "
                f"(refused so far: {self._refusals or 'none'})",
            )
        if why and self.when_stale == "warn" and not self._warned:
            logger.warning("%s: the model %s is stale: %s", self._topic, serving.version, why)
        self._warned = bool(why)
        return bool(why)

    # -- predictions

    def predict_one(self, x: Features, key: str | bytes | None = None) -> Any:
        """The predicted label or number, None where the model has no answer yet; where several
        classes may apply, a mapping of class to whether it does.

        Raises :class:`NoModelYet` before the first snapshot, and :class:`StaleModel` with
        ``when_stale="refuse"``.
        """
        return self.answer([x], [_bytes(key)]).values[0]

    def predict_proba_one(
        self, x: Features, key: str | bytes | None = None
    ) -> Mapping[Any, float] | None:
        """Label to probability, or None for models without probabilities. Where several classes
        may apply, the probability of each is that it does.
        """
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
        serving = self._current()
        models, stale = serving.models, self._is_stale(serving)
        if len(models) == 1:
            only = next(iter(models.values()))
            predictions = only.learner.predict(xs)
            return Answer(predictions.values, predictions.probabilities, [(only,)] * len(xs), stale)
        values: list[Any] = []
        probabilities: list[Mapping[Any, float]] = []
        made_by: list[tuple[Model, ...]] = []
        for index, x in enumerate(xs):
            key = keys[index] if keys is not None else None
            chosen = _chosen(models, serving.partitions, key)
            value, probability = _mean(chosen, x)
            values.append(value)
            if probability is not None:
                probabilities.append(probability)
            made_by.append(chosen)
        complete = len(probabilities) == len(values)
        return Answer(values, probabilities if complete else None, made_by, stale)

    def recommend_one(
        self,
        user: str | int,
        k: int = 10,
        key: str | bytes | None = None,
        *,
        exclude: Sequence[str | int] = (),
        features: Features | None = None,
    ) -> list[tuple[str | int, float]]:
        """The ``k`` items that suit a user most, the best first, each with the rating or the
        chance that is predicted; for ``[learner] use = "recommender"``.

        With one model for each partition, ``key`` decides which one answers. Raises
        :class:`NoModelYet`, :class:`StaleModel` with ``when_stale="refuse"``, and
        :class:`ConfigError` without a key for several models, and for a model that predicts
        and cannot recommend.
        """
        serving = self._current()
        models = serving.models
        self._is_stale(serving)
        chosen = _chosen(models, serving.partitions, _bytes(key))
        if len(chosen) > 1:
            raise ConfigError(
                f"the {len(chosen)} models of {serving.version} know different users",
                hint="say which: key= what the events of this user are keyed by",
            )
        recommend = getattr(chosen[0].learner, "recommend", None)
        if recommend is None:
            kind = chosen[0].manifest.identity.learner
            raise ConfigError(
                f"the model {serving.version} is of the kind {kind!r}, which does not recommend",
                hint='[learner] use = "recommender" does',
            )
        found: list[tuple[str | int, float]] = recommend(
            user, k, exclude=exclude, features=features
        )
        return found

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
        """Follow a lineage until another one is the current one, or a topic has grown."""
        while (info := self._log.topics().get(self._topic)) is None:
            if self._stopping.wait(self._poll_s):
                return
        decisions = f"{self.app}.control"
        with Control(self._log, decisions, self.app, self._rules.trusted) as control:
            lineage, following = control.current(self._name), self._serving
            if following.lineage != lineage:
                following = Following(lineage, self._rules, info.partitions, self._adopted)
            following.partitions = info.partitions
            reader.seek(following.survey(reader))
            look_at = time.monotonic() + GROWN_S
            while not self._stopping.is_set():
                self._serve(following)
                for batch in reader.poll(self._poll_s):
                    following.take(batch)
                control.refresh()
                if control.current(self._name) != lineage:
                    return
                if time.monotonic() > look_at:
                    look_at = time.monotonic() + GROWN_S
                    topics = self._log.topics()
                    grown = topics.get(self._topic, info).partitions > info.partitions
                    if grown or control.exists != (decisions in topics):
                        return

    def _serve(self, following: Following) -> None:
        """Answer with the models of this lineage from now on, all at once, if none is missing."""
        former = self._serving
        if following.failure is not None and not following.models:
            # Whoever waits need not go on waiting for what another program has made.
            self._failure = following.failure
            self._arrived.set()
        if following is former or not following.models.keys() >= former.models.keys():
            return
        self._serving = following
        if not following.models:
            return
        self._arrived.set()
        logger.info(
            "%s: %s answers now, in place of %s", self._topic, following.version, former.lineage
        )
        if self._on_model is not None:
            for model in following.models.values():
                self._on_model(model)

    def _adopted(self, following: Following, model: Model) -> None:
        if following is not self._serving:
            return
        self._arrived.set()
        if self._on_model is not None:
            self._on_model(model)


def _chosen(models: Mapping[int, Model], partitions: int, key: bytes | None) -> tuple[Model, ...]:
    if key is not None:
        model = models.get(partition_for(key, partitions))
        if model is not None:
            return (model,)
    return tuple(models[p] for p in sorted(models))


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
    if models[0].manifest.identity.task == "multilabel":
        said = [a.probabilities or list(map(certain, a.values)) for _, a in answers]
        # A lane that has learned nothing says nothing; one that does not know a class says no.
        heard = [(w, chances) for w, (chances,) in zip(weights, said, strict=True) if chances]
        names = dict.fromkeys(name for _, chances in heard for name in chances)
        total = sum(w for w, _ in heard)
        means = {
            name: sum(w * chances.get(name, 0.0) for w, chances in heard) / total for name in names
        }
        return applying(means), means
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
