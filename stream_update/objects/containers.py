"""Lists, sets, dicts and their kin."""

from __future__ import annotations

import collections
import itertools
import operator
import random
from collections.abc import Iterator, Sequence
from typing import Any

from stream_update.objects.columns import (
    NO_HEAD,
    Column,
    Damaged,
    Made,
    Unsupported,
    chunks,
    only,
)
from stream_update.objects.leaves import canonical

__all__ = ["ByteArrays", "Mappings", "Sequences", "Sets"]


class Sequences:
    """Lists and deques. Columns: sizes, items, and for deques the largest sizes."""

    head = NO_HEAD
    turn = 1
    late = False

    def __init__(self, cls: type) -> None:
        self.tag = cls.__name__
        self.cls = cls

    def split(self, objects: Sequence[Any]) -> list[Column]:
        columns = [list(map(len, objects)), list(itertools.chain.from_iterable(objects))]
        if self.cls is collections.deque:
            columns.append([one.maxlen for one in objects])
        return columns

    def make(self, count: int, columns: list[Column], _made: Made) -> list[Any]:
        if self.cls is collections.deque:
            _, _, limits = columns
            return [collections.deque(maxlen=limit) for limit in only(limits, int, type(None))]
        _, _ = columns
        return [self.cls() for _ in range(count)]

    def fill(self, objects: list[Any], columns: list[Column]) -> None:
        for one, (items,) in zip(objects, chunks(columns[0], columns[1]), strict=True):
            one.extend(items)
            if len(one) != len(items):
                raise Damaged(f"a {self.tag} with more items than it can hold")


class Sets:
    """Sets. Columns: sizes and members, these in canonical order; sizes and ranks of hints.

    The order in which a set hands out its members is no part of its value: it depends
    on ``PYTHONHASHSEED`` and on history. Some of river's models let their arithmetic
    depend on it all the same (``HoeffdingAdaptiveTreeClassifier`` with text labels,
    ``compose.Select``). So a set whose order is not that of a fresh one with the same
    members takes its order along as a hint. Under the same ``PYTHONHASHSEED`` it comes
    back; under another one no order means anything. Hints are no part of the digest.
    """

    tag = "set"
    head = NO_HEAD
    turn = 2
    late = False

    few = 6
    """Up to so many members, all orders of insertion are tried: one of them was the true one."""
    many = 100
    """Above, none is tried: nobody has so many classes or features to choose between."""
    tries = 1_000
    """So many orders are tried for a set between the two, ..."""
    patience = 20_000
    """... and so many for all of them: the order of most sets is of no use to anybody."""

    def split(self, objects: Sequence[set[Any]]) -> list[Column]:
        columns: list[Column] = [list(map(len, objects)), [], [], []]
        for one in objects:
            members = canonical(one)
            columns[1].extend(members)
            order = list(one)
            if list(set(members)) == order:
                columns[2].append(0)
            else:
                ranks = {member: rank for rank, member in enumerate(members)}
                columns[2].append(len(order))
                columns[3].extend(ranks[member] for member in order)
        return columns

    def make(self, count: int, _columns: list[Column], _made: Made) -> list[Any]:
        return [set() for _ in range(count)]

    def fill(self, objects: list[Any], columns: list[Column]) -> None:
        known: dict[tuple[Any, ...], Column] = {}
        patience = itertools.repeat(None, self.patience)
        sizes, items, hint_sizes, hints = columns
        parts = zip(chunks(sizes, items), chunks(hint_sizes, only(hints, int)), strict=True)
        for one, ((members,), (ranks,)) in zip(objects, parts, strict=True):
            given = members
            if ranks:
                if sorted(ranks) != list(range(len(members))):
                    raise Damaged("a set in the order of another one")
                order = tuple(members[rank] for rank in ranks)
                if order not in known:
                    known[order] = self._insertion(list(order), patience)
                given = known[order]
            one.update(given)
            if len(one) != len(members):
                raise Damaged("a set with the same member twice")

    def _insertion(self, wanted: Column, patience: Iterator[None]) -> Column:
        """The members in an order of insertion that makes a set hand them out as ``wanted``.

        If none is found: as they are.
        """
        if len(wanted) <= self.few:
            for permuted, _ in zip(itertools.permutations(wanted), patience, strict=False):
                if _agreement(permuted, wanted) == len(wanted):
                    return list(permuted)
            return wanted
        if len(wanted) > self.many:
            return wanted
        chance = random.Random(0)  # noqa: S311 -- for a search, not for a secret
        best, score = wanted, _agreement(wanted, wanted)
        for _ in zip(range(self.tries), patience, strict=False):
            if score == len(wanted):
                break
            candidate = best.copy()
            member = candidate.pop(chance.randrange(len(wanted)))
            candidate.insert(chance.randrange(len(wanted)), member)
            if (found := _agreement(candidate, wanted)) >= score:
                best, score = candidate, found
        return best if score == len(wanted) else wanted


def _agreement(insertion: Sequence[Any], wanted: Column) -> int:
    """How many members a set made in this order hands out where they are wanted."""
    return sum(map(operator.is_, set(insertion), wanted))


class Mappings:
    """Dicts and their kin. Columns: sizes, keys, values, and where there are, factories."""

    head = NO_HEAD
    turn = 3
    late = False

    def __init__(self, cls: type[dict[Any, Any]]) -> None:
        self.tag = cls.__name__
        self.cls = cls
        # A Counter's own update adds up; an OrderedDict's own keeps its order in step.
        self.update = (cls if cls is collections.OrderedDict else dict).update

    def split(self, objects: Sequence[Any]) -> list[Column]:
        if self.cls is not dict and any(getattr(one, "__dict__", None) for one in objects):
            raise Unsupported("has attributes of its own")
        columns = [
            list(map(len, objects)),
            list(itertools.chain.from_iterable(objects)),
            list(itertools.chain.from_iterable(map(self.cls.values, objects))),
        ]
        if self.cls is collections.defaultdict:
            columns.append([one.default_factory for one in objects])
        return columns

    def make(self, count: int, _columns: list[Column], _made: Made) -> list[Any]:
        return [self.cls() for _ in range(count)]

    def fill(self, objects: list[Any], columns: list[Column]) -> None:
        sizes, keys, values, *factories = columns
        if len(factories) != (self.cls is collections.defaultdict):
            raise Damaged(f"a {self.tag} of {len(columns)} columns")
        for one, (some_keys, some_values) in zip(objects, chunks(sizes, keys, values), strict=True):
            self.update(one, zip(some_keys, some_values, strict=True))
            if len(one) != len(some_keys):
                raise Damaged(f"a {self.tag} with the same key twice")
        for column in factories:
            for one, factory in zip(objects, column, strict=True):
                if factory is not None and not callable(factory):
                    raise Damaged(f"a {self.tag} with a {type(factory).__name__} for a factory")
                one.default_factory = factory


class ByteArrays:
    """Columns: bytes."""

    tag = "bytearray"
    head = NO_HEAD
    turn = 1
    late = False

    def split(self, objects: Sequence[bytearray]) -> list[Column]:
        return [list(map(bytes, objects))]

    def make(self, _count: int, columns: list[Column], _made: Made) -> list[Any]:
        (contents,) = columns
        return list(map(bytearray, only(contents, bytes)))

    def fill(self, objects: list[Any], columns: list[Column]) -> None:
        """Nothing is left to do."""
