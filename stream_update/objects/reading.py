"""The attributes of instances, read without asking for their ``__dict__``.

Up to Python 3.12 an instance keeps its attributes in a fixed array until somebody asks
for its ``__dict__``. From then on it has one, and every access goes through it: a
Hoeffding tree that was looked at in that way learns a fifth slower ever after, a
logistic regression an eighth (measured with Python 3.11). A snapshot must not slow down
the model that it is taken of.

So the names come from the class (what its methods assign), the values from ordinary
attribute access, and that none is missing from the garbage collector, which knows how
many objects an instance refers to. Where the three do not agree, ``__dict__`` it is.
"""

from __future__ import annotations

import dis
import functools
import gc
import itertools
import types
from collections.abc import Iterator
from typing import Any

from stream_update.objects.columns import Column
from stream_update.objects.names import slots_of

__all__ = ["Part", "Shape", "read"]

Shape = tuple[str, ...]
"""Names of attributes, sorted."""

Part = tuple[Shape, list[Any], list[Column]]
"""Instances that have the same attributes, with a column for each."""

STORE_ATTR = dis.opmap["STORE_ATTR"]
EXTENDED_ARG = dis.opmap["EXTENDED_ARG"]

known: dict[type, list[Shape]] = {}
"""Shapes that instances of a class were found to have; tried before anything is searched."""


def read(cls: type, batch: list[Any]) -> list[Part]:
    """The instances by the attributes that they have, with a column for each attribute."""
    if slots_of(cls) or not cls.__dictoffset__:
        shapes = [_from_slots(cls, one) for one in batch]
    else:
        sizes = list(map(len, map(gc.get_referents, batch)))
        # Most often they are all alike.
        shape = _shape_of(cls, batch[0], sizes[0])
        if shape is not None and len(shape) != 1 and len(set(sizes)) == 1:
            try:
                return [(shape, batch, [_column(batch, name) for name in shape])]
            except AttributeError:
                pass
        shapes = [
            _shape_of(cls, one, size) or tuple(sorted(vars(one)))
            for one, size in zip(batch, sizes, strict=True)
        ]
    alike: dict[Shape, list[Any]] = {}
    for one, shape in zip(batch, shapes, strict=True):
        alike.setdefault(shape, []).append(one)
    return [
        (shape, members, [_column(members, name) for name in shape])
        for shape, members in alike.items()
    ]


def _column(batch: list[Any], name: str) -> Column:
    # Past any `__getattr__` or `__getattribute__` of the class.
    return list(map(object.__getattribute__, batch, itertools.repeat(name)))


def _from_slots(cls: type, one: Any) -> Shape:
    slots = {name for name in slots_of(cls) if _has(one, name)}
    return tuple(sorted(slots | getattr(one, "__dict__", {}).keys()))


def _shape_of(cls: type, one: Any, size: int) -> Shape | None:
    """The names of all attributes of an instance that refers to ``size`` objects, or None."""
    for shape in known.setdefault(cls, []):
        if _fits(one, shape, size):
            return shape
    shape = tuple(sorted(name for name in _assigned(cls) if _has(one, name)))
    if not _fits(one, shape, size):
        return None
    known[cls].append(shape)
    return shape


def _fits(one: Any, shape: Shape, size: int) -> bool:
    # The class itself is one of the objects that an instance refers to.
    if size != len(shape) + 1 or not all(_has(one, name) for name in shape):
        return False
    # An instance that has a `__dict__` refers to that and the class: two objects as well.
    return len(shape) != 1 or any(
        found is object.__getattribute__(one, shape[0]) for found in gc.get_referents(one)
    )


def _has(one: Any, name: str) -> bool:
    try:
        object.__getattribute__(one, name)
    except AttributeError:
        return False
    return True


@functools.cache
def _assigned(cls: type) -> frozenset[str]:
    """What the methods of a class and its bases assign, unless the class has it itself."""
    found: set[str] = set()
    for base in cls.__mro__:
        for member in vars(base).values():
            code = getattr(getattr(member, "__func__", member), "__code__", None)
            if isinstance(code, types.CodeType):
                found.update(_stores(code))
    return frozenset(
        name
        for name in found
        if not any(name in vars(base) for base in cls.__mro__) and not name.startswith("__")
    )


def _stores(code: types.CodeType) -> Iterator[str]:
    extension = 0
    for operation, argument in zip(code.co_code[::2], code.co_code[1::2], strict=True):
        if operation == EXTENDED_ARG:
            extension = (extension | argument) << 8
            continue
        if operation == STORE_ATTR:
            yield code.co_names[extension | argument]
        extension = 0
