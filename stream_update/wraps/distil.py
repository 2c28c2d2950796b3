"""A small learner that follows a large one, and is served in its place."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from stream_update.answers import certain, in_turn
from stream_update.errors import ConfigError, CorruptSnapshot, LearnerFailed
from stream_update.events import Features, Predictions, Tree
from stream_update.protocols import Described, Learner
from stream_update.wraps.draws import Draws
from stream_update.wraps.members import MakeMember, common_batch, dump_in_a_copy, learn_in_batches
from stream_update.wraps.unlabelled import learn_unlabelled, unlabelled_batch

__all__ = ["Distilled"]


class Distilled:
    """A teacher that learns the labels, and a student that learns them and the teacher.

    ``teacher`` and ``student`` are tables as ``[learner]`` is one, built by ``make_member``.
    The predictions are the student's. Of the loss it learns by, ``weight`` (0 to 1) is
    against the teacher's prediction and the rest against the label (Hinton, Vinyals and Dean,
    2015). A learner takes one label for an event, so for classes that is so in the mean: with
    the chance ``weight`` the student is given a label drawn from the teacher's
    probabilities, each raised to ``1 / temperature``, in place of the true one; of several
    classes that may apply each is drawn by itself. For
    regression it is given ``weight * prediction + (1 - weight) * label``, which is the
    same for squared loss. The teacher is asked before it learns the event.

    ``batch`` is the least common multiple of both batches, or a given multiple of that. With
    ``unlabelled`` the student also learns, of ``batch`` events without a label at a time, what
    the teacher says of them, as soon as the teacher has learned anything.

    A snapshot holds both, because the trainer goes on with both. Who follows it takes the
    student alone, and needs neither the teacher's code nor its libraries.
    """

    def __init__(
        self,
        task: str,
        teacher: Mapping[str, Any],
        student: Mapping[str, Any],
        *,
        weight: float = 0.5,
        temperature: float = 1.0,
        batch: int | None = None,
        unlabelled: bool = False,
        seed: int | None = None,
        make_member: MakeMember,
    ) -> None:
        if not 0 <= weight <= 1:
            raise ConfigError(f"learner.weight: {weight!r} is not from 0 to 1")
        if not temperature > 0:
            raise ConfigError(f"learner.temperature: {temperature!r} is not positive")
        self._task = task
        self._weight = weight
        self._temperature = temperature
        self._teacher_kind, self._make_teacher = make_member(teacher, "teacher", 1)
        self._student_kind, self._make_student = make_member(student, "student", 0)
        self._teacher: Described = self._make_teacher()
        self._student: Described = self._make_student()
        self.batch = common_batch([self._teacher, self._student], batch)
        self.dumps_in_a_copy = dump_in_a_copy([self._teacher, self._student])
        self._unlabelled = unlabelled
        asked = unlabelled_batch([self._teacher, self._student])
        whole = max(asked, self.batch if unlabelled else 0)
        self.unlabelled_batch = -(-whole // self.batch) * self.batch if unlabelled else asked
        self._taught = False
        self._draws = Draws(0 if seed is None else seed)

    @property
    def kind(self) -> str:
        """What snapshots call it: a wrap around the student, for those who follow."""
        return f"distil({self._student_kind})"

    @property
    def versions(self) -> dict[str, str]:
        """The libraries that who follows needs: the student's. The fingerprint has the others."""
        return self._student.versions

    @property
    def learners(self) -> dict[str, Learner]:
        """The ``student`` and the ``teacher``."""
        return {"student": self._student, "teacher": self._teacher}

    def describe(self) -> str:
        """Both in a line, for people."""
        return f"{self._student.describe()}, taught by {self._teacher.describe()}"

    def fingerprint(self) -> str:
        """A digest of how both start, and of the teacher's libraries by minor version."""
        libraries = {
            name: version.split(".")[:2] for name, version in self._teacher.versions.items()
        }
        parts = [
            self._settings(),
            self.batch,
            self._draws.state,
            self._teacher_kind,
            libraries,
            self._teacher.fingerprint(),
            self._student.fingerprint(),
        ]
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()

    def predict(self, features: Sequence[Features]) -> Predictions:
        return self._student.predict(features)

    def learn(self, features: Sequence[Features], labels: Sequence[Any]) -> None:
        if self.batch == 1:
            in_turn(self._learn_one, features, labels)
        else:
            self._learn(features, labels)

    def _learn_one(self, event: Features, label: Any) -> Predictions:
        self._learn([event], [label])
        return Predictions([])

    def _learn(self, features: Sequence[Features], labels: Sequence[Any]) -> None:
        targets = self._targets(self._teacher.predict(features), labels)
        learn_in_batches(self._teacher, features, labels)
        learn_in_batches(self._student, features, targets)
        self._taught = self._taught or bool(labels)

    def learn_unlabelled(self, features: Sequence[Features]) -> None:
        """Let the student learn what the teacher says of these, and both what they ask for."""
        learn_unlabelled([self._teacher, self._student], features)
        if not self._unlabelled or not self._taught:
            return
        targets = self._said(self._teacher.predict(features))
        known = [index for index, target in enumerate(targets) if target is not None]
        try:
            learn_in_batches(
                self._student, [features[i] for i in known], [targets[i] for i in known]
            )
        except LearnerFailed as failure:
            index = known[failure.index]
            raise LearnerFailed(index, "learn", failure.cause, Predictions([])) from failure.cause

    def predict_then_learn(
        self, features: Sequence[Features], labels: Sequence[Any]
    ) -> Predictions:
        return in_turn(self._predict_then_learn_one, features, labels)

    def _predict_then_learn_one(self, event: Features, label: Any) -> Predictions:
        said = self._student.predict([event])
        try:
            self._learn([event], [label])
        except LearnerFailed as failure:
            # What the teacher cannot predict, nobody has learned anything of.
            made = said if failure.phase == "learn" else Predictions([])
            raise LearnerFailed(0, failure.phase, failure.cause, made) from failure.cause
        return said

    def _targets(self, said: Predictions, labels: Sequence[Any]) -> list[Any]:
        """What the student is to learn of these events."""
        if self._task == "regression":
            return [
                label if value is None else label + self._weight * (value - label)
                for value, label in zip(self._said(said), labels, strict=True)
            ]
        return [
            self._drawn(one, label) if one and self._draws.unit() < self._weight else label
            for one, label in zip(_chances(said), labels, strict=True)
        ]

    def _said(self, said: Predictions) -> list[Any]:
        """What the teacher says of each event, None where that makes no sense."""
        if self._task == "regression":
            return [
                value if value is not None and math.isfinite(value) else None
                for value in said.values
            ]
        return [self._drawn(one, None) for one in _chances(said)]

    def _drawn(self, chances: Mapping[Any, float], label: Any) -> Any:
        """A label drawn from the teacher's probabilities; this one if they make no sense."""
        if self._task == "multilabel":
            return self._drawn_set(chances, label)
        powers = {one: max(0.0, p) ** (1 / self._temperature) for one, p in chances.items()}
        total = sum(powers.values())
        if not 0 < total < math.inf:
            return label
        left = self._draws.unit() * total
        for drawn, power in powers.items():
            left -= power
            if left < 0:
                return drawn
        return label

    def _drawn_set(self, chances: Mapping[Any, float], label: Any) -> dict[Any, bool] | None:
        """Each class drawn by itself, the label's own where the teacher's makes no sense."""
        drawn: dict[Any, bool] = {}
        for name in chances if label is None else label:
            chance = chances.get(name, math.nan)
            yes, no = (max(0.0, p) ** (1 / self._temperature) for p in (chance, 1 - chance))
            total = yes + no
            if 0 < total < math.inf:
                drawn[name] = self._draws.unit() * total < yes
            elif label is not None:
                drawn[name] = label[name]
        return drawn if drawn or label is not None else None

    def react(self, signal: str) -> None:
        self._teacher.react(signal)
        self._student.react(signal)
        if signal in {"reset", "swap"}:
            self._taught = False

    def dump(self) -> Tree:
        return {
            "settings": self._settings(),
            "teacher_kind": self._teacher_kind,
            "teacher": self._teacher.dump(),
            "student": self._student.dump(),
            "draws": self._draws.state,
            "taught": self._taught,
        }

    def _settings(self) -> Tree:
        return [self._weight, self._temperature, self._unlabelled]

    @staticmethod
    def serving(tree: Tree) -> Tree:
        """The part of a dump that predicts: the state of the student."""
        return tree["student"]

    def load(self, tree: Tree) -> None:
        """Take everything from a tree; what was before stays if that fails.

        Raises :class:`~stream_update.errors.CorruptSnapshot`.
        """
        found = [tree["teacher_kind"], *tree["settings"]]
        expected = [self._teacher_kind, *self._settings()]
        if found != expected:
            raise CorruptSnapshot(
                f"distilled from {found!r:.200}, not {expected!r} (teacher, weight, temperature, "
                "unlabelled)",
                hint="it was made with another configuration of the learner",
            )
        teacher, student = self._make_teacher(), self._make_student()
        teacher.load(tree["teacher"])
        student.load(tree["student"])
        self._teacher, self._student = teacher, student
        self._draws = Draws(tree["draws"])
        self._taught = bool(tree["taught"])


def _chances(said: Predictions) -> Sequence[Mapping[Any, float]]:
    return said.probabilities or list(map(certain, said.values))
