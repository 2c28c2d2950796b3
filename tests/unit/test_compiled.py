"""Compiled models say, learn and refuse what river does, to the last digit."""

from __future__ import annotations

import copy
import importlib
import math
import random
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import (
    compose,
    facto,
    linear_model,
    naive_bayes,
    optim,
    preprocessing,
    tree,
)

from stream_update import objects
from stream_update.errors import ConfigError, CorruptSnapshot, LearnerFailed
from stream_update.events import Predictions, Table
from stream_update.learners.compiled import CompiledLearner
from stream_update.learners.river import RiverLearner
from stream_update.testing import check_learner
from tests.linear import CASES, Case, numbers, piped, stream

pytest.importorskip("numba")

Make = Callable[[], Any]


def same(one: Predictions, other: Predictions) -> None:
    assert len(one.values) == len(other.values)
    assert (one.probabilities is None) == (other.probabilities is None)
    if one.probabilities is not None and other.probabilities is not None:
        assert one.values == other.values
        assert [list(p) for p in one.probabilities] == [list(p) for p in other.probabilities]
    for a, b in zip(numbers(one), numbers(other), strict=True):
        assert a == b or (math.isnan(a) and math.isnan(b))


def both(make: Make, task: str) -> tuple[RiverLearner, CompiledLearner]:
    return RiverLearner(make, task), CompiledLearner(make(), task)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_real_streams(case: Case) -> None:
    river, compiled = both(case.make, case.task)
    xs, ys = stream(case.stream, 150)
    same(compiled.predict_then_learn(xs, ys), river.predict_then_learn(xs, ys))
    assert compiled.dump() == compiled.dump()
    # What it exports is a river model that goes on alone.
    other = RiverLearner(lambda: compiled.model, case.task)
    xs, ys = xs[::-1], ys[::-1]
    same(compiled.predict_then_learn(xs, ys), other.predict_then_learn(xs, ys))


def test_a_whole_stream() -> None:
    case = CASES["LogisticRegression adam"]
    river, compiled = both(case.make, case.task)
    xs, ys = stream("Elec2", 8000)
    same(compiled.predict_then_learn(xs, ys), river.predict_then_learn(xs, ys))


NAMES = ["a", "b", "c", "d", "e"]


@st.composite
def ragged(draw: st.DrawFn) -> list[dict[str, float]]:
    """Events whose features come, go and change their order."""
    number = st.one_of(
        st.integers(-5, 5), st.booleans(), st.floats(-100, 100, allow_subnormal=False)
    )
    names = st.permutations(NAMES).flatmap(
        lambda order: st.integers(0, len(order)).map(lambda count: order[:count])
    )
    return [{name: draw(number) for name in draw(names)} for _ in range(draw(st.integers(1, 12)))]


RAGGED: dict[str, tuple[Make, str]] = {
    "glm": (
        lambda: (
            preprocessing.StandardScaler()
            | linear_model.LogisticRegression(
                optim.AdaGrad(), l1=0.01, initializer=optim.initializers.Normal(seed=1)
            )
        ),
        "binary",
    ),
    "ranges": (
        lambda: preprocessing.MinMaxScaler() | linear_model.LogisticRegression(optim.RMSProp()),
        "binary",
    ),
    "passive": (lambda: linear_model.PAClassifier(C=0.1, mode=2), "binary"),
    "softmax": (
        lambda: preprocessing.MaxAbsScaler() | linear_model.SoftmaxRegression(optim.Nadam()),
        "multiclass",
    ),
    "ftrl": (
        lambda: linear_model.SoftmaxRegression(optim.FTRLProximal(l1=0.1)),
        "multiclass",
    ),
    "machine": (
        lambda: facto.FMClassifier(n_factors=3, seed=1, latent_optimizer=optim.Adam(0.01)),
        "binary",
    ),
    "hashed": (
        lambda: (
            preprocessing.FeatureHasher(n_features=3, seed=1)
            | preprocessing.StandardScaler()
            | linear_model.PAClassifier()
        ),
        "binary",
    ),
}


@pytest.mark.parametrize("name", RAGGED)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_ragged_events(name: str, data: st.DataObject) -> None:
    make, task = RAGGED[name]
    xs = data.draw(ragged())
    label = st.sampled_from("xyz") if task == "multiclass" else st.booleans()
    ys = [data.draw(label) for _ in xs]
    river, compiled = both(make, task)
    failures = []
    said = []
    for learner in (river, compiled):
        try:
            said.append(learner.predict_then_learn(xs, ys))
        except LearnerFailed as failure:
            failures.append((failure.index, failure.phase, type(failure.cause)))
            said.append(failure.predictions)
    same(said[1], said[0])
    if failures:
        assert failures[1:] == failures[:1]
        return
    # Features that were never there leave no trace.
    before = compiled.dump()
    compiled.predict([{"new": 1.0, "newer": 2.0}])
    assert compiled.dump() == before


LAWFUL = [
    "LogisticRegression adam", "LogisticRegression rmsprop l1", "LinearRegression adadelta",
    "SoftmaxRegression adam", "SoftmaxRegression ftrl", "FMClassifier amsgrad", "FMRegressor",
    "PAClassifier 1", "PARegressor 2", "hashed", "schedules",
    "LogisticRegression ftrl", "LinearRegression momentum", "SoftmaxRegression nadam",
    "LogisticRegression adamax l2", "LogisticRegression adagrad",
]  # fmt: skip


@pytest.mark.parametrize("name", LAWFUL)
def test_laws(name: str) -> None:
    case = CASES[name]
    xs, ys = stream(case.stream, 40)
    rng = random.Random(7)
    for x in xs[5:]:
        for gone in rng.sample(list(x), min(2, len(x) - 2)):
            del x[gone]
        if rng.random() < 0.2:
            x["late"] = rng.random()
    check_learner(lambda: CompiledLearner(case.make(), case.task), xs, ys)


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("value", ["red", None, [1.0, 2.0], "1.5", 10**400])
def test_what_is_no_number_fails_as_in_river(value: Any, table: bool) -> None:
    case = CASES["LogisticRegression sgd"]
    xs, ys = stream("Elec2", 60)
    xs[41]["nswprice"] = value
    river, compiled = both(case.make, case.task)
    given = Table(list(xs[0]), [value for x in xs for value in x.values()]) if table else xs
    failures = []
    for learner, events in ((river, xs), (compiled, given)):
        with pytest.raises(LearnerFailed) as caught:
            learner.predict_then_learn(events, ys)
        failures.append(caught.value)
    assert (failures[1].index, failures[1].phase) == (failures[0].index, failures[0].phase)
    assert str(failures[1].cause) == str(failures[0].cause)
    same(failures[1].predictions, failures[0].predictions)


def test_a_failed_prediction_changes_nothing() -> None:
    river, compiled = both(linear_model.LogisticRegression, "binary")
    xs, ys = stream("Elec2", 60)
    bad = copy.deepcopy(xs[30])
    bad |= {"new": 1.0, "nswprice": "x"}
    with pytest.raises(LearnerFailed) as caught:
        compiled.predict_then_learn([*xs[:30], bad, *xs[30:]], [*ys[:30], True, *ys[30:]])
    assert (caught.value.index, caught.value.phase) == (30, "predict")
    assert len(caught.value.predictions.values) == 30
    compiled.predict_then_learn(xs[30:], ys[30:])
    river.predict_then_learn(xs, ys)
    same(compiled.predict(xs), river.predict(xs))


def test_a_loop_that_raises_says_where() -> None:
    make: Make = lambda: linear_model.LinearRegression(  # noqa: E731 - as in the configuration
        optim.SGD(1.0), loss=optim.losses.Poisson()
    )
    river, compiled = both(make, "regression")
    xs: list[Any] = [{"a": 1.0}] * 6
    ys = [1.0, 2.0, 900.0, 3.0, 4.0, 5.0]
    failures = []
    for learner in (river, compiled):
        with pytest.raises(LearnerFailed) as caught:
            learner.predict_then_learn(xs, ys)
        failures.append(caught.value)
    assert (failures[1].index, failures[1].phase) == (failures[0].index, failures[0].phase)
    assert isinstance(failures[1].cause, OverflowError)
    same(failures[1].predictions, failures[0].predictions)


def test_texts_are_features_of_a_machine() -> None:
    make: Make = lambda: facto.FMRegressor(n_factors=4, intercept=5.0, seed=1)  # noqa: E731
    river, compiled = both(make, "regression")
    rng = random.Random(1)
    xs: list[Any] = [
        {"user": rng.choice("abc"), "item": rng.choice("xyz"), "age": rng.random()}
        for _ in range(200)
    ]
    ys = [rng.random() for _ in xs]
    same(compiled.predict_then_learn(xs, ys), river.predict_then_learn(xs, ys))
    assert list(compiled.model.weights)[:2] == list(river.model.weights)[:2]


@pytest.mark.parametrize("buckets", [7, 4096])
def test_hashed_events(buckets: int) -> None:
    """Alike for a time, then with a name more, with texts, and with names that change."""
    hasher = partial(preprocessing.FeatureHasher, buckets, seed=2)
    make = piped(hasher, linear_model.PAClassifier)
    river, compiled = both(make, "binary")
    xs, ys = stream("Phishing", 120)
    for place, x in enumerate(xs):
        if place >= 30:
            x["more"] = place % 2 == 0
        if place >= 60:
            x["shop"] = "abc"[place % 3]
        if place >= 90:
            x[f"item {place}"] = 0.5
    for start in range(0, 120, 30):
        some, truth = xs[start : start + 30], ys[start : start + 30]
        same(compiled.predict_then_learn(some, truth), river.predict_then_learn(some, truth))
    assert compiled.model.steps["PAClassifier"].weights == river.model.steps["PAClassifier"].weights


def test_what_river_can_learn_is_learned() -> None:
    """A label that is no 0 or 1 is none for a loop; river takes it for one of the two."""
    river, compiled = both(linear_model.LogisticRegression, "binary")
    xs, ys = stream("Elec2", 60)
    labels = [2 if index == 20 else y for index, y in enumerate(ys)]
    same(compiled.predict_then_learn(xs, labels), river.predict_then_learn(xs, labels))
    same(compiled.predict(xs), river.predict(xs))


def test_reset_and_restore() -> None:
    case = CASES["LogisticRegression adam"]
    xs, ys = stream("Elec2", 100)
    learner = CompiledLearner(case.make(), case.task)
    fresh = learner.dump()
    learner.learn(xs, ys)
    assert objects.digest(learner.dump()) != objects.digest(fresh)
    served = CompiledLearner.restored(learner.dump(), case.task)
    assert isinstance(served, RiverLearner)
    same(served.predict(xs), learner.predict(xs))
    learner.react("warning")
    assert objects.digest(learner.dump()) != objects.digest(fresh)
    learner.react("reset")
    assert learner.dump() == fresh


def test_a_dump_of_another_model_is_refused() -> None:
    learner = CompiledLearner(linear_model.LogisticRegression(), "binary")
    with pytest.raises(CorruptSnapshot, match="Perceptron, not LogisticRegression"):
        learner.load(RiverLearner(linear_model.Perceptron, "binary").dump())
    other = linear_model.LogisticRegression(optim.NesterovMomentum())
    with pytest.raises(CorruptSnapshot, match="cannot be compiled"):
        learner.load(RiverLearner(lambda: other, "binary").dump())


def test_fingerprints() -> None:
    def fingerprint(model: Any) -> str:
        return CompiledLearner(model, "binary").fingerprint()

    one = fingerprint(linear_model.LogisticRegression(optim.SGD(0.1)))
    assert one == fingerprint(linear_model.LogisticRegression(optim.SGD(0.1)))
    assert one != fingerprint(linear_model.LogisticRegression(optim.SGD(0.2)))
    assert (
        one
        != RiverLearner(
            lambda: linear_model.LogisticRegression(optim.SGD(0.1)), "binary"
        ).fingerprint()
    )
    with pytest.raises(ConfigError, match="unseeded"):
        fingerprint(facto.FMClassifier())


SCALER = preprocessing.StandardScaler
GLM = linear_model.LogisticRegression
REFUSED: list[tuple[Make, str]] = [
    (tree.HoeffdingTreeClassifier, "step 'HoeffdingTreeClassifier' is a HoeffdingTreeClassifier"),
    (lambda: SCALER() | naive_bayes.GaussianNB(), "step 'GaussianNB' is a GaussianNB"),
    (lambda: preprocessing.RobustScaler() | GLM(), "step 'RobustScaler' is a RobustScaler"),
    (lambda: SCALER(window_size=9) | GLM(), "step 'StandardScaler' has window_size = 9"),
    (
        lambda: compose.Pipeline(("one", SCALER()), ("two", preprocessing.MinMaxScaler()), GLM()),
        "step 'two', a MinMaxScaler, has no place",
    ),
    (lambda: GLM(optim.NesterovMomentum()), "LogisticRegression: optimizer is a Nesterov"),
    (lambda: GLM(optim.FTRLProximal(), l1=0.1), "LogisticRegression: l1 = 0.1 with FTRL"),
    (
        lambda: GLM(initializer=Twos()),
        "LogisticRegression: initializer is a Twos",
    ),
    (lambda: GLM(optim.SGD(Halves())), "LogisticRegression: optimizer.lr is a Halves"),
    (lambda: facto.FFMClassifier(seed=1), "step 'FFMClassifier' is a FFMClassifier"),
]


class Twos(optim.initializers.Constant):
    def __init__(self) -> None:
        super().__init__(2.0)


class Halves(optim.base.Scheduler):
    def get(self, t: int) -> float:
        return 0.5**t


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_refused(make: Make, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        CompiledLearner(make(), "binary")
    assert "compiled can be" in caught.value.hint


def test_half_a_model_that_has_learned_is_refused() -> None:
    scaler = SCALER()
    scaler.learn_one({"a": 1.0})
    with pytest.raises(ConfigError, match="has learned of 'a'"):
        CompiledLearner(scaler | GLM(), "binary")


def test_the_task_has_to_fit() -> None:
    with pytest.raises(ConfigError, match="is no regressor"):
        CompiledLearner(GLM(), "regression")


def test_sums_are_those_of_this_python_and_of_newer_ones() -> None:
    kernels = importlib.import_module("stream_update.learners.compiled.kernels")
    values = [1e100, 1.0, 0.1, -1e100]

    def total(careful: int) -> float:
        total = lost = 0.0
        for value in values:
            lost += kernels._lost(total, value, careful)
            total += value
        return float(kernels._found(total, lost))

    assert (total(0), total(1)) == (0.0, 1.1)
    assert total(int(sys.version_info >= (3, 12))) == sum(values)


WITHOUT = """
import sys
sys.modules["numba"] = None
from river import linear_model
from stream_update.errors import ConfigError
from stream_update.learners.compiled import CompiledLearner
from stream_update.learners.river import RiverLearner

tree = RiverLearner(linear_model.LogisticRegression, "binary").dump()
print(CompiledLearner.restored(tree, "binary").predict([{"a": 1.0}]).values)
try:
    CompiledLearner(linear_model.LogisticRegression(), "binary")
except ConfigError as error:
    print(error, error.hint)
"""


def test_without_numba() -> None:
    """Who follows predicts; who would train is told what to install."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True
    )
    served, refused = done.stdout.splitlines()
    assert served == "[False]"
    assert "needs the package numba" in refused
    assert "stream-update[fast]" in refused
