"""Instances of classes: Python's, by their attributes, and river's extension types."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from stream_update.objects.columns import (
    NO_HEAD,
    Column,
    Damaged,
    Head,
    Made,
    Unsupported,
    chunks,
    consume,
    only,
)
from stream_update.objects.leaves import CALLABLES
from stream_update.objects.names import name_of, shadows
from stream_update.objects.quirks import Quirk, quirk_of
from stream_update.objects.reading import Part, Shape, read

__all__ = ["Instances", "Rust", "Vectors"]

MAX_SIZE = 10_000_000
"""Largest integer that an extension type is made with: it may reserve memory for so many."""


class Instances:
    """Instances of one Python class that have the same attributes. Columns: one for each.

    They are made without calling anything of theirs, and their attributes are written
    past any ``__setattr__``.
    """

    tag = "object"
    turn = 0
    late = False

    def __init__(self, cls: type, attributes: tuple[str, ...]) -> None:
        self.cls = cls
        self.attributes = attributes
        self.quirk = quirk_of(cls)
        self.head: Head = {"of": name_of(cls), "attributes": list(attributes)}

    @staticmethod
    def sort_out(of: type, batch: list[Any]) -> list[tuple[Instances, list[Any], list[Column]]]:
        """Instances of a class by the attributes they have, with their columns."""
        parts = read(of, batch)
        for attribute in {name for shape, _, _ in parts for name in shape}:
            if reason := shadows(of, attribute):
                raise Unsupported(f"has an attribute {attribute!r}, which {reason}")
        quirk = quirk_of(of)
        if quirk is not None:
            parts = _leaner(quirk, batch, parts)
        return [(Instances(of, shape), members, columns) for shape, members, columns in parts]

    def make(self, count: int, columns: list[Column], _made: Made) -> list[Any]:
        if len(columns) != len(self.attributes):
            raise Damaged(f"{len(columns)} columns for {len(self.attributes)} attributes")
        return list(map(object.__new__, itertools.repeat(self.cls, count)))

    def fill(self, objects: list[Any], columns: list[Column]) -> None:
        for attribute, column in zip(self.attributes, columns, strict=True):
            if len(column) != len(objects):
                raise Damaged(f"{len(column)} values of {attribute!r}")
            consume(map(object.__setattr__, objects, itertools.repeat(attribute), column))
        if self.quirk is not None:
            self.quirk.recreate(objects, self.attributes)


def _leaner(quirk: Quirk, batch: list[Any], parts: list[Part]) -> list[Part]:
    """The instances by what is left of their attributes, still in the order of the batch."""
    states: dict[int, dict[str, Any]] = {}
    for shape, members, columns in parts:
        for one, row in zip(members, zip(*columns, strict=True), strict=True):
            states[id(one)] = quirk.lean(dict(zip(shape, row, strict=True)))
    alike: dict[Shape, list[Any]] = {}
    for one in batch:
        alike.setdefault(tuple(states[id(one)]), []).append(one)
    return [
        (shape, members, [[states[id(one)][name] for one in members] for name in shape])
        for shape, members in alike.items()
    ]


class Rust:
    """An extension type of river. Columns: its state as bytes, and what it is made with."""

    tag = "rust"
    turn = 1
    late = False

    def __init__(self, cls: type) -> None:
        self.cls = cls
        self.head: Head = {"of": name_of(cls)}

    def split(self, objects: Sequence[Any]) -> list[Column]:
        states = [one.__getstate__() for one in objects]
        if not hasattr(self.cls, "__getnewargs__"):
            return [states]
        arguments = list(map(list, zip(*(one.__getnewargs__() for one in objects), strict=True)))
        if any(map(_too_large, arguments)):
            raise Unsupported(f"was made with a number above {MAX_SIZE}")
        return [states, *arguments]

    def make(self, _count: int, columns: list[Column], _made: Made) -> list[Any]:
        states, *arguments = columns
        for column in arguments:
            if _too_large(only(column, bool, int, float)):
                raise Damaged(f"a {self.cls.__name__} made with a number above {MAX_SIZE}")
        made = []
        for state, *given in zip(only(states, bytes), *arguments, strict=True):
            one = self.cls.__new__(self.cls, *given)
            one.__setstate__(state)
            made.append(one)
        return made

    def fill(self, objects: list[Any], columns: list[Column]) -> None:
        """Nothing is left to do."""


def _too_large(column: Column) -> bool:
    return any(type(value) is int and abs(value) > MAX_SIZE for value in column)


class Vectors:
    """river's ``VectorDict``. Columns: sizes, keys, values, factories.

    A factory cannot be given later, so it is None or an object that exists by then.
    """

    tag = "vector"
    head = NO_HEAD
    turn = 3
    late = True

    def __init__(self, cls: type) -> None:
        self.cls = cls

    def split(self, objects: Sequence[Any]) -> list[Column]:
        parts = [one.__reduce__()[1] for one in objects]
        if any(mask is not None for _, _, mask, _ in parts):
            raise Unsupported("is a view of another vector")
        if any(isinstance(factory, (type, *CALLABLES)) for _, factory, _, _ in parts):
            raise Unsupported("has a class or a function as its default factory")
        values = [value for data, _, _, _ in parts for value in data.values()]
        if set(map(type, values)) - {float}:
            raise Unsupported("has values that are not of the type float")
        return [
            [len(data) for data, _, _, _ in parts],
            [key for data, _, _, _ in parts for key in data],
            values,
            [factory for _, factory, _, _ in parts],
        ]

    def make(self, _count: int, columns: list[Column], made: Made) -> list[Any]:
        return [self.cls(None, factory) for factory in made(columns[3])]

    def fill(self, objects: list[Any], columns: list[Column]) -> None:
        sizes, keys, values, _ = columns
        for one, (some_keys, some_values) in zip(objects, chunks(sizes, keys, values), strict=True):
            one.update(dict(zip(some_keys, only(some_values, float), strict=True)))
            if len(one) != len(some_keys):
                raise Damaged("a vector with the same key twice")
