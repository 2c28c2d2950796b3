"""What changed between two snapshots: in their manifests, and in the states they hold."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from stream_update.events import Tree
from stream_update.snapshot import Snapshot, differences

__all__ = ["Change", "Comparison", "compare"]

FACTS = ("seq", "next", "events", "learned", "rejected", "unlabelled", "recent_loss", "size")


class Change(NamedTuple):
    """One leaf of the state; ``old`` or ``new`` is None where the path is not there."""

    path: str
    old: Any
    new: Any

    @property
    def size(self) -> float:
        """How far a number moved; anything else counts as more than any number."""
        if not (_is_number(self.old) and _is_number(self.new)):
            return math.inf
        moved = abs(float(self.new) - float(self.old))
        return math.inf if math.isnan(moved) else moved


class Comparison(NamedTuple):
    """``facts`` are manifest fields, and ``configuration`` the keys, that differ; ``added``,
    ``removed`` and ``changed`` count leaves of the state out of ``leaves``; ``largest`` are the
    numbers that moved furthest and ``other`` some of the leaves that are no numbers.
    """

    facts: dict[str, tuple[Any, Any]]
    configuration: list[str]
    leaves: int
    added: int
    removed: int
    changed: int
    largest: list[Change]
    other: list[Change]


def compare(first: Snapshot, second: Snapshot, limit: int = 10) -> Comparison:
    """Two snapshots, of one lineage or of two; at most ``limit`` of each kind of change."""
    old, new = first.manifest, second.manifest
    facts = {
        name: (getattr(old, name), getattr(new, name))
        for name in FACTS
        if getattr(old, name) != getattr(new, name)
    }
    before, after = dict(_leaves(first.state(), "")), dict(_leaves(second.state(), ""))
    changes = [
        Change(path, before.get(path), after.get(path))
        for path in {**before, **after}
        if path not in before or path not in after or not _same(before[path], after[path])
    ]
    moved = [change for change in changes if change.size < math.inf]
    other = [change for change in changes if change.size == math.inf]
    return Comparison(
        facts,
        differences(msgspec.to_builtins(old.identity), msgspec.to_builtins(new.identity)),
        len({**before, **after}),
        sum(path not in before for path in after),
        sum(path not in after for path in before),
        sum(change.path in before and change.path in after for change in changes),
        heapq.nlargest(limit, moved, key=lambda change: change.size),
        other[:limit],
    )


def _leaves(tree: Tree, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        for name, item in tree.items():
            yield from _leaves(item, f"{path}.{name}" if path else str(name))
    elif isinstance(tree, list | tuple):
        for index, item in enumerate(tree):
            yield from _leaves(item, f"{path}[{index}]")
    else:
        yield path, tree


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and (a == b or (a != a and b != b))  # noqa: PLR0124 - NaN


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
