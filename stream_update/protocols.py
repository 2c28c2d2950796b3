"""The seams: what a component has to look like to be plugged in.

Everything that differs between two deployments stands behind one of these. The
lane and the worker know these shapes and never the name of a component.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Literal, Protocol, Self, runtime_checkable

from stream_update.events import (
    Alarm,
    Batch,
    Committed,
    Features,
    Outcomes,
    Poll,
    Predictions,
    Record,
    TopicInfo,
    TopicPartition,
    TopicSpec,
    Tree,
)

Delivery = Literal["exactly-once", "at-least-once"]
Precision = Literal["float32", "bfloat16", "float16"]

__all__ = [
    "Appender",
    "Closing",
    "Delivery",
    "Described",
    "DumpsInACopy",
    "Learner",
    "LearnsUnlabelled",
    "Log",
    "Member",
    "Monitor",
    "Precision",
    "Publication",
    "Publisher",
    "Reader",
    "Serves",
    "TakesTables",
]


class Closing(Protocol):
    """Something that holds connections or files until the end of a ``with`` block."""

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Log(Closing, Protocol):
    """An ordered, partitioned, replayable store of records.

    Every method may raise :class:`~stream_update.errors.Transient` when the log
    does not answer, and :class:`~stream_update.errors.ConfigError` when it cannot
    be reached at all at the start.
    """

    url: str

    def create_topics(self, topics: Sequence[TopicSpec]) -> list[str]:
        """Create the topics that do not exist; return the names of those created."""
        ...

    def add_partitions(self, topic: str, total: int) -> None:
        """Let a topic have ``total`` partitions, if it has fewer.

        Members of groups that read it gain the new ones in one of their next polls.
        Raises :class:`~stream_update.errors.ConfigError` for a topic that does not exist.
        """
        ...

    def topics(self) -> dict[str, TopicInfo]:
        """Every topic of the log that is not internal to it."""
        ...

    def committed(self, group_id: str, topic: str) -> dict[int, Committed]:
        """A group's committed positions, by partition, seen from outside the group.

        No barrier: a checkpoint that is under way may add to them, and on Kafka one that
        was committed a moment ago may be missing: its markers follow the answer.
        """
        ...

    def reader(self) -> Reader:
        """A reader of committed records, outside any group."""
        ...

    def member(self, group_id: str, topic: str, *, single: bool = False) -> Member:
        """Join a consumer group. ``single``: one member owns all partitions, the
        others stand by; otherwise the partitions are spread, and stay where they
        are when members come and go.
        """
        ...

    def publisher(
        self, group_id: str, topics: Iterable[str] = (), *, delivery: Delivery = "exactly-once"
    ) -> Publisher:
        """A writer of atomic checkpoints; ``topics`` are those it will write to, so that it
        can make itself ready while the caller does something else. Without
        ``"exactly-once"`` it may need no transactions, and then a crash may leave
        records of a checkpoint whose positions were not committed.
        """
        ...

    def appender(self) -> Appender:
        """A writer of records without a checkpoint around them."""
        ...


class Reader(Closing, Protocol):
    """Reads committed records from positions that the caller chooses."""

    def beginning_offsets(self, where: Iterable[TopicPartition]) -> dict[TopicPartition, int]: ...

    def end_offsets(self, where: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The offset after the last committed record (Kafka: last stable offset)."""
        ...

    def offsets_for_times(
        self, times_ms: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, int | None]:
        """The first offset whose timestamp is not before the given one, or None."""
        ...

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read exactly these partitions from these offsets on, and no others."""
        ...

    def poll(self, timeout_s: float, max_records: int = 500) -> list[Batch]:
        """The next records, at most one batch for a partition; empty after the timeout.

        Raises :class:`~stream_update.errors.LogGap` when a position is no longer,
        or not yet, in the log.
        """
        ...

    def position(self, where: TopicPartition) -> int:
        """The next offset to be read; moves over holes, so it reaches the end offset."""
        ...


class Member(Closing, Protocol):
    """One process of a consumer group, reading one topic. Never commits by itself."""

    def poll(self, timeout_s: float, max_records: int = 500) -> Poll:
        """Take part in the group and bring records; see :class:`~stream_update.events.Poll`.

        Raises :class:`~stream_update.errors.LogGap` as :meth:`Reader.poll` does.
        """
        ...

    def resume_at(self, partition: int, offset: int) -> None:
        """Let a gained partition flow, from this offset on."""
        ...

    def hold(self, partition: int) -> None:
        """Let an assigned partition rest until :meth:`resume_at`."""
        ...

    def position(self, partition: int) -> int:
        """As :meth:`Reader.position`, for an assigned partition that flows."""
        ...

    def committed(self, partitions: Iterable[int]) -> dict[int, Committed | None]:
        """The group's committed positions, for any partition of the topic.

        A barrier: it waits for a checkpoint of an earlier owner that is still under
        way, so what it returns is final unless this member commits.
        """
        ...

    def busy(self) -> AbstractContextManager[None]:
        """Around a step that may take longer than the group waits for a sign of life.

        The member stays in the group meanwhile; what a rebalance did in that time, the
        next poll tells. Nothing else of the member may be used inside.
        """
        ...

    def stable(self) -> bool:
        """Whether this member may publish now (no rebalance is under way)."""
        ...

    def close(self) -> None:
        """Leave the group."""
        ...


class Publication(Protocol):
    """A checkpoint on its way into the log."""

    def done(self) -> bool:
        """Whether :meth:`result` would return, or raise, at once."""
        ...

    def result(self) -> list[int]:
        """The offset given to each record; waits for it.

        Raises :class:`~stream_update.errors.Refused` if the checkpoint is certainly not
        in the log (the member is not, or no longer, the owner),
        :class:`~stream_update.errors.Transient` if nothing was begun because the log does
        not answer, and :class:`~stream_update.errors.Doubt` if nobody can tell.
        """
        ...


class Publisher(Closing, Protocol):
    """Makes records and a group's positions visible together, or not at all."""

    def begin(
        self, records: Sequence[Record], offsets: Mapping[int, Committed], member: Member
    ) -> Publication:
        """One atomic checkpoint; ``offsets`` are of the member's topic, by partition.

        They must not be empty: they are what fences a former owner. One checkpoint at a
        time: the one before has to be done. Raises what its result would raise, as far
        as that is known at once.
        """
        ...

    def publish(
        self, records: Sequence[Record], offsets: Mapping[int, Committed], member: Member
    ) -> list[int]:
        """:meth:`begin`, and wait for the result."""
        ...


class Appender(Closing, Protocol):
    """Appends records in order; in flight at most a bounded number.

    Leaving its ``with`` block flushes, unless an exception leads out of it;
    :meth:`close` alone gives up what has not been flushed.
    """

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self.close()

    def append(self, records: Iterable[Record]) -> int:
        """Hand over records; returns how many. May wait for room."""
        ...

    def flush(self) -> None:
        """Return when every record handed over is in the log, or raise."""
        ...


@runtime_checkable
class Learner(Protocol):
    """Anything with predict and learn.

    Laws, checked by :mod:`stream_update.testing` for every declared learner:
    ``predict`` changes nothing that later predictions depend on, inputs are never
    changed, ``load(dump())`` keeps all later predictions, and the same seed and the
    same events give the same predictions.
    """

    batch: int
    """How many events are learned together; 1 is one event at a time."""

    def predict(self, features: Sequence[Features]) -> Predictions: ...

    def learn(self, features: Sequence[Features], labels: Sequence[Any]) -> None: ...

    def predict_then_learn(
        self, features: Sequence[Features], labels: Sequence[Any]
    ) -> Predictions:
        """For each event in turn: predict, then learn. Only called if ``batch`` is 1.

        Raises :class:`~stream_update.errors.LearnerFailed` at the first event that
        cannot be used, with the predictions made so far.
        """
        ...

    def react(self, signal: str) -> None:
        """A monitor's signal (``"warning"``, ``"reset"``, ``"swap"``)."""
        ...

    def dump(self) -> Tree: ...

    def load(self, tree: Tree) -> None: ...


class Described(Learner, Protocol):
    """A learner that can be configured, which has to say what it is.

    ``fingerprint`` raises :class:`~stream_update.errors.ConfigError` if it would not work;
    ``versions`` are those of the libraries that its state depends on.
    """

    @property
    def versions(self) -> dict[str, str]: ...

    def fingerprint(self) -> str: ...

    def describe(self) -> str: ...


@runtime_checkable
class DumpsInACopy(Protocol):
    """What a learner may have besides: its state can be written down in a forked process.

    ``dump`` then takes no lock that another thread may hold and starts none itself: only
    the thread that calls it is there. Without this a lane waits while it runs.
    """

    dumps_in_a_copy: bool


@runtime_checkable
class TakesTables(Protocol):
    """What a learner may have besides: events as a table cost it less than as dictionaries.

    Where it is true, the features that it is given may be a
    :class:`~stream_update.events.Table`, which stands for the same events.
    """

    takes_tables: bool


@runtime_checkable
class LearnsUnlabelled(Protocol):
    """What a learner may have besides: it learns from events whose label is not known.

    They are given to it where they stand in the log among the others, in groups that are cut
    by count, so what it learns is a function of the events as everything else is.
    """

    unlabelled_batch: int
    """How many are learned together; 0 if it is to be given none."""

    def learn_unlabelled(self, features: Sequence[Features]) -> None:
        """Learn these. Raises :class:`~stream_update.errors.LearnerFailed`."""
        ...


@runtime_checkable
class Serves(Protocol):
    """What a kind of learner may have besides: of its dump, what those need who only predict.

    Without it they are given the whole dump.
    """

    @staticmethod
    def for_serving(tree: Tree, precision: Precision) -> Tree:
        """A dump without what only learning needs, its weights rounded to this precision.

        The kind's ``restored`` takes it as it takes a dump; ``load`` refuses it, because a
        learner that went on from it would not be the one that it was.
        """
        ...


@runtime_checkable
class Monitor(Protocol):
    """Observes outcomes in order; may raise alarms.

    The result must not depend on how the outcomes were cut into blocks.
    """

    name: str
    reactive: bool
    """True if its signals must reach the learner before the next event is learned."""

    def observe(self, outcomes: Outcomes) -> Sequence[Alarm]: ...

    def report(self) -> Mapping[str, Any]:
        """Current figures, for the metrics topic and the final report."""
        ...

    def dump(self) -> Tree: ...

    def load(self, tree: Tree) -> None: ...
