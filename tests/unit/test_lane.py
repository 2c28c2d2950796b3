"""A lane's state is a function of its events and not of how they were cut."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_update.errors import LearnerFailed
from stream_update.events import (
    Alarm,
    Block,
    DeadLetter,
    Outcomes,
    Predictions,
    Run,
    Unlabelled,
)
from stream_update.lane import Lane, PoisonEvent


class Sums:
    """Predicts the sum of what it has learned; a "bad" feature breaks one phase."""

    def __init__(self, batch: int = 1) -> None:
        self.batch = batch
        self.total = 0.0
        self.steps = 0

    def predict(self, features: Sequence[dict[str, Any]]) -> Predictions:
        values: list[float] = []
        for index, x in enumerate(features):
            if x.get("bad") == "predict":
                raise LearnerFailed(index, "predict", ValueError("no"), Predictions(values))
            values.append(self.total)
        return Predictions(values)

    def learn(self, features: Sequence[dict[str, Any]], labels: Sequence[Any]) -> None:
        self.steps += 1
        for index, (x, y) in enumerate(zip(features, labels, strict=True)):
            self.total += y
            if x.get("bad") == "learn":
                raise LearnerFailed(index, "learn", ValueError("half way"), Predictions([]))

    def predict_then_learn(
        self, features: Sequence[dict[str, Any]], labels: Sequence[Any]
    ) -> Predictions:
        values: list[Any] = []
        for index, (x, y) in enumerate(zip(features, labels, strict=True)):
            for phase in ("predict", "learn"):
                try:
                    if phase == "predict":
                        values += self.predict([x]).values
                    else:
                        self.learn([x], [y])
                except LearnerFailed as error:
                    raise LearnerFailed(index, phase, error.cause, Predictions(values)) from None
        return Predictions(values)

    def react(self, signal: str) -> None:
        if signal == "reset":
            self.total = 0.0

    def dump(self) -> Any:
        return [self.total, self.steps]

    def load(self, tree: Any) -> None:
        self.total, self.steps = tree


class Notes:
    """Remembers every outcome; asks for a reset after each ``every`` of them."""

    name = "notes"

    def __init__(self, every: int = 0) -> None:
        self.reactive = every > 0
        self.every = every
        self.seen: list[tuple[int, int, Any, Any]] = []

    def observe(self, outcomes: Outcomes) -> list[Alarm]:
        alarms = []
        for row in zip(outcomes.offsets, outcomes.labels, outcomes.predictions.values, strict=True):
            self.seen.append((outcomes.partition, *row))
            if self.every and len(self.seen) % self.every == 0:
                where = (outcomes.partition, row[0], None, len(self.seen))
                alarms.append(Alarm("drift", "notes", "n", *where, 0, 1, 1, "worse", "reset"))
        return alarms

    def report(self) -> dict[str, Any]:
        return {}

    def dump(self) -> Any:
        return [list(row) for row in self.seen]

    def load(self, tree: Any) -> None:
        self.seen = [(row[0], row[1], row[2], row[3]) for row in tree]


def block(
    first: int, labels: Sequence[float], partition: int = 0, bad: dict[int, str] | None = None
) -> Block:
    offsets = list(range(first, first + len(labels)))
    return Block(
        partition,
        first,
        first + len(labels),
        len(labels),
        offsets,
        [{"x": 1.0, **({"bad": bad[o]} if bad and o in bad else {})} for o in offsets],
        list(labels),
        0,
        [],
        lambda index: offsets[index],
        lambda index, reason, detail: DeadLetter(
            partition, offsets[index], reason, detail, None, None, None
        ),
    )


def lane(batch: int = 1, every: int = 0) -> tuple[Lane, Notes]:
    notes = Notes(every)
    return Lane(Sums(batch), [notes], {0: 0, 1: 0}), notes


labels = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=30)
cuts = st.lists(st.integers(0, 30), max_size=6)


@given(labels, cuts, st.sampled_from([1, 3, 4]), st.sampled_from([0, 2]), st.integers(0, 30))
def test_cuts_and_restores_change_nothing(
    ys: list[float], at: list[int], batch: int, every: int, restore_at: int
) -> None:
    whole, expected = lane(batch, every)
    whole.feed(block(0, ys))
    cut, notes = lane(batch, every)
    edges = sorted({0, len(ys), *(c for c in at if c < len(ys))})
    for start, stop in pairwise(edges):
        cut.feed(block(start, ys[start:stop]))
        if stop >= restore_at:
            state = cut.freeze()
            cut, notes = lane(batch, every)
            cut.thaw(state)
    assert notes.seen == expected.seen
    assert cut.freeze() == whole.freeze()
    assert len(notes.seen) == len(ys) - len(ys) % batch
    assert cut.next[0] == len(ys)


def test_an_event_that_cannot_be_predicted_is_set_aside() -> None:
    for every in (0, 100):
        one, notes = lane(every=every)
        effects = one.feed(block(0, [1.0, 2.0, 3.0], bad={1: "predict"}))
        assert [(d.offset, d.reason) for d in effects.dead_letters] == [(1, "learner-failed")]
        assert [row[1] for row in notes.seen] == [0, 2]
        assert (one.events, one.learned, one.rejected) == (3, 2, 1)
        assert isinstance(one.learner, Sums)
        assert one.learner.total == 4.0


def test_an_event_that_breaks_learning_is_poison() -> None:
    for batch, every in ((1, 0), (1, 100), (3, 0)):
        one, _ = lane(batch, every)
        with pytest.raises(PoisonEvent) as caught:
            one.feed(block(0, [1.0, 2.0, 3.0], bad={1: "learn"}))
        assert (caught.value.partition, caught.value.offset) == (0, 1)
        again, notes = lane(1, every)
        again.poisoned[0, 1] = "half way"
        effects = again.feed(block(0, [1.0, 2.0, 3.0], bad={1: "learn"}))
        assert [d.detail for d in effects.dead_letters] == ["half way"]
        assert [row[1] for row in notes.seen] == [0, 2]


def test_a_mini_batch_over_partitions_keeps_them_apart() -> None:
    one, notes = lane(batch=4)
    one.feed(block(0, [1.0, 1.0, 1.0], partition=0))
    one.feed(block(0, [1.0], partition=1))
    assert [(row[0], row[1]) for row in notes.seen] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert one.runs == [Run(0, 0, 3), Run(1, 0, 1)]


def test_runs_of_one_partition_are_joined() -> None:
    one, _ = lane()
    for first in (0, 2):
        one.feed(block(first, [1.0, 1.0]))
    one.feed(block(0, [1.0], partition=1))
    assert one.runs == [Run(0, 0, 4), Run(1, 0, 1)]


class Order(Sums):
    """Learns from features alone too, and remembers the order in which it learned."""

    def __init__(self, batch: int = 1, unlabelled_batch: int = 1) -> None:
        super().__init__(batch)
        self.unlabelled_batch = unlabelled_batch
        self.order: list[str] = []

    def learn(self, features: Sequence[dict[str, Any]], labels: Sequence[Any]) -> None:
        super().learn(features, labels)
        self.order += [x["name"] for x in features]

    def learn_unlabelled(self, features: Sequence[dict[str, Any]]) -> None:
        for index, x in enumerate(features):
            if x.get("bad"):
                raise LearnerFailed(index, "learn", ValueError("no"), Predictions([]))
        self.order.append("+".join(x["name"] for x in features))

    def dump(self) -> Any:
        return [super().dump(), list(self.order)]

    def load(self, tree: Any) -> None:
        super().load(tree[0])
        self.order = list(tree[1])


def mixed(first: int, kinds: str, bad: Sequence[int] = ()) -> Block:
    """Labelled events for ``L``, others for ``-``, named by their offsets."""
    labelled = [first + i for i, kind in enumerate(kinds) if kind == "L"]
    others = [first + i for i, kind in enumerate(kinds) if kind == "-"]

    def letters(offsets: Sequence[int]) -> Any:
        return lambda i, reason, detail: DeadLetter(0, offsets[i], reason, detail, None, None, None)

    return Block(
        0, first, first + len(kinds), len(kinds), labelled,
        [{"name": f"L{offset}"} for offset in labelled], [1.0] * len(labelled), len(others), [],
        lambda index: labelled[index], letters(labelled), 0,
        Unlabelled(
            others,
            [{"name": f"-{offset}", "bad": offset in bad} for offset in others],
            letters(others),
        ),
    )  # fmt: skip


@given(
    st.text("L-", min_size=1, max_size=30),
    cuts,
    st.sampled_from([1, 3]),
    st.sampled_from([1, 2]),
    st.sampled_from([0, 3]),
)
def test_events_without_labels_are_learned_where_they_stand(
    kinds: str, at: list[int], batch: int, together: int, every: int
) -> None:
    def made() -> Lane:
        return Lane(Order(batch, together), [Notes(every)], {0: 0})

    whole, cut = made(), made()
    whole.feed(mixed(0, kinds))
    for start, stop in pairwise(sorted({0, len(kinds), *(c for c in at if c < len(kinds))})):
        cut.feed(mixed(start, kinds[start:stop]))
        state = cut.freeze()
        cut = made()
        cut.thaw(state)
    assert cut.freeze() == whole.freeze()
    assert isinstance(whole.learner, Order)
    learned = [name for names in whole.learner.order for name in names.split("+")]
    assert [n for n in learned if n[0] == "-"] == [
        f"-{i}" for i in [i for i, kind in enumerate(kinds) if kind == "-"]
    ][: kinds.count("-") // together * together]
    if batch == together == 1:
        assert learned == [f"{kind}{i}" for i, kind in enumerate(kinds)]
    assert (whole.events, whole.unlabelled) == (len(kinds), kinds.count("-"))


def test_an_event_without_a_label_may_be_poison() -> None:
    one = Lane(Order(1, 2), [], {0: 0})
    with pytest.raises(PoisonEvent) as caught:
        one.feed(mixed(0, "L--L-", bad=[2]))
    assert (caught.value.partition, caught.value.offset) == (0, 2)
    again = Lane(Order(1, 2), [], {0: 0})
    again.poisoned[0, 2] = "no"
    effects = again.feed(mixed(0, "L--L-", bad=[2]))
    assert [(d.offset, d.reason) for d in effects.dead_letters] == [(2, "learner-failed")]
    assert (again.events, again.learned, again.rejected, again.unlabelled) == (5, 2, 1, 2)
    assert isinstance(again.learner, Order)
    assert again.learner.order == ["L0", "L3", "-1+-4"]


def test_who_does_not_ask_is_given_nothing_without_a_label() -> None:
    for learner in (Sums(), Order(unlabelled_batch=0)):
        one = Lane(learner, [], {0: 0})
        one.feed(mixed(0, "-L-"))
        assert (one.learned, one.unlabelled) == (1, 2)
        assert "waiting_unlabelled" not in one.freeze()
        assert learner.steps == 1


class Unsure(Sums):
    """Gives probabilities from its third answer on."""

    def predict(self, features: Sequence[dict[str, Any]]) -> Predictions:
        values = super().predict(features).values
        return Predictions(values, [{v: 1.0} for v in values] if self.steps > 1 else None)


def test_what_reacts_sees_each_event_and_the_others_the_same_events_at_once() -> None:
    reacting, watching = Notes(every=4), Notes()
    lane = Lane(Unsure(), [reacting, watching], {0: 0})
    told: list[tuple[int, bool]] = []
    lane.taps.append(lambda o: told.append((len(o.offsets), o.predictions.probabilities is None)))

    effects = lane.feed(block(0, [1, 2, 3, 4, 5, 6], bad={1: "predict"}))

    assert watching.seen == reacting.seen
    assert [(row[1], row[3]) for row in reacting.seen] == [(0, 0), (2, 1), (3, 4), (4, 8), (5, 5)]
    assert told == [(2, True), (3, False)]
    assert [letter.offset for letter in effects.dead_letters] == [1]
    assert [alarm.offset for alarm in effects.alarms] == [4]
    assert (lane.learned, lane.rejected) == (5, 1)
