"""Values that never change once made: tuples, big integers, dates, functions, and so on.

A leaf is a tag and its parts; these may be other leaves, made before it, or objects
that change, made before all leaves. Leaves that look the same are the same.
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

from stream_update.objects.columns import Column, Damaged, Unsupported
from stream_update.objects.names import Names, name_of

__all__ = [
    "CALLABLES",
    "MAX_DEPTH",
    "MAX_DIGITS",
    "SCALARS",
    "canonical",
    "dtype_named",
    "has_wide",
    "is_leaf",
    "is_wide",
    "join",
    "name_of_dtype",
    "split",
]

SCALARS = frozenset({type(None), bool, int, float, str, bytes})
"""Exact types that stand in a tree as they are (integers: as far as 64 bits go)."""

CALLABLES = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.MethodType,
    functools.partial,
)
"""Types of leaves that can be called, beside classes."""

MAX_DIGITS = 400
"""Decimal digits of the largest integer that is kept."""

MAX_DEPTH = 64
"""How deep tuples may be nested: their hash is computed by recursion in C, without a limit."""

MAX_ITEM = 16
"""Bytes of the largest number of numpy's that is kept."""

Split = tuple[str, Column]


def is_wide(number: int) -> bool:
    """Whether an integer needs more than 64 bits."""
    return not -(1 << 63) <= number < 1 << 63


def has_wide(column: Column, found: set[type]) -> bool:
    """Whether there is a wide integer among values of the types ``found``, one of which is int."""
    numbers = column if len(found) == 1 else [value for value in column if type(value) is int]
    return is_wide(min(numbers)) or is_wide(max(numbers))


def is_leaf(cls: type) -> bool:
    """Whether values of a class, which is none of the scalars, are kept as leaves."""
    return cls in PLAIN or cls in NAMED or issubclass(cls, (type, np.generic, enum.Enum, tuple))


def canonical(members: Iterable[Any]) -> Column:
    """The members of a set in an order that depends on nothing but their values."""
    members = list(members)
    if set(map(type, members)) in ({str}, {int}):
        return sorted(members)
    return sorted(members, key=_sort_key)


def _sort_key(member: Any) -> str:
    if type(member) is tuple:
        return f"tuple({','.join(map(_sort_key, member))})"
    if type(member) is frozenset:
        return f"frozenset({','.join(sorted(map(_sort_key, member)))})"
    return f"{type(member).__name__}({member!r})"


def name_of_dtype(dtype: np.dtype[Any]) -> str:
    """The name of a type of numbers whose bytes mean the same on every machine."""
    if dtype.kind not in "biufc" or dtype.itemsize > MAX_ITEM or dtype.char in "gG":
        raise Unsupported(f"is made of numpy's {dtype}, which is no plain number")
    return dtype.str


def dtype_named(name: object) -> np.dtype[Any]:
    """The inverse of :func:`name_of_dtype`."""
    if type(name) is str and re.fullmatch(r"[<>|][biufc]\d{1,2}", name):
        dtype = np.dtype(name)
        if dtype.itemsize <= MAX_ITEM and dtype.char not in "gG":
            return dtype
    raise Damaged(f"numbers of the type {name!r:.200}")


# From values to parts.


def split(value: Any, names: Names) -> Split:
    """The tag and the parts of a leaf. Raises :class:`Unsupported`."""
    cls = type(value)
    if cls in PLAIN:
        tag, parts_of = PLAIN[cls]
        return tag, list(parts_of(value))
    if cls in NAMED:
        return NAMED[cls](value, names)
    if isinstance(value, type):
        if not names.has_reference(value):
            raise Unsupported(f"is the class {name_of(value)}, which is not listed")
        return "type", [name_of(value)]
    if isinstance(value, np.generic):
        return "numpy", [name_of_dtype(value.dtype), value.tobytes()]
    if not names.has_class(cls):
        raise Unsupported("is of a class that is not listed")
    if isinstance(value, enum.Enum):
        if value.name not in cls.__members__:
            raise Unsupported("is no single member of its enumeration")
        return "enum", [name_of(cls), value.name]
    if getattr(value, "__dict__", None):
        raise Unsupported("is a tuple with attributes of its own")
    return "record", [name_of(cls), *value]


def _split_int(value: int, _names: Names) -> Split:
    if abs(value) >= 10**MAX_DIGITS:
        raise Unsupported(f"is an integer of more than {MAX_DIGITS} digits")
    return "int", [str(value)]


def _split_function(value: Callable[..., Any], names: Names) -> Split:
    owner = getattr(value, "__self__", None)
    bound = owner is not None and not isinstance(owner, types.ModuleType)
    if bound or not names.has_reference(value):
        raise Unsupported(f"is the function {name_of(value)}, which is not listed")
    return "function", [name_of(value)]


def _split_method(value: types.MethodType, names: Names) -> Split:
    function = value.__func__
    if not isinstance(function, types.FunctionType) or not names.has_reference(function):
        raise Unsupported(f"is the method {name_of(function)}, which is not listed")
    return "method", [name_of(function), value.__self__]


def _split_partial(value: functools.partial[Any], _names: Names) -> Split:
    if vars(value):
        raise Unsupported("is a partial with attributes of its own")
    keywords = itertools.chain.from_iterable(value.keywords.items())
    return "partial", [value.func, len(value.args), *value.args, *keywords]


PLAIN: dict[type, tuple[str, Callable[[Any], Iterable[Any]]]] = {
    tuple: ("tuple", iter),
    frozenset: ("frozenset", canonical),
    complex: ("complex", lambda value: (value.real, value.imag)),
    range: ("range", lambda value: (value.start, value.stop, value.step)),
    operator.itemgetter: ("itemgetter", lambda value: value.__reduce__()[1]),
    re.Pattern: ("pattern", lambda value: (value.pattern, value.flags)),
    dt.timedelta: ("timedelta", lambda value: (value.days, value.seconds, value.microseconds)),
    dt.timezone: ("timezone", lambda value: value.__getinitargs__()),
    dt.date: ("date", lambda value: (value.year, value.month, value.day)),
    dt.time: (
        "time",
        lambda value: (
            *(value.hour, value.minute, value.second, value.microsecond),
            *(value.tzinfo, value.fold),
        ),
    ),
    dt.datetime: (
        "datetime",
        lambda value: (
            *(value.year, value.month, value.day),
            *(value.hour, value.minute, value.second, value.microsecond),
            *(value.tzinfo, value.fold),
        ),
    ),
}

NAMED: dict[type, Callable[[Any, Names], Split]] = {
    int: _split_int,
    functools.partial: _split_partial,
    types.FunctionType: _split_function,
    types.BuiltinFunctionType: _split_function,
    types.MethodDescriptorType: _split_function,
    types.MethodType: _split_method,
}


# From parts to values. The parts come from a tree, and nobody vouches for them.


def join(tag: object, parts: Column, names: Names) -> Any:
    """The inverse of :func:`split`.

    Raises :class:`Damaged`, or whatever the constructor raises of a type that does not
    like its arguments.
    """
    if type(tag) is not str or tag not in JOIN:
        raise Damaged(f"a leaf of the kind {tag!r:.200}")
    return JOIN[tag](names, *parts)


def _join_int(_names: Names, text: object) -> int:
    if type(text) is not str or not re.fullmatch(rf"-?[0-9]{{1,{MAX_DIGITS}}}", text):
        raise Damaged(f"an integer that is none, or has more than {MAX_DIGITS} digits")
    return int(text)


def _join_record(names: Names, name: object, *items: object) -> tuple[Any, ...]:
    cls = names.find_class(name)
    if not issubclass(cls, tuple) or len(items) != len(getattr(cls, "_fields", items)):
        raise Damaged(f"{name!r:.200} as a tuple of {len(items)}")
    return tuple.__new__(cls, items)


def _join_enum(names: Names, name: object, member: object) -> enum.Enum:
    cls = names.find_class(name)
    if not issubclass(cls, enum.Enum) or type(member) is not str or member not in cls.__members__:
        raise Damaged(f"{name!r:.200} with the member {member!r:.200}")
    return cls.__members__[member]


def _join_method(names: Names, name: object, owner: object) -> types.MethodType:
    function = names.find_function(name)
    cls = owner if isinstance(owner, type) else type(owner)
    for found in itertools.chain.from_iterable(vars(base).values() for base in cls.__mro__):
        # A class method is bound to the class itself.
        method = found.__func__ if cls is owner and isinstance(found, classmethod) else found
        if method is function:
            return types.MethodType(function, owner)
    raise Damaged(f"{name} as a method of a {cls.__name__}")


def _join_partial(names: Names, function: Any, count: int, *rest: Any) -> functools.partial[Any]:
    keywords = rest[count:]
    keys, values = keywords[::2], keywords[1::2]
    if not isinstance(function, (type, *CALLABLES)) and not names.has_class(type(function)):
        raise Damaged(f"a partial of a {type(function).__name__}")
    if type(count) is not int or not 0 <= count <= len(rest) or len(keywords) % 2:
        raise Damaged(f"a partial with {count!r:.200} of {len(rest)} arguments")
    if set(map(type, keys)) - {str} or len(set(keys)) != len(keys):
        raise Damaged("a partial whose keywords are no distinct names")
    return functools.partial(function, *rest[:count], **dict(zip(keys, values, strict=True)))


def _join_pattern(_names: Names, pattern: str, flags: int) -> re.Pattern[str]:
    if type(flags) is not int or flags & re.DEBUG:
        raise Damaged(f"a pattern with the flags {flags!r:.200}")
    return re.compile(pattern, flags)


def _join_numpy(_names: Names, dtype: object, content: bytes) -> Any:
    (value,) = np.frombuffer(content, dtype_named(dtype))
    return value


def _join_time(_names: Names, *parts: Any) -> dt.time:
    hour, minute, second, microsecond, zone, fold = parts
    return dt.time(hour, minute, second, microsecond, zone, fold=fold)


def _join_datetime(_names: Names, *parts: Any) -> dt.datetime:
    year, month, day, hour, minute, second, microsecond, zone, fold = parts
    return dt.datetime(year, month, day, hour, minute, second, microsecond, zone, fold=fold)


def _without_names(make: Callable[..., Any]) -> Callable[..., Any]:
    def join_parts(_names: Names, *parts: object) -> Any:
        return make(*parts)

    return join_parts


JOIN: dict[str, Callable[..., Any]] = {
    "int": _join_int,
    "tuple": _without_names(lambda *parts: parts),
    "record": _join_record,
    "frozenset": _without_names(lambda *parts: frozenset(parts)),
    "complex": _without_names(complex),
    "range": _without_names(range),
    "partial": _join_partial,
    "itemgetter": _without_names(operator.itemgetter),
    "type": Names.find_type,
    "function": Names.find_function,
    "method": _join_method,
    "pattern": _join_pattern,
    "enum": _join_enum,
    "timedelta": _without_names(dt.timedelta),
    "timezone": _without_names(dt.timezone),
    "date": _without_names(dt.date),
    "time": _join_time,
    "datetime": _join_datetime,
    "numpy": _join_numpy,
}
