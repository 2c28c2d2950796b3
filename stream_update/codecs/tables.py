"""The way of records that are all alike: to a table of numbers, with no dict for an event."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec.structs import astuple

from stream_update.codecs.kinds import COLON, REFUSED, Kinds
from stream_update.codecs.layout import FEATURES, MISSING, Layout, Rows, SourceOptions
from stream_update.events import Table

__all__ = ["Tables"]

QUOTE = ord('"')
NOT_IN_KEYS = {":", '"', "\\", *map(chr, range(32))}
LARGEST = 4096
"""Bytes of one record that are looked at: more make what is kept for a table large."""
STEADY = 10_000
"""After so many records without a miss the next is taken to be as far away."""
REST = 6
MOST = 10
"""After ``n`` misses, at most this many, it rests for ``2**n - 2`` times if the records were valid,
and else for ``REST * 2**n`` times, in which the bad one among them is found."""


class Tables:
    """Reads records with the keys of one that was there before, in its order, whose features
    are numbers, true or false.

    What it takes, :class:`~stream_update.codecs.fast.Fast` takes with the same result, down to
    the order of the names in an event, because a model may add up in that order. What it
    does not take may still be valid. Which records it takes depends on those that were there
    before, and the result does not show it.
    """

    def __init__(self, source: SourceOptions, layout: Layout) -> None:
        self._source = source
        self._layout = layout
        self._shape: _Shape | None = None
        self._misses = 0
        self._rest = 0
        self._missed = False
        self._taken = 0

    @property
    def steady(self) -> bool:
        """Whether it has taken all of the last :data:`STEADY` records."""
        return self._taken >= STEADY

    def read(self, values: Sequence[bytes | None]) -> Rows | None:
        """All of the records, or None if they have to be read in another way.

        Streams that it is not made for cost next to nothing: it rests after a miss, twice as
        long after the next, and half as long again for each time that was none.
        """
        self._missed = False
        if self._rest:
            self._rest -= 1
            return None
        rows = None if self._shape is None else self._shape.read(values, self._source.max_bytes)
        if rows is not None:
            self._misses = max(self._misses - 1, 0)
            self._taken += len(values)
            return rows
        self._missed = True
        self._taken = 0
        self._misses = min(self._misses + 1, MOST)
        self._rest = REST * 2**self._misses
        return None

    def see(self, values: Sequence[bytes | None]) -> None:
        """Be shown what :meth:`read` has just left, and is valid: the next may be like it."""
        if not self._missed:
            return
        self._rest = 2**self._misses - 2
        record = msgspec.json.decode(values[-1] or b"")
        inner = record[FEATURES] if self._layout.nested else {}
        keys = (list(record), list(inner))
        if self._shape is None or self._shape.keys != keys:
            self._shape = _shape(self._source, self._layout, record)


class _Shape(NamedTuple):
    """What records are expected to look like.

    ``keys`` are those of a record, and those of the object with the features if there is one,
    which stands at the place ``at``. ``decode`` makes a Struct of the values. Those at
    the places ``apart`` are no features; ``missing`` are the fields that no record has.
    """

    keys: tuple[list[str], list[str]]
    names: tuple[str, ...]
    at: int | None
    apart: list[int]
    missing: list[str]
    decode: Callable[[Any], Any]
    order: _Order

    def read(self, values: Sequence[bytes | None], max_bytes: int) -> Rows | None:
        try:
            joined = b"".join(values)  # type: ignore[arg-type]
        except TypeError:  # a record without a value
            return None
        if len(joined) > max_bytes and max(map(len, values)) > max_bytes:  # type: ignore[arg-type]
            return None
        try:
            flat = list(chain.from_iterable(map(astuple, map(self.decode, values))))
        except REFUSED:
            return None
        keys, _ = self.keys
        width = len(keys)
        fields = {keys[place]: flat[place::width] for place in self.apart}
        if not self.order.kept(joined, len(values), fields.values()):
            return None
        if self.at is not None:
            flat = list(chain.from_iterable(map(astuple, flat[self.at :: width])))
        else:
            for place in reversed(self.apart):
                del flat[place::width]
                width -= 1
        for name in self.missing:
            fields[name] = [MISSING] * len(values)
        return Rows(Table(self.names, flat), fields, frozenset(self.names))


class _Order:
    """The order of the keys in the text of a record, known by the bytes that tell them apart: the
    quote behind each key, and the letters as far before it as keys that end alike begin to
    differ. ``size`` is how many there are.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        quoted = [f'"{key}"'.encode() for key in keys]
        different = set(quoted)
        # With its first quote no key ends with the whole of another.
        backs, endings = [1], 1
        for back in range(2, max(map(len, quoted)) + 1):
            more = len({text[-back:] for text in different})
            if more > endings:
                backs.append(back)
                endings = more
        # Where a key has no such letter the quote behind it is looked at once more.
        rows = [[back if back <= len(text) else 1 for text in quoted] for back in backs]
        byte = [[text[-back] for back, text in zip(row, quoted, strict=True)] for row in rows]
        self.size = len(keys) * len(backs)
        self._count = len(keys)
        self._back = np.array(rows)
        self._byte = np.array(byte, np.uint8)

    def kept(self, joined: bytes, count: int, fields: Iterable[Sequence[Any]]) -> bool:
        """Whether ``count`` records have their keys in this order, and none of them twice.

        They are known to have each at least once and no others, and all their texts are in
        ``fields``. Without a backslash a key is spelled in one way only, and what stands before a
        quote and a colon is a key, unless a text begins with a colon.
        """
        if b"\\" in joined:
            return False
        found = np.frombuffer(joined, np.uint8)
        (colons,) = (found == COLON).nonzero()
        total = count * self._count
        if len(colons) != total:
            texts = [text for column in fields for text in column if type(text) is str]
            if len(colons) - sum(text.count(":") for text in texts) != total:
                return False
            if any(text.startswith(":") for text in texts):
                return False
            colons = colons[found[colons - 1] == QUOTE]
            if len(colons) != total:  # white space behind a key
                return False
        if self._back.shape[1] < total:
            times = (1, -(-total // self._back.shape[1]))
            self._back, self._byte = np.tile(self._back, times), np.tile(self._byte, times)
        at = colons - self._back[:, :total]
        return bool((found[at] == self._byte[:, :total]).all())


def _shape(source: SourceOptions, layout: Layout, record: Mapping[str, Any]) -> _Shape | None:
    """What records like this valid one look like; None if they are none for a table."""
    outer = list(record)
    features = record[FEATURES] if layout.nested else record
    inner = list(features) if layout.nested else []
    names = tuple(
        name
        for name in features
        if layout.nested or (name not in layout.fields and layout.wanted(name))
    )
    if any(not isinstance(features[name], int | float) for name in names):
        return None
    at = outer.index(FEATURES) if layout.nested else None
    text = outer if at is None else [*outer[: at + 1], *inner, *outer[at + 1 :]]
    if any(not NOT_IN_KEYS.isdisjoint(key) for key in text):
        return None
    order = _Order(text)
    if order.size > LARGEST:
        return None
    kinds = Kinds(source)
    number = kinds.number | kinds.integer | kinds.truth
    other = float | kinds.wide | kinds.text | bool | None
    if layout.nested:
        types = [other] * len(outer)
        types[outer.index(FEATURES)] = _struct(inner, [number] * len(inner))
        apart = [place for place in range(len(outer)) if place != at]
    else:
        apart = [place for place, name in enumerate(outer) if name not in names]
        types = [number if name in names else other for name in outer]
    return _Shape(
        (outer, inner),
        names,
        at,
        apart,
        [name for name in layout.fields if name not in outer],
        msgspec.json.Decoder(_struct(outer, types)).decode,
        order,
    )


def _struct(names: Sequence[str], types: Sequence[Any]) -> type[msgspec.Struct]:
    """An object with these keys and no others; no cycle can go through it."""
    return msgspec.defstruct(
        "Record",
        [(f"f{place}", kind) for place, kind in enumerate(types)],
        rename={f"f{place}": name for place, name in enumerate(names)},
        forbid_unknown_fields=True,
        gc=False,
    )
