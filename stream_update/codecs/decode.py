"""Records to events: the fast way for the valid ones, dead letters for the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
import orjson
from msgspec import Meta

from stream_update.codecs.labels import LabelSchema
from stream_update.codecs.layout import FEATURES, MISSING, Layout, Place, SourceOptions
from stream_update.codecs.strict import Strict
from stream_update.codecs.times import event_time
from stream_update.errors import BadEvent
from stream_update.events import Batch, Block, DeadLetter, Features

__all__ = ["JsonCodec", "ScoreBlock"]

NUMBERS = frozenset({int, float, bool})
REFUSED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError)
ODD = (orjson.JSONDecodeError, TypeError, KeyError, AttributeError, ValueError, IndexError)


class ScoreBlock(NamedTuple):
    """A batch decoded for scoring; columns have one entry for each usable event."""

    partition: int
    offsets: list[int]
    features: list[Features]
    ids: list[Any]
    keys: list[bytes | None]
    dead_letters: list[DeadLetter]
    next_offset: int
    count: int  # type: ignore[assignment]  # hides tuple.count


class JsonCodec:
    """JSON records to events, with the limits of ``[source]``.

    One codec for each lane: :attr:`schema` remembers which labels have been admitted,
    and that is part of the lane's state. Never raises for what a record holds.
    """

    def __init__(self, source: SourceOptions, task: str) -> None:
        self.schema = LabelSchema(task, source)
        self._source = source
        self._layout = Layout(source)
        self._strict = Strict(source, self._layout)
        self._everything = not self._layout.nested and self._layout.patterns == ("*",)
        self._most_keys = min(source.max_keys, source.max_features)
        limit = source.max_number
        whole = int(limit)
        number = Annotated[float, Meta(ge=-limit, le=limit)]
        integer = Annotated[int, Meta(ge=-whole, le=whole)]
        text = Annotated[str, Meta(max_length=source.max_string)]
        name = Annotated[str, Meta(max_length=source.max_key_length)]
        self._flat = msgspec.json.Decoder(dict[name, integer | number | text | bool | None])

    def decode(self, batch: Batch) -> Block:
        """Usable events, unlabelled ones counted, dead letters for the rest."""
        rows, features, fields, letters = self._rows(batch)
        raw = fields[self._layout.label]
        labels = self.schema.known(raw)
        if labels is None:
            labels, keep = [], []
            for index, label in enumerate(raw):
                try:
                    labels.append(self.schema.admit(label))
                except BadEvent as bad:
                    letters.append(_letter(batch, rows[index], bad.reason, str(bad)))
                else:
                    keep.append(index)
            rows, features, fields = _only(keep, rows, features, fields)
        unlabelled = 0
        if None in labels:
            keep = [index for index, label in enumerate(labels) if label is not None]
            unlabelled = len(labels) - len(keep)
            labels = [labels[index] for index in keep]
            rows, features, fields = _only(keep, rows, features, fields)
        letters.sort(key=lambda letter: letter.offset)
        offsets = batch.offsets
        whole = len(rows) == len(batch)
        return Block(
            batch.partition,
            offsets[0] if len(batch) else 0,
            offsets[-1] + 1 if len(batch) else 0,
            len(batch),
            offsets if whole else [offsets[row] for row in rows],
            features,
            labels,
            unlabelled,
            letters,
            self._time_of(batch, rows, fields),
            lambda index, reason, detail: _letter(batch, rows[index], reason, detail),
        )

    def decode_features(self, batch: Batch) -> ScoreBlock:
        """Events to predict; what they hold as a label is not looked at."""
        rows, features, fields, letters = self._rows(batch)
        place = self._layout.id
        if place.field is not None:
            ids = [None if v is MISSING else v for v in fields[place.field]]
        else:
            ids = [_header(batch, row, place) for row in rows]
        return ScoreBlock(
            batch.partition,
            [batch.offsets[row] for row in rows],
            features,
            ids,
            self._keys(batch, rows, fields),
            letters,
            batch.offsets[-1] + 1,
            len(batch),
        )

    def _rows(
        self, batch: Batch
    ) -> tuple[Sequence[int], list[Features], dict[str, list[Any]], list[DeadLetter]]:
        names = self._layout.fields
        columns: dict[str, list[Any]] = {name: [] for name in names}
        features: list[Features] = []
        doubtful = self._fast(batch.values, features, columns)
        if not doubtful:
            return range(len(batch)), features, columns, []
        return self._judge(batch, doubtful, features, columns)

    def _judge(
        self,
        batch: Batch,
        doubtful: list[int],
        features: list[Features],
        columns: dict[str, list[Any]],
    ) -> tuple[list[int], list[Features], dict[str, list[Any]], list[DeadLetter]]:
        """Look closely at the rows that the fast way left out, and put all in order."""
        sure = iter(zip(features, *columns.values(), strict=True))
        waiting = set(doubtful)
        rows: list[int] = []
        merged: list[Features] = []
        fields: dict[str, list[Any]] = {name: [] for name in columns}
        letters: list[DeadLetter] = []
        for row, value in enumerate(batch.values):
            if row in waiting:
                try:
                    event, found = self._strict.parse(value)
                except BadEvent as bad:
                    letters.append(_letter(batch, row, bad.reason, str(bad)))
                    continue
                cells = [found[name] for name in columns]
            else:
                event, *cells = next(sure)
            rows.append(row)
            merged.append(event)
            for column, cell in zip(fields.values(), cells, strict=True):
                column.append(cell)
        return rows, merged, fields, letters

    def _fast(
        self,
        values: Sequence[bytes | None],
        features: list[Features],
        columns: dict[str, list[Any]],
    ) -> list[int]:
        """Take the records that are valid beyond doubt; returns the rows of the others."""
        if self._everything:
            return self._fast_flat(values, features, columns)
        if self._layout.nested:
            return self._fast_nested(values, features, columns)
        return list(range(len(values)))

    def _fast_flat(
        self,
        values: Sequence[bytes | None],
        features: list[Features],
        columns: dict[str, list[Any]],
    ) -> list[int]:
        """Flat records of which every field is a feature.

        Every key has a colon of its own, so as many colons as keys means that no key
        stands twice; only an escape could hide or fake one.
        """
        decode, add = self._flat.decode, features.append
        max_bytes, most = self._source.max_bytes, self._most_keys
        (label, *others) = columns
        add_label = columns[label].append
        doubtful: list[int] = []
        for row, value in enumerate(values):
            try:
                event = decode(value)  # type: ignore[arg-type]
            except REFUSED:
                doubtful.append(row)
                continue
            if (
                value.count(b":") != len(event)  # type: ignore[union-attr]
                or b"\\" in value  # type: ignore[operator]
                or None in event.values()
                or not len(columns) < len(event) <= most
                or len(value) > max_bytes  # type: ignore[arg-type]
            ):
                doubtful.append(row)
                continue
            add_label(event.pop(label, MISSING))
            for name in others:
                columns[name].append(event.pop(name, MISSING))
            add(event)
        return doubtful

    def _fast_nested(
        self,
        values: Sequence[bytes | None],
        features: list[Features],
        columns: dict[str, list[Any]],
    ) -> list[int]:
        """Records with their features, all of them numbers, in an object of their own."""
        source, limit = self._source, self._source.max_number
        doubtful: list[int] = []
        for row, value in enumerate(values):
            event = None
            try:
                record = orjson.loads(value)  # type: ignore[arg-type]
                event = record[FEATURES]
                numbers = event.values()
                sure = (
                    value.count(b":") == len(record) + len(event) <= source.max_keys  # type: ignore[union-attr]
                    and b"\\" not in value  # type: ignore[operator]
                    and len(value) <= source.max_bytes  # type: ignore[arg-type]
                    and 0 < len(event) <= source.max_features
                    and NUMBERS.issuperset(map(type, numbers))
                    and max(numbers) <= limit
                    and min(numbers) >= -limit
                    and max(map(len, event)) <= source.max_key_length
                )
            except ODD:
                sure = False
            if not sure or event is None:
                doubtful.append(row)
                continue
            features.append(event)
            for name, column in columns.items():
                column.append(record.get(name, MISSING))
        return doubtful

    def _time_of(
        self, batch: Batch, rows: Sequence[int], fields: dict[str, list[Any]]
    ) -> Callable[[int], int | None]:
        place = self._layout.time
        if place.field is not None:
            column = fields[place.field]
            return lambda index: event_time(column[index])
        if place.header is not None:
            return lambda index: event_time(_header(batch, rows[index], place))
        return lambda index: batch.timestamps[rows[index]]

    def _keys(
        self, batch: Batch, rows: Sequence[int], fields: dict[str, list[Any]]
    ) -> list[bytes | None]:
        place = self._layout.key
        if place.field is not None:
            return [
                None if v is MISSING or v is None else str(v).encode() for v in fields[place.field]
            ]
        if place.header is not None:
            return [_header(batch, row, place) for row in rows]
        return [batch.keys[row] for row in rows]


def _only(
    keep: list[int], rows: Sequence[int], features: list[Features], fields: dict[str, list[Any]]
) -> tuple[list[int], list[Features], dict[str, list[Any]]]:
    return (
        [rows[index] for index in keep],
        [features[index] for index in keep],
        {name: [column[index] for index in keep] for name, column in fields.items()},
    )


def _header(batch: Batch, row: int, place: Place) -> bytes | None:
    return dict(batch.headers[row]).get(place.header) if place.header is not None else None


def _letter(batch: Batch, row: int, reason: str, detail: str) -> DeadLetter:
    return DeadLetter(
        batch.partition,
        batch.offsets[row],
        reason,
        detail,
        batch.keys[row],
        batch.values[row],
        batch.timestamps[row],
    )
