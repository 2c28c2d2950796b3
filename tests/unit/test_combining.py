"""Opinions made one: against figures by hand, and against what theory promises."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_update.errors import ConfigError, CorruptSnapshot
from stream_update.events import Predictions
from stream_update.wraps.combining import Opinion, StackedClasses, Weighted, combiner, opinions
from tests.streams import through_bytes

SURE = {"a": 0.9, "b": 0.1}
UNSURE = {"b": 0.6, "a": 0.4}
NAN = math.nan


def test_what_members_say_becomes_opinions() -> None:
    assert opinions(Predictions(["x", None]), "multiclass") == [{"x": 1.0}, {}]
    assert opinions(Predictions(["a", "a"], [SURE, {"a": NAN}]), "multiclass") == [SURE, {}]
    assert opinions(Predictions([1, NAN, None, math.inf]), "regression") == [1.0, None, None, None]


def test_a_mean_is_of_those_who_say_something() -> None:
    mean = combiner("mean", "multiclass", 3)
    assert mean.combine([SURE, UNSURE, {}]) == pytest.approx({"a": 0.65, "b": 0.35})
    assert mean.combine([{}, {}, {}]) == {}
    numbers = combiner("mean", "regression", 3)
    assert numbers.combine([1.0, None, 4.0]) == 2.5
    assert numbers.combine([None, None, None]) is None


def test_a_vote_counts_labels_and_not_how_sure_they_are() -> None:
    vote = combiner("vote", "multiclass", 3)
    assert vote.combine([SURE, UNSURE, {"b": 0.51, "a": 0.49}]) == pytest.approx(
        {"a": 1 / 3, "b": 2 / 3}
    )
    assert vote.combine([SURE, {}, {}]) == {"a": 1.0}


def brier(said: Any, label: Any) -> float:
    loss: float = sum((p - (one == label)) ** 2 for one, p in said.items()) / 2
    return loss


def test_weights_are_the_exponentials_of_losses_that_are_forgotten() -> None:
    weighted = Weighted(2, half_life=10, rate=0.5)
    losses = [0.0, 0.0]
    for label in "abbab":
        for index, one in enumerate((SURE, UNSURE)):
            losses[index] = losses[index] * 0.5**0.1 + brier(one, label)
        weighted.learn([SURE, UNSURE], label)
    raw = [math.exp(-0.5 * loss) for loss in losses]
    assert weighted.weights == pytest.approx([one / sum(raw) for one in raw])
    first, second = weighted.weights
    assert weighted.combine([SURE, UNSURE]) == pytest.approx(
        {"a": 0.9 * first + 0.4 * second, "b": 0.1 * first + 0.6 * second}
    )


@settings(deadline=None)
@given(st.lists(st.sampled_from("ab"), min_size=1, max_size=300), st.integers(0, 2**32))
def test_the_regret_of_hedge_is_bounded(labels: list[str], seed: int) -> None:
    """Theorem 2.2 of Cesa-Bianchi and Lugosi: ln(N) / rate + n * rate / 8, for any labels."""
    chance = random.Random(seed)
    rate, members = 0.3, 4
    weighted = Weighted(members, half_life=1e9, rate=rate)
    own, suffered = [0.0] * members, 0.0
    for label in labels:
        said: list[Opinion] = []
        for _ in range(members):
            p = chance.random()
            said.append({"a": p, "b": 1 - p})
        suffered += brier(weighted.combine(said), label)
        own = [before + brier(one, label) for before, one in zip(own, said, strict=True)]
        weighted.learn(said, label)
    bound = math.log(members) / rate + len(labels) * rate / 8
    assert suffered - min(own) <= bound + 1e-6


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_weights_follow_who_is_good_now(task: str) -> None:
    chance = random.Random(1)
    weighted = Weighted(2, half_life=100, rate=None)
    for number in range(2000):
        good = 0 if number < 1000 else 1
        label: Any
        said: list[Opinion]
        if task == "binary":
            label = chance.random() < 0.5
            said = [{True: 0.5, False: 0.5}, {True: 0.5, False: 0.5}]
            said[good] = {label: 0.8, not label: 0.2}
        else:
            label = chance.gauss(1e6, 5e5)
            said = [label + chance.gauss(0, 1e5), label + chance.gauss(0, 1e5)]
            said[good] = label + chance.gauss(0, 1e4)
        weighted.learn(said, label)
        if number in {999, 1999}:
            assert weighted.weights[good] > 0.75


def test_who_says_nothing_is_charged_what_the_others_are() -> None:
    weighted = Weighted(3, half_life=100, rate=None)
    for _ in range(50):
        weighted.learn([SURE, {}, UNSURE], "a")
    first, silent, last = weighted.weights
    assert first > silent > last
    before = weighted.dump()
    weighted.learn([{}, {}, {}], "a")
    assert weighted.dump() == before


def test_stacking_goes_down_the_slope_of_the_log_loss() -> None:
    def loss(stacked: StackedClasses) -> float:
        return -math.log(stacked.combine([SURE, UNSURE])["b"])  # type: ignore[index]

    stacked = StackedClasses(2, rate=1e-6)
    stacked.learn([SURE, UNSURE], "b")
    tree = stacked.dump()
    start = [0.0, 0.5, 0.5]
    for label, *row in tree:
        for index in range(3):
            slopes = []
            for step in (1e-5, -1e-5):
                weights = list(start)
                weights[index] += step
                near = StackedClasses(2, None)
                near.load(
                    [[one, *(weights if one == label else start), *row[3:]] for one, *_ in tree]
                )
                slopes.append(loss(near))
            slope = (slopes[0] - slopes[1]) / 2e-5
            # AdaGrad's first step is the rate times the sign, and it keeps the square.
            assert row[3 + index] == pytest.approx(slope**2 + 1e-8, rel=1e-4)
            assert (row[index] - start[index]) * slope <= 0


def test_stacking_finds_out_who_lies_and_a_new_class() -> None:
    chance = random.Random(2)
    stacked, mean = combiner("stacking", "multiclass", 2), combiner("mean", "multiclass", 2)
    right = {"stacked": 0, "mean": 0}
    for number in range(3000):
        label = chance.choice("ab" if number < 1500 else "abc")
        wrong = {"a": "b", "b": "a", "c": "a"}[label]
        said: list[Opinion] = [
            {label: 0.6, wrong: 0.4},
            {wrong: 0.9, label: 0.1},
        ]
        if number > 2500:
            for name, one in (("stacked", stacked), ("mean", mean)):
                answer: Any = one.combine(said)
                assert sum(answer.values()) == pytest.approx(1)
                right[name] += max(answer, key=answer.get) == label
        stacked.learn(said, label)
    assert right["mean"] == 0
    assert right["stacked"] > 480


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e9])
def test_stacked_numbers_find_who_is_near_in_any_unit(unit: float) -> None:
    chance = random.Random(3)
    stacked = combiner("stacking", "regression", 3)
    errors = [0.0, 0.0]
    for number in range(4000):
        label = unit * (7 + chance.gauss(0, 1))
        said: list[Opinion] = [
            label + unit * chance.gauss(0, 0.05),
            label + unit * chance.gauss(0, 1),
            unit * chance.gauss(7, 1),
        ]
        if number > 3000:
            answer, best = stacked.combine(said), said[0]
            assert isinstance(answer, float)
            assert isinstance(best, float)
            errors[0] += abs(answer - label)
            errors[1] += abs(sum(one for one in said if isinstance(one, float)) / 3 - label)
        stacked.learn(said, label)
    assert errors[0] < 0.25 * errors[1]


@pytest.mark.parametrize("task", ["multiclass", "regression"])
@pytest.mark.parametrize("name", ["mean", "weighted", "stacking"])
def test_it_survives_and_to_combine_changes_nothing(name: str, task: str) -> None:
    chance = random.Random(4)
    one, other = combiner(name, task, 2), combiner(name, task, 2)
    for number in range(200):
        said: list[Opinion]
        if task == "regression":
            label: Any = chance.random()
            said = [chance.random(), None if number % 9 == 4 else chance.random()]
        else:
            label = chance.choice("ab")
            said = [{"a": chance.random()}, {} if number % 9 == 4 else {"b": chance.random()}]
        for _ in range(2):
            assert one.combine(said) == other.combine(said)
        one.learn(said, label)
        other.learn(said, label)
        if number == 100:
            tree = through_bytes(one.dump())
            one = combiner(name, task, 2)
            one.load(tree)
    assert one.dump() == other.dump()
    assert one.learns == (name != "mean")


@pytest.mark.parametrize(
    ("name", "task", "tree"),
    [
        ("weighted", "binary", [[0.0, NAN], 0.0, 0.0]),
        ("weighted", "binary", [[0.0], 0.0, 0.0]),
        ("stacking", "binary", [["a", 0.0, 0.5, math.inf, 1.0, 1.0, 1.0]]),
        ("stacking", "binary", [["a", 0.0, 0.5, "x", 1.0, 1.0, 1.0]]),
        ("stacking", "regression", [0.0, NAN, 0.0]),
        ("mean", "binary", [1]),
    ],
)
def test_a_state_that_makes_no_sense_is_refused(name: str, task: str, tree: Any) -> None:
    with pytest.raises(CorruptSnapshot):
        combiner(name, task, 2).load(tree)


@pytest.mark.parametrize(
    ("name", "task", "options"),
    [
        ("vote", "regression", {}),
        ("median", "binary", {}),
        ("weighted", "binary", {"half_life": 0}),
        ("stacking", "binary", {"rate": -1.0}),
    ],
)
def test_options_that_make_no_sense(name: str, task: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"learner\.(combine|half_life|rate)"):
        combiner(name, task, 2, **options)
