"""Where an object sits inside another, for messages."""

from __future__ import annotations

import collections
import functools
import types
from collections.abc import Iterator, Mapping
from typing import Any

from stream_update.objects.names import slots_of

__all__ = ["path_to", "walk"]


def walk(root: Any) -> Iterator[tuple[str, Any]]:
    """Every object inside ``root``, once, with the shortest way to it; nearest first.

    A way looks like ``Pipeline.steps['x']._foo``.
    """
    top = type(root).__name__
    yield top, root
    seen = {id(root)}
    queue: collections.deque[tuple[str, Any]] = collections.deque([(top, root)])
    # Holds on to what is made on the way, so that an id stays that of one object.
    met = [root]
    while queue:
        path, holder = queue.popleft()
        for step, child in _children(holder):
            if id(child) not in seen:
                seen.add(id(child))
                met.append(child)
                queue.append((path + step, child))
                yield path + step, child


def path_to(target: Any, root: Any) -> str:
    """The shortest way from ``root`` to ``target``."""
    for path, found in walk(root):
        if found is target:
            return path
    return f"something in {type(root).__name__}"


def _children(holder: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(holder, str | bytes | type | types.FunctionType | types.ModuleType):
        return
    if isinstance(holder, Mapping):
        for key, value in list(dict.items(holder) if isinstance(holder, dict) else holder.items()):
            yield f"[{key!r:.80}]", value
            yield f".keys()[{key!r:.80}]", key
        if isinstance(holder, collections.defaultdict):
            yield ".default_factory", holder.default_factory
    elif isinstance(holder, list | tuple | collections.deque):
        for index, value in enumerate(holder):
            yield f"[{index}]", value
    elif isinstance(holder, set | frozenset):
        for value in holder:
            yield "{...}", value
    elif isinstance(holder, functools.partial):
        yield ".func", holder.func
        yield ".args", holder.args
        yield ".keywords", holder.keywords
    elif isinstance(holder, types.MethodType):
        yield ".__self__", holder.__self__
        yield ".__func__", holder.__func__
    for name, value in list(getattr(holder, "__dict__", {}).items()):
        yield f".{name}", value
    yield from _slots(type(holder), holder)


def _slots(cls: type, holder: Any) -> Iterator[tuple[str, Any]]:
    for name, slot in slots_of(cls).items():
        try:
            yield f".{name}", slot.__get__(holder)
        except AttributeError:
            continue
