"""A model in words: weights by feature, sizes of trees, where detectors stand."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np
import pytest
from river import (
    base,
    compose,
    drift,
    ensemble,
    forest,
    linear_model,
    metrics,
    naive_bayes,
    neighbors,
    preprocessing,
    rules,
    tree,
)

from stream_update import objects
from stream_update.objects.readable import readable
from tests.programs import elec2

EVENTS = [({k: v for k, v in e.items() if k != "class"}, bool(e["class"])) for e in elec2(400)]


def learned(model: Any) -> Any:
    for x, y in EVENTS:
        model.learn_one(x, y)
    return model


def told(thing: Any) -> dict[str, Any]:
    found = list(readable(thing))
    assert len({name for name, _ in found}) == len(found), "a name stands for one thing"
    return dict(found)


def test_a_pipeline_by_its_steps_and_features() -> None:
    model = learned(preprocessing.StandardScaler() | linear_model.LogisticRegression())
    said = told(model)
    scaler, regression = model.steps.values()
    assert said["StandardScaler.counts['nswprice']"] == 400
    assert said["StandardScaler.means['nswprice']"] == scaler.means["nswprice"]
    assert said["LogisticRegression.weights['nswprice']"] == regression.weights["nswprice"]
    assert said["LogisticRegression.intercept"] == regression.intercept
    assert said["LogisticRegression.optimizer.n_iterations"] == 400


def test_a_tree_by_its_size() -> None:
    model = learned(tree.HoeffdingTreeClassifier(grace_period=20, delta=0.1))
    said = told(model)
    assert said["HoeffdingTreeClassifier.root.n_nodes"] == model.n_nodes > 1
    assert said["HoeffdingTreeClassifier.root.height"] == model.height
    splits = [value for name, value in said.items() if ".root.splits[" in name]
    assert sum(splits) == model.n_branches
    assert len(said) < 60, "no nodes"


def test_statistics_metrics_and_detectors_by_what_they_say() -> None:
    adwin, accuracy = drift.ADWIN(), metrics.Accuracy()
    for _, y in EVENTS:
        adwin.update(y)
        accuracy.update(y, True)
    said = told(adwin)
    assert (said["ADWIN.width"], said["ADWIN.estimation"]) == (adwin.width, adwin.estimation)
    assert told(accuracy) == {"Accuracy": accuracy.get()}
    bayes = told(learned(naive_bayes.GaussianNB()))
    assert math.isfinite(bayes["GaussianNB.gaussians[True]['nswprice'].mu"])


@pytest.mark.parametrize(
    "model",
    [
        forest.ARFClassifier(n_models=2, seed=1),
        forest.AMFClassifier(n_estimators=2, seed=1),
        neighbors.KNNClassifier(),
        ensemble.ADWINBaggingClassifier(linear_model.LogisticRegression(), n_models=2, seed=1),
        tree.HoeffdingAdaptiveTreeClassifier(grace_period=50, seed=1),
        tree.ExtremelyFastDecisionTreeClassifier(grace_period=50),
        rules.AMRules(),
    ],
    ids=lambda model: type(model).__name__,
)
def test_any_model_says_something_that_changes_and_survives_a_snapshot(model: Any) -> None:
    before = told(model)
    task = isinstance(model, base.Regressor)
    for x, y in EVENTS:
        model.learn_one(x, float(y) if task else y)
    after = told(objects.thaw(objects.freeze(model)))
    assert after == told(objects.thaw(objects.freeze(model)))
    assert any(value != before.get(name, value) or name not in before
               for name, value in after.items())  # fmt: skip
    assert len(after) < 2000
    assert {type(value) for value in after.values()} <= {type(None), bool, int, float, str}


def test_what_is_long_deep_or_goes_in_circles_has_an_end() -> None:
    class Thing:
        def __init__(self) -> None:
            self._me = self
            self.window = deque([1.0, 3.0] * 500)
            self.small = np.array([[1, 2], [3, 4]])
            deep: list[Any] = []
            for _ in range(5000):
                deep = [deep]
            self.deep = deep
            self.raw = b"abc"

    said = told(Thing())
    assert said["Thing.window.length"] == 1000
    assert said["Thing.window.mean"] == 2.0
    assert said["Thing.small[3]"] == 4
    assert said["Thing.raw"].startswith("3 bytes")


def test_a_union_of_transformers() -> None:
    model = learned(
        compose.TransformerUnion(
            compose.Select("nswprice") | preprocessing.StandardScaler(),
            compose.Select("nswdemand") | preprocessing.MinMaxScaler(),
        )
        | linear_model.LogisticRegression()
    )
    assert any("means['nswprice']" in name for name in told(model))
