"""Readers of records: JSON, quickly and with care, or an array of bytes."""

from __future__ import annotations

import math
from base64 import b64encode
from typing import Any, Protocol

import msgspec

from stream_update.codecs.fast import Fast
from stream_update.codecs.layout import MISSING, Layout, Rows, SourceOptions
from stream_update.codecs.strict import Strict
from stream_update.codecs.tables import Tables
from stream_update.errors import BadEvent, ConfigError
from stream_update.events import Batch

__all__ = ["RecordReader", "reader_of"]


TOGETHER = 128
"""Records read at once: enough that asking once pays, few enough that a bad one, for which
they are read again, costs little."""
MANY = 512
"""The same where bad ones are rare."""


class RecordReader(Protocol):
    """Reads the records of a batch, many at once if they are valid beyond doubt."""

    @property
    def together(self) -> int:
        """How many it is to be asked for at once."""
        ...

    def all(self, batch: Batch, start: int, stop: int) -> Rows | None:
        """Those at these places; None if one of them needs a closer look."""
        ...

    def one(self, batch: Batch, place: int) -> Rows:
        """That at one place; raises :class:`BadEvent`."""
        ...


def reader_of(
    source: SourceOptions, layout: Layout, *, sets: bool = False, tables: bool = False
) -> RecordReader:
    """The reader for ``source.format``; ``sets``: labels may be lists and objects; ``tables``:
    features may be a :class:`~stream_update.events.Table`.

    Raises :class:`ConfigError`.
    """
    if source.format == "raw":
        return Arrays(source, layout)
    return Objects(source, layout, sets=sets, tables=tables)


class Objects:
    """JSON objects."""

    def __init__(self, source: SourceOptions, layout: Layout, *, sets: bool, tables: bool) -> None:
        self._tables = Tables(source, layout) if tables and not sets else None
        self._fast = Fast(source, layout, sets=sets)
        self._strict = Strict(source, layout)

    @property
    def together(self) -> int:
        return MANY if self._tables is not None and self._tables.steady else TOGETHER

    def all(self, batch: Batch, start: int, stop: int) -> Rows | None:
        values, tables = batch.values[start:stop], self._tables
        rows = tables.read(values) if tables is not None else None
        if rows is None:
            rows = self._fast.read(values)
            if rows is not None and tables is not None:
                tables.see(values)
        return rows

    def one(self, batch: Batch, place: int) -> Rows:
        return self._strict.read(batch.values[place])


class Arrays:
    """Arrays of bytes, each the whole value of a record, with the label in a header.

    The event has one feature, the bytes in base64: the same as if they had come so in JSON. A
    label is read as JSON, and what is no JSON as a text: ``3``, ``true``, ``null``, ``cat``,
    and ``"3"`` for a text of a digit.
    """

    def __init__(self, source: SourceOptions, layout: Layout) -> None:
        raw = source.raw
        if raw is None:
            raise ConfigError(
                '[source] format: "raw" needs to know what the bytes are',
                hint='[source] raw = { field = "picture", shape = [28, 28, 1] }',
            )
        _check(source, layout)
        self._field = raw.field
        self._shape = list(raw.shape)
        self._size = math.prod(raw.shape)
        self._label = layout.label
        self._header = source.label.removeprefix("header:")
        self._longest = source.max_string
        self._names = frozenset({raw.field})
        if self._size > source.max_bytes:
            raise ConfigError(
                f"[source] raw: an array of shape {self._shape} has {self._size} bytes, more than "
                f"max_bytes ({source.max_bytes}) lets a record have",
                hint=f"max_bytes = {self._size}, or more",
            )

    @property
    def together(self) -> int:
        return TOGETHER

    def all(self, batch: Batch, start: int, stop: int) -> Rows | None:
        values = batch.values[start:stop]
        if any(value is None or len(value) != self._size for value in values):
            return None
        try:
            return self._rows(batch, range(start, stop))
        except BadEvent:
            return None

    def one(self, batch: Batch, place: int) -> Rows:
        value = batch.values[place]
        if not value:
            raise BadEvent("empty", "the record has no value")
        if len(value) != self._size:
            raise BadEvent(
                "wrong-size",
                f"the record has {len(value)} bytes, and an array of shape {self._shape} has "
                f"{self._size} (source.raw)",
            )
        return self._rows(batch, range(place, place + 1))

    def _rows(self, batch: Batch, places: range) -> Rows:
        headers = batch.headers
        labels = [self._read(dict(headers[p]) if headers else {}) for p in places]
        features = [{self._field: b64encode(batch.values[p] or b"").decode()} for p in places]
        return Rows(features, {self._label: labels}, self._names)

    def _read(self, headers: dict[str, bytes]) -> Any:
        found = headers.get(self._header, MISSING)
        if not isinstance(found, bytes):
            return MISSING if found is MISSING else None  # Kafka has headers without a value
        if len(found) > self._longest:
            raise BadEvent(
                "string-too-long",
                f'the header "{self._header}" has {len(found)} bytes, more than {self._longest} '
                "(source.max_string)",
            )
        try:
            return msgspec.json.decode(found)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
        try:
            return found.decode()
        except UnicodeDecodeError as error:
            raise BadEvent(
                "not-utf-8", f'byte {error.start} of the header "{self._header}" is not UTF-8'
            ) from None


def _check(source: SourceOptions, layout: Layout) -> None:
    places = {"id": layout.id, "time": layout.time, "key": layout.key, "origin": layout.origin}
    inside = [name for name, place in places.items() if place.field is not None]
    if not source.label.startswith("header:"):
        inside.insert(0, "label")
    if inside:
        raise ConfigError(
            f'[source] {inside[0]}: with format = "raw" a record has no fields',
            hint=f'name a header: {inside[0]} = "header:{inside[0]}"',
        )
    if source.features is not None:
        raise ConfigError(
            '[source] features: with format = "raw" an event has the feature that raw names'
        )
