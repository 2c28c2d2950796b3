"""The numbers that river's optimizers keep beside each weight, in columns and back."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np
from river import optim, utils

from stream_update.learners.compiled.rows import Floats

__all__ = ["fill_optimizer", "kept_names", "read_optimizer"]

KEPT: dict[type, tuple[str, ...]] = {
    optim.SGD: (),
    optim.Momentum: ("s",),
    optim.AdaGrad: ("g2",),
    optim.RMSProp: ("g2",),
    optim.AdaDelta: ("g2", "s2"),
    optim.Adam: ("m", "v"),
    optim.AMSGrad: ("m", "v", "v_hat"),
    optim.AdaMax: ("m", "u"),
    optim.Nadam: ("m", "v"),
    optim.FTRLProximal: ("z", "n"),
}
VECTORS = (optim.Adam, optim.RMSProp)
"""Beside a vector of weights they keep vectors, and nothing before the first step."""


def fill_optimizer(
    optimizer: Any, names: Sequence[Any], columns: Floats, steps: int, *, vectors: bool = False
) -> None:
    """Let river's optimizer have these numbers: a row of columns for each name."""
    optimizer.n_iterations = steps
    for number, attribute in enumerate(KEPT[type(optimizer)]):
        kept = dict(zip(names, columns[:, number].tolist(), strict=True))
        value: Any = collections.defaultdict(float, kept)
        if type(optimizer) in VECTORS:
            if not steps:
                value = None
            elif vectors:
                value = utils.VectorDict(kept)
        setattr(optimizer, attribute, value)


def read_optimizer(optimizer: Any, names: Sequence[Any], columns: Floats) -> int:
    """The numbers of river's optimizer into the columns; returns its steps."""
    for number, attribute in enumerate(KEPT[type(optimizer)]):
        kept = getattr(optimizer, attribute)
        if kept is not None:
            columns[:, number] = np.fromiter((kept.get(name, 0.0) for name in names), float)
    return int(optimizer.n_iterations)


def kept_names(optimizer: Any) -> list[Any]:
    """The names that an optimizer keeps numbers of, if it keeps any."""
    for attribute in KEPT[type(optimizer)]:
        return list(getattr(optimizer, attribute) or ())
    return []
