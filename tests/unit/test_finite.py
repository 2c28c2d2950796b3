"""NaN where it makes every prediction worthless is found; where it is at home it is not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from river import (
    compose,
    ensemble,
    facto,
    forest,
    linear_model,
    multiclass,
    naive_bayes,
    neighbors,
    preprocessing,
    stats,
    tree,
)

from stream_update import objects
from stream_update.errors import CorruptSnapshot
from stream_update.learners.finite import non_finite
from stream_update.learners.river import RiverLearner

MODELS: dict[str, Callable[[], Any]] = {
    "logistic": linear_model.LogisticRegression,
    "pa": linear_model.PAClassifier,
    "perceptron": linear_model.Perceptron,
    "alma": linear_model.ALMAClassifier,
    "tree": tree.HoeffdingTreeClassifier,
    "forest": lambda: forest.ARFClassifier(n_models=2, seed=1),
    "bayes": naive_bayes.GaussianNB,
    "neighbours": neighbors.KNNClassifier,
    "bagging": lambda: ensemble.BaggingClassifier(linear_model.LogisticRegression(), seed=1),
    "machine": lambda: facto.FFMClassifier(seed=1),
}


def trained(model: Any) -> Any:
    for number in range(300):
        model.learn_one({"a": number % 7 * 0.1, "b": float(number % 3)}, number % 2 == 0)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_has_learned_is_finite(name: str) -> None:
    scaled = compose.Pipeline(preprocessing.MinMaxScaler(), MODELS[name]())
    for model in (MODELS[name](), trained(MODELS[name]()), scaled, trained(scaled)):
        assert not non_finite(model)


def spoil(model: Any, value: float) -> None:
    model._weights["a"] = value


def linear() -> Any:
    return trained(linear_model.LogisticRegression())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_are_found_wherever_the_model_is(value: float) -> None:
    inner = linear()
    around: list[Any] = [
        inner,
        compose.Pipeline(preprocessing.StandardScaler(), inner),
        multiclass.OneVsRestClassifier(inner),
        ensemble.BaggingClassifier(inner, n_models=3, seed=1),
        {"parts": [(inner,)]},
    ]
    assert not any(map(non_finite, around))
    spoil(inner, value)
    around[3] = ensemble.BaggingClassifier(linear_model.LogisticRegression(), n_models=3, seed=1)
    around[3][1] = inner
    assert [non_finite(one) for one in around] == ["LogisticRegression._weights"] * 5
    inner = linear()
    inner.intercept = value
    assert non_finite(inner) == "LogisticRegression.intercept"


def test_arrays_are_looked_at_and_statistics_are_not() -> None:
    assert non_finite({"w": np.array([1.0, math.nan])})
    assert not non_finite({"w": np.array([1.0]), "names": np.array([1, 2])})
    assert not non_finite([stats.Min(), stats.Max(), math.nan, {"x": math.inf}])


def test_a_follower_refuses_what_a_trainer_takes_back() -> None:
    made = RiverLearner(linear, "binary")
    spoil(made.model, math.nan)
    dumped = made.dump()
    with pytest.raises(CorruptSnapshot, match=r"LogisticRegression\._weights") as caught:
        RiverLearner.restored(dumped, "binary")
    assert caught.value.reason == "non-finite"
    made.load(dumped)
    assert objects.digest(made.dump()) == objects.digest(dumped)
