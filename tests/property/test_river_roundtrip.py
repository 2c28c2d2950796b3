"""Every model of river goes through a snapshot and goes on as if nothing had been.

The models are found by looking, so that one which a new river brings is tried as well;
those that nothing here can build or drive are listed by name, with the reason.
"""

from __future__ import annotations

import csv
import gzip
import importlib.resources
import inspect
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import river
from river import (
    anomaly,
    base,
    cluster,
    compose,
    drift,
    ensemble,
    feature_extraction,
    feature_selection,
    imblearn,
    linear_model,
    metrics,
    model_selection,
    multiclass,
    naive_bayes,
    neighbors,
    optim,
    preprocessing,
    proba,
    reco,
    rules,
    stats,
    tree,
    utils,
)
from river.forest import online_extra_trees

from stream_update import objects
from stream_update.errors import ConfigError
from stream_update.objects import allow

TRAINED = 200
FURTHER = 200
FIRST = 20_000
"""Before that, two of the six features of Elec2 are constant."""


def rows(count: int) -> list[tuple[dict[str, float], bool]]:
    packed = importlib.resources.files("stream_update").joinpath("data/elec.csv.gz")
    with packed.open("rb") as raw, gzip.open(raw, "rt") as lines:
        wanted = itertools.islice(csv.DictReader(lines), FIRST, FIRST + count)
        return [
            ({name: float(text) for name, text in row.items() if name != "class"}, row["class"] == "1")
            for row in wanted
        ]


ROWS = rows(TRAINED + FURTHER)

# What an event is to each sort of model: one step of prediction and learning, and what it says.

Step = Callable[[Any, dict[str, Any], bool], object]


def classify(model: Any, x: dict[str, Any], y: object) -> object:
    try:
        probabilities = model.predict_proba_one(x)
    except NotImplementedError:
        probabilities = None
    value = model.predict_one(x)
    model.learn_one(x, y)
    return probabilities, value


def regress(model: Any, x: dict[str, Any], y: object) -> object:
    value = model.predict_one(x)
    model.learn_one(x, x["nswdemand"])
    return value


def classify_many(model: Any, x: dict[str, Any], y: object) -> object:
    value = model.predict_one(x)
    model.learn_one(x, {"up": y, "dear": x["nswprice"] > 0.05})
    return value


def regress_many(model: Any, x: dict[str, Any], y: object) -> object:
    value = model.predict_one(x)
    model.learn_one(x, {"demand": x["nswdemand"], "price": x["nswprice"]})
    return value


def score(model: Any, x: dict[str, Any], y: object) -> object:
    value = model.score_one(x)
    model.learn_one(x)
    return value


def score_labelled(model: Any, x: dict[str, Any], y: object) -> object:
    value = model.score_one(x, x["nswdemand"])
    model.learn_one(x, x["nswdemand"])
    return value


def transform(model: Any, x: dict[str, Any], y: object) -> object:
    if model._supervised:
        model.learn_one(x, y)
    else:
        model.learn_one(x)
    return model.transform_one(x)


def transform_text(model: Any, x: dict[str, Any], y: object) -> object:
    return transform(model, "Ein Test mit Wörtern " + as_text(x), y)  # type: ignore[arg-type]


def transform_words(model: Any, x: dict[str, Any], y: object) -> object:
    return transform(model, {f"word {number}": 1 for number in range(int(x["period"] * 9) + 1)}, y)


def gather(model: Any, x: dict[str, Any], y: object) -> object:
    model.learn_one(x)
    return model.predict_one(x)


def gather_text(model: Any, x: dict[str, Any], y: object) -> object:
    words = feature_extraction.BagOfWords().transform_one(as_text(x))
    model.learn_one(words)
    return len(model.micro_clusters)


def draw_tree(model: Any, x: dict[str, Any], y: object) -> object:
    model.learn_one(x)
    return model.render_ascii()


def detect(model: Any, x: dict[str, Any], y: object) -> object:
    model.update(x["nswdemand"])
    return model.drift_detected


def detect_binary(model: Any, x: dict[str, Any], y: object) -> object:
    model.update(int(bool(y)))
    return model.drift_detected


def rate(model: Any, x: dict[str, Any], y: object) -> object:
    user, item = f"user {x['period']}", f"item {y}"
    value = model.predict_one(user=user, item=item)
    model.learn_one(user=user, item=item, y=x["nswdemand"])
    return value


def as_text(x: dict[str, Any]) -> str:
    return " ".join(f"{name}{value:.1f}" for name, value in x.items())


def step_of(model: Any) -> Step:  # noqa: PLR0911
    for kind, step in BY_CLASS:
        if isinstance(model, kind):
            return step
    if hasattr(model, "predict_proba_one"):
        return classify
    if hasattr(model, "predict_one"):
        return regress
    return transform


BY_CLASS: list[tuple[Any, Step]] = [
    (cluster.TextClust, gather_text),
    (cluster.ODAC, draw_tree),
    (feature_extraction.BagOfWords | feature_extraction.TFIDF, transform_text),
    (preprocessing.LDA, transform_words),
    (preprocessing.GapEncoder, lambda model, x, y: transform(model, {"text": as_text(x)}, y)),
    (base.BinaryDriftDetector | base.BinaryDriftAndWarningDetector, detect_binary),
    (base.DriftDetector | base.DriftAndWarningDetector, detect),
    (reco.base.Ranker, rate),
    (base.MultiLabelClassifier, classify_many),
    (base.MultiTargetRegressor, regress_many),
    (base.Classifier, classify),
    (base.Regressor, regress),
    (base.SupervisedAnomalyDetector | anomaly.PredictiveAnomalyDetection, score_labelled),
    (base.AnomalyDetector | anomaly.base.AnomalyDetector, score),
    (base.Clusterer, gather),
    (base.Transformer, transform),
] if False else []
