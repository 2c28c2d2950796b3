"""Objects to a tree."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from stream_update.errors import ConfigError
from stream_update.events import Tree
from stream_update.objects import leaves
from stream_update.objects.columns import Column, Kind, Unsupported, collector_held_off
from stream_update.objects.kinds import sort_out
from stream_update.objects.leaves import MAX_DEPTH, SCALARS, has_wide, is_wide
from stream_update.objects.names import Names, name_of
from stream_update.objects.paths import path_to

__all__ = ["FORMAT", "freeze"]

FORMAT = 1


def freeze(obj: object, *, allow: Iterable[Callable[..., Any]] = ()) -> Tree:
    """The whole state of an object as a tree of plain values.

    Shared references and cycles are kept, and so are the bits of floats, the order of
    dicts and the identity of everything that can change. The order of a set is not: it
    is no part of its value, and differs between processes. ``allow`` are the classes
    and functions of the caller that may occur, beside those of river.

    Raises :class:`~stream_update.errors.ConfigError` for an object that cannot be kept;
    it says which, and where it sits.
    """
    with collector_held_off():
        return Freezer(Names(allow)).run(obj)


class Freezer:
    """One call of :func:`freeze`: discover every object, number them, write them down."""

    def __init__(self, names: Names) -> None:
        self.names = names
        # Every object met so far by its id; columns and leaves keep them alive.
        self.seen: set[int] = set()
        self.pending: dict[type, list[Any]] = {}
        self.groups: dict[Any, tuple[Kind, list[Any], list[Column]]] = {}
        # Children before parents.
        self.leaves: list[tuple[Any, str, list[Any]]] = []
        self.depths: dict[int, int] = {}
        self.leaf_types: dict[type, bool] = {}
        # What each object is called in the tree: from 0 up, leaves from -1 down.
        self.references: dict[int, int] = {}

    def run(self, root: Any) -> Tree:
        top = [root]
        try:
            self.discover(top)
            while self.pending:
                cls = next(iter(self.pending))
                self._take_apart(cls, self.pending.pop(cls))
        except Refused as refused:
            raise refused.explain(root) from None
        for _, members, _ in self.groups.values():
            self.references.update(zip(map(id, members), itertools.count(len(self.references))))
        return {
            "format": FORMAT,
            "leaves": self._write_leaves(),
            "groups": [
                {
                    "kind": kind.tag,
                    **kind.head,
                    "count": len(members),
                    "columns": list(map(self._write, columns)),
                }
                for kind, members, columns in self.groups.values()
            ],
            "root": self._write(top),
        }

    def discover(self, column: Column) -> None:
        """Note the objects in a column that have not been met yet."""
        found = set(map(type, column))
        if str in found:
            self._check_text(column)
        if int in found and has_wide(column, found):
            for value in column:
                if type(value) is int and is_wide(value) and id(value) not in self.seen:
                    self._add_leaf(value)
        if found <= SCALARS:
            return
        seen = self.seen
        for value in column:
            if id(value) not in seen and type(value) not in SCALARS:
                self._add(value)

    @staticmethod
    def _check_text(column: Column) -> None:
        try:
            "".join([value for value in column if type(value) is str]).encode()
        except UnicodeEncodeError:
            for value in column:
                if type(value) is str and not _encodes(value):
                    raise Refused(value, "is text with lone surrogates") from None

    def _add(self, value: Any) -> None:
        cls = type(value)
        if cls in self.pending:
            self.seen.add(id(value))
            self.pending[cls].append(value)
        elif self._is_leaf(value):
            self._add_leaf(value)
        else:
            self.seen.add(id(value))
            self.pending[cls] = [value]

    def _add_leaf(self, top: Any) -> None:
        """Note a leaf and, before it, the leaves in it. An explicit stack: no depth is too deep."""
        stack = [self._split(top)]
        while stack:
            value, tag, parts, inner = stack[-1]
            fresh = next((part for part in inner if id(part) not in self.seen), None)
            if fresh is not None:
                stack.append(self._split(fresh))
            else:
                stack.pop()
                self.seen.add(id(value))
                self.leaves.append((value, tag, parts))
                depths = [self.depths[id(part)] for part in parts if id(part) in self.depths]
                self.depths[id(value)] = 1 + max(depths, default=0)
                self.discover([part for part in parts if not self._is_leaf(part)])
            if len(stack) > MAX_DEPTH or self.depths.get(id(value), 0) > MAX_DEPTH:
                raise Refused(value, f"is nested more than {MAX_DEPTH} deep")

    def _split(self, value: Any) -> tuple[Any, str, list[Any], Iterator[Any]]:
        try:
            tag, parts = leaves.split(value, self.names)
        except Unsupported as reason:
            raise Refused(value, str(reason)) from None
        if tag == "frozenset":
            self._check_members(value, parts)
        return value, tag, parts, filter(self._is_leaf, parts)

    def _is_leaf(self, part: Any) -> bool:
        cls = type(part)
        if cls in SCALARS:
            return cls is int and is_wide(part)
        known = self.leaf_types.get(cls)
        if known is None:
            known = self.leaf_types[cls] = leaves.is_leaf(cls)
        return known

    def _check_members(self, holder: Any, members: Column) -> None:
        for member in members:
            if type(member) not in SCALARS and not self._is_leaf(member):
                raise Refused(holder, f"is a set of {type(member).__name__}, in no order")

    def _take_apart(self, cls: type, batch: list[Any]) -> None:
        try:
            parts = sort_out(cls, batch, self.names)
        except Unsupported as reason:
            raise Refused(self._first_bad(cls, batch), str(reason)) from None
        for kind, members, columns in parts:
            if cls is set:
                self._check_members(batch[0], columns[1])
            key = kind.tag, kind.head.get("of"), tuple(kind.head.get("attributes", ()))
            if key in self.groups:
                _, known, all_columns = self.groups[key]
                known.extend(members)
                for column, more in zip(all_columns, columns, strict=True):
                    column.extend(more)
            else:
                self.groups[key] = kind, list(members), columns
            for column in columns:
                self.discover(column)

    def _first_bad(self, cls: type, batch: list[Any]) -> Any:
        for one in batch:
            try:
                sort_out(cls, [one], self.names)
            except Unsupported:
                return one
        return batch[0]

    def _write_leaves(self) -> list[Column]:
        written: list[Column] = []
        known: dict[bytes, int] = {}
        for value, tag, parts in self.leaves:
            entry = [tag, *self._inline(parts)]
            number = known.setdefault(msgspec.msgpack.encode(entry), len(written))
            if number == len(written):
                written.append(entry)
            self.references[id(value)] = -1 - number
        return written

    def _write(self, column: Column) -> Any:
        """Plain values as they are, references as differences, a mixture as a list of both."""
        found = set(map(type, column))
        if found <= SCALARS:
            return self._inline(column) if int in found and has_wide(column, found) else column
        if found.isdisjoint(SCALARS):
            numbers = list(map(self.references.__getitem__, map(id, column)))
            return {"refs": [numbers[0], *map(operator.sub, numbers[1:], numbers)]}
        return self._inline(column)

    def _inline(self, column: Column) -> Column:
        references = self.references
        return [
            value
            if type(value) in SCALARS and not (type(value) is int and is_wide(value))
            else [references[id(value)]]
            for value in column
        ]


class Refused(Exception):
    """An object that cannot be kept."""

    def __init__(self, value: Any, reason: str) -> None:
        super().__init__(reason)
        self.value = value

    def explain(self, root: Any) -> ConfigError:
        shown = name_of(type(self.value)).removeprefix("builtins:")
        return ConfigError(
            f"{path_to(self.value, root)} cannot be kept in a snapshot: it is a {shown} and {self}",
            hint="name your own classes and functions under `[learner] allow`; "
            "for anything else choose another component or option",
        )


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
