"""The ports of :mod:`stream_update.protocols` over the model, for one process of a test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from stream_update.errors import (
    Doubt,
    Fatal,
    LogGap,
    Overtaken,
    Refused,
    StreamUpdateError,
    Transient,
)
from stream_update.events import (
    Batch,
    Committed,
    Poll,
    Record,
    TopicInfo,
    TopicPartition,
    TopicSpec,
)
from stream_update.partitions import partition_for
from stream_update.protocols import Appender, Closing, Delivery, Member
from tests.model.broker import Broker, Gone, Topic, Transaction
from tests.model.groups import Group, Identity, Membership
from tests.model.process import Process, Silence, Step

__all__ = ["ModelLog", "ModelMember", "ModelPublisher", "ModelReader"]

SLICE_S = 0.05
ASK_S = 12.0
"""As long as a question waits; longer than an abandoned transaction lives."""


class InMemory(Closing):
    def close(self) -> None:
        """Nothing to let go of."""


class ModelLog(InMemory):
    """See :class:`stream_update.protocols.Log`; all that it makes belongs to ``process``."""

    def __init__(self, broker: Broker, process: Process) -> None:
        self.url = "model://"
        self.broker = broker
        self.process = process
        broker.processes.append(process)

    def create_topics(self, topics: Sequence[TopicSpec]) -> list[str]:
        return self.broker.create(topics)

    def add_partitions(self, topic: str, total: int) -> None:
        self.broker.grow(topic, total)

    def committed(self, group_id: str, topic: str) -> dict[int, Committed]:
        return self.broker.committed(group_id, self.broker.topic(topic))

    def topics(self) -> dict[str, TopicInfo]:
        return {
            name: TopicInfo(name, topic.topic_id, len(topic.partitions))
            for name, topic in self.broker.topics.items()
        }

    def reader(self) -> ModelReader:
        return ModelReader(self.broker, self.process)

    def member(self, group_id: str, topic: str, *, single: bool = False) -> ModelMember:
        return ModelMember(
            self.broker, self.process, group_id, self.broker.topic(topic), single=single
        )

    def publisher(
        self,
        group_id: str,
        topics: Iterable[str] = (),
        *,
        delivery: Delivery = "exactly-once",
    ) -> ModelPublisher:
        return ModelPublisher(self.broker, self.process, group_id)

    def appender(self) -> ModelAppender:
        return ModelAppender(self.broker)


class Reading:
    """Positions, and the committed records behind them."""

    def __init__(self, broker: Broker) -> None:
        self.positions: dict[TopicPartition, int] = {}
        self._broker = broker
        self._topics: dict[str, Topic] = {}

    def set(self, where: TopicPartition, offset: int) -> None:
        self._broker.partition(where)
        self._topics[where.topic] = self._broker.topic(where.topic)
        self.positions[where] = offset

    def clear(self) -> None:
        self.positions.clear()
        self._topics.clear()

    def next(self, max_records: int) -> list[Batch]:
        batches = []
        room = max_records
        for where, position in [*self.positions.items()]:
            if room <= 0:
                break
            if self._broker.topics.get(where.topic) is not self._topics[where.topic]:
                raise LogGap(f"topic {where.topic} was deleted while it was read")
            batch = self._batch(where, position, room)
            if batch is not None:
                room -= len(batch)
                batches.append(batch)
                # To the end of the line, so that none waits behind a full one for ever.
                self.positions[where] = self.positions.pop(where)
        return batches

    def _batch(self, where: TopicPartition, position: int, room: int) -> Batch | None:
        partition = self._broker.partition(where)
        first, end = partition.first, partition.stable_end
        if not first <= position <= len(partition.entries):
            text = f"{where.topic}[{where.partition}] has no offset {position}: it holds {first}"
            text += f" to {len(partition.entries)}"
            if position < first:
                raise Overtaken(text, partition=where.partition, wanted=position, first=first)
            raise LogGap(text)
        rows: list[tuple[int, Record, int]] = []
        for row in partition.visible(position):
            if len(rows) == room:
                self.positions[where] = row[0]
                break
            rows.append(row)
        else:
            self.positions[where] = max(position, end)
        if not rows:
            return None
        offsets, records, stamps = zip(*rows, strict=True)
        return Batch(
            where.topic,
            where.partition,
            offsets,
            [record.value for record in records],
            [record.key for record in records],
            stamps,
            [record.headers for record in records],
        )


class ModelReader(InMemory):
    """See :class:`stream_update.protocols.Reader`."""

    def __init__(self, broker: Broker, process: Process) -> None:
        self._broker = broker
        self._process = process
        self._reading = Reading(broker)

    def beginning_offsets(self, where: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        self._process.must_live()
        return {one: self._broker.partition(one).first for one in where}

    def end_offsets(self, where: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        self._process.must_live()
        return {one: self._broker.partition(one).stable_end for one in where}

    def offsets_for_times(
        self, times_ms: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, int | None]:
        found: dict[TopicPartition, int | None] = {}
        for one, time_ms in times_ms.items():
            partition = self._broker.partition(one)
            rows = partition.visible(partition.first)
            found[one] = next((offset for offset, _, stamp in rows if stamp >= time_ms), None)
        return found

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        self._reading.clear()
        for one, offset in positions.items():
            self._reading.set(one, offset)

    def poll(self, timeout_s: float, max_records: int = 500) -> list[Batch]:
        deadline = self._broker.clock.now + timeout_s
        while True:
            self._process.must_live()
            batches = self._reading.next(max_records)
            left = deadline - self._broker.clock.now
            if batches or left <= 0:
                return batches
            self._broker.wait(min(SLICE_S, left))

    def position(self, where: TopicPartition) -> int:
        if where not in self._reading.positions:
            raise ValueError(f"{where.topic}[{where.partition}] is not being read")
        return self._reading.positions[where]


class ModelMember(Closing):
    """See :class:`stream_update.protocols.Member`. Joins in its first poll."""

    def __init__(
        self, broker: Broker, process: Process, group_id: str, topic: Topic, *, single: bool
    ) -> None:
        self.group_id = group_id
        self.topic = topic.name
        self.process = process
        self.group: Group = broker.group(group_id, topic, single=single)
        self._broker = broker
        self._single = single
        self._reading = Reading(broker)
        self._membership: Membership | None = None
        self._owned: frozenset[int] = frozenset()
        self._identity = Identity(None, -1)
        self._stable = False

    def close(self) -> None:
        if self._membership is not None and not self.process.dead:
            self.group.leave(self._membership)
        self._membership = None

    def poll(self, timeout_s: float, max_records: int = 500) -> Poll:
        deadline = self._broker.clock.now + timeout_s
        while True:
            self.process.must_live()
            self.process.progress()
            self._broker.tick()
            gained, lost = self._take_part()
            batches = self._reading.next(max_records)
            left = deadline - self._broker.clock.now
            if batches or gained or lost or left <= 0:
                return Poll(batches, gained, lost)
            self._broker.wait(min(SLICE_S, left))

    def _take_part(self) -> tuple[list[int], list[int]]:
        group, member, before = self.group, self._membership, self._owned
        if member is not None and member not in group.members:
            # Expelled: all is lost, and the next poll joins anew.
            self._membership, self._owned = None, frozenset()
        else:
            if member is None:
                member = self._membership = group.join(self.process, single=self._single)
            group.poll(member)
            self._owned = member.owned
            self._stable = not group.rebalancing and member.generation == group.generation
            self._identity = Identity(member, member.generation)
        if self._membership is None:
            self._stable, self._identity = False, Identity(None, -1)
        lost, gained = before - self._owned, self._owned - before
        for partition in lost:
            self._reading.positions.pop(TopicPartition(self.topic, partition), None)
        return sorted(gained), sorted(lost)

    def resume_at(self, partition: int, offset: int) -> None:
        self._reading.set(self._assigned(partition), offset)

    def hold(self, partition: int) -> None:
        self._reading.positions.pop(self._assigned(partition), None)

    def position(self, partition: int) -> int:
        where = self._assigned(partition)
        if where not in self._reading.positions:
            raise ValueError(f"{self.topic}[{partition}] does not flow: resume_at() comes first")
        return self._reading.positions[where]

    def committed(self, partitions: Iterable[int]) -> dict[int, Committed | None]:
        asked = [*partitions]
        deadline = self._broker.clock.now + ASK_S
        self._broker.tick()
        while self._broker.waits and self.group.unsettled(asked):
            self.process.must_live()
            if self._broker.clock.now > deadline:
                raise Transient("a checkpoint of a former owner is still under way")
            self._broker.wait(SLICE_S)
        self.group.told |= dict.fromkeys(self._owned & set(asked), self.process)
        return {partition: self.group.offsets.get(partition) for partition in asked}

    @contextmanager
    def busy(self) -> Iterator[None]:
        member = self._membership
        if member is not None:
            member.busy = True
        try:
            yield
        finally:
            if member is not None:
                member.busy = False
                member.polled = self._broker.clock.now

    def stable(self) -> bool:
        """As it was in the last poll: one that was frozen since cannot know better."""
        return self._stable

    @property
    def identity(self) -> Identity:
        return self._identity

    def owns(self, partitions: Iterable[int]) -> bool:
        return self._owned >= set(partitions)

    def _assigned(self, partition: int) -> TopicPartition:
        if partition not in self._owned:
            raise ValueError(f"{self.topic}[{partition}] is not assigned to this member")
        return TopicPartition(self.topic, partition)


class Spread:
    """Gives records their partition: the one they name, by key, or in turn."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._turns: dict[str, int] = {}

    def place(self, record: Record) -> TopicPartition:
        """Raises :class:`ConfigError` if there is no such place, :class:`Fatal` if no record."""
        if record.value is None and record.key is None:
            raise Fatal(f"a record for topic {record.topic} has neither value nor key")
        number = record.partition
        count = len(self._broker.topic(record.topic).partitions)
        if number is None and record.key is not None:
            number = partition_for(record.key, count)
        elif number is None:
            turn = self._turns.get(record.topic, 0)
            self._turns[record.topic] = turn + 1
            number = turn % count
        where = TopicPartition(record.topic, number)
        self._broker.partition(where)
        return where


class ModelPublisher(InMemory):
    """See :class:`stream_update.protocols.Publisher`; refuses by itself what Kafka lets pass."""

    def __init__(self, broker: Broker, process: Process, group_id: str) -> None:
        self._broker = broker
        self._process = process
        self._group_id = group_id
        self._spread = Spread(broker)
        self._last: Flight | None = None

    def begin(
        self, records: Sequence[Record], offsets: Mapping[int, Committed], member: Member
    ) -> Flight:
        last = self._last
        if last is not None:
            assert last.done(), "the checkpoint before has to be done"
            if isinstance(last.failure, Doubt):
                raise last.failure
        if not isinstance(member, ModelMember) or member.group_id != self._group_id:
            raise TypeError(f"a publisher of group {self._group_id} needs a member of that group")
        if not offsets:
            raise Refused("a checkpoint without offsets would not be fenced")
        if not member.stable():
            raise Refused(f"group {self._group_id} is in a rebalance")
        if not member.owns(offsets):
            raise Refused(f"partitions {sorted(offsets)} are not all assigned to this member")
        sends = [(self._spread.place(record), record) for record in records]
        before = None if last is None else last.transaction
        flight = Flight(self._broker, member, sends, dict(offsets), before)
        self._process.flight = self._last = flight
        self._process.progress()
        return flight

    def publish(
        self, records: Sequence[Record], offsets: Mapping[int, Committed], member: Member
    ) -> list[int]:
        return self.begin(records, offsets, member).result()


class Flight:
    """A checkpoint that makes its steps one by one; see :class:`stream_update.protocols`."""

    def __init__(
        self,
        broker: Broker,
        member: ModelMember,
        sends: Sequence[tuple[TopicPartition, Record]],
        offsets: dict[int, Committed],
        before: Transaction | None,
    ) -> None:
        self.transaction: Transaction | None = None
        self.failure: StreamUpdateError | None = None
        self._broker = broker
        self._member = member
        self._identity = member.identity
        self._sends = sends
        self._offsets = offsets
        self._before = before
        self._given: list[int] = []
        self._done = False
        self._moving = False
        self._steps = self._run()

    def done(self) -> bool:
        return self._done

    def result(self) -> list[int]:
        while not self._done:
            self.advance(None)
        if self.failure is not None:
            raise self.failure
        return self._given

    def advance(self, steps: int | None) -> None:
        """Make some steps, or all; none from inside one of them."""
        if self._done or self._moving:
            return
        self._moving = True
        try:
            while steps is None or steps > 0:
                if next(self._steps, "end") == "end":
                    self._done = True
                    return
                steps = None if steps is None else steps - 1
        except StreamUpdateError as error:
            self.failure, self._done = error, True
        finally:
            self._moving = False

    def _reach(self, step: Step) -> None:
        self._member.process.must_live()
        self._member.process.at(step)
        self._member.process.must_live()

    def _run(self) -> Iterator[None]:
        broker = self._broker
        transaction: Transaction | None = None
        try:
            self._reach(Step.BEGIN)
            while self._before is not None and self._before.unmarked:
                broker.wait(SLICE_S)  # the coordinator takes one at a time of a producer
            transaction = self.transaction = broker.begin(self._member.process)
            yield
            for where, record in self._sends:
                self._reach(Step.RECORD)
                self._given.append(broker.write(where, record, transaction))
                yield
            self._reach(Step.FLUSH)
            yield
            self._reach(Step.OFFSETS)
            broker.add_offsets(transaction, self._member.group, self._offsets, self._identity)
            yield
        except (Gone, Silence, StreamUpdateError) as error:
            if transaction is not None:
                broker.abort(transaction)
            if isinstance(error, StreamUpdateError):
                raise
            if transaction is None:
                raise Transient("the log does not answer") from error
            raise Refused(f"the checkpoint did not reach the log: {error}") from error
        try:
            self._reach(Step.COMMIT)
            broker.commit(transaction)
            yield
            self._reach(Step.ANSWER)
        except (Gone, Silence) as error:
            raise Doubt(f"nobody can tell whether a checkpoint was committed: {error}") from error


class ModelAppender(Appender):
    """See :class:`stream_update.protocols.Appender`."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._spread = Spread(broker)
        self._waiting: list[tuple[TopicPartition, Record]] = []

    def close(self) -> None:
        self._waiting.clear()

    def append(self, records: Iterable[Record]) -> int:
        places = [(self._spread.place(record), record) for record in records]
        self._waiting += places
        return len(places)

    def flush(self) -> None:
        for where, record in self._waiting:
            self._broker.write(where, record)
        self._waiting.clear()
