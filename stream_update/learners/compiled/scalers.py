"""What river's scalers have learned, in columns and back."""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from river import preprocessing, stats

from stream_update.learners.compiled import kernels as k
from stream_update.learners.compiled.rows import Floats

__all__ = ["blank", "fill_scaler", "learned_names", "read_scaler"]


def blank(kind: int) -> Floats:
    """The row of a feature that no scaler has learned."""
    row = np.zeros(k.WIDTH)
    if kind == k.MIN_MAX:
        row[[k.LOW, k.HIGH]] = math.inf, -math.inf
    return row


def fill_scaler(scaler: Any, names: Sequence[Any], table: Floats) -> None:
    """Let river's scaler have learned what the rows of the table say, one for each name."""
    low, high = table[:, k.LOW].tolist(), table[:, k.HIGH].tolist()
    if isinstance(scaler, preprocessing.StandardScaler):
        counts = map(int, table[:, k.COUNT].tolist())
        scaler.counts = collections.Counter(dict(zip(names, counts, strict=True)))
        scaler.means = collections.defaultdict(float, zip(names, low, strict=True))
        variances = zip(names, high, strict=True) if scaler.with_std else ()
        scaler.vars = collections.defaultdict(float, variances)
    elif isinstance(scaler, preprocessing.MinMaxScaler):
        scaler.min.clear()
        scaler.max.clear()
        for name, least, most in zip(names, low, high, strict=True):
            scaler.min[name].min = least
            scaler.max[name].max = most
    else:
        scaler.abs_max.clear()
        for name, most in zip(names, high, strict=True):
            scaler.abs_max[name].abs_max = most


def read_scaler(scaler: Any, names: Sequence[Any], table: Floats) -> None:
    """What river's scaler has learned of these names, into the rows of the table."""
    for row, name in zip(table, names, strict=True):
        if isinstance(scaler, preprocessing.StandardScaler):
            row[k.COUNT] = scaler.counts.get(name, 0)
            row[k.LOW] = scaler.means.get(name, 0.0)
            row[k.HIGH] = scaler.vars.get(name, 0.0)
            row[k.ROOT] = float(row[k.HIGH]) ** 0.5
        elif isinstance(scaler, preprocessing.MinMaxScaler):
            row[k.LOW] = scaler.min.get(name, stats.Min()).get()
            row[k.HIGH] = scaler.max.get(name, stats.Max()).get()
        else:
            row[k.HIGH] = scaler.abs_max.get(name, stats.AbsMax()).get()


def learned_names(scaler: Any) -> set[Any]:
    """The names that a scaler has learned something of."""
    if isinstance(scaler, preprocessing.StandardScaler):
        return set(scaler.counts)
    if isinstance(scaler, preprocessing.MinMaxScaler):
        return {name for name, least in scaler.min.items() if not math.isinf(least.get())}
    return {name for name, most in scaler.abs_max.items() if most.get()}
