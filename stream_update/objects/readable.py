"""What a model is made of, in words for people: weights by feature, sizes of trees, means.

Not everything: a tree's nodes and a window's items are told by their number. Who has to know
whether two models are the same compares digests.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import random
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from river import compose, drift, metrics, proba, stats, tree

from stream_update.objects.names import slots_of

__all__ = ["Value", "readable"]

Value = None | bool | int | float | str

MAX_ITEMS = 64
"""Longer lists are told by their length and mean."""

MAX_DEPTH = 16
"""Graphs of neighbours go on for ever; what a person reads does not."""

UNTOLD = (types.MethodType, functools.partial, tree.splitter.Splitter)
"""How things are made and called; and what a leaf collects for its next split."""

ADWIN_SAYS = ("width", "estimation", "variance", "total", "n_detections")
GAUSSIAN_SAYS = ("n_samples", "mu", "sigma")


def readable(root: Any) -> Iterator[tuple[str, Value]]:
    """Each value with its name, in a stable order.

    A name looks like ``LogisticRegression.weights['price']``; the steps of pipelines have the
    names they have there, and attributes lose their underscores.
    """
    start = "" if isinstance(root, compose.Pipeline) else type(root).__name__
    yield from _Reader().read(start, root, 0)


class _Reader:
    """One walk; an object that is met again is not told again."""

    def __init__(self) -> None:
        # Holds on to what is made on the way, so that an id stays that of one object.
        self._met: dict[int, Any] = {}

    def read(self, name: str, value: Any, depth: int) -> Iterator[tuple[str, Value]]:
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, bool | int | float | str):
            yield name, value
            return
        if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
            yield name, value.__name__
            return
        if isinstance(value, UNTOLD) or id(value) in self._met or depth > MAX_DEPTH:
            return
        self._met[id(value)] = value
        for step, part in _parts(value):
            yield from self.read(_joined(name, step), part, depth + 1)


def _joined(name: str, step: str) -> str:
    return f"{name}.{step}" if name and step and not step.startswith("[") else f"{name}{step}"


def _parts(value: Any) -> Iterable[tuple[str, Any]]:
    """What an object is made of, or what it says of itself."""
    if isinstance(value, compose.Pipeline):
        return [(str(name), step) for name, step in value.steps.items()]
    if isinstance(value, stats.base.Statistic | metrics.base.Metric):
        return [("", _said(value.get()))]
    if isinstance(value, drift.ADWIN):
        return [(name, getattr(value, name)) for name in ADWIN_SAYS]
    if isinstance(value, proba.Gaussian):
        return [(name, getattr(value, name)) for name in GAUSSIAN_SAYS]
    if isinstance(value, tree.base.Branch):
        return _branch(value)
    if isinstance(value, tree.base.Leaf):
        return [("n_nodes", 1)]
    if isinstance(value, random.Random | bytes | bytearray):
        return [("", _digest(value))]
    return [*_items(value), *_attributes(value)]


def _digest(value: random.Random | bytes | bytearray) -> str:
    """Where a generator stands means nothing to anybody, but that it moved does."""
    raw = repr(value.getstate()).encode() if isinstance(value, random.Random) else value
    kind = "random state" if isinstance(value, random.Random) else f"{len(raw)} bytes"
    return f"{kind} {hashlib.sha256(raw).hexdigest()[:8]}"


def _said(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str | np.generic | None) else repr(value)


def _branch(root: Any) -> Iterator[tuple[str, Any]]:
    yield "n_nodes", root.n_nodes
    yield "n_leaves", root.n_leaves
    yield "height", root.height
    splits = collections.Counter(
        str(branch.feature) for branch in root.iter_branches() if hasattr(branch, "feature")
    )
    for feature in sorted(splits):
        yield f"splits[{feature!r}]", splits[feature]


def _items(value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, np.ndarray):
        return _sequence(value.ravel().tolist())
    if isinstance(value, list | tuple | collections.deque | collections.UserList):
        return _sequence(value)
    if isinstance(value, set | frozenset):
        return [(f"[{item!r:.80}]", True) for item in _sorted(value)[:MAX_ITEMS]] + [
            ("length", len(value))
        ]
    # River's vectors have items and are no mappings.
    if isinstance(value, Mapping) or (hasattr(value, "items") and hasattr(value, "keys")):
        return [(f"[{key!r:.80}]", item) for key, item in value.items()]
    return []


def _sorted(items: Iterable[Any]) -> list[Any]:
    return sorted(items, key=repr)


def _sequence(items: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    if len(items) <= MAX_ITEMS:
        for index, item in enumerate(items):
            yield f"[{index}]", item
        return
    yield "length", len(items)
    if all(isinstance(item, bool | int | float) for item in items):
        yield "mean", float(np.mean(np.asarray(items, dtype=float)))


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, collections.UserList):
        held = {name: part for name, part in vars(value).items() if name != "data"}
    else:
        held = dict(getattr(value, "__dict__", {}))
    cls: type = type(value)
    for name, slot in slots_of(cls).items():
        if name != "default_factory" and hasattr(value, name):
            held[name] = slot.__get__(value)
    for name, part in held.items():
        yield name.lstrip("_"), part
