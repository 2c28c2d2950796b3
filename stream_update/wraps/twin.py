"""A learner, and one that warms up to take its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stream_update.answers import in_turn
from stream_update.errors import LearnerFailed
from stream_update.events import Features, Predictions, Tree
from stream_update.protocols import Learner
from stream_update.wraps.members import dump_in_a_copy
from stream_update.wraps.unlabelled import learn_unlabelled, unlabelled_batch

__all__ = ["BackgroundTwin"]


class BackgroundTwin:
    """A learner with a second one that warms up in the background before it takes over.

    ``make`` builds a fresh learner. A warning starts one in the background, and from then
    on both learn every event while the first one predicts. A swap puts the one in the
    background in its place, or a fresh one if there was no warning. A reset starts afresh
    without a background. Other signals go to the learner that predicts.

    Warnings often come in a row while one change builds up, so a new one leaves a young
    learner in the background alone; one that has learned ``stale_after`` events has its
    knowledge from before the change that is now beginning, and is replaced. (The adaptive
    random forest of Gomes et al., 2017, replaces it at every warning.)
    """

    def __init__(self, make: Callable[[], Learner], *, stale_after: int = 1000) -> None:
        self._make = make
        self._stale_after = stale_after
        self._active = make()
        self._background: Learner | None = None
        self._warmed = 0
        self.batch = self._active.batch
        self.dumps_in_a_copy = dump_in_a_copy([self._active])
        self.unlabelled_batch = unlabelled_batch([self._active])

    @property
    def warming(self) -> bool:
        """Whether there is a learner in the background."""
        return self._background is not None

    @property
    def learners(self) -> dict[str, Learner]:
        """The one that predicts as ``active``, and ``background`` if it is there."""
        background = {} if self._background is None else {"background": self._background}
        return {"active": self._active, **background}

    def predict(self, features: Sequence[Features]) -> Predictions:
        return self._active.predict(features)

    def learn(self, features: Sequence[Features], labels: Sequence[Any]) -> None:
        self._active.learn(features, labels)
        if self._background is not None:
            self._background.learn(features, labels)
            self._warmed += len(features)

    def learn_unlabelled(self, features: Sequence[Features]) -> None:
        learn_unlabelled(self.learners.values(), features)

    def predict_then_learn(
        self, features: Sequence[Features], labels: Sequence[Any]
    ) -> Predictions:
        """While a background learner warms up, both have learned the same events at any
        time, also when one of them fails.
        """
        if self._background is None:
            return self._active.predict_then_learn(features, labels)
        return in_turn(self._predict_then_learn_one, features, labels)

    def _predict_then_learn_one(self, event: Features, label: Any) -> Predictions:
        assert self._background is not None
        said = self._active.predict_then_learn([event], [label])
        try:
            self._background.learn([event], [label])
        except LearnerFailed as failure:
            raise LearnerFailed(0, "learn", failure.cause, said) from failure.cause
        self._warmed += 1
        return said

    def react(self, signal: str) -> None:
        if signal == "warning":
            if self._background is None or self._warmed >= self._stale_after:
                self._background = self._make()
                self._warmed = 0
        elif signal in {"swap", "reset"}:
            warmed = self._background if signal == "swap" else None
            self._active = self._make() if warmed is None else warmed
            self._background = None
            self._warmed = 0
        else:
            self._active.react(signal)

    def dump(self) -> Tree:
        return {
            "active": self._active.dump(),
            "background": None if self._background is None else self._background.dump(),
            "warmed": self._warmed,
        }

    @staticmethod
    def serving(tree: Tree) -> Tree:
        """The part of a dump that predicts: the state of the active learner."""
        return tree["active"]

    def load(self, tree: Tree) -> None:
        active, background = self._make(), None
        active.load(tree["active"])
        if tree["background"] is not None:
            background = self._make()
            background.load(tree["background"])
        self._active, self._background = active, background
        self._warmed = tree["warmed"]
