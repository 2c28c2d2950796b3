"""The fast way: many records at once, and only if all of them are valid beyond doubt."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from operator import add
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from stream_update.codecs.layout import FEATURES, MISSING, Layout, Rows, SourceOptions
from stream_update.events import Features

__all__ = ["Fast"]

_INT64 = 2**63 - 1

_Record = dict[str, Any]


class Fast:
    """Decodes valid records, and says nothing about the others.

    What it takes, :class:`~stream_update.codecs.strict.Strict` takes with the same
    result; what it does not take may still be valid.

    Types, ranges and the length of texts are checked by msgspec while it decodes, and
    everything else is asked once of all records together. A key that stands twice is
    found by counting: every key has a colon of its own, so there have to be as many
    colons as keys, and as colons in texts. Only an escaped colon could hide one.
    """

    def __init__(self, source: SourceOptions, layout: Layout) -> None:
        self._source = source
        self._layout = layout
        # In the flat layout ids and times stand among the features and may be larger
        # numbers, so there the range of the features is checked afterwards.
        self._mixed = not layout.nested and len(layout.fields) > 1
        self._limit = min(source.max_number, sys.float_info.max)
        self._without_nulls = self._decoder(bool)
        self._with_nulls = self._decoder(None)
        self._nulls = False

    def read(self, values: Sequence[bytes | None]) -> Rows | None:
        """All of the records, or None if any of them needs a closer look."""
        layout, source = self._layout, self._source
        if None in values or max(map(len, values)) > source.max_bytes:  # type: ignore[arg-type]
            return None
        joined = b"".join(values)  # type: ignore[arg-type]
        records = self._records(values, joined)
        if records is None:
            return None
        features = records
        keys = list(map(len, records))
        if layout.nested:
            features = [record.pop(FEATURES, None) for record in records]  # type: ignore[misc]
            if set(map(type, features)) != {dict}:
                return None
            keys = list(map(add, keys, map(len, features)))
        if max(keys) > source.max_keys:
            return None
        fields = {
            name: [record.pop(name, MISSING) for record in records] for name in layout.fields
        }
        colons = joined.count(b":") - sum(keys)
        if colons:
            colons -= _colons_in_fields(fields)
        if colons:
            colons -= _colons_in(features) + (_colons_in(records) if layout.nested else 0)
        if colons or (b"\\" in joined and b"\\u003" in joined):
            return None
        if self._nulls and b"null" in joined:
            features = list(map(_present, features))
        if not self._keys_are_sound(features) or (layout.nested and self._too_long(records)):
            return None
        if self._mixed and not all(map(self._in_range, features)):
            return None
        return Rows(features, fields)

    def _decoder(self, null: type[bool] | None) -> Callable[[Any], _Record]:
        source = self._source
        whole = int(min(self._limit, _INT64))
        text = Annotated[str, Meta(max_length=source.max_string)]
        number = Annotated[float, Meta(ge=-self._limit, le=self._limit)]
        integer = Annotated[int, Meta(ge=-whole, le=whole)]
        wide = Annotated[int, Meta(ge=-_INT64, le=_INT64)]
        kind: Any
        if self._layout.nested:
            features = dict[str, integer | number | text | bool | null]  # type: ignore[valid-type]
            kind = dict[str, features | wide | float | text | bool | None]
        elif self._mixed:
            kind = dict[str, wide | number | text | bool | null]  # type: ignore[valid-type]
        else:
            kind = dict[str, integer | number | text | bool | null]  # type: ignore[valid-type]
        return msgspec.json.Decoder(kind).decode

    def _records(self, values: Sequence[Any], joined: bytes) -> list[_Record] | None:
        if not self._nulls:
            try:
                return list(map(self._without_nulls, values))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                # Looking for nulls in every batch takes an eighth of the whole time, and
                # most streams have none: begin when the first is seen.
                self._nulls = b"null" in joined
                if not self._nulls:
                    return None
        try:
            return list(map(self._with_nulls, values))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None

    def _keys_are_sound(self, features: list[Features]) -> bool:
        """Leave the wanted features; whether their keys are within the limits."""
        keys = set().union(*features)
        if self._longest(keys) > self._source.max_key_length:
            return False
        for key in keys:
            if not self._layout.wanted(key):
                for row in features:
                    row.pop(key, None)
        return all(features) and max(map(len, features)) <= self._source.max_features
