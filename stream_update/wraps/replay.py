"""Events of the past learned again beside new ones, against forgetting."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from stream_update.answers import in_turn
from stream_update.errors import ConfigError, CorruptSnapshot, LearnerFailed
from stream_update.events import Features, Predictions, Tree
from stream_update.protocols import Learner
from stream_update.wraps.buffers import BUFFERS, Buffer
from stream_update.wraps.draws import Draws
from stream_update.wraps.members import dump_in_a_copy
from stream_update.wraps.unlabelled import learn_unlabelled, unlabelled_batch

__all__ = ["Replay"]

logger = logging.getLogger(__name__)


class Replay:
    """A learner that learns ``replays`` events of a buffer with each batch of new ones.

    ``make`` builds the learner. Events come into the ``buffer`` after they have been learned:
    ``"reservoir"``, ``"class-balanced"`` (for one class an event) or ``"recency"``, see
    :mod:`stream_update.wraps.buffers`. It holds at most ``max_events``, and at most
    ``max_bytes`` of them as msgpack. ``replays`` is the learner's batch if it is left out.

    A learner of single events learns a new one and then the old ones, one by one. A learner
    of batches learns new and old ones as one batch, which is longer by ``replays``. Events
    are drawn with replacement. A reset or a swap empties the buffer too: what it holds is
    of a world that is gone.

    An old event that cannot be learned any more is logged, counted in ``dropped`` and taken
    out of the buffer; a batch is then learned without it. No new event is blamed for it.
    """

    def __init__(
        self,
        make: Callable[[], Learner],
        task: str,
        *,
        buffer: str = "reservoir",
        replays: int | None = None,
        max_events: int = 1000,
        max_bytes: int = 1 << 24,
        seed: int | None = None,
    ) -> None:
        if buffer not in BUFFERS:
            raise ConfigError(
                f"wrap.buffer: there is no {buffer!r}", hint=f"one of: {', '.join(BUFFERS)}"
            )
        if buffer == "class-balanced" and task in {"multilabel", "regression"}:
            raise ConfigError(
                f"wrap.buffer: class-balanced needs one class for each event, and the task is "
                f"{task}",
                hint="reservoir or recency",
            )
        self._make = make
        self._learner = make()
        self.batch = self._learner.batch
        self.dumps_in_a_copy = dump_in_a_copy([self._learner])
        self.unlabelled_batch = unlabelled_batch([self._learner])
        self._replays = self.batch if replays is None else replays
        for name, value in (
            ("replays", self._replays), ("max_events", max_events), ("max_bytes", max_bytes),
        ):  # fmt: skip
            if type(value) is not int or value < 1:
                raise ConfigError(f"wrap.{name}: {value!r} is no positive whole number")
        self._kind = buffer
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._draws = Draws(0 if seed is None else seed)
        self._buffer = self._empty()
        self.replayed = 0
        self.dropped = 0

    def _empty(self) -> Buffer:
        return BUFFERS[self._kind](self._max_events, self._max_bytes, self._draws)

    @property
    def learners(self) -> dict[str, Learner]:
        """The learner, as ``learner``."""
        return {"learner": self._learner}

    def readable(self) -> Iterator[tuple[str, int]]:
        """What is in the buffer, and what became of it."""
        yield "buffer.events", len(self._buffer)
        yield "buffer.bytes", self._buffer.size
        for label, count in self._buffer.counts():
            yield f"buffer[{label!r}]", count
        yield "replayed", self.replayed
        yield "dropped", self.dropped

    def predict(self, features: Sequence[Features]) -> Predictions:
        return self._learner.predict(features)

    def learn(self, features: Sequence[Features], labels: Sequence[Any]) -> None:
        if self.batch == 1:
            in_turn(self._learn_one, features, labels)
            return
        items = [_packed(i, x, y) for i, (x, y) in enumerate(zip(features, labels, strict=True))]
        self._learn_mixed(features, labels, self._drawn())
        for item, label in zip(items, labels, strict=True):
            self._buffer.add(item, label)

    def learn_unlabelled(self, features: Sequence[Features]) -> None:
        """Let the learner learn these; the buffer holds events with labels only."""
        learn_unlabelled([self._learner], features)

    def predict_then_learn(
        self, features: Sequence[Features], labels: Sequence[Any]
    ) -> Predictions:
        return in_turn(self._predict_then_learn_one, features, labels)

    def _predict_then_learn_one(self, event: Features, label: Any) -> Predictions:
        said = self._learner.predict_then_learn([event], [label])
        self._remember(event, label, said)
        return said

    def _learn_one(self, event: Features, label: Any) -> Predictions:
        self._learner.learn([event], [label])
        self._remember(event, label, Predictions([]))
        return Predictions([])

    def _remember(self, event: Features, label: Any, said: Predictions) -> None:
        """Learn some events of the buffer again, and offer it the one just learned."""
        item = _packed(0, event, label, said)
        waiting = self._drawn()
        while waiting:
            old = waiting.pop()
            features, truth = _unpacked(old)
            try:
                self._learner.learn([features], [truth])
            except LearnerFailed as failure:
                self._drop(old, failure)
                waiting = [other for other in waiting if other != old]
        self._buffer.add(item, label)

    def _learn_mixed(
        self, features: Sequence[Features], labels: Sequence[Any], old: list[bytes]
    ) -> None:
        while True:
            again = [_unpacked(item) for item in old]
            try:
                self._learner.learn(
                    [*features, *(event for event, _ in again)],
                    [*labels, *(label for _, label in again)],
                )
            except LearnerFailed as failure:
                if failure.index < len(features):
                    raise
                bad = old[failure.index - len(features)]
                self._drop(bad, failure)
                old = [item for item in old if item != bad]
            else:
                return

    def _drawn(self) -> list[bytes]:
        if not len(self._buffer):
            return []
        self.replayed += self._replays
        return [self._buffer.pick() for _ in range(self._replays)]

    def _drop(self, item: bytes, failure: LearnerFailed) -> None:
        logger.warning("an event of the replay buffer is dropped: %s", failure)
        self.dropped += 1
        self._buffer.discard(item)

    def react(self, signal: str) -> None:
        self._learner.react(signal)
        if signal in {"reset", "swap"}:
            self._buffer = self._empty()

    def dump(self) -> Tree:
        return {
            "settings": self._settings(),
            "learner": self._learner.dump(),
            "buffer": self._buffer.dump(),
            "draws": self._draws.state,
            "replayed": self.replayed,
            "dropped": self.dropped,
        }

    def _settings(self) -> Tree:
        return [self._kind, self._replays, self._max_events, self._max_bytes]

    @staticmethod
    def serving(tree: Tree) -> Tree:
        """The part of a dump that predicts: the state of the learner."""
        return tree["learner"]

    def load(self, tree: Tree) -> None:
        """Take everything from a tree; what was before stays if that fails.

        Raises :class:`~stream_update.errors.CorruptSnapshot`.
        """
        if tree["settings"] != self._settings():
            raise CorruptSnapshot(
                f"a replay buffer of {tree['settings']!r:.200}, not {self._settings()!r} "
                "(buffer, replays, max_events, max_bytes)",
                hint="it was made with another configuration of the wrap",
            )
        learner, draws = self._make(), Draws(tree["draws"])
        learner.load(tree["learner"])
        buffer = BUFFERS[self._kind](self._max_events, self._max_bytes, draws)
        buffer.load(tree["buffer"])
        self._learner, self._draws, self._buffer = learner, draws, buffer
        self.replayed, self.dropped = tree["replayed"], tree["dropped"]


def _packed(
    index: int,
    event: Features,
    label: Any,
    said: Predictions = Predictions([]),  # noqa: B008
) -> bytes:
    """An event as the buffer holds it; it cannot be learned if a snapshot could not hold it."""
    try:
        return msgspec.msgpack.encode((event, label))
    except (TypeError, ValueError, OverflowError) as error:
        raise LearnerFailed(index, "learn", error, said) from error


def _unpacked(item: bytes) -> tuple[Features, Any]:
    event, label = msgspec.msgpack.decode(item)
    return event, label
