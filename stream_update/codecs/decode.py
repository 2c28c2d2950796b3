"""Records to events, the many valid ones fast and the others with a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from stream_update.codecs.columns import Columns
from stream_update.codecs.duplicates import DuplicateFilter
from stream_update.codecs.labels import LabelSchema
from stream_update.codecs.layout import Layout, SourceOptions
from stream_update.codecs.names import FeatureNames
from stream_update.codecs.reading import reader_of
from stream_update.codecs.shares import ShareLimit
from stream_update.errors import BadEvent
from stream_update.events import Batch, Block, DeadLetter, Features

__all__ = ["JsonCodec", "ScoreBlock"]


class ScoreBlock(NamedTuple):
    """A batch decoded for scoring; columns have one entry for each usable event.

    ``ids`` are None where there is none; ``keys`` are the bytes that choose the lane.
    ``letter_of`` is that of :class:`~stream_update.events.Block`.
    """

    partition: int
    offsets: list[int]
    features: list[Features]
    ids: list[Any]
    keys: list[bytes | None]
    dead_letters: list[DeadLetter]
    next_offset: int
    count: int  # type: ignore[assignment]  # hides tuple.count
    letter_of: Callable[[int, str, str], DeadLetter]


class JsonCodec:
    """JSON records, or arrays of bytes, to events, with the limits of ``[source]``.

    One codec for each lane: :attr:`schema` remembers which labels have been admitted,
    :attr:`names` which features, :attr:`duplicates` (None without a window) which
    events, and :attr:`shares` (None without a limit) of which origins; all are part of the
    lane's state, so a batch must be fed to the lane as a whole once it has been decoded. Never
    raises for what a record holds.

    With ``tables`` the features of a block are a :class:`~stream_update.events.Table` where
    they can be, with the same events in it.
    """

    def __init__(self, source: SourceOptions, task: str, *, tables: bool = False) -> None:
        self.schema = LabelSchema(task, source)
        self.names = FeatureNames(source.max_names)
        self.duplicates = (
            DuplicateFilter(source.duplicate_window) if source.duplicate_window else None
        )
        self.shares = (
            ShareLimit(source.share_window, source.max_share) if source.max_share < 1 else None
        )
        self._layout = Layout(source)
        self._reader = reader_of(source, self._layout, sets=task == "multilabel", tables=tables)

    def decode(self, batch: Batch) -> Block:
        """Usable events, unlabelled ones apart, repeats counted, dead letters for the rest."""
        layout = self._layout
        repeated = 0
        kept = [layout.time]
        if self.duplicates is not None:
            kept.append(layout.id)
        if self.shares is not None:
            kept.append(layout.origin)
        events = Columns(batch, kept)
        self._read(events, labelled=True)
        if self.duplicates is not None:
            fresh = self.duplicates.fresh(events.ids(layout.id))
            if fresh is not None:
                repeated = len(events.places) - len(fresh)
                events.keep(fresh)
        if self.shares is not None:
            self._bound_shares(events, self.shares)
        unlabelled = events.unlabelled()
        return Block(
            batch.partition,
            batch.offsets[0],
            batch.offsets[-1] + 1,
            len(batch),
            events.offsets(),
            events.features,
            events.labels,
            0 if unlabelled is None else len(unlabelled.offsets),
            events.dead_letters,
            events.time_of(layout.time),
            events.letter_of,
            repeated,
            unlabelled,
        )

    def _bound_shares(self, events: Columns, shares: ShareLimit) -> None:
        origins = events.keys(self._layout.origin)
        over = shares.over(origins)
        for index in over:
            name = (origins[index] or b"").decode(errors="replace")
            events.reject(
                events.places[index],
                "origin-over-share",
                f"{shares.most} of the last events are of the origin {name!r} already, which is "
                "the most that [source] max_share lets one have",
            )
        if over:
            dropped = set(over)
            events.keep([index for index in range(len(origins)) if index not in dropped])

    def decode_features(self, batch: Batch) -> ScoreBlock:
        """Events to predict; what they hold as a label is not looked at."""
        layout = self._layout
        events = Columns(batch, (layout.id, layout.key))
        self._read(events, labelled=False)
        return ScoreBlock(
            batch.partition,
            list(events.offsets()),
            list(events.features),
            events.ids(layout.id),
            events.keys(layout.key),
            events.dead_letters,
            batch.offsets[-1] + 1,
            len(batch),
            events.letter_of,
        )

    def _read(self, events: Columns, *, labelled: bool) -> None:
        count = len(events.batch)
        if not count:
            raise ValueError("an empty batch does not say where reading goes on")
        start = 0
        while start < count:
            stop = min(start + self._reader.together, count)
            self._take(events, start, stop, labelled=labelled)
            start = stop

    def _take(self, events: Columns, start: int, stop: int, *, labelled: bool) -> None:
        """Halve what cannot be taken as a whole, until the one that cannot stands alone."""
        if stop - start == 1:
            self._take_one(events, start, labelled=labelled)
        elif not self._take_all(events, start, stop, labelled=labelled):
            middle = (start + stop) // 2
            self._take(events, start, middle, labelled=labelled)
            self._take(events, middle, stop, labelled=labelled)

    def _take_all(self, events: Columns, start: int, stop: int, *, labelled: bool) -> bool:
        rows = self._reader.all(events.batch, start, stop)
        if rows is None:
            return False
        labels = None
        if labelled:
            labels = self.schema.known(rows.fields[self._layout.label])
            if labels is None or not self.names.known(rows.names):
                return False
        events.add(range(start, stop), rows, labels)
        return True

    def _take_one(self, events: Columns, place: int, *, labelled: bool) -> None:
        try:
            rows = self._reader.one(events.batch, place)
            labels = None
            if labelled:
                self.names.check(rows.names)
                labels = list(map(self.schema.admit, rows.fields[self._layout.label]))
                self.names.admit(rows.names)
        except BadEvent as bad:
            events.reject(place, bad.reason, str(bad))
        else:
            events.add((place,), rows, labels)
