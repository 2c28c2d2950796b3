"""The river learner says what the model says, and fails as the protocol wants."""

from __future__ import annotations

import csv
import functools
import gzip
import importlib.resources
import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import (
    active,
    anomaly,
    base,
    compose,
    dummy,
    ensemble,
    feature_extraction,
    feature_selection,
    forest,
    imblearn,
    linear_model,
    metrics,
    model_selection,
    multiclass,
    multioutput,
    naive_bayes,
    neighbors,
    preprocessing,
    reco,
    stats,
    tree,
)

from stream_update import objects
from stream_update.errors import ConfigError, CorruptSnapshot, LearnerFailed
from stream_update.learners.river import RiverLearner
from stream_update.protocols import Learner

Events = tuple[list[dict[str, Any]], list[Any]]


@functools.cache
def elec() -> Events:
    packed = importlib.resources.files("stream_update").joinpath("data/elec.csv.gz")
    with packed.open("rb") as raw, gzip.open(raw, "rt") as lines:
        rows = list(itertools.islice(csv.DictReader(lines), 20_000, 20_300))
    features = [{name: float(row[name]) for name in row if name != "class"} for row in rows]
    return features, [row["class"] == "1" for row in rows]


def labels(task: str) -> list[Any]:
    features, truth = elec()
    if task == "regression":
        return [x["nswdemand"] for x in features]
    if task == "multiclass":
        return [["low", "middle", "high"][int(x["nswdemand"] * 2.9)] for x in features]
    return truth


def logistic() -> Any:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


def without_probabilities() -> Any:
    return ensemble.VotingClassifier([logistic(), naive_bayes.GaussianNB()])


def without_day(x: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in x.items() if name != "day"}


class Delegate(base.Classifier):
    """Finds out that there are no probabilities when it asks for them."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def predict_one(self, x: Any, **options: Any) -> Any:
        return self.inner.predict_one(x)

    def predict_proba_one(self, x: Any, **options: Any) -> Any:
        return self.inner.predict_proba_one(x)

    def learn_one(self, x: Any, y: Any) -> None:
        self.inner.learn_one(x, y)


MODELS: list[tuple[str, str, Callable[[], Any]]] = [
    ("logistic", "binary", logistic),
    ("tree", "binary", lambda: tree.HoeffdingTreeClassifier(grace_period=30)),
    ("forest", "multiclass", lambda: forest.ARFClassifier(3, seed=1)),
    ("no change", "multiclass", dummy.NoChangeClassifier),
    ("hard", "binary", lambda: imblearn.HardSamplingClassifier(logistic(), 20, 0.1, seed=1)),
    ("votes", "binary", without_probabilities),
    ("pairs", "multiclass", lambda: multiclass.OneVsOneClassifier(logistic())),
    ("rest", "multiclass", lambda: multiclass.OneVsRestClassifier(logistic())),
    ("delegate", "binary", lambda: Delegate(without_probabilities())),
    ("neighbours", "multiclass", lambda: neighbors.KNNClassifier(engine=neighbors.LazySearch())),
    (
        "halving",
        "binary",
        lambda: model_selection.SuccessiveHalvingClassifier(
            [logistic(), naive_bayes.GaussianNB()], metrics.Accuracy(), budget=100
        ),
    ),
    (
        "regression",
        "regression",
        lambda: preprocessing.StandardScaler() | linear_model.PARegressor(),
    ),
    ("regression tree", "regression", lambda: tree.HoeffdingTreeRegressor(grace_period=30)),
    (
        "scaled target",
        "regression",
        lambda: preprocessing.TargetStandardScaler(linear_model.LinearRegression()),
    ),
    (
        "supervised transformers",
        "regression",
        lambda: compose.Pipeline(
            feature_selection.SelectKBest(stats.PearsonCorr(), k=3),
            preprocessing.MinMaxScaler(),
            preprocessing.StandardScaler(),
            linear_model.LinearRegression(),
        ),
    ),
    (
        "union and selection",
        "binary",
        lambda: (
            (
                (compose.SelectType(float) | preprocessing.StandardScaler())
                + feature_extraction.PolynomialExtender()
            )
            | logistic()
        ),
    ),
    (
        "function",
        "multiclass",
        lambda: (
            compose.FuncTransformer(without_day)
            | preprocessing.MinMaxScaler()
            | multiclass.OneVsRestClassifier(logistic())
        ),
    ),
    ("pipeline in a pipeline", "binary", lambda: compose.Pipeline(("a", logistic()))),
]


def bare(make: Callable[[], Any], task: str, size: int) -> tuple[list[Any], list[Any] | None, Any]:
    """The same by hand: values, probabilities or None, and the model in the end."""
    model = make()
    values: list[Any] = []
    probabilities: list[Any] | None = None if task == "regression" else []
    for x, y in zip(elec()[0][:size], labels(task), strict=False):
        values.append(model.predict_one(dict(x)))
        if probabilities is not None:
            try:
                probabilities.append(model.predict_proba_one(dict(x)))
            except NotImplementedError:
                probabilities = None
        model.learn_one(dict(x), y)
    return values, probabilities, model


@pytest.mark.parametrize("block", [1, 7, 300])
@pytest.mark.parametrize(
    ("task", "make"), [entry[1:] for entry in MODELS], ids=[m[0] for m in MODELS]
)
def test_predictions_are_those_of_the_model(task: str, make: Callable[[], Any], block: int) -> None:
    size = 40 if block == 1 else 300
    values, probabilities, model = bare(make, task, size)
    learner = RiverLearner(make, task, allow=(Delegate, without_day))
    features, truth = elec()[0][:size], labels(task)[:size]
    said: list[Any] = []
    likely: list[Any] = []
    for start in range(0, size, block):
        stop = start + block
        before = learner.predict(features[start : start + 1])
        answer = learner.predict_then_learn(features[start:stop], truth[start:stop])
        assert repr(before.values) == repr(answer.values[:1])
        said += answer.values
        if probabilities is None:
            assert answer.probabilities is None
        else:
            assert answer.probabilities is not None
            likely += answer.probabilities
    assert repr(said) == repr(values)
    assert repr(likely) == repr(probabilities or [])
    assert objects.digest(learner.dump()) == objects.digest(
        objects.freeze(model, allow=(Delegate, without_day))
    )


def test_learning_alone_is_the_same_as_learning_after_predicting() -> None:
    features, truth = elec()
    one, other = RiverLearner(logistic, "binary"), RiverLearner(logistic, "binary")
    one.learn(features, truth)
    other.predict_then_learn(features, truth)
    assert objects.digest(one.dump()) == objects.digest(other.dump())


def test_nothing_is_said_about_nothing() -> None:
    for task, make in (("binary", logistic), ("regression", linear_model.LinearRegression)):
        learner = RiverLearner(make, task)
        assert learner.predict([]).values == []
        assert learner.predict_then_learn([], []).values == []
        learner.learn([], [])


def test_a_model_that_has_learned_nothing_says_nothing() -> None:
    answer = RiverLearner(tree.HoeffdingTreeClassifier, "binary").predict(elec()[0][:2])
    assert answer.values == [None, None]
    assert answer.probabilities == [{}, {}]


class Counting(linear_model.LogisticRegression):
    """Notes how often it is asked."""

    asked = 0

    def predict_proba_one(self, x: Any, **options: Any) -> Any:
        type(self).asked += 1
        return super().predict_proba_one(x)  # type: ignore[no-untyped-call]


def test_a_model_whose_label_follows_from_its_probabilities_is_asked_once() -> None:
    features, truth = elec()
    Counting.asked = 0
    RiverLearner(Counting, "binary").predict_then_learn(features, truth)
    assert Counting.asked == len(features)


# Failing.


class Touchy(base.Classifier):
    """Fails when an event tells it to."""

    def __init__(self) -> None:
        self.learned = 0

    def predict_proba_one(self, x: Any, **options: Any) -> Any:
        if "predict" in x:
            raise x["predict"]
        if "nonsense" in x:
            return {1: "a", 2: None}
        return {True: 0.5 + self.learned, False: 0.5}

    def learn_one(self, x: Any, y: Any) -> None:
        if "learn" in x:
            raise x["learn"]
        self.learned += 1


class Panic(BaseException):
    """What an extension type in Rust raises."""


def touchy(*events: dict[str, Any]) -> tuple[RiverLearner, list[dict[str, Any]], list[bool]]:
    return RiverLearner(Touchy, "binary"), list(events), [True] * len(events)


@pytest.mark.parametrize("error", [ValueError("x"), Panic("y"), RecursionError()])
def test_a_failure_to_predict_leaves_the_events_before_it_learned(error: BaseException) -> None:
    learner, features, truth = touchy({}, {}, {"predict": error}, {})
    with pytest.raises(LearnerFailed) as failure:
        learner.predict_then_learn(features, truth)
    assert (failure.value.index, failure.value.phase) == (2, "predict")
    assert failure.value.cause is error
    assert failure.value.predictions.values == [True, True]
    assert failure.value.predictions.probabilities == [
        {True: 0.5, False: 0.5},
        {True: 1.5, False: 0.5},
    ]
    assert learner.model.learned == 2


@pytest.mark.parametrize("error", [ValueError("x"), Panic("y")])
def test_a_failure_to_learn_keeps_the_prediction(error: BaseException) -> None:
    learner, features, truth = touchy({}, {"learn": error}, {})
    with pytest.raises(LearnerFailed) as failure:
        learner.predict_then_learn(features, truth)
    assert (failure.value.index, failure.value.phase) == (1, "learn")
    assert failure.value.predictions.values == [True, True]
    assert len(failure.value.predictions.probabilities or ()) == 2
    with pytest.raises(LearnerFailed) as failure:
        learner.learn(features, truth)
    assert (failure.value.index, failure.value.phase) == (1, "learn")
    assert failure.value.predictions.values == []


def test_probabilities_without_a_largest_are_a_failure_to_predict() -> None:
    learner, features, truth = touchy({}, {"nonsense": 1})
    with pytest.raises(LearnerFailed) as failure:
        learner.predict_then_learn(features, truth)
    assert (failure.value.index, failure.value.phase) == (1, "predict")
    assert len(failure.value.predictions.values) == 1
    assert len(failure.value.predictions.probabilities or ()) == 1


def test_a_failure_in_a_prediction_alone() -> None:
    learner, features, _ = touchy({}, {"predict": ValueError("x")})
    with pytest.raises(LearnerFailed) as failure:
        learner.predict(features)
    assert (failure.value.index, failure.value.phase) == (1, "predict")
    assert learner.model.learned == 0


def test_a_failure_while_values_only_are_asked_for() -> None:
    learner = RiverLearner(without_probabilities, "binary")
    features, truth = elec()
    with pytest.raises(LearnerFailed) as failure:
        learner.predict_then_learn([*features[:3], {"period": "text"}], truth[:4])
    assert (failure.value.index, failure.value.phase) == (3, "predict")
    assert len(failure.value.predictions.values) == 3
    assert failure.value.predictions.probabilities is None


def test_a_missing_method_found_later_is_a_failure_after_the_second_time() -> None:
    learner, features, truth = touchy({}, {"predict": NotImplementedError()})
    with pytest.raises(LearnerFailed) as failure:
        learner.predict_then_learn(features, truth)
    assert (failure.value.index, failure.value.phase) == (1, "predict")
    assert isinstance(failure.value.cause, NotImplementedError)
    assert failure.value.predictions.values == [True]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError])
@pytest.mark.parametrize("phase", ["predict", "learn"])
def test_a_wish_to_stop_is_no_failure_of_the_learner(
    error: type[BaseException], phase: str
) -> None:
    learner, features, truth = touchy({}, {phase: error()})
    with pytest.raises(error):
        learner.predict_then_learn(features, truth)
    if phase == "learn":
        with pytest.raises(error):
            learner.learn(features, truth)


# Inputs, signals, snapshots.


def with_ratio(x: dict[str, Any]) -> dict[str, Any]:
    x["ratio"] = x["nswprice"] / (x["vicprice"] + 1)
    return x


def test_features_are_not_changed_even_by_a_function_that_changes_them() -> None:
    features, truth = elec()
    given = [dict(x) for x in features]
    learner = RiverLearner(lambda: with_ratio | logistic(), "binary", allow=(with_ratio,))
    learner.predict(given)
    learner.predict_then_learn(given, truth)
    learner.learn(given, truth)
    assert given == features
    assert "ratio" in learner.model["LogisticRegression"].weights


@pytest.mark.parametrize(("signal", "fresh"), [("reset", True), ("swap", True), ("warning", False)])
def test_signals(signal: str, fresh: bool) -> None:
    learner = RiverLearner(logistic, "binary")
    learner.learn(*elec())
    before = objects.digest(learner.dump())
    learner.react(signal)
    assert (objects.digest(learner.dump()) == learner.fingerprint()) is fresh
    assert (objects.digest(learner.dump()) == before) is not fresh


def test_a_learner_goes_on_where_its_snapshot_was_taken() -> None:
    features, truth = elec()
    learner, other = (
        RiverLearner(lambda: forest.ARFClassifier(3, seed=1), "binary") for _ in range(2)
    )
    learner.learn(features[:150], truth[:150])
    other.load(learner.dump())
    one = learner.predict_then_learn(features[150:], truth[150:])
    two = other.predict_then_learn(features[150:], truth[150:])
    assert repr(one) == repr(two)


def another_pipeline() -> Any:
    return preprocessing.StandardScaler() | linear_model.ALMAClassifier()


def endless_pipeline() -> Any:
    pipeline = logistic()
    pipeline.steps["LogisticRegression"] = pipeline
    return pipeline


@pytest.mark.parametrize(
    "other",
    [naive_bayes.GaussianNB, another_pipeline, endless_pipeline, compose.Pipeline, list],
)
def test_a_snapshot_of_another_model_is_not_loaded(other: Callable[[], Any]) -> None:
    learner = RiverLearner(logistic, "binary")
    learner.learn(*elec())
    before = learner.model
    with pytest.raises(CorruptSnapshot, match="not Pipeline ending in LogisticRegression"):
        learner.load(objects.freeze(other()))
    assert learner.model is before


def test_a_damaged_snapshot_is_not_loaded() -> None:
    learner = RiverLearner(logistic, "binary")
    with pytest.raises(CorruptSnapshot):
        learner.load({**learner.dump(), "root": [[1000]]})


# Fingerprints, and what fits.


def test_a_fingerprint_is_that_of_the_fresh_model() -> None:
    learner = RiverLearner(logistic, "binary")
    first = learner.fingerprint()
    learner.learn(*elec())
    assert learner.fingerprint() == first
    assert RiverLearner(logistic, "binary").fingerprint() == first


def test_an_option_changes_the_fingerprint() -> None:
    prints = {
        RiverLearner(make, "binary").fingerprint()
        for make in (
            logistic,
            another_pipeline,
            linear_model.LogisticRegression,
            lambda: linear_model.LogisticRegression(l2=0.1),
            lambda: forest.ARFClassifier(3, seed=1),
            lambda: forest.ARFClassifier(3, seed=2),
        )
    }
    assert len(prints) == 6


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda: forest.ARFClassifier(3), r"ARFClassifier\.seed"),
        (
            lambda: preprocessing.FeatureHasher() | linear_model.LogisticRegression(),
            r"Pipeline\.steps\['FeatureHasher'\]\.seed",
        ),
        (neighbors.KNNClassifier, r"KNNClassifier\.engine\.seed"),
        (
            lambda: ensemble.BaggingClassifier(tree.HoeffdingAdaptiveTreeClassifier(), 2, seed=1),
            r"BaggingClassifier\.data\[0\]\.seed",
        ),
    ],
)
def test_a_model_without_a_seed_has_no_fingerprint(make: Callable[[], Any], option: str) -> None:
    with pytest.raises(ConfigError, match="unseeded randomness") as refusal:
        RiverLearner(make, "binary").fingerprint()
    assert re.search(option, refusal.value.hint)


def test_distributions_that_nobody_samples_need_no_seed() -> None:
    assert RiverLearner(naive_bayes.GaussianNB, "multiclass").fingerprint()


@pytest.mark.parametrize(
    ("make", "task", "message"),
    [
        (logistic, "regression", "no regressor"),
        (linear_model.LinearRegression, "binary", "LinearRegression is no classifier"),
        (linear_model.LinearRegression, "multiclass", "no classifier"),
        (logistic, "multiclass", "only two classes"),
        (logistic, "ranking", "'ranking' is none"),
        (preprocessing.StandardScaler, "binary", "StandardScaler is no classifier"),
        (compose.Pipeline, "binary", "Pipeline is no classifier"),
        (lambda: anomaly.HalfSpaceTrees(seed=1), "binary", "HalfSpaceTrees is no classifier"),
        (lambda: active.EntropySampler(logistic()), "binary", "EntropySampler is no classifier"),
        (lambda: reco.BiasedMF(seed=1), "regression", "no regressor"),
        (lambda: multioutput.ClassifierChain(logistic()), "binary", "Chain is no classifier"),
        (dict, "binary", "dict is no classifier"),
    ],
)
def test_what_does_not_fit_the_task_is_refused(
    make: Callable[[], Any], task: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        RiverLearner(make, task)
    assert refusal.value.hint


def test_a_model_of_the_users_own_has_to_be_allowed() -> None:
    with pytest.raises(ConfigError, match=r"Touchy.*not listed"):
        RiverLearner(Touchy, "binary").fingerprint()
    assert RiverLearner(Touchy, "binary", allow=(Touchy,)).fingerprint()


def test_it_is_a_learner_and_says_what_it_is() -> None:
    learner = RiverLearner(logistic, "binary")
    assert isinstance(learner, Learner)
    assert learner.batch == 1
    assert learner.describe() == "StandardScaler | LogisticRegression (binary)"


@settings(deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from("abc"),
            st.one_of(st.floats(-1e9, 1e9), st.integers(-9, 9), st.booleans()),
            min_size=1,
        ),
        min_size=1,
        max_size=40,
    )
)
def test_the_standard_scaler_learns_and_transforms_as_river_does(
    events: list[dict[str, Any]],
) -> None:
    model = logistic()
    learner = RiverLearner(logistic, "binary")
    labels = [index % 3 == 0 for index in range(len(events))]
    said = learner.predict_then_learn(events, labels).probabilities
    for x, y, answer in zip(events, labels, said or (), strict=True):
        assert repr(answer) == repr(model.predict_proba_one(x))
        model.learn_one(x, y)

    assert objects.digest(learner.dump()) == objects.digest(objects.freeze(model))
