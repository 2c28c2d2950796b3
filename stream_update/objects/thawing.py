"""A tree to objects. Nothing in the tree is believed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

from stream_update.errors import CorruptSnapshot, StreamUpdateError
from stream_update.events import Tree
from stream_update.objects.columns import Column, Damaged, Kind, collector_held_off
from stream_update.objects.digests import FIELDS
from stream_update.objects.freezing import FORMAT
from stream_update.objects.kinds import kind_of
from stream_update.objects.leaves import MAX_DEPTH, SCALARS, has_wide, join
from stream_update.objects.names import Names

__all__ = ["MAX_BYTES", "MAX_GROUPS", "MAX_NODES", "thaw"]

MAX_NODES = 20_000_000
"""Objects, leaves and values in one column that a tree may have."""

MAX_BYTES = 256 * 1024 * 1024
"""Length of one text or of one run of bytes."""

MAX_GROUPS = 10_000
"""Kinds of objects; a forest of every kind of tree has some dozens."""

HINT = "it is damaged, was not written by this program, or needs `[learner] allow`"


def thaw(
    tree: Tree,
    *,
    allow: Iterable[Callable[..., Any]] = (),
    max_nodes: int = MAX_NODES,
    max_bytes: int = MAX_BYTES,
) -> Any:
    """The object that :func:`~stream_update.objects.freeze` was given.

    The tree is treated as if an enemy had written it: classes and functions come from
    an exact list, instances are made without calling their class, nothing that the tree
    names is called, no class is written to, and sizes are limited. Whether the numbers
    make sense is for the model to find out.

    Raises :class:`~stream_update.errors.CorruptSnapshot`.
    """
    thawer = Thawer(Names(allow), max_nodes, max_bytes)
    try:
        with collector_held_off():
            return thawer.run(tree)
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError, StreamUpdateError):
        raise
    except Damaged as error:
        raise CorruptSnapshot(f"{thawer.where}: {error}", hint=HINT) from error
    except BaseException as error:
        # BaseException: a panic in an extension type is one.
        message = f"{thawer.where}: {type(error).__name__}: {error!s:.200}"
        raise CorruptSnapshot(message, hint=HINT) from error


class Thawer:
    """One call of :func:`thaw`: make every object, then the leaves, then fill the objects."""

    def __init__(self, names: Names, max_nodes: int, max_bytes: int) -> None:
        self.names = names
        self.max_nodes = max_nodes
        self.max_bytes = max_bytes
        self.where = "tree"
        # Objects from the front, leaves from the back: a reference is an index.
        self.table: list[Any] = []
        self.objects = 0
        # How many leaves there are so far.
        self.leaves = 0
        self.depths: list[int] = []

    def run(self, tree: Tree) -> Any:
        if type(tree) is not dict or set(tree) != FIELDS:
            raise Damaged(f"no dict of {', '.join(sorted(FIELDS))}")
        if tree["format"] != FORMAT:
            raise Damaged(f"the format {tree['format']!r:.200}, where {FORMAT} is expected")
        groups = self._list(tree["groups"], MAX_GROUPS, "groups")
        entries = self._list(tree["leaves"], self.max_nodes, "leaves")
        kinds = [self._kind(index, group) for index, group in enumerate(groups)]
        self.where = "tree"
        self.objects = sum(group["count"] for group in groups)
        size = self.objects + len(entries)
        if size > self.max_nodes:
            raise Damaged(f"{size} objects, more than {self.max_nodes}")
        self.table = [MISSING] * size
        made = self._make(groups, kinds)
        self._join(entries)
        self._fill(groups, kinds, made)
        self.where = "root"
        (root,) = self._read(tree["root"])
        return root

    def _list(self, value: Any, limit: int, what: str) -> list[Any]:
        if type(value) is not list or len(value) > limit:
            raise Damaged(f"{what} that are no list of at most {limit}")
        return value

    def _kind(self, index: int, group: Any) -> Kind:
        self.where = f"group {index}"
        if type(group) is not dict:
            raise Damaged("no dict")
        count = group.get("count")
        if type(count) is not int or not 0 < count <= self.max_nodes:
            raise Damaged(f"a count of {count!r:.200}, not between 1 and {self.max_nodes}")
        self._list(group.get("columns"), MAX_GROUPS, "columns")
        kind = kind_of(group, self.names)
        if set(group) != {"kind", "count", "columns", *kind.head}:
            raise Damaged(f"a group of the kind {kind.tag!r} with other fields")
        return kind

    def _make(self, groups: list[Any], kinds: list[Kind]) -> list[list[Any]]:
        made: list[list[Any]] = [[]] * len(groups)
        counts = [group["count"] for group in groups]
        starts = list(itertools.accumulate(counts, initial=0))
        for index in sorted(range(len(groups)), key=lambda index: kinds[index].late):
            kind, group = kinds[index], groups[index]
            self._enter(index, kind)
            one = kind.make(group["count"], group["columns"], self._read_made)
            if len(one) != group["count"]:
                raise Damaged(f"columns for {len(one)} objects, not for {group['count']}")
            self.table[starts[index] : starts[index + 1]] = one
            made[index] = one
        return made

    def _enter(self, index: int, kind: Kind) -> None:
        self.where = f"group {index} ({kind.head.get('of', kind.tag)})"

    def _join(self, entries: list[Any]) -> None:
        for index, entry in enumerate(entries):
            self.where = f"leaf {index}"
            tag, *parts = self._list(entry, self.max_nodes, "parts")
            self.leaves = index
            references = [part[0] for part in parts if type(part) is list]
            values = self._read(parts)
            depth = 1 + max((self.depths[-1 - ref] for ref in references if ref < 0), default=0)
            if depth > MAX_DEPTH:
                raise Damaged(f"leaves nested more than {MAX_DEPTH} deep")
            self.depths.append(depth)
            self.table[-1 - index] = join(tag, values, self.names)
        self.leaves = len(entries)

    def _fill(self, groups: list[Any], kinds: list[Kind], made: list[list[Any]]) -> None:
        for index in sorted(range(len(groups)), key=lambda index: kinds[index].turn):
            self._enter(index, kinds[index])
            columns = list(map(self._read, groups[index]["columns"]))
            kinds[index].fill(made[index], columns)

    def _read_made(self, column: Any) -> Column:
        values = self._read(column)
        if any(value is MISSING for value in values):
            raise Damaged("a reference to an object that is made later")
        return values

    def _read(self, column: Any) -> Column:
        """The values of a column, references looked up."""
        if type(column) is dict:
            if set(column) != {"refs"}:
                raise Damaged("a column that is a dict, but not of references")
            steps = self._list(column["refs"], self.max_nodes, "references")
            if set(map(type, steps)) - {int}:
                raise Damaged("references that are no integers")
            numbers = list(itertools.accumulate(steps))
            self._check_references(numbers)
            return list(map(self.table.__getitem__, numbers))
        values = self._list(column, self.max_nodes, "values")
        found = set(map(type, values))
        if (str in found or bytes in found) and self._longest(values) > self.max_bytes:
            raise Damaged(f"a value of more than {self.max_bytes} bytes")
        if int in found and has_wide(values, found):
            raise Damaged("an integer of more than 64 bits that is no leaf")
        if found <= SCALARS:
            return values
        if not found <= SCALARS | {list}:
            raise Damaged("a value that is neither plain nor a reference")
        references = [value for value in values if type(value) is list]
        if any(len(reference) != 1 or type(reference[0]) is not int for reference in references):
            raise Damaged("a reference that is none")
        self._check_references([reference[0] for reference in references])
        table = self.table
        return [table[value[0]] if type(value) is list else value for value in values]

    def _check_references(self, numbers: list[int]) -> None:
        if numbers and not -self.leaves <= min(numbers) <= max(numbers) < self.objects:
            raise Damaged("a reference to an object that is not there")

    @staticmethod
    def _longest(values: Column) -> int:
        return max(len(value) for value in values if type(value) in {str, bytes})


MISSING = object()
