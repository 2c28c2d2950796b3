"""What the parts of this package share: columns, kinds, and the two ways to fail."""

from __future__ import annotations

import collections
import gc
import itertools
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

__all__ = [
    "NO_HEAD",
    "Column",
    "Damaged",
    "Head",
    "Kind",
    "Made",
    "SplittingKind",
    "Unsupported",
    "chunks",
    "collector_held_off",
    "consume",
    "only",
]

Column = list[Any]

Head = Mapping[str, Any]
"""What a group has in a tree beside its kind, its count and its columns."""

NO_HEAD: Head = types.MappingProxyType({})

Made = Callable[[Column], Column]
"""Looks up references among the objects that are made already."""


class Unsupported(Exception):
    """An object that cannot be kept; the message says what it is or has, without a subject."""


class Damaged(Exception):
    """Something in a tree that cannot be; the message does not say where."""


class Kind(Protocol):
    """One kind of object that changes: how it is made empty, and how it is filled.

    Making comes before filling, so that shared objects and cycles are no special case.
    """

    tag: str
    head: Head
    turn: int
    """Kinds are filled in this order: a key must be complete before a dict hashes it."""
    late: bool
    """Whether other objects have to exist before these are made."""

    def make(self, count: int, columns: list[Column], made: Made, /) -> list[Any]:
        """Empty objects. The columns are as the tree has them, references and all.

        Raises :class:`Damaged`, or whatever a constructor raises.
        """
        ...

    def fill(self, objects: list[Any], columns: list[Column], /) -> None:
        """Put the content in; references are objects by now. Raises like :meth:`make`."""
        ...


class SplittingKind(Kind, Protocol):
    """A kind that needs nothing but the objects to take them apart."""

    def split(self, objects: Sequence[Any], /) -> list[Column]:
        """The columns of some objects. Raises :class:`Unsupported`."""
        ...


def chunks(sizes: Column, *columns: Column) -> Iterator[tuple[Column, ...]]:
    """Cut columns into consecutive parts of the given sizes."""
    if set(map(type, sizes)) - {int} or min(sizes, default=0) < 0:
        raise Damaged("sizes that are no sizes")
    if any(len(column) != sum(sizes) for column in columns):
        raise Damaged("sizes that do not add up to the number of items")
    ends = itertools.accumulate(sizes)
    return (
        tuple(column[end - size : end] for column in columns)
        for size, end in zip(sizes, ends, strict=True)
    )


def only(column: Column, *classes: type) -> Column:
    """The column itself, if it holds nothing but values of exactly these types."""
    if type(column) is not list or not set(map(type, column)).issubset(classes):
        raise Damaged(f"expected nothing but {', '.join(cls.__name__ for cls in classes)}")
    return column


def consume(iterator: Iterable[object]) -> None:
    """Run an iterator to its end, in C."""
    collections.deque(iterator, maxlen=0)


@contextmanager
def collector_held_off() -> Iterator[None]:
    """Keep Python's garbage collector from running while many objects are made.

    None of them is garbage, and looking for some would cost more than the work itself.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
