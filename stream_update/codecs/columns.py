"""What a batch has become: columns of usable events, and dead letters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

from stream_update.codecs.layout import Place, Rows
from stream_update.codecs.times import event_time
from stream_update.events import Batch, DeadLetter, Features, Table, Unlabelled

__all__ = ["Columns"]

INT64 = 2**63 - 1


class Columns:
    """Grows by consecutive records; ``places`` says which of a batch's records are in.

    ``kept`` names the fields, besides features and labels, that somebody will ask for.
    """

    def __init__(self, batch: Batch, kept: Iterable[Place]) -> None:
        self.batch = batch
        self.places: list[int] = []
        self._features: list[Sequence[Features]] = []
        self.labels: list[Any] = []
        self._unlabelled: tuple[list[int], list[Features]] = ([], [])
        self.dead_letters: list[DeadLetter] = []
        self._fields: dict[str, list[Any]] = {
            place.field: [] for place in kept if place.field is not None
        }

    @property
    def features(self) -> Sequence[Features]:
        if len(self._features) > 1:
            self._features = [_joined(self._features)]
        return self._features[0] if self._features else []

    def add(self, places: Sequence[int], rows: Rows, labels: Sequence[Any] | None) -> None:
        """Take records in; those with the label None are put aside."""
        features, columns = rows.features, rows.fields
        if labels is not None:
            if None in labels:
                chosen = [index for index, label in enumerate(labels) if label is not None]
                for index, label in enumerate(labels):
                    if label is None:
                        self._unlabelled[0].append(places[index])
                        self._unlabelled[1].append(features[index])
                places = [places[index] for index in chosen]
                features = _only(features, chosen)
                labels = [labels[index] for index in chosen]
                columns = {
                    name: [column[index] for index in chosen] for name, column in columns.items()
                }
            self.labels += labels
        self.places += places
        if features:
            self._features.append(features)
        for name, kept in self._fields.items():
            kept.extend(columns[name])

    def keep(self, indices: Sequence[int]) -> None:
        """Only these of the usable events; the others leave no trace."""
        self.places = [self.places[index] for index in indices]
        self._features = [_only(self.features, indices)]
        self.labels = [self.labels[index] for index in indices]
        for name, column in self._fields.items():
            self._fields[name] = [column[index] for index in indices]

    def reject(self, place: int, reason: str, detail: str) -> None:
        self.dead_letters.append(self._letter(place, reason, detail))

    def letter_of(self, index: int, reason: str, detail: str) -> DeadLetter:
        """The dead letter of a usable event."""
        return self._letter(self.places[index], reason, detail)

    def unlabelled(self) -> Unlabelled | None:
        """What was put aside, None if nothing was."""
        places, features = self._unlabelled
        if not places:
            return None
        return Unlabelled(
            [self.batch.offsets[place] for place in places],
            features,
            lambda index, reason, detail: self._letter(places[index], reason, detail),
        )

    def offsets(self) -> Sequence[int]:
        offsets = self.batch.offsets
        if len(self.places) == len(offsets):
            return offsets
        return [offsets[place] for place in self.places]

    def time_of(self, where: Place) -> Callable[[int], int | None]:
        """Looks an event's time up when it is asked for: most never are."""
        if where.field is not None:
            column = self._fields[where.field]
            return lambda index: event_time(column[index])
        if where.header is not None:
            header = where.header
            return lambda index: event_time(self._header(self.places[index], header))
        return lambda index: self._timestamp(self.places[index])

    def ids(self, where: Place) -> list[Any]:
        """Ids that can be written as JSON; None where an event has none."""
        if where.field is not None:
            return [_identity(raw) for raw in self._fields[where.field]]
        if where.header is None:
            return [None] * len(self.places)
        found = [self._header(place, where.header) for place in self.places]
        return [None if raw is None else raw.decode(errors="replace") for raw in found]

    def keys(self, where: Place) -> list[bytes | None]:
        """Keys as bytes; a field's number or text as a producer would write it."""
        if where.field is not None:
            return [_key(raw) for raw in self._fields[where.field]]
        if where.header is not None:
            return [self._header(place, where.header) for place in self.places]
        return [self._key(place) for place in self.places]

    def _letter(self, place: int, reason: str, detail: str) -> DeadLetter:
        batch = self.batch
        return DeadLetter(
            batch.partition,
            batch.offsets[place],
            reason,
            detail,
            self._key(place),
            batch.values[place],
            self._timestamp(place),
        )

    def _key(self, place: int) -> bytes | None:
        keys = self.batch.keys
        return keys[place] if keys else None

    def _timestamp(self, place: int) -> int | None:
        timestamps = self.batch.timestamps
        # Kafka says -1 where there is none.
        return timestamps[place] if timestamps and timestamps[place] >= 0 else None

    def _header(self, place: int, name: str) -> bytes | None:
        """The last header of that name, as Kafka's own clients take it."""
        headers = self.batch.headers
        return dict(headers[place]).get(name) if headers else None


def _only(features: Sequence[Features], indices: Sequence[int]) -> Sequence[Features]:
    if isinstance(features, Table):
        return features.only(indices)
    return [features[index] for index in indices]


def _joined(parts: Sequence[Sequence[Features]]) -> Sequence[Features]:
    """One after the other, as a table if one of them is and all can be."""
    for part in parts:
        if isinstance(part, Table):
            values = [_values(other, part.names) for other in parts]
            if None not in values:
                return Table(part.names, list(chain.from_iterable(filter(None, values))))
            break
    return list(chain.from_iterable(parts))


def _values(features: Sequence[Features], names: tuple[str, ...]) -> Sequence[Any] | None:
    """The values of events that all have these names in this order, None if they do not."""
    if isinstance(features, Table):
        return features.values if features.names == names else None
    if all(tuple(event) == names for event in features):
        return [value for event in features for value in event.values()]
    return None


def _identity(raw: Any) -> Any:
    if isinstance(raw, int) and not -INT64 <= raw <= INT64:
        return str(raw)
    return raw if isinstance(raw, int | float | str) else None


def _key(raw: Any) -> bytes | None:
    if isinstance(raw, bool):
        return b"true" if raw else b"false"
    return str(raw).encode() if isinstance(raw, int | float | str) else None
