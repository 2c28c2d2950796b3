"""Every model of river goes through a snapshot and goes on as if nothing had been.

The models are found by looking, so that one which a new river brings is tried as well;
those that cannot be built, driven or kept are listed by name, with the reason.
"""

from __future__ import annotations

import csv
import functools
import gzip
import importlib
import importlib.resources
import inspect
import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from river import (
    anomaly,
    base,
    cluster,
    compose,
    conf,
    drift,
    ensemble,
    feature_extraction,
    feature_selection,
    forest,
    imblearn,
    linear_model,
    metrics,
    model_selection,
    multiclass,
    naive_bayes,
    neighbors,
    optim,
    preprocessing,
    reco,
    stats,
    tree,
    utils,
)

from stream_update import objects
from stream_update.errors import ConfigError
from stream_update.objects.names import frozen
from stream_update.objects.paths import walk

TRAINED = 200
FURTHER = 200
FIRST = 20_000
"""Before that row two of Elec2's six features are constant."""

SLOW = {
    "AMFClassifier": 80,
    "AMFRegressor": 80,
    "GapEncoder": 40,
    "LDA": 40,
    "LocalOutlierFactor": 40,
    "TextClust": 80,
}
"""Events, for those that need milliseconds for each."""

UNSUPPORTED = {
    "RandomTreesEmbedding": "finds its leaves by their address",
    "OutputCodeClassifier": "list_iterator",
}
"""What freezing refuses, with a word of the reason. (OutputCodeClassifier: exact codes.)"""

PARTS = {
    "AdaptiveRegressor": "a part of AMRules",
    "BaseTreeClassifier": "a part of ARFClassifier",
    "BaseTreeRegressor": "a part of ARFRegressor",
    "ETRegressor": "a part of OXTRegressor",
    "Estimator": "a base class",
    "DynamicQuantizer": "a part of SGTClassifier",
    "LazySearch": "a part of KNN",
    "NominalSplitterClassif": "a part of HoeffdingTreeClassifier",
    "NominalSplitterReg": "a part of HoeffdingTreeRegressor",
    "RegRandomSplitter": "a part of OXTRegressor",
    "RegRule": "a part of AMRules",
    "SWINN": "a part of KNN",
    "StochasticGradientTree": "a base class",
    "MeanRegressor": "a part of AMRules",
}
"""Estimators that are never a model by themselves."""


@functools.cache
def rows() -> list[tuple[dict[str, float], bool]]:
    packed = importlib.resources.files("stream_update").joinpath("data/elec.csv.gz")
    with packed.open("rb") as raw, gzip.open(raw, "rt") as lines:
        wanted = itertools.islice(csv.DictReader(lines), FIRST, FIRST + TRAINED + FURTHER)
        return [
            ({name: float(row[name]) for name in row if name != "class"}, row["class"] == "1")
            for row in wanted
        ]


# One event: predict, learn, and what the model says. Each sort of model takes it its own way.

Step = Callable[[Any, dict[str, float], Any], object]


def classify(model: Any, x: dict[str, float], y: Any) -> object:
    try:
        probabilities = model.predict_proba_one(x)
    except NotImplementedError:
        probabilities = None
    value = model.predict_one(x)
    model.learn_one(x, y)
    return probabilities, value


def regress(model: Any, x: dict[str, float], _y: Any) -> object:
    value = model.predict_one(x)
    model.learn_one(x, x["nswdemand"])
    return value


def classify_many(model: Any, x: dict[str, float], y: Any) -> object:
    value = model.predict_one(x)
    model.learn_one(x, {"up": y, "dear": x["nswprice"] > 0.05})
    return value


def regress_many(model: Any, x: dict[str, float], _y: Any) -> object:
    value = model.predict_one(x)
    model.learn_one(x, {"demand": x["nswdemand"], "price": x["nswprice"]})
    return value


def score(model: Any, x: dict[str, float], _y: Any) -> object:
    value = model.score_one(x)
    model.learn_one(x)
    return value


def score_labelled(model: Any, x: dict[str, float], _y: Any) -> object:
    value = model.score_one(x, x["nswdemand"])
    model.learn_one(x, x["nswdemand"])
    return value


def transform(model: Any, x: Any, y: Any) -> object:
    model.learn_one(x, y) if model._supervised else model.learn_one(x)
    return model.transform_one(x)


def transform_text(model: Any, x: dict[str, float], y: Any) -> object:
    return transform(model, f"Ein Häuschen mit {as_text(x)}", y)


def transform_words(model: Any, x: dict[str, float], y: Any) -> object:
    return transform(model, dict.fromkeys(as_text(x).split(), 1), y)


def cluster_one(model: Any, x: dict[str, float], _y: Any) -> object:
    model.learn_one(x)
    return model.predict_one(x)


def cluster_text(model: Any, x: dict[str, float], _y: Any) -> object:
    words = dict.fromkeys(as_text(x).split(), 1)
    model.learn_one(words)
    return model.predict_one(words)


def cluster_features(model: Any, x: dict[str, float], _y: Any) -> object:
    model.learn_one(x)
    return model.render_ascii()


def detect(model: Any, x: dict[str, float], _y: Any) -> object:
    model.update(x["nswdemand"])
    return model.drift_detected


def detect_binary(model: Any, _x: dict[str, float], y: Any) -> object:
    model.update(int(y))
    return model.drift_detected


def rate(model: Any, x: dict[str, float], y: Any) -> object:
    who = {"user": f"user {x['period']}", "item": f"item {y}"}
    value = model.predict_one(**who)
    model.learn_one(**who, y=x["nswdemand"])
    return value


def as_text(x: dict[str, float]) -> str:
    return " ".join(f"{name}-{value:.1f}" for name, value in x.items())


TEXT = (feature_extraction.BagOfWords, feature_extraction.TFIDF, preprocessing.GapEncoder)

STEPS: list[tuple[tuple[type, ...], Step]] = [
    ((cluster.TextClust,), cluster_text),
    ((cluster.ODAC,), cluster_features),
    (TEXT, transform_text),
    ((preprocessing.LDA,), transform_words),
    ((base.BinaryDriftDetector, base.BinaryDriftAndWarningDetector), detect_binary),
    ((base.DriftDetector, base.DriftAndWarningDetector), detect),
    ((reco.base.Ranker,), rate),
    ((base.MultiLabelClassifier,), classify_many),
    ((base.MultiTargetRegressor,), regress_many),
    ((base.Classifier,), classify),
    ((base.Regressor,), regress),
    ((base.SupervisedAnomalyDetector,), score_labelled),
    ((anomaly.ThresholdFilter, anomaly.QuantileFilter, base.AnomalyDetector), score),
    ((base.Clusterer,), cluster_one),
    ((base.Transformer, base.SupervisedTransformer), transform),
]


def step_of(model: Any) -> Step | None:
    last = model
    while isinstance(last, compose.Pipeline):
        last = last[-1]
    return next((step for classes, step in STEPS if isinstance(last, classes)), None)


# The models. river says itself with which options its tests build each class.

Make = Callable[[], Any]


def found() -> Iterator[tuple[str, Make]]:
    for module, names in frozen().classes.items():
        for name in names:
            cls: Any = importlib.import_module(module)
            for part in name.split("."):
                cls = getattr(cls, part)
            testable = issubclass(cls, base.Estimator) or "drift" in module
            if (
                name in PARTS
                or cls is compose.Pipeline
                or not testable
                or not hasattr(cls, "_unit_test_params")
            ):
                continue
            for number in range(count_of(cls)):
                yield f"{name}-{number}" if number else name, functools.partial(build, cls, number)
    yield "RandomTreesEmbedding", lambda: feature_extraction.RandomTreesEmbedding(seed=1)


def count_of(cls: Any) -> int:
    try:
        return sum(1 for options in cls._unit_test_params() if buildable(cls, options))
    except TypeError:
        return 0


def buildable(cls: Any, options: dict[str, Any]) -> bool:
    try:
        inspect.signature(cls).bind(**options)
    except TypeError:
        return False
    return step_of(cls(**options)) is not None


def build(cls: Any, number: int) -> Any:
    wanted = (options for options in cls._unit_test_params() if buildable(cls, options))
    options = dict(next(itertools.islice(wanted, number, None)))
    if "seed" in inspect.signature(cls).parameters:
        options["seed"] = 42
    if cls is cluster.STREAMKMeans:
        options["seed"] = 42
    return cls(**options)


def square(x: dict[str, float]) -> dict[str, float]:
    return {name: value * value for name, value in x.items()}


def logistic() -> Any:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


def with_optimizer(optimizer: type) -> Make:
    return lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(optimizer())


OPTIMIZERS = [
    cls
    for _, cls in inspect.getmembers(optim, inspect.isclass)
    if issubclass(cls, optim.base.Optimizer)
    and cls not in {optim.Averager, optim.FTRLProximal, optim.base.Optimizer}
]

MANHATTAN: Any = utils.math._manhattan_distance

NAMED: dict[str, Make] = {
    **{f"optimizer-{cls.__name__}": with_optimizer(cls) for cls in OPTIMIZERS},
    "optimizer-Averager": lambda: linear_model.LogisticRegression(optim.Averager(optim.SGD(0.1))),
    "l1": lambda: linear_model.LogisticRegression(optim.FTRLProximal(), l1=0.0, l2=0.0),
    "l1-cumulative": lambda: linear_model.LogisticRegression(l1=0.01),
    "Agg": lambda: feature_extraction.Agg(on="nswprice", by=["period"], how=stats.Mean()),
    "TargetAgg": lambda: feature_extraction.TargetAgg(by=["period"], how=stats.BayesianMean(0, 1)),
    "AdwinBagging-HoeffdingTree": lambda: ensemble.ADWINBaggingClassifier(
        tree.HoeffdingTreeClassifier(grace_period=50), n_models=3, seed=1
    ),
    "FuncTransformer": lambda: compose.FuncTransformer(square) | logistic(),
    "Grouper": lambda: compose.Grouper(preprocessing.StandardScaler(), by="period") | logistic(),
    "HoeffdingTree-tebst": lambda: tree.HoeffdingTreeRegressor(
        grace_period=50, splitter=tree.splitter.EBSTSplitter()
    ),
    "HoeffdingTree-exhaustive": lambda: tree.HoeffdingTreeClassifier(
        grace_period=50, splitter=tree.splitter.ExhaustiveSplitter()
    ),
    "HoeffdingTree-histogram": lambda: tree.HoeffdingTreeClassifier(
        grace_period=50, splitter=tree.splitter.HistogramSplitter()
    ),
    "HoeffdingTree-QO": lambda: tree.HoeffdingTreeRegressor(
        grace_period=50, splitter=tree.splitter.QOSplitter(allow_multiway_splits=True)
    ),
    "HoeffdingTree-nominal": lambda: tree.HoeffdingTreeClassifier(
        grace_period=50, delta=0.5, nominal_attributes=["period"]
    ),
    "HoeffdingTree-nominal-regressor": lambda: tree.HoeffdingTreeRegressor(
        grace_period=50, delta=0.5, nominal_attributes=["period"]
    ),
    "HoeffdingAdaptiveTree-eager": lambda: tree.HoeffdingAdaptiveTreeClassifier(
        grace_period=20, delta=0.5, tau=0.5, leaf_prediction="nb", seed=1
    ),
    "ARF-eager": lambda: forest.ARFClassifier(3, grace_period=10, delta=0.5, seed=1),
    "Jackknife": lambda: conf.RegressionJackknife(linear_model.LinearRegression(), window_size=50),
    "KNN-SWINN": lambda: neighbors.KNNClassifier(
        engine=neighbors.SWINN(warm_up=50, maxlen=120, graph_k=5, seed=3)
    ),
    "KNN-manhattan": lambda: neighbors.KNNClassifier(
        engine=neighbors.LazySearch(dist_func=MANHATTAN)
    ),
    "LeveragingBagging-wt": lambda: ensemble.LeveragingBaggingClassifier(
        tree.HoeffdingTreeClassifier(), bagging_method="wt", seed=1
    ),
    "OutputCode-random": lambda: multiclass.OutputCodeClassifier(logistic(), 10, seed=1),
    "PageHinkley-up": lambda: drift.PageHinkley(mode="up"),
    "PoissonInclusion": lambda: feature_selection.PoissonInclusion(p=0.1, seed=1) | logistic(),
    "PredictiveAnomalyDetection": lambda: anomaly.PredictiveAnomalyDetection(
        preprocessing.StandardScaler() | linear_model.LinearRegression()
    ),
    "Prefixer": lambda: (compose.Prefixer("a_") + compose.Suffixer("_b")) | logistic(),
    "RandomOverSampler": lambda: imblearn.RandomOverSampler(logistic(), {True: 0.5, False: 0.5}, 1),
    "RandomSampler": lambda: imblearn.RandomSampler(logistic(), {True: 0.5, False: 0.5}, seed=1),
    "RandomUnderSampler": lambda: imblearn.RandomUnderSampler(
        logistic(), {True: 0.5, False: 0.5}, seed=1
    ),
    "Renamer": lambda: compose.Renamer({"period": "hour"}) | logistic(),
    "Select": lambda: compose.Select("period", "nswprice", "transfer") | logistic(),
    "SelectType": lambda: compose.SelectType(float) | logistic(),
    "StandardScaler-windowed": lambda: preprocessing.StandardScaler(window_size=30),
    "SuccessiveHalving": lambda: model_selection.SuccessiveHalvingClassifier(
        [logistic(), naive_bayes.GaussianNB(), linear_model.ALMAClassifier()],
        metrics.Accuracy(),
        budget=60,
    ),
    "TFIDF-ngrams": lambda: feature_extraction.TFIDF(ngram_range=(1, 2), stop_words={"mit"}),
    "TargetMinMaxScaler": lambda: preprocessing.TargetMinMaxScaler(linear_model.LinearRegression()),
    "TargetStandardScaler": lambda: preprocessing.TargetStandardScaler(
        linear_model.LinearRegression()
    ),
    "TargetTransform": lambda: compose.TargetTransformRegressor(
        linear_model.LinearRegression(), math.log1p, math.expm1
    ),
    "TextClust": lambda: cluster.TextClust(real_time_fading=False),
    "Union": lambda: (
        (preprocessing.StandardScaler() + feature_extraction.PolynomialExtender(degree=2))
        | linear_model.LogisticRegression()
    ),
}

OWN = (square,)
"""What the models above are given, and river does not know."""

MODELS = {**dict(found()), **NAMED}


def test_no_estimator_of_river_is_left_out() -> None:
    listed = {
        cls
        for module, names in frozen().classes.items()
        for name in names
        if issubclass(cls := getattr(importlib.import_module(module), name, object), base.Estimator)
    }
    tried = {type(part) for make in MODELS.values() for _, part in walk(make())}
    assert {cls.__name__ for cls in listed - tried} <= set(PARTS)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_model_goes_on_after_a_snapshot(name: str) -> None:
    model = MODELS[name]()
    step = step_of(model)
    assert step is not None
    share = SLOW.get(name, TRAINED)
    for x, y in rows()[:share]:
        step(model, dict(x), y)
    if name in UNSUPPORTED:
        with pytest.raises(ConfigError, match=UNSUPPORTED[name]):
            objects.freeze(model)
        return

    tree_ = objects.freeze(model, allow=OWN)
    packed = msgspec.msgpack.encode(tree_)
    thawed = objects.thaw(msgspec.msgpack.decode(packed), allow=OWN)

    assert objects.digest(objects.freeze(thawed, allow=OWN)) == objects.digest(tree_)
    for x, y in rows()[TRAINED : TRAINED + share]:
        # repr shows every bit of a float, and the order of a dict.
        assert repr(step(thawed, dict(x), y)) == repr(step(model, dict(x), y))
    assert objects.digest(objects.freeze(thawed, allow=OWN)) == objects.digest(
        objects.freeze(model, allow=OWN)
    )


# What depends on PYTHONHASHSEED. Such a model is a function of its events only while the
# variable keeps its value; that a snapshot changes nothing under one value is tested above,
# under a value that is another one in every run.

HASH_ORDER = {
    "AMFClassifier*": "makes its probabilities in the order of a set of classes",
    "HoeffdingAdaptiveTreeClassifier*": "makes its probabilities in the order of a set of classes",
    "KMeans": "draws its centres in the order of a set of features",
    "KNNClassifier*": "makes its probabilities in the order of a set of classes",
    "OneVsOneClassifier*": "files its pairs of classes in the order of a set of classes",
    "Select": "hands the features on in the order of a set",
    "TFIDF-ngrams": "counts the words of a document in the order of a set",
}
"""With a star: classifiers that are given text as labels."""

NO_HASH_ORDER = [
    "ARF-eager",
    "ARFClassifier*",
    "BagOfWords",
    "BernoulliNB",
    "GaussianNB*",
    "HoeffdingAdaptiveTreeClassifier",
    "HoeffdingTreeClassifier*",
    "HoeffdingTreeRegressor",
    "KNN-SWINN",
    "KNNClassifier",
    "LogisticRegression",
    "OneVsRestClassifier*",
    "SoftmaxRegression*",
    "SRPClassifier",
    "optimizer-Adam",
]


def fates(names: list[str]) -> dict[str, list[str]]:
    """What each model says about some events, and the digest of its state after them."""
    ends = {}
    for name in names:
        model = MODELS[name.removesuffix("*")]()
        step = step_of(model)
        assert step is not None
        said = []
        for x, y in rows()[:100]:
            label = ["up", "down", "as it was", "unknown"][int(x["nswdemand"] * 20) % 4]
            said.append(repr(step(model, dict(x), label if name.endswith("*") else y)))
        ends[name] = ["\n".join(said), objects.digest(objects.freeze(model))]
    return ends


@pytest.fixture(scope="module")
def fates_by_seed() -> list[dict[str, list[str]]]:
    names = [*HASH_ORDER, *NO_HASH_ORDER]
    started = [
        subprocess.Popen(
            [sys.executable, __file__, *names],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
        )
        for seed in ("0", "1", "2")
    ]
    return [json.loads(process.communicate()[0]) for process in started]


@pytest.mark.xdist_group("hash-seeds")
@pytest.mark.parametrize("name", NO_HASH_ORDER)
def test_a_model_is_the_same_under_every_hash_seed(
    name: str, fates_by_seed: list[dict[str, list[str]]]
) -> None:
    first, second, third = (fates[name] for fates in fates_by_seed)
    assert first == second == third


@pytest.mark.xdist_group("hash-seeds")
@pytest.mark.parametrize("name", HASH_ORDER)
def test_a_model_depends_on_the_hash_seed(
    name: str, fates_by_seed: list[dict[str, list[str]]]
) -> None:
    assert len({tuple(fates[name]) for fates in fates_by_seed}) > 1


if __name__ == "__main__":
    json.dump(fates(sys.argv[1:]), sys.stdout)
