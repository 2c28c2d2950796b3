"""A recommender behind the Learner seam."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Self

import msgspec
import numpy as np
import torch

from stream_update.answers import one_by_one
from stream_update.errors import CorruptSnapshot, LearnerFailed
from stream_update.events import Features, Predictions, Tree
from stream_update.learners.recommender.averages import Averages
from stream_update.learners.recommender.ids import NOBODY, Id, check_id
from stream_update.learners.recommender.model import Events, Model
from stream_update.learners.recommender.options import Options
from stream_update.learners.recommender.ranking import Ranking, Share
from stream_update.learners.recommender.rows import Optimizer
from stream_update.learners.settings import check_settings
from stream_update.learners.torch import weights
from stream_update.learners.torch.network import on_threads
from stream_update.protocols import Precision

__all__ = ["Recommender"]

FORMAT = 1


class Recommender:
    """Learns from events with a user and an item how well the one suits the other.

    The label is a rating (task ``regression``) or whether it was taken (``binary``).
    ``module`` is one of :data:`~.scorers.SCORERS`, with vectors of ``dim`` numbers and
    ``hidden`` units. ``user`` and ``item`` name the features with the ids; of the others
    ``two-tower`` and ``dnn`` learn too, those in ``item_features`` as properties of the item,
    which are remembered, the rest as the context; at most ``max_columns`` of each.

    There are at most ``max_users`` and ``max_items`` ids; see :class:`~.ids.IdTable` for
    who leaves, and for ``protect``. An id that is not known has the score of an average one.

    ``batch`` events are learned in one step, by ``optimizer`` (:class:`~.rows.Optimizer`).
    Rows of ids step along the sum of their events' gradients with ``l2`` on each, as in
    learning one by one; the weights of the networks along the mean. With the task ``binary``,
    ``negatives`` items drawn from all are learned as not taken for each that was.

    An event is *taken* if its label is True, or a rating of at least ``positive`` (by default:
    above the mean so far). For these the place of their item among all known items, or
    among ``rank_among`` drawn ones, is counted before they are learned: hit rate and NDCG at
    ``top_k``. An item that is not known is a miss, and ties count against it; with 0 nothing
    is counted. ``history`` is how many of a user's last items are kept; without ``repeats``
    these are in no list.

    ``threads`` is how many the arithmetic uses: the same number gives the same bits. A step
    whose loss is not finite is left out and counted.
    """

    def __init__(
        self,
        task: str,
        module: str = "mf",
        *,
        user: str = "user",
        item: str = "item",
        item_features: Iterable[str] = (),
        dim: int = 16,
        hidden: int = 32,
        history: int = 20,
        optimizer: str | Mapping[str, Any] = "adagrad",
        l2: float = 0.02,
        batch: int = 64,
        negatives: int = 0,
        max_users: int = 100_000,
        max_items: int = 20_000,
        protect: int = 3,
        max_columns: int = 256,
        top_k: int = 10,
        rank_among: str | int = "all",
        positive: float | None = None,
        repeats: bool = True,
        threads: int = 1,
        seed: int | None = None,
    ) -> None:
        self._options = Options(
            task=task, module=module, user=user, item=item, item_features=sorted(item_features),
            dim=dim, hidden=hidden, history=history, optimizer=Optimizer(optimizer).settings(),
            l2=l2, batch=batch, negatives=negatives, max_users=max_users, max_items=max_items,
            protect=protect, max_columns=max_columns, top_k=top_k, rank_among=rank_among,
            positive=positive, repeats=repeats, threads=threads,
        )  # fmt: skip
        self.batch = batch
        self._mine = frozenset(self._options.item_features)
        self._not_context = self._mine | {user, item}
        self._seed = 0 if seed is None else seed
        self._only_predicts = False
        self.ranking = Ranking(top_k)
        self._start_over()

    def _start_over(self) -> None:
        self._model = Model(self._options, self._seed)
        self._averages = Averages(
            chances=self._options.task == "binary", drawn=bool(self._options.negatives)
        )

    @classmethod
    def restored(
        cls,
        tree: Tree,
        task: str,
        *,
        allow: Iterable[Any] = (),  # noqa: ARG003 - it is made of nothing of the user's
    ) -> Self:
        """A recommender from a dump alone, which predicts and cannot learn.

        Raises :class:`~stream_update.errors.CorruptSnapshot`, also for weights that are NaN.
        """
        made = cls(task, **{name: tree["settings"][name] for name in Options.names()})
        made._only_predicts = True
        made._take(tree)
        return made

    @property
    def versions(self) -> dict[str, str]:
        """The libraries that a snapshot of it depends on."""
        return {"torch": version("torch")}

    @property
    def needs(self) -> tuple[str, str]:
        """The features that every event has to have."""
        return self._options.user, self._options.item

    @property
    def users(self) -> int:
        """How many users are known."""
        return len(self._model.users)

    @property
    def items(self) -> int:
        """How many items are known."""
        return len(self._model.items)

    def describe(self) -> str:
        """The model in a line, for people."""
        options = self._options
        told = ", ".join(f"{key}={value}" for key, value in options.optimizer.items())
        return (
            f"{options.module}(dim={options.dim}) of at most {options.max_users} users and "
            f"{options.max_items} items with {told}, batches of {self.batch} ({options.task})"
        )

    def readable(self) -> Iterator[tuple[str, float | bool]]:
        """What it has learned, by name: how many ids, and how large the weights are."""
        model = self._model
        yield "steps", model.steps
        yield "steps left out", model.skipped
        for name, table in (("users", model.users), ("items", model.items)):
            yield name, len(table)
            yield f"{name} evicted", table.evicted
        yield "mean label", self._averages.mean
        for name in model.context.names:
            yield f"context[{name!r}]", True
        for name in model.traits.names:
            yield f"item feature[{name!r}]", True
        for name, tensor in model.tensors()[0].items():
            yield f"norm[{name}]", float(tensor.detach().norm())

    def figures(self) -> dict[str, dict[str, Share]]:
        """Hit rate and NDCG, by block of a report and name: what no monitor can see."""
        return self.ranking.figures()

    # -- predict and learn

    def predict(self, features: Sequence[Features]) -> Predictions:
        users, items = self._ids(features, "predict")
        if not self._averages.count or not features:
            if self._options.task == "regression":
                return Predictions([0.0] * len(features))
            return Predictions([None] * len(features), [{} for _ in features])
        try:
            with on_threads(self._options.threads), torch.no_grad():
                events = self._events(features, users, items)
                return self._answers(self._model.scores(events) + self._averages.answered)
        except (TypeError, ValueError) as error:
            raise self._culprit(features, "predict", error) from error

    def learn(self, features: Sequence[Features], labels: Sequence[Any]) -> None:
        users, items = self._ids(features, "learn")
        if not features:
            return
        if self._only_predicts:
            cause = RuntimeError("a learner that was restored from a dump alone only predicts")
            raise LearnerFailed(0, "learn", cause, Predictions([]))
        try:
            with on_threads(self._options.threads):
                self._learn(features, labels, users, items)
        except (TypeError, ValueError) as error:
            raise self._culprit(features, "learn", error) from error

    def predict_then_learn(
        self, features: Sequence[Features], labels: Sequence[Any]
    ) -> Predictions:
        return one_by_one(self, features, labels)

    def recommend(
        self,
        user: Id,
        k: int = 10,
        *,
        exclude: Iterable[Id] = (),
        features: Features | None = None,
    ) -> list[tuple[Id, float]]:
        """The ``k`` known items that suit the user most, with the rating or the probability
        that is predicted of each; fewer if there are no more.

        Without those in ``exclude``. A user who is not known gets what suits an average one.
        ``features`` is the context.
        """
        model = self._model
        row = model.users.find([user])
        left_out = set(model.items.find(exclude).tolist())
        if not self._options.repeats:
            left_out |= set(model.before(row)[0].tolist())
        left_out.discard(NOBODY)
        most = max(0, min(k, len(model.items) - len(left_out)))
        if not most:
            return []
        context = {k: v for k, v in (features or {}).items() if k not in self._not_context}
        with on_threads(self._options.threads), torch.no_grad():
            scores = model.scores_of_all(int(row[0]), context) + self._averages.answered
            scores[[at - 1 for at in left_out]] = -math.inf
            best = torch.sort(scores, descending=True, stable=True).indices[:most]
            said = self._answers(scores[best])
        worth = said.values if said.probabilities is None else [p[True] for p in said.probabilities]
        return [
            (model.items.id_of(at + 1), value)
            for at, value in zip(best.tolist(), worth, strict=True)
        ]

    def _ids(self, features: Sequence[Features], phase: str) -> tuple[list[Id], list[Id]]:
        """Users and items; raises :class:`LearnerFailed` at the first event without."""
        user, item = self._options.user, self._options.item
        try:
            users, items = [x[user] for x in features], [x[item] for x in features]
            for one in users:
                check_id(one)
            for one in items:
                check_id(one)
        except (KeyError, TypeError, ValueError) as error:
            raise self._culprit(features, phase, error) from error
        return users, items

    def _culprit(self, features: Sequence[Features], phase: str, error: Exception) -> LearnerFailed:
        """What is wrong with the first event that has something wrong."""
        for index, event in enumerate(features):
            for name in (self._options.user, self._options.item):
                cause: Exception | None = None
                if name not in event:
                    cause = ValueError(f"the event has no {name!r}")
                else:
                    try:
                        check_id(event[name])
                    except (TypeError, ValueError) as found:
                        cause = type(found)(f"{name!r}: {found}")
                if cause is not None:
                    return LearnerFailed(index, phase, cause, Predictions([]))
            for name, value in event.items():
                if value is not None and not isinstance(value, str | int | float):
                    cause = TypeError(f"feature {name!r} is a {type(value).__name__}")
                    return LearnerFailed(index, phase, cause, Predictions([]))
        return LearnerFailed(0, phase, error, Predictions([]))

    def _events(
        self, features: Sequence[Features], users: Sequence[Id], items: Sequence[Id]
    ) -> Events:
        rows = self._model.find(users, items)
        if not self._model.module.sides:
            return Events(*rows, (), ())
        return Events(
            *rows,
            [{k: v for k, v in x.items() if k not in self._not_context} for x in features],
            [{k: v for k, v in x.items() if k in self._mine} for x in features],
        )

    def _learn(
        self,
        features: Sequence[Features],
        labels: Sequence[Any],
        users: Sequence[Id],
        items: Sequence[Id],
    ) -> None:
        model, regression = self._model, self._options.task == "regression"
        events = self._events(features, users, items)
        taken = self._taken(labels)
        if taken and self._options.rank_among:
            with torch.no_grad():
                self.ranking.add(model.ranks(events.some(taken)).tolist())
        events = model.admit(users, items, events)
        drawn, owners = model.draw(events, taken)
        targets = np.array([*labels, *([0.0] * len(drawn))], dtype=np.float64)
        averages = self._averages
        averages.learn(targets)
        scores = model.learn(events, drawn, owners, targets, averages.offset)
        averages.compare(scores, targets[: len(labels)])
        model.remember(events, range(len(labels)) if regression else taken)

    def _taken(self, labels: Sequence[Any]) -> list[int]:
        """The places of those events whose item was taken."""
        least = self._options.positive
        if self._options.task == "binary":
            return [index for index, label in enumerate(labels) if label]
        if least is not None:
            return [index for index, label in enumerate(labels) if label >= least]
        mean = self._averages.mean if self._averages.count else math.inf
        return [index for index, label in enumerate(labels) if label > mean]

    def _answers(self, scores: Any) -> Predictions:
        if self._options.task == "regression":
            # A rating outside of all that were given is none.
            return Predictions(scores.clamp(*self._averages.range).tolist())
        chances = torch.sigmoid(scores).tolist()
        made: list[Mapping[Any, float]] = [
            {False: 1.0 - chance, True: chance} for chance in chances
        ]
        return Predictions([chance > 0.5 for chance in chances], made)  # noqa: PLR2004

    def react(self, signal: str) -> None:
        """Start over at a ``"reset"`` or ``"swap"``; what was counted of ranks stays."""
        if signal in {"reset", "swap"}:
            self._start_over()

    # -- state

    def dump(self) -> Tree:
        return {
            "format": FORMAT,
            "settings": self._options.settings(),
            "model": self._model.dump(),
            "averages": self._averages.dump(),
            "ranking": self.ranking.dump(),
        }

    @staticmethod
    def for_serving(tree: Tree, precision: Precision) -> Tree:
        """A dump without moments, with weights rounded; ids and histories as they are."""
        model = {name: part for name, part in tree["model"].items() if name != "moments"}
        found = weights.read(model["weights"], "weights")
        return {**tree, "model": model | weights.rounded(found, precision)}

    def load(self, tree: Tree) -> None:
        """Take everything from a tree; what was before stays if that fails.

        Raises :class:`~stream_update.errors.CorruptSnapshot`.
        """
        check_settings(tree["settings"], self._options.settings())
        before = vars(self).copy()
        try:
            self._take(tree)
        except BaseException:
            vars(self).update(before)
            raise

    def _take(self, tree: Tree) -> None:
        if tree["format"] != FORMAT:
            raise CorruptSnapshot(f"a recommender of the format {tree['format']!r:.50}")
        self._start_over()
        self._model.load(tree["model"], learns=not self._only_predicts)
        self.ranking = Ranking(self._options.top_k)
        self.ranking.load(tree["ranking"])
        self._averages.load(tree["averages"])

    def fingerprint(self) -> str:
        """A digest of how the learner starts: options, seed and the network's first weights."""
        begun = weights.write(weights.weights_of(self._model.module))
        parts = [FORMAT, self._options.task, self._options.settings(), self._seed]
        return hashlib.sha256(msgspec.json.encode(parts) + begun).hexdigest()
