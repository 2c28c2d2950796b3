from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_update.errors import LearnerFailed
from stream_update.events import Features, Predictions, Tree
from stream_update.protocols import Learner
from stream_update.wraps import BackgroundTwin
from tests.streams import through_bytes


class Diary:
    """A learner that remembers what it learned and predicts how many events that is.

    It fails to predict events with ``bad_predict`` and to learn those with ``bad_learn``
    if that names its number (or any learner's, if it is 0).
    """

    def __init__(self, number: int, batch: int = 1) -> None:
        self.number = number
        self.batch = batch
        self.labels: list[Any] = []
        self.signals: list[str] = []

    def predict(self, features: Sequence[Features]) -> Predictions:
        count = len(self.labels)
        return Predictions([count] * len(features), [{count: 1.0}] * len(features))

    def learn(self, features: Sequence[Features], labels: Sequence[Any]) -> None:
        for index, (event, label) in enumerate(zip(features, labels, strict=True)):
            if event.get("bad_learn") in {0, self.number}:
                cause = ValueError(f"{self.number} cannot learn")
                raise LearnerFailed(index, "learn", cause, Predictions([]))
            self.labels.append(label)

    def predict_then_learn(
        self, features: Sequence[Features], labels: Sequence[Any]
    ) -> Predictions:
        values: list[Any] = []
        for index, (event, label) in enumerate(zip(features, labels, strict=True)):
            made = Predictions(values, [{value: 1.0} for value in values])
            if event.get("bad_predict") in {0, self.number}:
                raise LearnerFailed(index, "predict", ValueError("cannot predict"), made)
            values.append(len(self.labels))
            try:
                self.learn([event], [label])
            except LearnerFailed as failure:
                made = Predictions(values, [{value: 1.0} for value in values])
                raise LearnerFailed(index, "learn", failure.cause, made) from failure.cause
        return Predictions(values, [{value: 1.0} for value in values])

    def react(self, signal: str) -> None:
        self.signals.append(signal)

    def dump(self) -> Tree:
        return {"labels": list(self.labels), "number": self.number}

    def load(self, tree: Tree) -> None:
        self.labels, self.number = tree["labels"], tree["number"]


class Library:
    """Makes diaries, numbered from 1."""

    def __init__(self, batch: int = 1) -> None:
        self.made: list[Diary] = []
        self.batch = batch

    def __call__(self) -> Diary:
        self.made.append(Diary(len(self.made) + 1, self.batch))
        return self.made[-1]


def events(count: int, **marked: tuple[int, int]) -> list[Features]:
    """``bad_learn=(2, 1)``: learner 1 cannot learn event 2."""
    made: list[Features] = [{"x": float(index)} for index in range(count)]
    for name, (index, number) in marked.items():
        made[index][name] = number
    return made


def test_it_is_a_learner_with_the_batch_of_the_one_it_holds() -> None:
    twin = BackgroundTwin(Library(batch=32))

    assert isinstance(twin, Learner)
    assert twin.batch == 32


def test_without_a_warning_there_is_one_learner() -> None:
    library = Library()
    twin = BackgroundTwin(library)

    answers = twin.predict_then_learn(events(4), list("abcd"))

    assert answers == Predictions([0, 1, 2, 3], [{0: 1.0}, {1: 1.0}, {2: 1.0}, {3: 1.0}])
    assert len(library.made) == 1
    assert not twin.warming


@pytest.mark.parametrize("one_by_one", [True, False])
def test_after_a_warning_both_learn_and_the_old_one_predicts(one_by_one: bool) -> None:
    library = Library()
    twin = BackgroundTwin(library)
    twin.learn(events(5), list("abcde"))
    twin.react("warning")
    if one_by_one:
        answers = twin.predict_then_learn(events(3), list("xyz"))
    else:
        answers = twin.predict(events(3))
        twin.learn(events(3), list("xyz"))

    assert answers.values == ([5, 6, 7] if one_by_one else [5, 5, 5])
    assert len(answers.probabilities or ()) == 3
    assert library.made[0].labels == list("abcdexyz")
    assert library.made[1].labels == list("xyz")


def test_a_swap_puts_the_warm_one_in_its_place() -> None:
    library = Library()
    twin = BackgroundTwin(library)
    twin.react("warning")
    twin.learn(events(3), list("xyz"))
    twin.react("swap")
    twin.learn(events(1), ["w"])

    assert twin.predict(events(1)).values == [4]
    assert library.made[0].labels == list("xyz")
    assert library.made[1].labels == list("xyzw")
    assert not twin.warming


def test_a_swap_without_a_warning_starts_afresh() -> None:
    twin = BackgroundTwin(Library())
    twin.learn(events(3), list("xyz"))
    twin.react("swap")

    assert twin.predict(events(1)).values == [0]


def test_a_reset_starts_afresh_and_drops_the_background() -> None:
    twin = BackgroundTwin(Library())
    twin.react("warning")
    twin.learn(events(3), list("xyz"))
    twin.react("reset")

    assert twin.predict(events(1)).values == [0]
    assert not twin.warming


def test_a_warning_replaces_a_stale_background_and_keeps_a_young_one() -> None:
    library = Library()
    twin = BackgroundTwin(library, stale_after=4)
    twin.react("warning")
    twin.learn(events(3), list("abc"))
    twin.react("warning")
    twin.learn(events(1), ["d"])
    assert library.made[1].labels == list("abcd")

    twin.react("warning")
    twin.learn(events(1), ["e"])
    twin.react("swap")

    assert len(library.made) == 3
    assert twin.predict(events(1)).values == [1]


def test_other_signals_go_to_the_learner_that_predicts() -> None:
    library = Library()
    twin = BackgroundTwin(library)
    twin.react("warning")
    twin.react("slow-down")

    assert [diary.signals for diary in library.made] == [["slow-down"], []]


class TestFailures:
    @pytest.mark.parametrize(
        ("mark", "number", "phase", "predicted"),
        [
            ("bad_predict", 1, "predict", 2),
            ("bad_learn", 1, "learn", 3),
            ("bad_learn", 2, "learn", 3),
        ],
    )
    def test_both_have_learned_what_came_before(
        self, mark: str, number: int, phase: str, predicted: int
    ) -> None:
        library = Library()
        twin = BackgroundTwin(library)
        twin.react("warning")

        with pytest.raises(LearnerFailed) as caught:
            twin.predict_then_learn(events(5, **{mark: (2, number)}), list("abcde"))

        failure = caught.value
        assert (failure.index, failure.phase) == (2, phase)
        assert isinstance(failure.cause, ValueError)
        assert failure.predictions.values == list(range(predicted))
        assert len(failure.predictions.probabilities or ()) == predicted
        assert library.made[1].labels == ["a", "b"]
        assert library.made[0].labels[:2] == ["a", "b"]
        assert "d" not in library.made[0].labels

    def test_at_the_first_event_there_are_no_predictions(self) -> None:
        twin = BackgroundTwin(Library())
        twin.react("warning")

        with pytest.raises(LearnerFailed) as caught:
            twin.predict_then_learn(events(1, bad_predict=(0, 0)), ["a"])

        assert (caught.value.index, caught.value.predictions.values) == (0, [])

    def test_a_background_that_cannot_learn_a_batch_is_a_failure_too(self) -> None:
        twin = BackgroundTwin(Library(batch=3))
        twin.react("warning")

        with pytest.raises(LearnerFailed, match="2 cannot learn") as caught:
            twin.learn(events(3, bad_learn=(1, 2)), list("abc"))
        assert caught.value.index == 1


@given(
    st.lists(
        st.one_of(st.integers(1, 4), st.sampled_from(["warning", "swap", "reset", "other"])),
        max_size=20,
    ),
    st.sets(st.integers(0, 20)),
    st.booleans(),
)
def test_the_state_survives_and_blocks_do_not_matter(
    script: list[int | str], restarts: set[int], one_by_one: bool
) -> None:
    def run(*, restart: bool, size: int | None) -> tuple[list[Any], Tree]:
        twin, values = BackgroundTwin(Library(), stale_after=5), []
        for step, action in enumerate(script):
            if isinstance(action, str):
                twin.react(action)
            else:
                for start in range(0, action, size or action):
                    features = events(min(size or action, action - start))
                    values += twin.predict_then_learn(features, [step] * len(features)).values
            if restart and step in restarts:
                tree = through_bytes(twin.dump())
                twin = BackgroundTwin(Library(), stale_after=5)
                twin.load(tree)
        return values, [
            tree and tree["labels"] for tree in map(twin.dump().get, ("active", "background"))
        ]

    assert run(restart=True, size=1 if one_by_one else None) == run(restart=False, size=None)
