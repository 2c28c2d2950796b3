"""The values that cross borders: plain, small, and without behaviour of their own.

A :class:`Batch` comes out of a log, a :class:`Block` is what the codec made of
it, :class:`Predictions` is what a learner answers, :class:`Outcomes` joins the
two for the monitors, and a :class:`Record` goes back into a log. All of them are columns:
the hot path makes no object for a single event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import eq
from typing import Any, NamedTuple, TypeVar, overload

import numpy as np
import numpy.typing as npt

__all__ = [
    "Alarm",
    "Batch",
    "Block",
    "Chances",
    "Column",
    "Committed",
    "DeadLetter",
    "Features",
    "Headers",
    "Outcomes",
    "Poll",
    "Predictions",
    "Record",
    "Run",
    "Table",
    "TopicInfo",
    "TopicPartition",
    "TopicSpec",
    "Tree",
    "Unlabelled",
]

T = TypeVar("T")

Features = dict[str, Any]
"""Feature name to number, string, bool or list of numbers. A missing feature is absent."""

Tree = Any
"""Plain values only: None, bool, int, float, str, bytes, list, dict with str keys."""

Headers = Sequence[tuple[str, bytes]]

Column = Sequence[float] | npt.NDArray[np.floating[Any]]
"""One number for each event."""


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


class TopicSpec(NamedTuple):
    """A topic to be created; ``configs`` are Kafka's topic options (``cleanup.policy``)."""

    name: str
    partitions: int = 1
    replication_factor: int = 1
    configs: Mapping[str, str] = {}


class TopicInfo(NamedTuple):
    """A topic as the log has it. ``topic_id`` changes when a topic is recreated."""

    name: str
    topic_id: str
    partitions: int


class Record(NamedTuple):
    """Bytes to append. ``partition=None``: chosen by the key, round robin without a key."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    partition: int | None = None
    headers: Headers = ()
    timestamp_ms: int | None = None


class Committed(NamedTuple):
    """A group's committed position in one partition: the next offset, and a note."""

    offset: int
    metadata: str = ""


class Batch:
    """Consecutive records of one partition, as columns of equal length.

    ``offsets`` rise strictly but may have holes (transaction markers, compaction).
    ``keys``, ``timestamps`` (ms since the epoch) and ``headers`` may be computed on
    first use by an adapter's subclass, because most batches never need them.
    """

    __slots__ = ("_headers", "_keys", "_timestamps", "offsets", "partition", "topic", "values")

    def __init__(
        self,
        topic: str,
        partition: int,
        offsets: Sequence[int],
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None] = (),
        timestamps: Sequence[int] = (),
        headers: Sequence[Headers] = (),
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.offsets = offsets
        self.values = values
        self._keys = keys
        self._timestamps = timestamps
        self._headers = headers

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def keys(self) -> Sequence[bytes | None]:
        return self._keys

    @property
    def timestamps(self) -> Sequence[int]:
        return self._timestamps

    @property
    def headers(self) -> Sequence[Headers]:
        return self._headers

    def slice(self, start: int, stop: int) -> Batch:
        """The records ``start`` to ``stop`` (positions, not offsets) as a batch."""
        return Batch(
            self.topic,
            self.partition,
            self.offsets[start:stop],
            self.values[start:stop],
            self.keys[start:stop],
            self.timestamps[start:stop],
            self.headers[start:stop],
        )


class Poll(NamedTuple):
    """What one poll of a group member brought.

    ``gained`` partitions are paused until :meth:`Member.resume_at`; ``lost`` ones
    belong to somebody else now, and what was not committed of them is void.
    A partition may be in both (lost first, then gained again).
    """

    batches: Sequence[Batch] = ()
    gained: Sequence[int] = ()
    lost: Sequence[int] = ()


class DeadLetter(NamedTuple):
    """An event that cannot be used, with what a person needs to act on it."""

    partition: int
    offset: int
    reason: str
    detail: str
    key: bytes | None
    value: bytes | None
    timestamp_ms: int | None


class Unlabelled(NamedTuple):
    """Valid events without a label, for learners that learn from features alone.

    ``letter_of(i, reason, detail)`` makes the dead letter of the i-th of them.
    """

    offsets: Sequence[int]
    features: Sequence[Features]
    letter_of: Callable[[int, str, str], DeadLetter]


class Block(NamedTuple):
    """A decoded batch: the events that a lane may learn, and what became of the others.

    ``features``, ``labels`` and ``offsets`` have one entry for each usable event.
    ``next_offset`` is where reading goes on, ``count`` how many records were read.
    ``time_of(i)`` is the event time in ms of the i-th usable event, or None.
    ``letter_of(i, reason, detail)`` makes the dead letter of the i-th usable event:
    the lane needs it for events that only the learner finds unusable. ``duplicates`` is
    how many events are left out because they were there before. The events that
    ``unlabelled`` counts are in ``without_labels``, None if there are none. For learners that
    take one ``features`` may be a :class:`Table`.
    """

    partition: int
    first_offset: int
    next_offset: int
    count: int  # type: ignore[assignment]  # hides tuple.count
    offsets: Sequence[int]
    features: Sequence[Features]
    labels: Sequence[Any]
    unlabelled: int
    dead_letters: Sequence[DeadLetter]
    time_of: Callable[[int], int | None]
    letter_of: Callable[[int, str, str], DeadLetter]
    duplicates: int = 0
    without_labels: Unlabelled | None = None


class _Standing(Sequence[T]):
    """What stands for a sequence of mappings: it is equal to one of equal mappings."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]


class Table(_Standing[Features]):
    """Events that all have the same names in the same order, as their values alone.

    ``names`` are those of one event, at least one, and ``values`` are those of the first
    event, then those of the second, and so on. It stands for the sequence of events as
    dictionaries, and makes one only when it is asked for it; who wants a matrix takes the values.
    Nobody may write into it.
    """

    __slots__ = ("names", "values")

    def __init__(self, names: Sequence[str], values: Sequence[Any]) -> None:
        if not names or len(values) % len(names):
            raise ValueError(f"expected {len(names)} values for each event, got {len(values)}")
        self.names = tuple(names)
        self.values = values

    def __len__(self) -> int:
        return len(self.values) // len(self.names)

    @overload
    def __getitem__(self, index: int) -> Features: ...

    @overload
    def __getitem__(self, index: slice) -> Table: ...

    def __getitem__(self, index: int | slice) -> Features | Table:
        places = range(len(self))[index]
        if isinstance(places, range):
            return self.only(places)
        return dict(zip(self.names, self._row(places), strict=True))

    def __iter__(self) -> Iterator[Features]:
        names = self.names
        for row in zip(*[iter(self.values)] * len(names), strict=True):
            yield dict(zip(names, row, strict=True))

    def only(self, places: Sequence[int]) -> Table:
        """The events at these places."""
        if isinstance(places, range) and places.step == 1:
            size = len(self.names)
            return Table(self.names, self.values[places.start * size : places.stop * size])
        return Table(self.names, [value for place in places for value in self._row(place)])

    def _row(self, place: int) -> Sequence[Any]:
        start = place * len(self.names)
        return self.values[start : start + len(self.names)]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.names!r}, {self.values!r})"


class Chances(_Standing[Mapping[Any, float]]):
    """Probabilities as columns, for learners that compute many events at once.

    ``columns`` has for each label its probability at each event: lists, or arrays of one
    dimension, all of one length. It stands for the sequence of each event's mapping of label
    to probability, every label in each of them and in this order, and makes a mapping
    only when it is asked for one; who wants a column takes that.
    """

    __slots__ = ("_count", "columns")

    def __init__(self, columns: Mapping[Any, Column]) -> None:
        self.columns = columns
        counts = set(map(len, columns.values()))
        if len(counts) != 1:
            raise ValueError(f"expected columns of one length, got {sorted(counts)}")
        (self._count,) = counts

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> dict[Any, float]: ...

    @overload
    def __getitem__(self, index: slice) -> Chances: ...

    def __getitem__(self, index: int | slice) -> dict[Any, float] | Chances:
        if isinstance(index, slice):
            return Chances({label: column[index] for label, column in self.columns.items()})
        return {label: float(column[index]) for label, column in self.columns.items()}

    def __iter__(self) -> Iterator[dict[Any, float]]:
        labels = list(self.columns)
        for row in zip(*self.columns.values(), strict=True):
            yield dict(zip(labels, map(float, row), strict=True))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.columns!r})"


class Predictions(NamedTuple):
    """What a learner answers for a block.

    ``values`` holds the predicted label or number of each event, None where the
    learner has no answer yet. ``probabilities`` holds for each event a mapping of
    label to probability, as a list or as :class:`Chances`, or is None for learners without
    probabilities.

    Where several classes may apply to an event (task ``multilabel``), a label and a value are
    mappings of class to bool, and the probability of a class is that it applies.
    """

    values: list[Any]
    probabilities: Sequence[Mapping[Any, float]] | None = None


class Outcomes(NamedTuple):
    """Events with the prediction made *before* learning from them, and the truth."""

    partition: int
    offsets: Sequence[int]
    labels: Sequence[Any]
    predictions: Predictions
    time_of: Callable[[int], int | None]


class Alarm(NamedTuple):
    """A monitor's alarm at one event.

    ``before`` and ``after`` are the mean of the watched value before and after the
    change, ``magnitude`` their difference (positive: it rose). ``signal`` is what
    the learner is told: ``""`` (nothing), ``"warning"``, ``"reset"`` or ``"swap"``.
    Alarms whose ``kind`` is ``"warning"`` are signals only and are not published.
    """

    kind: str
    monitor: str
    detector: str
    partition: int
    offset: int
    event_time: int | None
    event: int
    before: float
    after: float
    magnitude: float
    direction: str
    signal: str = ""


class Run(NamedTuple):
    """``count`` consecutive records of one partition from ``first_offset`` on."""

    partition: int
    first_offset: int
    count: int  # type: ignore[assignment]  # hides tuple.count
