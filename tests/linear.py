"""Pipelines that can be compiled, each with a real stream, and what river itself says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from river import compose, datasets, facto, linear_model, optim, preprocessing

from stream_update.events import Features, Predictions
from tests.programs import elec2

__all__ = ["CASES", "OPTIMIZERS", "Case", "numbers", "of", "piped", "stream"]

Make = Callable[[], Any]

STANDARD = preprocessing.StandardScaler
OPTIMIZERS: dict[str, Make] = {
    "sgd": partial(optim.SGD, 0.05),
    "momentum": optim.Momentum,
    "adagrad": optim.AdaGrad,
    "rmsprop": optim.RMSProp,
    "adadelta": optim.AdaDelta,
    "adam": optim.Adam,
    "amsgrad": optim.AMSGrad,
    "adamax": optim.AdaMax,
    "nadam": optim.Nadam,
    "ftrl": partial(optim.FTRLProximal, l1=0.01),
}


class Case(NamedTuple):
    """A pipeline, and the stream and task that it is for."""

    name: str
    make: Make
    stream: str
    task: str


def piped(*makers: Make) -> Make:
    """What makes a pipeline of what these make."""
    return lambda: compose.Pipeline(*(make() for make in makers))


def of(model: Callable[..., Any], makers: dict[str, Make], **options: Any) -> Make:
    """What makes a model with these options; those of ``makers`` are made afresh for it."""
    return lambda: model(**{name: make() for name, make in makers.items()}, **options)


def _cases() -> Iterator[Case]:
    for name, make in OPTIMIZERS.items():
        yield from _of_optimizer(name, {"optimizer": make})
    yield from _of_losses()
    yield from _of_options()
    yield from _of_machines()
    for mode in (1, 2):
        classifier = of(linear_model.PAClassifier, {}, mode=mode, C=0.1)
        regressor = of(linear_model.PARegressor, {}, mode=mode, C=0.01)
        yield Case(f"PAClassifier {mode}", piped(STANDARD, classifier), "Phishing", "binary")
        yield Case(f"PARegressor {mode}", piped(STANDARD, regressor), "TrumpApproval", "regression")


def _of_optimizer(name: str, makers: dict[str, Make]) -> Iterator[Case]:
    logistic, linear = linear_model.LogisticRegression, linear_model.LinearRegression
    yield Case(
        f"LogisticRegression {name}", piped(STANDARD, of(logistic, makers)), "Elec2", "binary"
    )
    yield Case(
        f"LogisticRegression {name} l2",
        piped(preprocessing.MinMaxScaler, of(logistic, makers, l2=0.01)),
        "Phishing",
        "binary",
    )
    if name != "ftrl":
        yield Case(
            f"LogisticRegression {name} l1",
            piped(preprocessing.MaxAbsScaler, of(logistic, makers, l1=0.001)),
            "Phishing",
            "binary",
        )
    yield Case(
        f"LinearRegression {name}",
        piped(STANDARD, of(linear, makers, intercept_lr=0.1)),
        "TrumpApproval",
        "regression",
    )
    yield Case(
        f"SoftmaxRegression {name}",
        piped(STANDARD, of(linear_model.SoftmaxRegression, makers, l2=0.001)),
        "ImageSegments",
        "multiclass",
    )
    both = {
        "weight_optimizer": makers["optimizer"],
        # With momentum the product of two features grows beyond all bounds.
        "latent_optimizer": optim.SGD if name == "momentum" else makers["optimizer"],
    }
    yield Case(
        f"FMClassifier {name}",
        piped(STANDARD, of(facto.FMClassifier, both, n_factors=4, seed=3)),
        "Bananas",
        "binary",
    )


def _of_losses() -> Iterator[Case]:
    losses = optim.losses
    slow = partial(optim.SGD, 0.001)
    for loss in (
        losses.Absolute,
        losses.Cauchy,
        losses.EpsilonInsensitiveHinge,
        losses.Quantile,
        losses.Huber,
        losses.Poisson,
    ):
        model = of(linear_model.LinearRegression, {"loss": loss, "optimizer": slow})
        name = f"LinearRegression {loss.__name__}"
        yield Case(name, piped(STANDARD, model), "ChickWeights", "regression")
    kinds: dict[str, Make] = {
        "Hinge": losses.Hinge,
        "BinaryFocalLoss": losses.BinaryFocalLoss,
        "weighted Log": partial(losses.Log, weight_pos=3.0, weight_neg=0.5),
    }
    for name, make in kinds.items():
        model = of(linear_model.LogisticRegression, {"loss": make})
        yield Case(f"LogisticRegression {name}", piped(STANDARD, model), "Bananas", "binary")


def _of_options() -> Iterator[Case]:
    logistic = linear_model.LogisticRegression
    yield Case("Perceptron", linear_model.Perceptron, "Phishing", "binary")
    yield Case("LogisticRegression alone", logistic, "Phishing", "binary")
    centred = partial(preprocessing.StandardScaler, with_std=False)
    yield Case("centred", piped(centred, logistic), "Phishing", "binary")
    makers: dict[str, Make] = {
        "optimizer": lambda: optim.SGD(optim.schedulers.InverseScaling(0.1)),
        "intercept_lr": lambda: optim.schedulers.Optimal(optim.losses.Squared(), alpha=0.01),
        "initializer": partial(optim.initializers.Normal, seed=2),
    }
    model = of(linear_model.LinearRegression, makers, intercept_init=3.0, clip_gradient=5.0)
    yield Case("schedules", piped(STANDARD, model), "TrumpApproval", "regression")
    hasher = partial(preprocessing.FeatureHasher, n_features=16, seed=1)
    model = of(logistic, {"optimizer": partial(optim.Adam, 0.01)}, l2=0.001)
    yield Case("hashed", piped(hasher, STANDARD, model), "Phishing", "binary")


def _of_machines() -> Iterator[Case]:
    slow = partial(optim.SGD, 0.001)
    makers: dict[str, Make] = {"weight_optimizer": slow, "latent_optimizer": slow}
    model = of(facto.FMRegressor, makers, seed=3, intercept=5.0)
    yield Case("FMRegressor", piped(STANDARD, model), "TrumpApproval", "regression")
    makers = {
        "latent_optimizer": optim.Adam,
        "weight_initializer": partial(optim.initializers.Normal, seed=5),
    }
    model = of(
        facto.FMClassifier,
        makers,
        sample_normalization=True,
        l1_weight=0.001,
        l2_weight=0.01,
        l1_latent=0.001,
        l2_latent=0.01,
        seed=3,
    )
    yield Case("FMClassifier normalised", model, "Phishing", "binary")


CASES = {case.name: case for case in _cases()}


def stream(name: str, count: int | None = None) -> tuple[list[Features], list[Any]]:
    """The first events of a stream, or all of them."""
    if name == "Elec2":
        rows = elec2(count or 100_000)
        labels = [bool(row.pop("class")) for row in rows]
        return rows, labels
    # To its end, where it closes its file.
    data = list(getattr(datasets, name)())[:count]
    return [dict(x) for x, _ in data], [y for _, y in data]


def numbers(said: Predictions) -> Sequence[float]:
    """All that was said, in one row."""
    if said.probabilities is None:
        return said.values
    return [share for one in said.probabilities for share in one.values()]
