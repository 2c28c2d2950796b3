"""Whether the parameters of a model are numbers that predictions can be made with.

NaN and infinity are at home in many parts of a model: a minimum starts at infinity, a
statistic of nothing is NaN. In the weights of a linear model they make every prediction
worthless. So these are looked at, and arrays of numbers; nothing else is.
"""

from __future__ import annotations

import gc
import math
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

__all__ = ["non_finite"]

FAMILIES = ("river.linear_model.", "river.facto.")
PARAMETERS = (
    "_weights",
    "weights",
    "w",
    "intercept",
    "w0",
    "w_int",
    "v",
    "latents",
    "_m",
    "_ss_inv",
)
"""What river's linear models and factorization machines call what they have learned."""

NO_PART = (type, types.FunctionType, types.ModuleType, types.BuiltinFunctionType, str, bytes)


def non_finite(model: Any) -> str:
    """The first parameter of a model that is NaN or infinite, for people; empty if none is."""
    for one in _parts(model):
        if isinstance(one, np.ndarray):
            if not _is_finite(one):
                return "an array of numbers"
        else:
            for name in PARAMETERS:
                if not _is_finite(getattr(one, name, None)):
                    return f"{type(one).__name__}.{name}"
    return ""


def _parts(model: Any) -> Iterator[Any]:
    """The linear models and the arrays inside a model.

    Asks the garbage collector what refers to what: an object whose ``__dict__`` has been
    looked at is slower ever after.
    """
    seen = {id(model)}
    batch: list[Any] = [model]
    wanted: dict[type, bool] = {}
    while batch:
        for one in batch:
            cls = type(one)
            if cls not in wanted:
                wanted[cls] = _is_wanted(cls)
            if wanted[cls]:
                yield one
        found = gc.get_referents(*batch)
        batch = []
        for one in found:
            if id(one) not in seen and not isinstance(one, NO_PART):
                seen.add(id(one))
                batch.append(one)


def _is_wanted(cls: type) -> bool:
    return issubclass(cls, np.ndarray) or any(
        base.__module__.startswith(FAMILIES) for base in cls.__mro__
    )


def _is_finite(value: Any) -> bool:
    if isinstance(value, float | np.floating):
        return math.isfinite(value)
    if isinstance(value, np.ndarray):
        return value.dtype.kind not in "fc" or bool(np.isfinite(value).all())
    if isinstance(value, Mapping) or hasattr(value, "values"):
        members: Iterable[Any] = value.values()
        return all(map(_is_finite, members))
    return True
