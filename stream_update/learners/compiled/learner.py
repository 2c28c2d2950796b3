"""A river pipeline of a linear model, run as machine code."""

from __future__ import annotations

import copy
import hashlib
import importlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from stream_update import objects
from stream_update.answers import joined
from stream_update.errors import ConfigError, CorruptSnapshot, LearnerFailed
from stream_update.events import Features, Predictions, Tree
from stream_update.learners.compiled.rows import NOT_NUMBERS
from stream_update.learners.compiled.stopped import Stopped
from stream_update.learners.river import RiverLearner

if TYPE_CHECKING:
    from stream_update.learners.compiled.family import Family

__all__ = ["CompiledLearner"]

PREDICT, BOTH, LEARN = 0, 1, 2


class CompiledLearner:
    """A river model that is compiled: predictions and state are river's, event by event.

    ``model`` is what ``use = "river..."`` would build: a scaler and a linear model or a
    factorization machine, in a ``river.compose.Pipeline``, with nothing learned or with all
    learned together. It is not changed. ``task`` is as for
    :class:`~stream_update.learners.river.RiverLearner`.

    What no loop over numbers can take, such as a text among the features, is given to the
    river model itself, with what has been learned until then: it raises what river raises,
    or learns what river learns.

    Compiles (or finds what has been compiled before) in the constructor. Raises
    :class:`~stream_update.errors.ConfigError` if numba is not installed, if the model does not
    fit the task, or if a step or an option of it cannot be compiled.
    """

    batch = 1
    dumps_in_a_copy = True
    takes_tables = True

    def __init__(self, model: Any, task: str) -> None:
        self._fresh = copy.deepcopy(model)
        self._task = task
        self._river = RiverLearner(lambda: copy.deepcopy(self._fresh), task)
        self._family_of = _compiler()
        self._state = self._family_of(copy.deepcopy(self._fresh))
        self._state.run([], [], PREDICT)

    @staticmethod
    def restored(
        tree: Tree, task: str, *, allow: Iterable[Callable[..., Any]] = ()
    ) -> RiverLearner:
        """The river model in a dump, for those who predict and may have no numba."""
        return RiverLearner.restored(tree, task, allow=allow)

    @property
    def versions(self) -> dict[str, str]:
        """The libraries that a snapshot of it depends on: river's state is all that it holds."""
        return self._river.versions

    @property
    def model(self) -> Any:
        """A river object that has learned what this has learned until now."""
        return copy.deepcopy(self._state.filled())

    def describe(self) -> str:
        """The model in a line, for people."""
        return f"{self._river.describe()}, compiled"

    def predict(self, features: Sequence[Features]) -> Predictions:
        return self._run(features, [None] * len(features), PREDICT)

    def learn(self, features: Sequence[Features], labels: Sequence[Any]) -> None:
        self._run(features, labels, LEARN)

    def predict_then_learn(
        self, features: Sequence[Features], labels: Sequence[Any]
    ) -> Predictions:
        return self._run(features, labels, BOTH)

    def _run(self, features: Sequence[Features], labels: Sequence[Any], mode: int) -> Predictions:
        try:
            return self._state.run(features, labels, mode)
        except Stopped as stopped:
            raise LearnerFailed(
                stopped.index, stopped.phase, stopped.cause, stopped.said
            ) from stopped.cause
        except NOT_NUMBERS:
            if len(features) == 1:
                return self._by_river(features, labels, mode)
        # Halves, until the event that is none for a loop stands alone.
        middle = len(features) // 2
        said = self._run(features[:middle], labels[:middle], mode)
        try:
            rest = self._run(features[middle:], labels[middle:], mode)
        except LearnerFailed as failure:
            raise LearnerFailed(
                middle + failure.index,
                failure.phase,
                failure.cause,
                joined([said, failure.predictions]),
            ) from failure.cause
        return joined([said, rest])

    def _by_river(
        self, features: Sequence[Features], labels: Sequence[Any], mode: int
    ) -> Predictions:
        model = self.model
        river = RiverLearner(lambda: model, self._task)
        if mode == PREDICT:
            return river.predict(features)
        said = Predictions([])
        if mode == BOTH:
            said = river.predict_then_learn(features, labels)
        else:
            river.learn(features, labels)
        self._state = self._family_of(model)
        return said

    def react(self, signal: str) -> None:
        """Start over with a fresh model at a ``"reset"`` or ``"swap"``."""
        if signal in {"reset", "swap"}:
            self._state = self._family_of(copy.deepcopy(self._fresh))

    def dump(self) -> Tree:
        """The river model, as :class:`~stream_update.learners.river.RiverLearner` dumps it."""
        return objects.freeze(self._state.filled())

    def load(self, tree: Tree) -> None:
        """Take the model from a tree; the model of before stays if that fails.

        Raises :class:`~stream_update.errors.CorruptSnapshot`.
        """
        self._river.load(tree)
        try:
            self._state = self._family_of(self._river.model)
        except ConfigError as error:
            raise CorruptSnapshot(
                f"the snapshot holds what cannot be compiled: {error}",
                hint="it was made with another configuration of the learner",
            ) from error

    def fingerprint(self) -> str:
        """A digest of the fresh river model; raises as that of a river learner does.

        No version of numba is in it: each operation is the one that river does.
        """
        return hashlib.sha256(f"compiled {self._river.fingerprint()}".encode()).hexdigest()


def _compiler() -> Callable[[Any], Family]:
    try:
        module = importlib.import_module("stream_update.learners.compiled.families")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f'[learner] use = "compiled" needs the package {error.name}, which is not installed',
            hint="pip install 'stream-update[fast]'; who only predicts needs no numba",
        ) from error
    made: Callable[[Any], Family] = module.family_of
    return made
