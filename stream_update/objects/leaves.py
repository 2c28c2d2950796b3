"""Values that never change once made: tuples, big integers, dates, functions, and so on.

A leaf is a tag and a list of values; these may be other leaves, made before it, or
objects that change, made before all leaves. Leaves that look the same are the same.
"""

from __future__ import annotations

import datetime as dt
import enum
import functools
import itertools
import operator
import re
import types
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from stream_update.errors import CorruptSnapshot
from stream_update.objects.names import Names, name_of

__all__ = [
    "CALLABLES",
    "MAX_DEPTH",
    "MAX_DIGITS",
    "SCALARS",
    "Unsupported",
    "canonical",
    "is_leaf",
    "is_wide",
    "join_leaf",
    "split_leaf",
]

SCALARS = frozenset({type(None), bool, int, float, str, bytes})
"""Exact types that stand in a tree as they are (integers: as far as 64 bits go)."""

MAX_DIGITS = 400
"""Decimal digits of the largest integer that is kept."""

MAX_DEPTH = 64
"""How deep tuples may be nested: their hash is computed by recursion in C, without a limit."""

CALLABLES = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.MethodType,
    functools.partial,
)


class Unsupported(Exception):
    """This object cannot be kept; the message completes "... cannot be kept: it"."""


def is_wide(number: int) -> bool:
    return not -(1 << 63) <= number < 1 << 63


def canonical(members: Iterable[Any]) -> list[Any]:
    """The members of a set in an order that depends on nothing but their values."""
    members = list(members)
    found = set(map(type, members))
    if found == {str} or found == {int}:
        return sorted(members)
    return sorted(members, key=_sort_key)


def _sort_key(member: Any) -> str:
    if type(member) is tuple:
        return f"tuple:({','.join(map(_sort_key, member))})"
    if type(member) is frozenset:
        return f"frozenset:({','.join(sorted(map(_sort_key, member)))})"
    return f"{type(member).__name__}:{member!r}"


def is_leaf(cls: type) -> bool:
    """Whether values of a class, which is none of the scalars, are kept as leaves."""
    return cls in SPLIT or issubclass(cls, (type, np.generic, enum.Enum, tuple))


def split_leaf(value: Any, names: Names) -> tuple[str, list[Any]]:
    """The tag and the values of a leaf. Raises :class:`Unsupported`."""
    cls = type(value)
    if cls in SPLIT:
        return SPLIT[cls](value, names)
    if isinstance(value, type):
        if not names.has_reference(value):
            raise Unsupported("is a class that is not listed")
        return "type", [name_of(value)]
    if isinstance(value, np.generic):
        return "numpy", [numeric(value.dtype), value.tobytes()]
    if isinstance(value, enum.Enum):
        if not names.has_reference(cls) or value.name not in cls.__members__:
            raise Unsupported("is a member of an enumeration that is not listed")
        return "enum", [name_of(cls), value.name]
    if not names.has_class(cls):
        raise Unsupported("is of a class that is not listed")
    if getattr(value, "__dict__", None):
        raise Unsupported("is a tuple with attributes of its own")
    return "record", [name_of(cls), *value]


def numeric(dtype: np.dtype[Any]) -> str:
    """The name of a type of numbers whose bytes mean the same on every machine."""
    if dtype.kind not in "biufc" or dtype.itemsize > 16 or dtype.char in "gG":
        raise Unsupported(f"has the numpy type {dtype}, which is no plain number")
    return dtype.str


def numeric_dtype(name: object, where: str) -> np.dtype[Any]:
    """The inverse of :func:`numeric`."""
    if type(name) is str and re.fullmatch(r"[<>|][biufc]\d{1,2}", name):
        dtype = np.dtype(name)
        if dtype.itemsize <= 16 and dtype.char not in "gG":
            return dtype
    raise CorruptSnapshot(f"{where}: {name!r:.200} is no type of numbers")


def _split_int(value: int, names: Names) -> tuple[str, list[Any]]:
    if abs(value) >= 10**MAX_DIGITS:
        raise Unsupported(f"is an integer of more than {MAX_DIGITS} digits")
    return "int", [str(value)]


def _split_function(value: Callable[..., Any], names: Names) -> tuple[str, list[Any]]:
    owner = getattr(value, "__self__", None)
    if isinstance(owner, types.ModuleType):
        owner = None
    if owner is not None or not names.has_reference(value):
        raise Unsupported(f"is the function {name_of(value)}, which is not listed")
    return "function", [name_of(value)]


def _split_method(value: types.MethodType, names: Names) -> tuple[str, list[Any]]:
    function = value.__func__
    if not isinstance(function, types.FunctionType) or not names.has_reference(function):
        raise Unsupported(f"is the method {name_of(function)}, which is not listed")
    return "method", [name_of(function), value.__self__]


def _split_partial(value: functools.partial[Any], names: Names) -> tuple[str, list[Any]]:
    if vars(value):
        raise Unsupported("is a partial with attributes of its own")
    keywords = [part for item in value.keywords.items() for part in item]
    return "partial", [value.func, len(value.args), *value.args, *keywords]


def _split_zone(value: dt.timezone, names: Names) -> tuple[str, list[Any]]:
    return "timezone", list(value.__getinitargs__())  # type: ignore[attr-defined]


SPLIT: dict[type, Callable[[Any, Names], tuple[str, list[Any]]]] = {
    int: _split_int,
    tuple: lambda value, names: ("tuple", list(value)),
    frozenset: lambda value, names: ("frozenset", canonical(value)),
    complex: lambda value, names: ("complex", [value.real, value.imag]),
    range: lambda value, names: ("range", [value.start, value.stop, value.step]),
    functools.partial: _split_partial,
    operator.itemgetter: lambda value, names: ("itemgetter", list(value.__reduce__()[1])),
    types.FunctionType: _split_function,
    types.BuiltinFunctionType: _split_function,
    types.MethodDescriptorType: _split_function,
    types.MethodType: _split_method,
    re.Pattern: lambda value, names: ("pattern", [value.pattern, value.flags]),
    dt.timedelta: lambda value, names: (
        "timedelta",
        [value.days, value.seconds, value.microseconds],
    ),
    dt.timezone: _split_zone,
    dt.date: lambda value, names: ("date", [value.year, value.month, value.day]),
    dt.time: lambda value, names: (
        "time",
        [value.hour, value.minute, value.second, value.microsecond, value.tzinfo, value.fold],
    ),
    dt.datetime: lambda value, names: (
        "datetime",
        [*value.timetuple()[:6], value.microsecond, value.tzinfo, value.fold],
    ),
}


def join_leaf(tag: object, values: list[Any], names: Names, where: str) -> Any:
    """The inverse of :func:`split_leaf`, for values that nobody vouches for.

    Raises :class:`CorruptSnapshot`, or whatever the constructor raises of a type that
    does not like its arguments.
    """
    join = JOIN.get(tag) if type(tag) is str else None
    if join is None:
        raise CorruptSnapshot(f"{where}: there is no leaf of the kind {tag!r:.200}")
    return join(values, names, where)


def _join_int(values: list[Any], names: Names, where: str) -> int:
    (text,) = values
    if type(text) is not str or not re.fullmatch(rf"-?[0-9]{{1,{MAX_DIGITS}}}", text):
        raise CorruptSnapshot(f"{where}: not an integer of at most {MAX_DIGITS} digits")
    return int(text)


def _join_range(values: list[Any], names: Names, where: str) -> range:
    start, stop, step = values
    return range(start, stop, step)


def _join_record(values: list[Any], names: Names, where: str) -> tuple[Any, ...]:
    name, *items = values
    cls = names.find_class(name, where)
    if not issubclass(cls, tuple) or len(items) != len(getattr(cls, "_fields", items)):
        raise CorruptSnapshot(f"{where}: {name} is not a tuple of {len(items)}")
    return tuple.__new__(cls, items)


def _join_enum(values: list[Any], names: Names, where: str) -> enum.Enum:
    name, member = values
    cls = names.find_type(name, where)
    if not issubclass(cls, enum.Enum) or member not in cls.__members__:
        raise CorruptSnapshot(f"{where}: {name} has no member {member!r:.200}")
    return cls.__members__[member]


def _join_method(values: list[Any], names: Names, where: str) -> types.MethodType:
    name, owner = values
    function = names.find_function(name, where)
    cls = owner if isinstance(owner, type) else type(owner)
    for found in itertools.chain.from_iterable(vars(base).values() for base in cls.__mro__):
        # A class method is bound to the class itself.
        if found is function if cls is not owner else getattr(found, "__func__", None) is function:
            return types.MethodType(function, owner)
    raise CorruptSnapshot(f"{where}: {name} is no method of a {cls.__name__}")


def _join_partial(values: list[Any], names: Names, where: str) -> functools.partial[Any]:
    function, count, *rest = values
    keywords = rest[count:]
    if not isinstance(function, (type, *CALLABLES)) and not (
        callable(function) and names.has_class(type(function))
    ):
        raise CorruptSnapshot(f"{where}: a partial of a {type(function).__name__}")
    if not 0 <= count <= len(rest) or len(keywords) % 2:
        raise CorruptSnapshot(f"{where}: a partial with {count!r:.200} of {len(rest)} values")
    names_, given = keywords[::2], keywords[1::2]
    if set(map(type, names_)) - {str} or len(set(names_)) != len(names_):
        raise CorruptSnapshot(f"{where}: a partial whose keywords are no distinct names")
    return functools.partial(function, *rest[:count], **dict(zip(names_, given, strict=True)))


def _join_pattern(values: list[Any], names: Names, where: str) -> re.Pattern[Any]:
    pattern, flags = values
    if type(flags) is not int or flags & re.DEBUG:
        raise CorruptSnapshot(f"{where}: a pattern with the flags {flags!r:.200}")
    return re.compile(pattern, flags)


def _join_numpy(values: list[Any], names: Names, where: str) -> Any:
    dtype, raw = values
    (value,) = np.frombuffer(raw, dtype=numeric_dtype(dtype, where))
    return value


JOIN: dict[str, Callable[[list[Any], Names, str], Any]] = {
    "int": _join_int,
    "tuple": lambda values, names, where: tuple(values),
    "record": _join_record,
    "frozenset": lambda values, names, where: frozenset(values),
    "complex": lambda values, names, where: complex(*values),
    "range": _join_range,
    "partial": _join_partial,
    "itemgetter": lambda values, names, where: operator.itemgetter(*values),
    "type": lambda values, names, where: names.find_type(*values, where),
    "function": lambda values, names, where: names.find_function(*values, where),
    "method": _join_method,
    "pattern": _join_pattern,
    "enum": _join_enum,
    "timedelta": lambda values, names, where: dt.timedelta(*values),
    "timezone": lambda values, names, where: dt.timezone(*values),
    "date": lambda values, names, where: dt.date(*values),
    "time": lambda values, names, where: dt.time(*values[:-1], fold=values[-1]),
    "datetime": lambda values, names, where: dt.datetime(*values[:-1], fold=values[-1]),
    "numpy": _join_numpy,
}
