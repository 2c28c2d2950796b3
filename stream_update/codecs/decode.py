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
REFUSED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, orjson.JSONDecodeError)


class ScoreBlock(NamedTuple):
    """A batch decoded for scoring; columns have one entry for each usable event."""

    partition: int
    offsets: list[int]
    features: list[Features]
    ids: list[Any]
    keys: list[bytes | None]
    dead_letters: list[DeadLetter]
    next_offset: int
    count: int


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
        limit = source.max_number
        whole = int(limit)
        number = Annotated[float, Meta(ge=-limit, le=limit)]
        integer = Annotated[int, Meta(ge=-whole, le=whole)]
        text = Annotated[str, Meta(max_length=source.max_string)]
        name = Annotated[str, Meta(max_length=source.max_key_length)]
        self._flat = msgspec.json.Decoder(dict[name, integer | number | text | bool | None])  # type: ignore[valid-type]

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
        adders = [(name, columns[name].append) for name in names]
        features: list[Features] = []
        rows: list[int] = []
        letters: list[DeadLetter] = []
        fast = self._fast_flat if self._everything else self._fast_nested
        if not self._everything and not self._layout.nested:
            fast = self._no_fast_way
        for row, value in enumerate(batch.values):
            try:
                event = fast(value, adders)
                if event is None:
                    event, found = self._strict.parse(value)
                    for name, add in adders:
                        add(found[name])
            except BadEvent as bad:
                letters.append(_letter(batch, row, bad.reason, str(bad)))
            else:
                features.append(event)
                rows.append(row)
        if len(rows) == len(batch):
            return range(len(batch)), features, columns, letters
        return rows, features, columns, letters

    def _fast_flat(self, value: bytes | None, adders: list[Any]) -> Features | None:
        """The features of a flat record if it is valid beyond doubt, else None."""
        source = self._source
        if not value or len(value) > source.max_bytes:
            return None
        try:
            event: dict[str, Any] = self._flat.decode(value)
        except REFUSED:
            return None
        keys = len(event)
        # Every key has a colon of its own, so as many colons as keys means that none stands
        # twice; an escape could hide or fake one.
        if value.count(b":") != keys or b"\\" in value or keys > source.max_keys:
            return None
        if None in event.values():
            return None
        found = [event.pop(name, MISSING) for name, _ in adders]
        if not event or len(event) > source.max_features:
            return None
        for (_, add), item in zip(adders, found, strict=True):
            add(item)
        return event

    def _fast_nested(self, value: bytes | None, adders: list[Any]) -> Features | None:
        source = self._source
        if not value or len(value) > source.max_bytes:
            return None
        try:
            record = orjson.loads(value)
        except REFUSED:
            return None
        if type(record) is not dict:
            return None
        event = record.get(FEATURES)
        if type(event) is not dict or not event or len(event) > source.max_features:
            return None
        keys = len(record) + len(event)
        if value.count(b":") != keys or b"\\" in value or keys > source.max_keys:
            return None
        numbers = event.values()
        if not (
            NUMBERS.issuperset(map(type, numbers))
            and max(numbers) <= source.max_number
            and min(numbers) >= -source.max_number
            and max(map(len, event)) <= source.max_key_length
        ):
            return None
        for name, add in adders:
            add(record.get(name, MISSING))
        return event

    def _no_fast_way(self, _value: bytes | None, _adders: list[Any]) -> None:
        return None

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
