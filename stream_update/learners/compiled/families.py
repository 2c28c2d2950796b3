"""Which family a river model is of."""

from __future__ import annotations

from typing import Any

from river import facto, linear_model

from stream_update.learners.compiled.family import Family
from stream_update.learners.compiled.glm import Linear
from stream_update.learners.compiled.machines import Machine
from stream_update.learners.compiled.multiclass import Softmax
from stream_update.learners.compiled.passive import Passive
from stream_update.learners.compiled.plan import planned

__all__ = ["family_of"]


def family_of(model: Any) -> Family:
    """What a river model has learned, as arrays; the model is kept for its settings.

    Raises :class:`~stream_update.errors.ConfigError` for what cannot be compiled.
    """
    plan = planned(model)
    last = plan.step(model, plan.last)
    family: type[Family] = Linear
    if isinstance(last, linear_model.SoftmaxRegression):
        family = Softmax
    elif isinstance(last, facto.FMClassifier | facto.FMRegressor):
        family = Machine
    elif isinstance(last, linear_model.PAClassifier | linear_model.PARegressor):
        family = Passive
    return family(model, plan)
