"""One model's learning: blocks of events in, alarms and dead letters out.

A lane does no I/O and reads no clock. Its state is a function of its
configuration, its seed, and the sequence of events it was fed; in particular it
does not depend on how that sequence was cut into blocks, polls or checkpoints.
:meth:`Lane.freeze` gives all of it, :meth:`Lane.thaw` takes it back.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from stream_update.answers import joined
from stream_update.errors import BadEvent, CorruptSnapshot, LearnerFailed, StreamUpdateError
from stream_update.events import (
    Alarm,
    Block,
    DeadLetter,
    Outcomes,
    Predictions,
    Run,
    Tree,
    Unlabelled,
)
from stream_update.protocols import Learner, LearnsUnlabelled, Monitor

__all__ = ["Effects", "Lane", "PoisonEvent", "Stateful"]


class Stateful(Protocol):
    """Something besides learner and monitors whose state the future depends on."""

    def dump(self) -> Tree: ...

    def load(self, tree: Tree) -> None: ...


class Effects(NamedTuple):
    """What feeding a block said to the outside."""

    alarms: list[Alarm]
    dead_letters: list[DeadLetter]


class PoisonEvent(BadEvent):
    """The learner raised while learning an event and may be half changed.

    The lane is void: restore it, add the event to :attr:`Lane.poisoned`, feed again.
    """

    def __init__(self, partition: int, offset: int, cause: BaseException) -> None:
        super().__init__("learner-failed", f"{type(cause).__name__}: {cause}")
        self.partition = partition
        self.offset = offset


class _Waiting(NamedTuple):
    """The half-filled mini-batch: events read, not yet predicted or learned."""

    partitions: list[int]
    offsets: list[int]
    features: list[Any]
    labels: list[Any]
    times: list[int | None]


class _WaitingUnlabelled(NamedTuple):
    """The same of events without a label."""

    partitions: list[int]
    offsets: list[int]
    features: list[Any]


class Lane:
    """The learning of one model over the partitions in ``start``.

    ``start`` maps each partition to the first offset. ``extras`` are further parts
    whose state belongs to the lane (the label schema). ``taps`` are called with all
    outcomes and are not part of the state (stop conditions, live views).
    """

    def __init__(
        self,
        learner: Learner,
        monitors: Sequence[Monitor],
        start: Mapping[int, int],
        *,
        extras: Mapping[str, Stateful] | None = None,
    ) -> None:
        self.learner = learner
        self.monitors = list(monitors)
        self.next = dict(start)
        self.taps: list[Callable[[Outcomes], None]] = []
        self.poisoned: dict[tuple[int, int], str] = {}
        self.events = 0
        self.learned = 0
        self.rejected = 0
        self.unlabelled = 0
        self.duplicates = 0
        self.event_time: int | None = None
        self.runs: list[Run] = []
        self._extras = dict(extras or {})
        self._waiting = _Waiting([], [], [], [], [])
        self._unlabelled = _WaitingUnlabelled([], [], [])
        self._unlabelled_batch = (
            learner.unlabelled_batch if isinstance(learner, LearnsUnlabelled) else 0
        )
        self._plain = [monitor for monitor in self.monitors if not monitor.reactive]
        self._reactive = [monitor for monitor in self.monitors if monitor.reactive]

    def feed(self, block: Block) -> Effects:
        """Learn a block; the next offset of its partition moves to the block's end.

        Raises :class:`PoisonEvent` if the learner broke; the lane is void then.
        """
        effects = Effects([], list(block.dead_letters))
        if self.poisoned:
            block = self._without_poison(block, effects)
        if self._unlabelled_batch and block.without_labels is not None:
            self._feed_in_turn(block, block.without_labels, effects)
        elif block.features:
            self._feed_labelled(block, effects)
        if block.features:
            time = block.time_of(len(block.features) - 1)
            if time is not None:
                self.event_time = time
        self.events += block.count
        self.unlabelled += block.unlabelled
        self.duplicates += block.duplicates
        self.rejected += len(effects.dead_letters)
        self.next[block.partition] = block.next_offset
        self._note_run(block)
        return effects

    def _feed_labelled(self, block: Block, effects: Effects) -> None:
        if self.learner.batch > 1:
            self._feed_batches(block, effects)
        elif self._reactive:
            self._feed_one_by_one(block, effects)
        else:
            self._feed_block(block, effects)

    def _feed_in_turn(self, block: Block, others: Unlabelled, effects: Effects) -> None:
        """Events with and without a label, in the order of the log."""
        start = 0
        for offset, features in zip(others.offsets, others.features, strict=True):
            stop = bisect_left(block.offsets, offset, start)
            if stop > start:
                self._feed_labelled(_chosen(block, range(start, stop)), effects)
            start = stop
            waiting = self._unlabelled
            waiting.partitions.append(block.partition)
            waiting.offsets.append(offset)
            waiting.features.append(features)
            if len(waiting.offsets) == self._unlabelled_batch:
                self._learn_unlabelled()
        if start < len(block.offsets):
            self._feed_labelled(_chosen(block, range(start, len(block.offsets))), effects)

    def _learn_unlabelled(self) -> None:
        assert isinstance(self.learner, LearnsUnlabelled)
        waiting, self._unlabelled = self._unlabelled, _WaitingUnlabelled([], [], [])
        try:
            self.learner.learn_unlabelled(waiting.features)
        except LearnerFailed as failure:
            raise PoisonEvent(
                waiting.partitions[failure.index], waiting.offsets[failure.index], failure.cause
            ) from failure.cause

    def _feed_block(self, block: Block, effects: Effects) -> None:
        """Nothing reacts to a single outcome, so the learner runs through the block."""
        start, total = 0, len(block.features)
        while start < total:
            features, labels = block.features, block.labels
            if start:
                features, labels = features[start:], labels[start:]
            failure: LearnerFailed | None = None
            try:
                predictions = self.learner.predict_then_learn(features, labels)
                stop = total
            except LearnerFailed as error:
                failure, predictions = error, error.predictions
                stop = start + error.index
            if failure is not None and failure.phase == "learn":
                raise PoisonEvent(
                    block.partition, block.offsets[stop], failure.cause
                ) from failure.cause
            outcomes = _outcomes(block, start, stop, predictions)
            self._observe(self._plain, outcomes, effects)
            self._tap(outcomes)
            self.learned += stop - start
            if failure is not None:
                effects.dead_letters.append(_letter(block, stop, failure))
                stop += 1
            start = stop

    def _feed_one_by_one(self, block: Block, effects: Effects) -> None:
        """A monitor may tell the learner something before it learns the next event.

        The others observe all of them at the end, which is as good and takes less.
        """
        answers: list[Predictions] = []
        unusable: list[int] = []
        for index, (features, label) in enumerate(zip(block.features, block.labels, strict=True)):
            try:
                predictions = self.learner.predict([features])
            except LearnerFailed as failure:
                effects.dead_letters.append(_letter(block, index, failure))
                unusable.append(index)
                continue
            answers.append(predictions)
            self._observe(self._reactive, _outcomes(block, index, index + 1, predictions), effects)
            try:
                self.learner.learn([features], [label])
            except LearnerFailed as failure:
                raise PoisonEvent(
                    block.partition, block.offsets[index], failure.cause
                ) from failure.cause
        if unusable:
            dropped = set(unusable)
            block = _chosen(block, [i for i in range(len(block.offsets)) if i not in dropped])
        for start, stop in _segments([answer.probabilities is None for answer in answers]):
            outcomes = _outcomes(block, start, stop, joined(answers[start:stop]))
            self._observe(self._plain, outcomes, effects)
            self._tap(outcomes)
        self.learned += len(answers)

    def _feed_batches(self, block: Block, effects: Effects) -> None:
        """Mini-batches are cut by count; what is left over waits for the next block."""
        start, total = 0, len(block.features)
        while start < total:
            waiting = self._waiting
            stop = min(total, start + self.learner.batch - len(waiting.offsets))
            if stop - start == self.learner.batch:
                self._learn_whole(block, start, stop, effects)
                start = stop
                continue
            waiting.partitions.extend([block.partition] * (stop - start))
            waiting.offsets.extend(block.offsets[start:stop])
            waiting.features.extend(block.features[start:stop])
            waiting.labels.extend(block.labels[start:stop])
            waiting.times.extend(map(block.time_of, range(start, stop)))
            if len(waiting.offsets) == self.learner.batch:
                self._learn_batch(effects)
            start = stop

    def _learn_whole(self, block: Block, start: int, stop: int, effects: Effects) -> None:
        """A mini-batch that lies within one block, so nothing of it has to wait."""
        features = block.features[start:stop]
        try:
            outcomes = _outcomes(block, start, stop, self.learner.predict(features))
            self._observe(self.monitors, outcomes, effects)
            self._tap(outcomes)
            self.learner.learn(features, block.labels[start:stop])
        except LearnerFailed as failure:
            raise PoisonEvent(
                block.partition, block.offsets[start + failure.index], failure.cause
            ) from failure.cause
        self.learned += stop - start

    def _learn_batch(self, effects: Effects) -> None:
        waiting, self._waiting = self._waiting, _Waiting([], [], [], [], [])
        try:
            predictions = self.learner.predict(waiting.features)
            for start, stop in _segments(waiting.partitions):
                outcomes = Outcomes(
                    waiting.partitions[start],
                    waiting.offsets[start:stop],
                    waiting.labels[start:stop],
                    _cut(predictions, start, stop),
                    waiting.times[start:stop].__getitem__,
                )
                self._observe(self.monitors, outcomes, effects)
                self._tap(outcomes)
            self.learner.learn(waiting.features, waiting.labels)
        except LearnerFailed as failure:
            raise PoisonEvent(
                waiting.partitions[failure.index], waiting.offsets[failure.index], failure.cause
            ) from failure.cause
        self.learned += len(waiting.offsets)

    def _observe(self, monitors: Iterable[Monitor], outcomes: Outcomes, effects: Effects) -> None:
        if not outcomes.offsets:
            return
        for monitor in monitors:
            for alarm in monitor.observe(outcomes):
                if alarm.signal:
                    self.learner.react(alarm.signal)
                if alarm.kind != "warning":
                    effects.alarms.append(alarm)

    def _tap(self, outcomes: Outcomes) -> None:
        if outcomes.offsets:
            for tap in self.taps:
                tap(outcomes)

    def _without_poison(self, block: Block, effects: Effects) -> Block:
        others = block.without_labels
        if others is not None:
            block = self._without_unlabelled_poison(block, others, effects)
        keep = self._sound(block.partition, block.offsets, block.letter_of, effects)
        if len(keep) == len(block.offsets):
            return block
        return _chosen(block, keep)

    def _without_unlabelled_poison(
        self, block: Block, others: Unlabelled, effects: Effects
    ) -> Block:
        keep = self._sound(block.partition, others.offsets, others.letter_of, effects)
        kept = Unlabelled(
            [others.offsets[i] for i in keep],
            [others.features[i] for i in keep],
            lambda i, reason, detail: others.letter_of(keep[i], reason, detail),
        )
        return block._replace(unlabelled=len(keep), without_labels=kept)

    def _sound(
        self,
        partition: int,
        offsets: Sequence[int],
        letter_of: Callable[[int, str, str], DeadLetter],
        effects: Effects,
    ) -> list[int]:
        """The places of those that are no poison; the others become dead letters."""
        keep = []
        for index, offset in enumerate(offsets):
            detail = self.poisoned.get((partition, offset))
            if detail is None:
                keep.append(index)
            else:
                effects.dead_letters.append(letter_of(index, "learner-failed", detail))
        return keep

    def _note_run(self, block: Block) -> None:
        if not block.count:
            return
        if self.runs and self.runs[-1].partition == block.partition:
            last = self.runs[-1]
            self.runs[-1] = last._replace(count=last.count + block.count)
        else:
            self.runs.append(Run(block.partition, block.first_offset, block.count))

    def monitor(self, name: str) -> Monitor:
        """The monitor of that name."""
        for monitor in self.monitors:
            if monitor.name == name:
                return monitor
        raise KeyError(name)

    def freeze(self) -> dict[str, Tree]:
        """All that the future depends on, as plain values."""
        waiting = self._waiting._replace(labels=list(map(_stored, self._waiting.labels)))
        state = {
            "learner": self.learner.dump(),
            "monitors": {monitor.name: monitor.dump() for monitor in self.monitors},
            "extras": {name: part.dump() for name, part in self._extras.items()},
            "next": {str(partition): offset for partition, offset in sorted(self.next.items())},
            "events": self.events,
            "learned": self.learned,
            "rejected": self.rejected,
            "unlabelled": self.unlabelled,
            "duplicates": self.duplicates,
            "event_time": self.event_time,
            "waiting": [list(column) for column in waiting],
        }
        if self._unlabelled_batch:
            state["waiting_unlabelled"] = [list(column) for column in self._unlabelled]
        return state

    def thaw(self, state: Tree) -> None:
        """Take back what :meth:`freeze` gave; raises :class:`CorruptSnapshot`."""
        try:
            self.learner.load(state["learner"])
            for monitor in self.monitors:
                monitor.load(state["monitors"][monitor.name])
            for name, part in self._extras.items():
                part.load(state["extras"][name])
            self.next = {int(partition): offset for partition, offset in state["next"].items()}
            self.events = state["events"]
            self.learned = state["learned"]
            self.rejected = state["rejected"]
            self.unlabelled = state["unlabelled"]
            self.duplicates = state["duplicates"]
            self.event_time = state["event_time"]
            waiting = _Waiting(*(list(column) for column in state["waiting"]))
            self._waiting = waiting._replace(labels=list(map(_label, waiting.labels)))
            if self._unlabelled_batch:
                self._unlabelled = _WaitingUnlabelled(
                    *(list(column) for column in state["waiting_unlabelled"])
                )
        except StreamUpdateError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise CorruptSnapshot(
                f"the state of a snapshot does not fit the lane: {error!r}",
                hint="rebuild by replay under a new lineage",
            ) from error
        self.runs.clear()


def _stored(label: Any) -> Tree:
    """A label as a tree holds it: a mapping may have keys that are no texts."""
    return list(map(list, label.items())) if isinstance(label, Mapping) else label


def _label(stored: Tree) -> Any:
    return dict(stored) if isinstance(stored, list) else stored


def _outcomes(block: Block, start: int, stop: int, predictions: Predictions) -> Outcomes:
    if start == 0 and stop == len(block.offsets):
        return Outcomes(block.partition, block.offsets, block.labels, predictions, block.time_of)
    return Outcomes(
        block.partition,
        block.offsets[start:stop],
        block.labels[start:stop],
        predictions,
        lambda index: block.time_of(start + index),
    )


def _chosen(block: Block, indices: Sequence[int]) -> Block:
    """The block with only these of its labelled events."""
    return block._replace(
        offsets=[block.offsets[i] for i in indices],
        features=[block.features[i] for i in indices],
        labels=[block.labels[i] for i in indices],
        time_of=lambda i: block.time_of(indices[i]),
        letter_of=lambda i, reason, detail: block.letter_of(indices[i], reason, detail),
    )


def _letter(block: Block, index: int, failure: LearnerFailed) -> DeadLetter:
    detail = f"{type(failure.cause).__name__}: {failure.cause}"
    return block.letter_of(index, "learner-failed", detail)


def _cut(predictions: Predictions, start: int, stop: int) -> Predictions:
    values, probabilities = predictions
    return Predictions(
        values[start:stop], None if probabilities is None else probabilities[start:stop]
    )


def _segments(column: Sequence[int]) -> Iterable[tuple[int, int]]:
    """Stretches of equal values, as (start, stop)."""
    start = 0
    for index in range(1, len(column) + 1):
        if index == len(column) or column[index] != column[start]:
            yield start, index
            start = index
