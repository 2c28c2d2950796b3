"""Pipelines that can be compiled, each with a real stream, and what river itself says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from river import datasets, facto, linear_model, optim, preprocessing

from stream_update.events import Features, Predictions
from tests.programs import elec2

__all__ = ["CASES", "OPTIMIZERS", "Case", "numbers", "stream"]

OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": lambda: optim.SGD(0.05),
    "momentum": optim.Momentum,
    "adagrad": optim.AdaGrad,
    "rmsprop": optim.RMSProp,
    "adadelta": optim.AdaDelta,
    "adam": optim.Adam,
    "amsgrad": optim.AMSGrad,
    "adamax": optim.AdaMax,
    "nadam": optim.Nadam,
    "ftrl": lambda: optim.FTRLProximal(l1=0.01),
}


class Case(NamedTuple):
    """A pipeline, and the stream and task that it is for."""

    name: str
    make: Callable[[], Any]
    stream: str
    task: str


def _cases() -> Iterator[Case]:
    yield from _of_optimizers()
    yield from _of_losses()
    yield from _of_options()
    yield from _of_machines()
    for mode in (1, 2):
        yield Case(
            f"PAClassifier {mode}",
            lambda mode=mode: preprocessing.StandardScaler()
            | linear_model.PAClassifier(mode=mode, C=0.1),
            "Phishing",
            "binary",
        )
        yield Case(
            f"PARegressor {mode}",
            lambda mode=mode: preprocessing.StandardScaler()
            | linear_model.PARegressor(mode=mode, C=0.01),
            "TrumpApproval",
            "regression",
        )


def _of_optimizers() -> Iterator[Case]:
    for name, make in OPTIMIZERS.items():
        yield Case(
            f"LogisticRegression {name}",
            lambda make=make: preprocessing.StandardScaler()
            | linear_model.LogisticRegression(make()),
            "Elec2",
            "binary",
        )
        yield Case(
            f"LogisticRegression {name} l2",
            lambda make=make: preprocessing.MinMaxScaler()
            | linear_model.LogisticRegression(make(), l2=0.01),
            "Phishing",
            "binary",
        )
        yield Case(
            f"LinearRegression {name}",
            lambda make=make: preprocessing.StandardScaler()
            | linear_model.LinearRegression(make(), intercept_lr=0.1),
            "TrumpApproval",
            "regression",
        )
        yield Case(
            f"SoftmaxRegression {name}",
            lambda make=make: preprocessing.StandardScaler()
            | linear_model.SoftmaxRegression(make(), l2=0.001),
            "ImageSegments",
            "multiclass",
        )
        yield Case(
            f"FMClassifier {name}",
            lambda make=make, name=name: preprocessing.StandardScaler()
            | facto.FMClassifier(
                n_factors=4,
                weight_optimizer=make(),
                latent_optimizer=optim.SGD() if name == "momentum" else make(),
                seed=3,
            ),
            "Bananas",
            "binary",
        )
        if name != "ftrl":
            yield Case(
                f"LogisticRegression {name} l1",
                lambda make=make: preprocessing.MaxAbsScaler()
                | linear_model.LogisticRegression(make(), l1=0.001),
                "Phishing",
                "binary",
            )


def _of_losses() -> Iterator[Case]:
    for loss in (
        optim.losses.Absolute,
        optim.losses.Cauchy,
        optim.losses.EpsilonInsensitiveHinge,
        optim.losses.Quantile,
        optim.losses.Huber,
        optim.losses.Poisson,
    ):
        yield Case(
            f"LinearRegression {loss.__name__}",
            lambda loss=loss: preprocessing.StandardScaler()
            | linear_model.LinearRegression(optim.SGD(0.001), loss=loss()),
            "ChickWeights",
            "regression",
        )
    for one in (
        optim.losses.Hinge(),
        optim.losses.BinaryFocalLoss(),
        optim.losses.Log(weight_pos=3.0, weight_neg=0.5),
    ):
        yield Case(
            f"LogisticRegression {one!r}",
            lambda one=one: preprocessing.StandardScaler()
            | linear_model.LogisticRegression(loss=one),
            "Bananas",
            "binary",
        )


def _of_options() -> Iterator[Case]:
    yield Case("Perceptron", linear_model.Perceptron, "Phishing", "binary")
    yield Case("LogisticRegression alone", linear_model.LogisticRegression, "Phishing", "binary")
    yield Case(
        "centred",
        lambda: preprocessing.StandardScaler(with_std=False) | linear_model.LogisticRegression(),
        "Phishing",
        "binary",
    )
    yield Case(
        "schedules",
        lambda: preprocessing.StandardScaler()
        | linear_model.LinearRegression(
            optim.SGD(optim.schedulers.InverseScaling(0.1)),
            intercept_lr=optim.schedulers.Optimal(optim.losses.Squared(), alpha=0.01),
            intercept_init=3.0,
            clip_gradient=5.0,
            initializer=optim.initializers.Normal(seed=2),
        ),
        "TrumpApproval",
        "regression",
    )
    yield Case(
        "hashed",
        lambda: preprocessing.FeatureHasher(n_features=16, seed=1)
        | preprocessing.StandardScaler()
        | linear_model.LogisticRegression(optim.Adam(0.01), l2=0.001),
        "Phishing",
        "binary",
    )


def _of_machines() -> Iterator[Case]:
    yield Case(
        "FMRegressor",
        lambda: preprocessing.StandardScaler()
        | facto.FMRegressor(
            weight_optimizer=optim.SGD(0.001),
            latent_optimizer=optim.SGD(0.001),
            seed=3,
            intercept=5.0,
        ),
        "TrumpApproval",
        "regression",
    )
    yield Case(
        "FMClassifier normalised",
        lambda: facto.FMClassifier(
            seed=3,
            sample_normalization=True,
            latent_optimizer=optim.Adam(),
            l1_weight=0.001,
            l2_weight=0.01,
            l1_latent=0.001,
            l2_latent=0.01,
            weight_initializer=optim.initializers.Normal(seed=5),
        ),
        "Phishing",
        "binary",
    )


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
