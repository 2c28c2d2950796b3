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

from stream_update.errors import ConfigError, CorruptSnapshot

__all__ = ["Names", "frozen", "name_of", "shadows", "slots_of"]

Members = dict[str, list[str]]

HEAP_TYPE = 1 << 9
"""Set in ``__flags__`` of classes made by a class statement."""

METHODS = (types.FunctionType, classmethod, staticmethod, type(len), type(str.lower))


class Frozen(msgspec.Struct, forbid_unknown_fields=True):
    """The content of ``river_types.json``; each is a mapping of module to qualified names."""

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
        self._classes: dict[str, type] = {}
        self._functions: dict[str, Callable[..., Any]] = {}
        for thing in allow:
            known: dict[str, Any] = self._classes if isinstance(thing, type) else self._functions
            if known.setdefault(name_of(thing), thing) is not thing:
                raise ConfigError(
                    f"allow: two different things are both called {name_of(thing)}",
                    hint="give them names of their own at the top of a module",
                )

    def has_class(self, cls: type) -> bool:
        """Whether instances of exactly this class may be kept."""
        name = name_of(cls)
        if name in self._classes:
            return self._classes[name] is cls
        return name in _listed("classes") and _load(name) is cls

    def has_rust(self, cls: type) -> bool:
        name = name_of(cls)
        return name in _listed("rust") and _load(name) is cls

    def has_reference(self, thing: Callable[..., Any]) -> bool:
        """Whether exactly this class or function may be kept as a value."""
        if isinstance(thing, type):
            if self.has_class(thing) or self.has_rust(thing):
                return True
            name = name_of(thing)
            return name in _listed("references") and _load(name) is thing
        name = name_of(thing)
        if name in self._functions:
            return self._functions[name] is thing
        return name in _listed("functions") and _load(name) is thing

    def find_class(self, name: object, where: str) -> type:
        """The class whose instance a tree asks for."""
        return self._find(name, self._classes, ("classes",), where)

    def find_rust(self, name: object, where: str) -> type:
        return self._find(name, {}, ("rust",), where)

    def find_type(self, name: object, where: str) -> type:
        """A class that a tree has as a value."""
        return self._find(name, self._classes, ("references", "classes", "rust"), where)

    def find_function(self, name: object, where: str) -> Callable[..., Any]:
        return self._find(name, self._functions, ("functions",), where)

    @staticmethod
    def _find(name: object, own: dict[str, Any], sections: tuple[str, ...], where: str) -> Any:
        if type(name) is str:
            if name in own:
                return own[name]
            for section in sections:
                if name in _listed(section):
                    return _load(name)
        raise CorruptSnapshot(
            f"{where}: {name!r:.200} is not on the list of what a snapshot may name",
            hint="a snapshot of your own classes needs them under `[learner] allow`",
        )


@functools.cache
def slots_of(cls: type) -> dict[str, Any]:
    """The declared slots of a class and its bases: name to member descriptor."""
    return {
        name: member
        for base in reversed(cls.__mro__)
        for name, member in vars(base).items()
        if isinstance(member, types.MemberDescriptorType)
    }


def plain(cls: type) -> bool:
    """Whether an instance is fully described by its ``__dict__`` and its slots."""
    return cls.__new__ is object.__new__ and all(
        base is object or base.__flags__ & HEAP_TYPE for base in cls.__mro__
    )


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
