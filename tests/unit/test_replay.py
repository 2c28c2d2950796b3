"""What is learned again, when, and what happens when that cannot be learned any more."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest

from stream_update.errors import ConfigError, CorruptSnapshot, LearnerFailed
from stream_update.events import Block, DeadLetter, Features, Predictions, Tree
from stream_update.lane import Lane, PoisonEvent
from stream_update.wraps import Replay
from tests.streams import through_bytes


class Diary:
    """A learner that writes down what it learns; ``refuses`` are labels that it cannot."""

    def __init__(self, batch: int = 1) -> None:
        self.batch = batch
        self.calls: list[list[Any]] = []
        self.refuses: set[Any] = set()
        self.signals: list[str] = []

    @property
    def learned(self) -> list[Any]:
        return [label for call in self.calls for label in call]

    def predict(self, features: Sequence[Features]) -> Predictions:
        return Predictions([len(self.calls)] * len(features))

    def learn(self, features: Sequence[Features], labels: Sequence[Any]) -> None:
        for index, (event, label) in enumerate(zip(features, labels, strict=True)):
            assert event["x"] == label
            if label in self.refuses:
                cause = ValueError(f"{label} is refused")
                raise LearnerFailed(index, "learn", cause, Predictions([]))
        self.calls.append(list(labels))

    def predict_then_learn(
        self, features: Sequence[Features], labels: Sequence[Any]
    ) -> Predictions:
        assert len(features) == 1
        if "unreadable" in features[0]:
            raise LearnerFailed(0, "predict", ValueError("unreadable"), Predictions([]))
        said = self.predict(features)
        try:
            self.learn(features, labels)
        except LearnerFailed as failure:
            raise LearnerFailed(0, "learn", failure.cause, said) from failure.cause
        return said

    def react(self, signal: str) -> None:
        self.signals.append(signal)

    def dump(self) -> Tree:
        return {"calls": self.calls}

    def load(self, tree: Tree) -> None:
        self.calls = tree["calls"]


def made(batch: int = 1, **options: Any) -> tuple[Replay, Diary]:
    diaries: list[Diary] = []

    def make() -> Diary:
        diaries.append(Diary(batch))
        return diaries[-1]

    return Replay(make, "multiclass", **options), diaries[0]


def events(*labels: Any) -> tuple[list[Features], list[Any]]:
    return [{"x": label} for label in labels], list(labels)


def test_after_each_new_event_come_old_ones() -> None:
    replay, diary = made(replays=2, seed=1)
    said = replay.predict_then_learn(*events(*range(50)))

    assert said.values == [0, *range(1, 148, 3)]
    assert diary.learned[0] == 0
    for new in range(1, 50):
        first, *again = diary.learned[3 * new - 2 : 3 * new + 1]
        assert first == new
        assert all(old < new for old in again)
    assert len(set(diary.learned)) == 50
    assert dict(replay.readable())["replayed"] == 98


def test_to_learn_is_the_same_as_to_predict_and_learn() -> None:
    one, first = made(seed=1)
    other, second = made(seed=1)
    one.predict_then_learn(*events(*range(30)))
    other.learn(*events(*range(12)))
    other.learn(*events(*range(12, 30)))

    assert first.learned == second.learned
    assert one.dump() == other.dump()


def test_a_batch_is_learned_together_with_as_many_old_events() -> None:
    replay, diary = made(batch=4)
    for start in range(0, 40, 4):
        replay.learn(*events(*range(start, start + 4)))

    assert [len(call) for call in diary.calls] == [4] + [8] * 9
    for number, call in enumerate(diary.calls):
        assert call[:4] == list(range(4 * number, 4 * number + 4))
        assert all(old < 4 * number for old in call[4:])


def test_what_is_replayed_is_what_was_learned_bit_by_bit() -> None:
    seen: list[Any] = []

    class Keeper(Diary):
        def learn(self, features: Sequence[Features], labels: Sequence[Any]) -> None:
            seen.append((features[0], labels[0]))

    replay = Replay(Keeper, "multiclass")
    event = {"a": 0.1, "b": 7, "c": True, "d": "ünï", "e": -0.0, "f": 1e300}
    replay.learn([event], ["y"])
    event["a"] = 5.0
    replay.learn([event], ["z"])

    assert repr(seen[2]) == repr(({**event, "a": 0.1}, "y"))


class TestFailures:
    def test_a_new_event_that_fails_is_named_by_its_place(self) -> None:
        replay, diary = made()
        diary.refuses.add(7)
        with pytest.raises(LearnerFailed) as caught:
            replay.predict_then_learn(*events(*range(5, 10)))
        assert (caught.value.index, caught.value.phase) == (2, "learn")
        assert caught.value.predictions.values == [0, 1, 3]

        replay, diary = made(batch=4)
        replay.learn(*events(0, 1, 2, 3))
        diary.refuses.add(6)
        with pytest.raises(LearnerFailed) as caught:
            replay.learn(*events(4, 5, 6, 7))
        assert caught.value.index == 2

    def test_an_event_that_cannot_be_predicted_changes_nothing(self) -> None:
        replay, _ = made()
        replay.predict_then_learn(*events(*range(5)))
        before = through_bytes(replay.dump())
        with pytest.raises(LearnerFailed) as caught:
            replay.predict_then_learn([{"x": 9, "unreadable": True}], [9])
        assert (caught.value.index, caught.value.phase) == (0, "predict")
        assert through_bytes(replay.dump()) == before

    @pytest.mark.parametrize("batch", [1, 4])
    def test_an_old_event_that_fails_is_dropped_and_no_new_one_is_blamed(
        self, batch: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        replay, diary = made(batch, replays=8, seed=2)
        replay.learn(*events(0, 1, 2, 3))
        diary.refuses = {1, 2}
        with caplog.at_level(logging.WARNING, "stream_update"):
            for start in range(4, 40, 4):
                replay.learn(*events(*range(start, start + 4)))

        figures = dict(replay.readable())
        assert figures["dropped"] == len(caplog.records) == 2
        assert "2 is refused" in caplog.text
        assert figures["buffer.events"] == 38
        assert set(diary.learned) == set(range(40))

    @pytest.mark.parametrize("batch", [1, 2])
    def test_an_event_that_no_snapshot_could_hold_is_a_failure(self, batch: int) -> None:
        replay, _ = made(batch)
        replay.learn(*events(0, 1))
        with pytest.raises(LearnerFailed) as caught:
            replay.learn([{"x": 2}, {"x": 3, "odd": object()}], [2, 3])
        assert (caught.value.index, caught.value.phase) == (1, "learn")
        assert "object" in str(caught.value)


def block(first: int, *labels: Any) -> Block:
    features, truth = events(*labels)
    offsets = list(range(first, first + len(labels)))
    return Block(
        0, first, first + len(labels), len(labels), offsets, features, truth, 0, [],
        lambda _: None,
        lambda i, reason, detail: DeadLetter(0, offsets[i], reason, detail, None, None, None),
    )  # fmt: skip


@pytest.mark.parametrize("batch", [1, 4])
def test_a_lane_sets_the_new_event_aside_that_fails_and_none_for_an_old_one(batch: int) -> None:
    replay, diary = made(batch, replays=4)
    lane = Lane(replay, [], {0: 0})
    lane.feed(block(0, 0, 1, 2, 3))
    diary.refuses = {1}
    assert lane.feed(block(4, *range(4, 24))).dead_letters == []
    assert (lane.learned, replay.dropped) == (24, 1)

    state = through_bytes(lane.freeze())
    diary.refuses = {25}
    with pytest.raises(PoisonEvent) as caught:
        lane.feed(block(24, 24, 25, 26, 27))
    assert caught.value.offset == 25

    lane.thaw(state)
    lane.poisoned[0, 25] = "refused"
    letters = lane.feed(block(24, 24, 25, 26, 27)).dead_letters
    assert [letter.offset for letter in letters] == [25]
    assert lane.freeze()["waiting"][1] == ([24, 26, 27] if batch == 4 else [])


def test_a_reset_empties_the_buffer_and_goes_to_the_learner() -> None:
    replay, diary = made()
    replay.learn(*events(*range(9)))
    replay.react("warning")
    assert dict(replay.readable())["buffer.events"] == 9
    replay.react("reset")
    assert dict(replay.readable())["buffer.events"] == 0
    assert diary.signals == ["warning", "reset"]
    replay.learn(*events(100))
    assert diary.learned[-1] == 100


def test_memory_is_bounded_in_events_and_bytes() -> None:
    replay, _ = made(max_events=20, max_bytes=300)
    for number in range(500):
        replay.learn([{"x": number, "text": "t" * (number % 60)}], [number])
        figures = dict(replay.readable())
        assert figures["buffer.events"] <= 20
        assert figures["buffer.bytes"] <= 300
    assert figures["buffer.bytes"] > 200


def test_a_state_of_other_options_is_refused_and_changes_nothing() -> None:
    replay, _ = made(max_events=5)
    replay.learn(*events(1, 2, 3))
    other, diary = made(max_events=6)
    with pytest.raises(CorruptSnapshot, match="a replay buffer of"):
        other.load(replay.dump())
    other.learn(*events(9))
    assert diary.learned == [9]


@pytest.mark.parametrize(
    ("task", "options", "words"),
    [
        ("regression", {"buffer": "class-balanced"}, "needs one class"),
        ("multilabel", {"buffer": "class-balanced"}, "needs one class"),
        ("binary", {"buffer": "ring"}, "there is no 'ring'"),
        ("binary", {"replays": 0}, "wrap.replays: 0"),
        ("binary", {"max_events": 1.5}, "wrap.max_events: 1.5"),
        ("binary", {"max_bytes": True}, "wrap.max_bytes: True"),
    ],
)
def test_options_that_make_no_sense(task: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Replay(Diary, task, **options)
