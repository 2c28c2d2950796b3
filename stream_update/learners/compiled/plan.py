"""What of a river model can be compiled, and with which numbers."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from river import compose, facto, linear_model, optim, preprocessing

from stream_update.errors import ConfigError
from stream_update.learners.compiled import kernels as k
from stream_update.learners.compiled.rows import Floats, Numbers

__all__ = ["Plan", "planned"]

GLMS = (linear_model.LogisticRegression, linear_model.LinearRegression, linear_model.Perceptron)
PASSIVE = (linear_model.PAClassifier, linear_model.PARegressor)
MACHINES = (facto.FMClassifier, facto.FMRegressor)
MODELS = (*GLMS, linear_model.SoftmaxRegression, *PASSIVE, *MACHINES)
SCALERS = (preprocessing.StandardScaler, preprocessing.MinMaxScaler, preprocessing.MaxAbsScaler)

LOSSES: Mapping[type, tuple[int, tuple[str, ...]]] = {
    optim.losses.Log: (k.LOG, ("weight_pos", "weight_neg")),
    optim.losses.Hinge: (k.HINGE, ("threshold",)),
    optim.losses.BinaryFocalLoss: (k.FOCAL, ("gamma", "beta")),
    optim.losses.Squared: (k.SQUARED, ()),
    optim.losses.Absolute: (k.ABSOLUTE, ()),
    optim.losses.Cauchy: (k.CAUCHY, ("C",)),
    optim.losses.EpsilonInsensitiveHinge: (k.INSENSITIVE, ("eps",)),
    optim.losses.Quantile: (k.QUANTILE, ("alpha",)),
    optim.losses.Huber: (k.HUBER, ("epsilon",)),
    optim.losses.Poisson: (k.POISSON, ()),
}
SCHEDULERS: Mapping[type, tuple[int, tuple[str, ...]]] = {
    optim.schedulers.Constant: (k.CONSTANT, ("learning_rate",)),
    optim.schedulers.InverseScaling: (k.INVERSE, ("learning_rate", "power")),
    optim.schedulers.Optimal: (k.OPTIMAL, ("alpha", "t0")),
}
BETAS = ("beta_1", "beta_2", "eps")
OPTIMIZERS: Mapping[type, tuple[int, tuple[str, ...]]] = {
    optim.SGD: (k.SGD, ()),
    optim.Momentum: (k.MOMENTUM, ("rho",)),
    optim.AdaGrad: (k.ADA_GRAD, ("", "", "eps")),
    optim.RMSProp: (k.RMS_PROP, ("rho", "", "eps")),
    optim.AdaDelta: (k.ADA_DELTA, ("rho", "", "eps")),
    optim.Adam: (k.ADAM, BETAS),
    optim.AMSGrad: (k.AMS_GRAD, (*BETAS, "correct_bias")),
    optim.AdaMax: (k.ADA_MAX, BETAS),
    optim.Nadam: (k.NADAM, BETAS),
    optim.FTRLProximal: (k.FTRL, ("alpha", "beta", "l1", "l2")),
}
CAREFUL_SUMS = sys.version_info >= (3, 12)
"""Whether Python's ``sum`` keeps what rounding loses."""


class Plan(NamedTuple):
    """A model in parts. ``hasher`` and ``scaler`` are names of steps, or None."""

    hasher: str | None
    scaler: str | None
    last: str | None
    kinds: Numbers
    options: Floats

    @property
    def regression(self) -> bool:
        """Whether labels are numbers."""
        return bool(self.kinds[k.REGRESSION])

    def step(self, model: Any, name: str | None) -> Any:
        """The step of a model; the model itself where it is no pipeline."""
        return model.steps[name] if isinstance(model, compose.Pipeline) else model


def planned(model: Any) -> Plan:
    """The plan of a river model; raises :class:`ConfigError` that names what has no place in it."""
    steps = _steps(model)
    *before, (name, last) = steps
    hasher = scaler = None
    if before and type(before[0][1]) is preprocessing.FeatureHasher:
        hasher, _ = before.pop(0)
    kinds, options = np.zeros(k.KINDS, np.int64), np.zeros(k.OPTIONS)
    options[[k.HALF, k.TWO, k.MINUS_ONE]] = 0.5, 2.0, -1.0
    if hasher is not None:
        _seeded(steps[0][1], f"step {hasher!r}")
    if before:
        scaler, step = before.pop(0)
        kinds[k.SCALER] = _scaler(scaler, step)
    if before:
        raise _refused(
            f"step {before[0][0]!r}, a {type(before[0][1]).__name__}, has no place",
            "a FeatureHasher, then one scaler, each of which may be left out, then a model",
        )
    if type(last) not in MODELS:
        raise _refused(f"step {name!r} is a {type(last).__name__}", f"models: {_names(MODELS)}")
    parts = Plan(hasher, scaler, name, kinds, options)
    if type(last) in GLMS:
        _linear(parts, last)
    elif type(last) in PASSIVE:
        _passive(parts, last)
    elif type(last) in MACHINES:
        _machine(parts, last)
    else:
        _softmax(parts, last)
    return parts


def _steps(model: Any) -> list[tuple[str | None, Any]]:
    if type(model) is compose.Pipeline and model.steps:
        return list(model.steps.items())
    return [(type(model).__name__, model)]


def _scaler(name: str | None, step: Any) -> int:
    if type(step) not in SCALERS:
        raise _refused(
            f"step {name!r} is a {type(step).__name__}",
            f"before a model: FeatureHasher, {_names(SCALERS)}",
        )
    if step.window_size is not None:
        raise _refused(f"step {name!r} has window_size = {step.window_size}", "no window_size")
    if type(step) is preprocessing.StandardScaler:
        return k.STANDARD if step.with_std else k.CENTRED
    return k.MIN_MAX if type(step) is preprocessing.MinMaxScaler else k.MAX_ABS


def _linear(plan: Plan, model: Any) -> None:
    kinds, options, name = plan.kinds, plan.options, plan.last
    kinds[k.REGRESSION] = isinstance(model, linear_model.LinearRegression)
    kinds[k.LOSS] = _numbers(plan, k.LOSS_OPTIONS, LOSSES, model.loss, f"{name}: loss")
    _rates(plan, model.optimizer, model.intercept_lr, f"{name}: optimizer")
    _initializer(model.initializer, f"{name}: initializer")
    if model.l1 and kinds[k.OPTIMIZER] == k.FTRL:
        raise _refused(
            f"{name}: l1 = {model.l1} with FTRLProximal, which has no learning rate that river's "
            "penalty could take",
            "the option l1 of FTRLProximal itself",
        )
    options[[k.L1, k.L2, k.CLIP]] = model.l1, model.l2, model.clip_gradient


def _passive(plan: Plan, model: Any) -> None:
    regression = isinstance(model, linear_model.PARegressor)
    plan.kinds[k.REGRESSION] = regression
    # River's weights are numpy's floats there, which sum does not take care of.
    plan.kinds[k.CAREFUL] = CAREFUL_SUMS and not regression
    plan.kinds[k.MODE] = model.mode
    plan.kinds[k.INTERCEPTED] = bool(model.learn_intercept)
    plan.options[k.CLIP] = model.C
    plan.options[k.LOSS_OPTIONS] = model.eps if regression else 0.0


def _softmax(plan: Plan, model: Any) -> None:
    name = plan.last
    if type(model.loss) is not optim.losses.CrossEntropy:
        raise _refused(f"{name}: loss is a {type(model.loss).__name__}", "losses: CrossEntropy")
    _optimizer(plan, model.optimizer, f"{name}: optimizer")
    plan.options[k.L2] = model.l2
    plan.kinds[k.CAREFUL] = CAREFUL_SUMS and plan.kinds[k.OPTIMIZER] != k.FTRL


def _machine(plan: Plan, model: Any) -> None:
    kinds, options, name = plan.kinds, plan.options, plan.last
    regression = isinstance(model, facto.FMRegressor)
    kinds[k.REGRESSION] = regression
    kinds[k.LOSS] = _numbers(plan, k.LOSS_OPTIONS, LOSSES, model.loss, f"{name}: loss")
    _rates(plan, model.weight_optimizer, model.intercept_lr, f"{name}: weight_optimizer")
    kinds[k.LATENT_OPTIMIZER] = _numbers(
        plan, k.LATENT_OPTIMIZERS, OPTIMIZERS, model.latent_optimizer, f"{name}: latent_optimizer"
    )
    kinds[k.LATENT_RATE] = _rate(
        plan, k.LATENT_RATES, model.latent_optimizer, f"{name}: latent_optimizer"
    )
    for option in ("weight_initializer", "latent_initializer"):
        _initializer(getattr(model, option), f"{name}: {option}")
    if model.weight_initializer is model.latent_initializer or (
        model.weight_optimizer is model.latent_optimizer
    ):
        raise _refused(f"{name}: weights and latents share an object", "one for each of them")
    kinds[k.CAREFUL] = CAREFUL_SUMS and not regression and kinds[k.OPTIMIZER] != k.FTRL
    kinds[k.NORMALISED] = bool(model.sample_normalization)
    options[[k.L1, k.L2, k.CLIP]] = model.l1_weight, model.l2_weight, model.clip_gradient
    options[[k.LATENT_L1, k.LATENT_L2]] = model.l1_latent, model.l2_latent


def _rates(plan: Plan, optimizer: Any, intercept: Any, where: str) -> None:
    _optimizer(plan, optimizer, where)
    plan.kinds[k.INTERCEPT_RATE] = _numbers(
        plan, k.INTERCEPT_RATES, SCHEDULERS, intercept, f"{plan.last}: intercept_lr"
    )


def _optimizer(plan: Plan, optimizer: Any, where: str) -> None:
    plan.kinds[k.OPTIMIZER] = _numbers(plan, k.OPTIMIZERS, OPTIMIZERS, optimizer, where)
    plan.kinds[k.RATE] = _rate(plan, k.RATES, optimizer, where)


def _rate(plan: Plan, at: int, optimizer: Any, where: str) -> int:
    if type(optimizer) is optim.FTRLProximal:
        return k.CONSTANT
    return _numbers(plan, at, SCHEDULERS, optimizer.lr, f"{where}.lr")


def _initializer(initializer: Any, where: str) -> None:
    kinds = (optim.initializers.Zeros, optim.initializers.Constant, optim.initializers.Normal)
    if type(initializer) not in kinds:
        raise _refused(f"{where} is a {type(initializer).__name__}", _names(kinds))
    if type(initializer) is optim.initializers.Normal:
        _seeded(initializer, where)


def _seeded(part: Any, where: str) -> None:
    """No replay could repeat what a model does that draws other numbers each time."""
    if part.seed is None:
        raise ConfigError(
            f"[learner] unseeded randomness: {where} has no seed", hint="set its option seed"
        )


def _numbers(
    plan: Plan,
    at: int,
    table: Mapping[type, tuple[int, tuple[str, ...]]],
    part: Any,
    where: str,
) -> int:
    """The kind of a part; its numbers go into the options."""
    found = table.get(type(part))
    if found is None:
        raise _refused(f"{where} is a {type(part).__name__}", _names(table))
    kind, names = found
    for place, name in enumerate(names, at):
        plan.options[place] = getattr(part, name) if name else 0.0
    return kind


def _refused(what: str, accepted: str) -> ConfigError:
    return ConfigError(
        f"[learner] this cannot be compiled: {what}",
        hint=f'compiled can be: {accepted}; with use = "river" the learner runs as it is',
    )


def _names(kinds: Any) -> str:
    return ", ".join(kind.__name__ for kind in kinds)
