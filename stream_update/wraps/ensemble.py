"""Several learners of any kind that answer together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import msgspec

from stream_update import plugins
from stream_update.answers import applying, in_turn
from stream_update.errors import ConfigError, CorruptSnapshot, LearnerFailed
from stream_update.events import Features, Predictions, Tree
from stream_update.protocols import Described, Learner, Precision
from stream_update.wraps.combining import Combiner, Opinion, combiner, opinions
from stream_update.wraps.members import MakeMember, common_batch, dump_in_a_copy, learn_in_batches
from stream_update.wraps.unlabelled import learn_unlabelled, unlabelled_batch

__all__ = ["Ensemble"]

MAX_MEMBERS = 100


class Ensemble:
    """Learners that all learn every event, and whose answers are combined.

    ``members`` are tables as ``[learner]`` is one; they are built by ``make_member``, each
    with a seed of its own. ``combine`` is ``"mean"``, ``"vote"`` (not for regression),
    ``"weighted"`` (with ``half_life`` in events, and ``rate``) or ``"stacking"`` (with
    ``rate``; not for several classes at once), see :mod:`stream_update.wraps.combining`. What
    it learns of its members it learns from predictions that they made before they learned the
    event.

    Its ``batch`` is the least common multiple of its members' batches, or a given multiple
    of that: so each of them learns the batches that it would learn alone, and what is
    predicted together is predicted by all members as they were before.
    """

    def __init__(
        self,
        task: str,
        members: Sequence[Mapping[str, Any]],
        *,
        combine: str = "mean",
        half_life: float = 1000,
        rate: float | None = None,
        batch: int | None = None,
        make_member: MakeMember,
    ) -> None:
        if not isinstance(members, list) or not 1 <= len(members) <= MAX_MEMBERS:
            raise ConfigError(
                f"learner.members: an ensemble has 1 to {MAX_MEMBERS} members",
                hint="each is a table [[learner.members]] with what [learner] could have",
            )
        self._task = task
        self._combine = combine
        self._options: dict[str, Any] = {"half_life": half_life, "rate": rate}
        made = [
            make_member(member, f"members[{number}]", number)
            for number, member in enumerate(members)
        ]
        self._kinds = [kind for kind, _ in made]
        self._makers = [make for _, make in made]
        self._members: list[Described] = [make() for make in self._makers]
        self._combiner = self._fresh_combiner()
        self.batch = common_batch(self._members, batch)
        self.dumps_in_a_copy = dump_in_a_copy(self._members)
        self.unlabelled_batch = unlabelled_batch(self._members)

    def _fresh_combiner(self) -> Combiner:
        return combiner(self._combine, self._task, len(self._kinds), **self._options)

    @classmethod
    def restored(cls, tree: Tree, task: str, *, allow: Iterable[Any] = ()) -> Self:
        """An ensemble from a dump alone, which predicts and cannot learn.

        Raises :class:`~stream_update.errors.LineageMismatch` for a member that is not
        installed, and what the members raise.
        """
        allow = tuple(allow)

        def make_member(member: Mapping[str, Any], option: str, _number: int) -> tuple[str, Any]:
            learner = plugins.restored(
                member["kind"], member["state"], task, allow=allow, where=f"learner.{option}"
            )
            return member["kind"], lambda: learner

        settings = tree["settings"]
        made = cls(
            task,
            tree["members"],
            combine=settings["combine"],
            half_life=settings["half_life"],
            rate=settings["rate"],
            make_member=make_member,
        )
        made._combiner.load(tree["combiner"])
        return made

    @property
    def versions(self) -> dict[str, str]:
        """The libraries that a snapshot of it depends on."""
        found: dict[str, str] = {}
        for member in self._members:
            found |= member.versions
        return found

    @property
    def learners(self) -> dict[str, Learner]:
        """The members, by ``members[0]`` and so on."""
        return {f"members[{number}]": member for number, member in enumerate(self._members)}

    def describe(self) -> str:
        """The ensemble in a line, for people."""
        return f"{self._combine} of {', '.join(member.describe() for member in self._members)}"

    def fingerprint(self) -> str:
        """A digest of what it is made of and how each member starts."""
        parts = [
            self._settings(),
            self.batch,
            self._kinds,
            [member.fingerprint() for member in self._members],
        ]
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()

    def readable(self) -> Iterator[tuple[str, float]]:
        """What it has learned of its members."""
        yield from self._combiner.readable()

    def predict(self, features: Sequence[Features]) -> Predictions:
        return self._answers(self._ask(features))

    def _ask(self, features: Sequence[Features]) -> list[list[Opinion]]:
        """For each event the opinions of all members."""
        columns = []
        for member in self._members:
            try:
                columns.append(opinions(member.predict(features), self._task))
            except LearnerFailed as failure:
                made = self.predict(features[: failure.index])
                raise LearnerFailed(
                    failure.index, "predict", failure.cause, made
                ) from failure.cause
        return [list(row) for row in zip(*columns, strict=True)]

    def _answers(self, rows: Sequence[Sequence[Opinion]]) -> Predictions:
        made: list[Any] = [self._combiner.combine(row) for row in rows]
        if self._task == "regression":
            return Predictions([0.0 if value is None else value for value in made])
        if self._task == "multilabel":
            return Predictions(list(map(applying, made)), made)
        return Predictions(
            [max(chances, key=chances.get) if chances else None for chances in made], made
        )

    def learn(self, features: Sequence[Features], labels: Sequence[Any]) -> None:
        if self.batch == 1:
            in_turn(self._learn_one, features, labels)
        else:
            self._learn(features, labels, self._heard(features))

    def _learn_one(self, event: Features, label: Any) -> Predictions:
        self._learn([event], [label], self._heard([event]))
        return Predictions([])

    def _heard(self, features: Sequence[Features]) -> list[list[Opinion]]:
        return self._ask(features) if self._combiner.learns else []

    def _learn(
        self, features: Sequence[Features], labels: Sequence[Any], rows: list[list[Opinion]]
    ) -> None:
        if self._combiner.learns:
            for row, label in zip(rows, labels, strict=True):
                self._combiner.learn(row, label)
        for member in self._members:
            learn_in_batches(member, features, labels)

    def learn_unlabelled(self, features: Sequence[Features]) -> None:
        """Let the members learn these that learn without labels."""
        learn_unlabelled(self._members, features)

    def predict_then_learn(
        self, features: Sequence[Features], labels: Sequence[Any]
    ) -> Predictions:
        return in_turn(self._predict_then_learn_one, features, labels)

    def _predict_then_learn_one(self, event: Features, label: Any) -> Predictions:
        rows = self._ask([event])
        said = self._answers(rows)
        try:
            self._learn([event], [label], rows)
        except LearnerFailed as failure:
            raise LearnerFailed(0, "learn", failure.cause, said) from failure.cause
        return said

    def react(self, signal: str) -> None:
        for member in self._members:
            member.react(signal)
        if signal in {"reset", "swap"}:
            self._combiner = self._fresh_combiner()

    def dump(self) -> Tree:
        return {
            "settings": self._settings(),
            "members": [
                {"kind": kind, "state": member.dump()}
                for kind, member in zip(self._kinds, self._members, strict=True)
            ],
            "combiner": self._combiner.dump(),
        }

    @staticmethod
    def for_serving(tree: Tree, precision: Precision) -> Tree:
        """Each member as its kind does it; of members of mixed kind those are rounded that can be.

        Raises :class:`~stream_update.errors.ConfigError` if none can.
        """
        able = [plugins.rounds(member["kind"]) for member in tree["members"]]
        members = []
        for member, rounds in zip(tree["members"], able, strict=True):
            kept: Precision = precision if rounds or not any(able) else "float32"
            kind, state = plugins.served(
                member["kind"], member["state"], kept, where="learner.members"
            )
            members.append({"kind": kind, "state": state})
        return {**tree, "members": members}

    def _settings(self) -> dict[str, Any]:
        return {"combine": self._combine, **self._options}

    def load(self, tree: Tree) -> None:
        """Take everything from a tree; what was before stays if that fails.

        Raises :class:`~stream_update.errors.CorruptSnapshot`.
        """
        kinds = [member["kind"] for member in tree["members"]]
        if kinds != self._kinds or tree["settings"] != self._settings():
            raise CorruptSnapshot(
                f"an ensemble of {kinds!r:.200} with {tree['settings']!r:.200}, not of "
                f"{self._kinds!r} with {self._settings()!r}",
                hint="it was made with another configuration of the learner",
            )
        members = [make() for make in self._makers]
        for member, found in zip(members, tree["members"], strict=True):
            member.load(found["state"])
        combined = self._fresh_combiner()
        combined.load(tree["combiner"])
        self._members, self._combiner = members, combined
