"""river's models of several classes at once: the laws, and what river itself says."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from river import (
    forest,
    linear_model,
    multiclass,
    multioutput,
    preprocessing,
    tree,
)

from stream_update.components import components
from stream_update.config import parse
from stream_update.errors import ConfigError, LearnerFailed
from stream_update.learners.river import RiverLearner
from stream_update.testing import check_learner

Make = Callable[[], Any]


def logistic() -> Any:
    return linear_model.LogisticRegression()


MODELS: dict[str, Make] = {
    "chain": lambda: multioutput.ClassifierChain(logistic()),
    "chain in an order": lambda: multioutput.ClassifierChain(logistic(), order=["c", "a"]),
    "chain of pipelines": lambda: multioutput.ClassifierChain(
        preprocessing.StandardScaler() | logistic()
    ),
    "chain at the end of a pipeline": lambda: (
        preprocessing.StandardScaler() | multioutput.ClassifierChain(logistic())
    ),
    "chain of trees": lambda: multioutput.ClassifierChain(
        tree.HoeffdingTreeClassifier(grace_period=10)
    ),
    "chain of forests": lambda: multioutput.ClassifierChain(forest.ARFClassifier(2, seed=1)),
    "probabilistic chain": lambda: multioutput.ProbabilisticClassifierChain(logistic()),
    "Monte Carlo chain": lambda: multioutput.MonteCarloClassifierChain(logistic(), m=5, seed=1),
    "Monte Carlo chain in a pipeline": lambda: (
        preprocessing.StandardScaler()
        | multioutput.MonteCarloClassifierChain(logistic(), m=5, seed=1)
    ),
    "encoder": lambda: multioutput.MultiClassEncoder(tree.HoeffdingTreeClassifier()),
    "one for each": lambda: multioutput.PerOutputClassifier(logistic()),
    "one for each without probabilities": lambda: multioutput.PerOutputClassifier(
        multiclass.OneVsOneClassifier(logistic())
    ),
}


def stream(count: int, *, seed: int = 3) -> tuple[list[dict[str, Any]], list[dict[Any, bool]]]:
    """Three classes that follow from the features, a fourth one from the middle on."""
    rng = random.Random(seed)
    features: list[dict[str, Any]] = []
    labels: list[dict[Any, bool]] = []
    for number in range(count):
        x: dict[str, Any] = {"x": rng.gauss(0, 1), "y": rng.gauss(0, 1)}
        label = {"a": x["x"] > 0, "b": x["x"] + x["y"] > 0.5, "c": (x["x"] > 0) != (x["y"] > 0)}
        if number >= count // 2:
            x["z"] = rng.random()
            label["d"] = x["z"] > 0.5
        if number % 7 == 3:
            del x["y"]
        features.append(x)
        labels.append(label)
    return features, labels


@pytest.mark.parametrize("name", MODELS)
def test_the_laws_of_learners(name: str) -> None:
    check_learner(lambda: RiverLearner(MODELS[name], "multilabel"), *stream(60))


@pytest.mark.parametrize("name", MODELS)
def test_answers_are_those_of_river_in_a_plain_loop(name: str) -> None:
    features, labels = stream(80)
    bare, learner = MODELS[name](), RiverLearner(MODELS[name], "multilabel")
    said = learner.predict_then_learn(copy.deepcopy(features), labels)
    for row, (x, y) in enumerate(zip(features, labels, strict=True)):
        answer = bare.predict_one(x)
        assert said.values[row] == {key: bool(on) for key, on in answer.items() if on is not None}
        if said.probabilities is not None:
            expected = {
                key: chances.get(True, 0.0)
                for key, chances in bare.predict_proba_one(x).items()
                if chances
            }
            assert repr(said.probabilities[row]) == repr(expected)
        bare.learn_one(x, y)
    assert (said.probabilities is None) == ("without" in name)


@pytest.mark.parametrize("name", ["Monte Carlo chain", "Monte Carlo chain in a pipeline"])
def test_who_asks_in_between_changes_nothing_of_what_is_drawn(name: str) -> None:
    features, labels = stream(60)
    whole = RiverLearner(MODELS[name], "multilabel").predict_then_learn(features, labels)
    asked = RiverLearner(MODELS[name], "multilabel")
    values: list[Any] = []
    for x, y in zip(features, labels, strict=True):
        asked.predict(features[:5])
        values += asked.predict([x]).values
        asked.predict(features[-3:])
        asked.learn([x], [y])
    assert values == whole.values
    tree_ = asked.dump()
    assert RiverLearner.restored(tree_, "multilabel").predict(features).values == (
        asked.predict(features).values
    )


@pytest.mark.parametrize(("classes", "kind"), [((1, 2, 3), int), ((True, False), bool)])
def test_classes_need_not_be_texts(classes: tuple[Any, ...], kind: type) -> None:
    rng = random.Random(1)
    features = [{"x": rng.gauss(0, 1)} for _ in range(40)]
    labels = [
        {name: x["x"] > 0.5 * number for number, name in enumerate(classes)} for x in features
    ]
    for make in (MODELS["chain"], MODELS["encoder"], MODELS["one for each"]):
        learner = RiverLearner(make, "multilabel")
        said = learner.predict_then_learn(features, labels)
        assert {type(name) for name in said.values[-1]} == {kind}
        check_learner(partial(RiverLearner, make, "multilabel"), features, labels)


@pytest.mark.parametrize(
    ("make", "task", "told", "hint"),
    [
        (logistic, "multilabel", "is no multi-label classifier", "ClassifierChain"),
        (
            linear_model.LinearRegression,
            "multilabel",
            "is no multi-label classifier",
            "ends in one",
        ),
        (MODELS["chain"], "binary", "is no classifier", 'task = "multilabel"'),
        (MODELS["chain"], "multiclass", "is no classifier", 'task = "multilabel"'),
        (
            tree.ISOUPTreeRegressor,
            "multilabel",
            "ISOUPTreeRegressor is no multi-label classifier",
            "ends in one",
        ),
        (
            lambda: multioutput.ClassifierChain(
                multiclass.OneVsOneClassifier(linear_model.LogisticRegression())
            ),
            "multilabel",
            "ClassifierChain of OneVsOneClassifier: it needs probabilities",
            "PerOutputClassifier",
        ),
        (
            lambda: multioutput.MultiClassEncoder(logistic()),
            "multilabel",
            "tells only two apart",
            "OneVsRestClassifier",
        ),
        (
            lambda: multioutput.PerOutputClassifier(
                linear_model.LinearRegression()  # type: ignore[arg-type]
            ),
            "multilabel",
            "that is no classifier",
            "use a river classifier",
        ),
        (
            lambda: multioutput.RegressorChain(linear_model.LinearRegression()),
            "multilabel",
            "RegressorChain is no multi-label classifier",
            "ends in one",
        ),
    ],
)
def test_what_cannot_do_it_is_refused_before_the_first_event(
    make: Make, task: str, told: str, hint: str
) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        RiverLearner(make, task)
    assert hint in caught.value.hint


def settings(learner: dict[str, Any], **source: Any) -> Any:
    return parse(
        {
            "app": "a",
            "log": "sqlite:///:memory:",
            "task": "multilabel",
            "source": {"topic": "t", "features": "*", **source},
            "learner": learner,
        }
    )


def test_a_configuration_names_parts_and_order() -> None:
    learner = {
        "use": "river.multioutput:ClassifierChain",
        "model": {"use": "river.linear_model:LogisticRegression"},
        "order": ["b", "a"],
    }
    parts = components(settings(learner))
    for _ in range(2):
        made = parts.make_learner()
        assert isinstance(made, RiverLearner)
        assert made.model.order == ["b", "a"]
        # What one of them learns is no option of the next.
        made.learn([{"x": 1.0}], [{"c": True}])
        assert made.model.order == ["b", "a", "c"]
    assert components(settings(learner)).fingerprint == parts.fingerprint


def test_exact_inference_is_for_few_classes() -> None:
    table = {
        "use": "river.multioutput:ProbabilisticClassifierChain",
        "model": {"use": "river.linear_model:LogisticRegression"},
    }
    with pytest.raises(ConfigError, match="tries every set of classes") as caught:
        components(settings(table))
    assert "source.max_classes" in caught.value.hint
    components(settings(table, max_classes=15))
    components(settings(table, classes=["a", "b"]))
    components(settings(table | {"use": "river.multioutput:MonteCarloClassifierChain"}))


def test_an_event_that_cannot_be_used_is_told_with_the_answers_before_it() -> None:
    features, labels = stream(20)
    learner = RiverLearner(MODELS["chain"], "multilabel")
    learner.predict_then_learn(features, labels)
    with pytest.raises(LearnerFailed) as caught:
        learner.predict_then_learn([*features[:2], {"x": "text"}], labels[:3])
    assert (caught.value.index, caught.value.phase) == (2, "predict")
    assert len(caught.value.predictions.values) == 2
