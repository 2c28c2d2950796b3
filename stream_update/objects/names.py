"""Which classes and functions a tree may name, and what those names stand for.

``data/river_types.json`` is frozen: it is written by :mod:`stream_update.objects.allow`
from an installed river, shipped, and the only source of names beside the caller's own
``allow``. A name is ``module:qualname``. It is looked up whole, as an exact string,
before anything is imported: no prefix, no pattern, no search.
"""

from __future__ import annotations

import functools
import importlib
import importlib.resources
import types
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from stream_update.errors import ConfigError
from stream_update.objects.columns import Damaged

__all__ = ["Frozen", "Names", "frozen", "name_of", "plain", "shadows", "slots_of"]

Members = dict[str, list[str]]
"""Module to qualified names."""

HEAP_TYPE = 1 << 9
"""Set in ``__flags__`` of classes that a class statement made."""

METHODS = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    classmethod,
    staticmethod,
)


class Frozen(msgspec.Struct, forbid_unknown_fields=True):
    """The content of ``river_types.json``."""

    river: str
    classes: Members
    """Python classes whose instances may be made without calling anything of theirs."""
    rust: Members
    """Extension types that are made from numbers and ``__setstate__(bytes)``."""
    functions: Members
    """Functions that may be values, and methods that may be values bound to an object."""
    references: Members
    """Classes that may be values (a default factory, a type to select by), not instances."""


@functools.cache
def frozen() -> Frozen:
    """The allow-list that is shipped with the package."""
    text = importlib.resources.files("stream_update").joinpath("data/river_types.json")
    return msgspec.json.decode(text.read_bytes(), type=Frozen)


@functools.cache
def _listed(section: str) -> frozenset[str]:
    members: Members = getattr(frozen(), section)
    return frozenset(f"{module}:{name}" for module, names in members.items() for name in names)


@functools.cache
def _load(name: str) -> Any:
    """The object behind a name that is on the list."""
    module, _, qualname = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


def name_of(thing: Any) -> str:
    """``module:qualname`` of a class or function."""
    # A method of a built-in type knows its type and not its module.
    owner = getattr(thing, "__objclass__", thing)
    return f"{getattr(owner, '__module__', None)}:{getattr(thing, '__qualname__', None)}"


class Names:
    """The frozen list, and the classes and functions that the caller adds to it."""

    def __init__(self, allow: Iterable[Callable[..., Any]] = ()) -> None:
        self._classes: dict[str, Any] = {}
        self._functions: dict[str, Any] = {}
        for thing in allow:
            own = self._classes if isinstance(thing, type) else self._functions
            if own.setdefault(name_of(thing), thing) is not thing:
                raise ConfigError(
                    f"allow: two different things are both called {name_of(thing)}",
                    hint="give them names of their own at the top of a module",
                )

    def has_class(self, cls: type) -> bool:
        """Whether instances of exactly this class may be kept."""
        return self._has(cls, self._classes, "classes")

    def has_rust(self, cls: type) -> bool:
        """Whether this is one of river's extension types."""
        return self._has(cls, {}, "rust")

    def has_reference(self, thing: Callable[..., Any]) -> bool:
        """Whether exactly this class or function may be kept as a value."""
        if isinstance(thing, type):
            own = self._has(thing, self._classes, "classes")
            return own or any(self._has(thing, {}, part) for part in ("references", "rust"))
        return self._has(thing, self._functions, "functions")

    @staticmethod
    def _has(thing: object, own: dict[str, Any], section: str) -> bool:
        name = name_of(thing)
        if name in own:
            return own[name] is thing
        return name in _listed(section) and _load(name) is thing

    def find_class(self, name: object) -> type:
        """The class that a tree has an instance of. Raises :class:`Damaged`, as do the others."""
        found: type = self._find(name, self._classes, "classes")
        return found

    def find_rust(self, name: object) -> type[Any]:
        """The extension type that a tree has an instance of."""
        found: type[Any] = self._find(name, {}, "rust")
        return found

    def find_type(self, name: object) -> type[Any]:
        """A class that a tree has as a value."""
        found: type[Any] = self._find(name, self._classes, "references", "classes", "rust")
        return found

    def find_function(self, name: object) -> Any:
        """A function that a tree has as a value."""
        return self._find(name, self._functions, "functions")

    @staticmethod
    def _find(name: object, own: dict[str, Any], *sections: str) -> Any:
        if type(name) is str:
            if name in own:
                return own[name]
            if any(name in _listed(section) for section in sections):
                return _load(name)
        raise Damaged(f"{name!r:.200}, which is not on the list of what a snapshot may name")


@functools.cache
def slots_of(cls: type) -> dict[str, Any]:
    """The declared slots of a class and its bases: name to member descriptor."""
    return {
        name: member
        for base in reversed(cls.__mro__)
        for name, member in vars(base).items()
        if isinstance(member, types.MemberDescriptorType)
    }


def plain(cls: type[Any]) -> bool:
    """Whether an instance is fully described by its ``__dict__`` and its slots."""
    own_new = any("__new__" in vars(base) for base in cls.__mro__ if base is not object)
    return not own_new and all(base is object or base.__flags__ & HEAP_TYPE for base in cls.__mro__)


@functools.cache
def shadows(cls: type, name: str) -> str:
    """Why an instance of ``cls`` cannot have an attribute of this name, or nothing.

    An attribute in the instance must not take the place of a method, and writing it
    must not run a property's code.
    """
    if name.startswith("__") or not name.isidentifier():
        return "is not the name of a plain attribute"
    for base in cls.__mro__:
        if name in vars(base):
            found = vars(base)[name]
            if isinstance(found, types.MemberDescriptorType):
                return ""
            if isinstance(found, METHODS) or hasattr(type(found), "__set__"):
                return f"is a {type(found).__name__} of the class"
            break
    return "" if cls.__dictoffset__ else "is not one of the slots of the class"
