"""A Kafka cluster in memory, on a clock that a test moves: partitions, transactions, time-outs.

What it keeps of the real one is what the checkpoint protocol leans on: records of an open
transaction hide everything behind them (the last stable offset), the end of a transaction is
decided at one moment and becomes visible later and partition by partition, an abandoned one
is aborted when its time is over, and offsets are taken only from a member of the current
generation (:mod:`tests.model.groups`).

It is for tests of this package and no part of it: who tests an application needs no virtual
time and no broker that loses a transaction, and has the embedded log for everything else.
The contract suite runs over it beside the two real logs, which keeps it honest.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from stream_update.errors import ConfigError
from stream_update.events import Committed, Record, TopicPartition, TopicSpec
from stream_update.log.embedded.log import NAME
from tests.model.groups import Group, Identity
from tests.model.process import Clock, Killed, Process

__all__ = ["Broker", "Gone", "Partition", "Topic", "Transaction"]

OPEN, COMMITTED, ABORTED = "open", "committed", "aborted"


class Gone(Exception):
    """The coordinator has ended this transaction by itself."""


class Transaction:
    """Records and offsets that become visible together; ``state`` is the decision."""

    def __init__(self, process: Process, began: float) -> None:
        self.process = process
        self.began = began
        self.state = OPEN
        self.records: list[tuple[TopicPartition, int, Record]] = []
        self.group: Group | None = None
        self.offsets: dict[int, Committed] = {}
        self.touched: list[Partition] = []
        self.unmarked = 0


class Entry(NamedTuple):
    """What stands at an offset; a marker has no record."""

    record: Record | None
    timestamp_ms: int
    transaction: Transaction | None


class Partition:
    """Entries by offset; None where one was deleted or compacted away."""

    def __init__(self) -> None:
        self.first = 0
        self.entries: list[Entry | None] = []
        self.pending: dict[Transaction, int] = {}

    @property
    def stable_end(self) -> int:
        """Before it everything is decided."""
        return min(self.pending.values(), default=len(self.entries))

    def append(self, entry: Entry) -> int:
        self.entries.append(entry)
        return len(self.entries) - 1

    def mark(self, transaction: Transaction) -> None:
        del self.pending[transaction]
        self.append(Entry(None, 0, transaction))

    def visible(self, start: int) -> Iterable[tuple[int, Record, int]]:
        """Committed records from an offset on: (offset, record, timestamp)."""
        for offset in range(start, self.stable_end):
            entry = self.entries[offset]
            if entry is None or entry.record is None:
                continue
            if entry.transaction is None or entry.transaction.state == COMMITTED:
                yield offset, entry.record, entry.timestamp_ms

    def delete_before(self, offset: int) -> None:
        self.first = max(self.first, offset)
        self.entries[: self.first] = [None] * self.first

    def compact(self) -> None:
        """Keep the newest committed record of each key, and none that is a tombstone."""
        newest = {record.key: offset for offset, record, _ in self.visible(self.first)}
        for offset, record, _ in [*self.visible(self.first)]:
            if record.key is not None and (newest[record.key] != offset or record.value is None):
                self.entries[offset] = None


class Topic:
    """A topic; one that is created again is another object."""

    def __init__(self, name: str, partitions: int) -> None:
        self.name = name
        self.topic_id = str(uuid.uuid4())
        self.partitions = [Partition() for _ in range(partitions)]


class Broker:
    """The cluster. ``session_s`` and the others are Kafka's time-outs in virtual seconds.

    ``marker_s`` is asked, for each partition of a decided transaction, how long its marker
    takes. ``fences`` and ``waits`` can be switched off to see that a test notices: offsets
    are then taken from anybody, and told although a transaction may still change them.
    ``on_commit`` hears of every transaction at the moment when it is decided, and
    ``on_wait`` is called whenever somebody waits.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        session_s: float = 6.0,
        max_poll_s: float = 60.0,
        transaction_s: float = 10.0,
        marker_s: Callable[[], float] = lambda: 0.0,
        fences: bool = True,
        waits: bool = True,
        on_commit: Callable[[Transaction], None] = lambda _transaction: None,
    ) -> None:
        self.clock = clock
        self.session_s = session_s
        self.max_poll_s = max_poll_s
        self.marker_s = marker_s
        self.fences = fences
        self.waits = waits
        self.on_commit = on_commit
        self.on_wait: Callable[[], None] = lambda: None
        self.topics: dict[str, Topic] = {}
        self.processes: list[Process] = []
        self._transaction_s = transaction_s
        self._groups: dict[tuple[str, str], Group] = {}
        self._open: list[Transaction] = []
        self._unmarked: list[tuple[float, Transaction, Partition | None]] = []

    # -- time

    def tick(self) -> None:
        """Let everything happen whose time has come."""
        now = self.clock.now
        for transaction in [t for t in self._open if now - t.began > self._transaction_s]:
            self.abort(transaction)
        for due in [due for due in self._unmarked if due[0] <= now]:
            self._unmarked.remove(due)
            self._mark(due[1], due[2])
        for group in self._groups.values():
            group.tick()

    def wait(self, seconds: float) -> None:
        """Time in which one process does nothing and the threads of all go on."""
        self.clock.sleep(seconds)
        for process in [*self.processes]:
            try:
                process.progress()
            except Killed:
                self.kill(process)
        self.tick()
        self.on_wait()

    def freeze(self, process: Process) -> None:
        self.tick()
        process.frozen = True

    def thaw(self, process: Process) -> None:
        self.tick()
        process.frozen = False

    def kill(self, process: Process) -> None:
        if not process.dead:
            self.tick()
            process.dead = True
            self.processes.remove(process)

    @property
    def marking(self) -> bool:
        """Whether something is decided that cannot be seen everywhere yet."""
        return bool(self._unmarked)

    # -- topics

    def create(self, specs: Sequence[TopicSpec]) -> list[str]:
        for spec in specs:
            if not NAME.fullmatch(spec.name) or spec.partitions < 1:
                raise ConfigError(f"there can be no topic {spec.name!r} of {spec.partitions}")
        new = [spec for spec in specs if spec.name not in self.topics]
        self.topics |= {spec.name: Topic(spec.name, spec.partitions) for spec in new}
        return [spec.name for spec in new]

    def grow(self, name: str, total: int) -> None:
        """Add partitions to a topic; its groups divide it anew."""
        topic = self.topic(name)
        if len(topic.partitions) >= total:
            return
        topic.partitions += [Partition() for _ in range(total - len(topic.partitions))]
        for (_, topic_id), group in self._groups.items():
            if topic_id == topic.topic_id:
                group.grow(total)

    def committed(self, group_id: str, topic: Topic) -> dict[int, Committed]:
        """What a group has committed that can be seen by now."""
        self.tick()
        group = self._groups.get((group_id, topic.topic_id))
        return {} if group is None else dict(sorted(group.offsets.items()))

    def topic(self, name: str) -> Topic:
        if name not in self.topics:
            raise ConfigError(
                f"topic {name} does not exist in this model",
                hint="create it with `stream-update topics create`, or correct the name",
            )
        return self.topics[name]

    def partition(self, where: TopicPartition) -> Partition:
        self.tick()
        partitions = self.topic(where.topic).partitions
        if not 0 <= where.partition < len(partitions):
            raise ConfigError(
                f"topic {where.topic} has no partition {where.partition}: it has {len(partitions)}"
            )
        return partitions[where.partition]

    def delete_topic(self, name: str) -> None:
        topic = self.topics.pop(name)
        for key in [key for key in self._groups if key[1] == topic.topic_id]:
            del self._groups[key]

    def group(self, group_id: str, topic: Topic, *, single: bool) -> Group:
        """The group as it is, or an empty one of this division."""
        key = (group_id, topic.topic_id)
        if key not in self._groups:
            self._groups[key] = Group(self, group_id, len(topic.partitions), single=single)
        group = self._groups[key]
        if not group.members:
            group.single = single
        return group

    # -- records and transactions

    def write(
        self, where: TopicPartition, record: Record, transaction: Transaction | None = None
    ) -> int:
        """Append a record, in a transaction if one is given; raises :class:`Gone`."""
        partition = self.partition(where)
        stamp = record.timestamp_ms
        if stamp is None:
            stamp = int(self.clock.time() * 1000)
        if transaction is None:
            return partition.append(Entry(record, stamp, None))
        self._must_be_open(transaction)
        offset = partition.append(Entry(record, stamp, transaction))
        if transaction not in partition.pending:
            partition.pending[transaction] = offset
            transaction.touched.append(partition)
        transaction.records.append((where, offset, record))
        return offset

    def begin(self, process: Process) -> Transaction:
        transaction = Transaction(process, self.clock.now)
        self._open.append(transaction)
        return transaction

    def add_offsets(
        self, transaction: Transaction, group: Group, offsets: dict[int, Committed], by: Identity
    ) -> None:
        """Raises :class:`Gone`, or :class:`Refused` for a member of the past."""
        self.tick()
        self._must_be_open(transaction)
        if self.fences:
            group.check(by)
        transaction.group, transaction.offsets = group, offsets
        group.pending.append(transaction)

    def commit(self, transaction: Transaction) -> None:
        """The decision; raises :class:`Gone` if it has been another one."""
        self.tick()
        self._must_be_open(transaction)
        self._end(transaction, COMMITTED)
        self.on_commit(transaction)

    def abort(self, transaction: Transaction) -> None:
        if transaction.state == OPEN:
            self._end(transaction, ABORTED)

    def lose_transactions(self) -> None:
        """What is open is gone, as after a restart of the coordinator."""
        for transaction in [*self._open]:
            self.abort(transaction)

    def _must_be_open(self, transaction: Transaction) -> None:
        if transaction.state != OPEN:
            raise Gone("the coordinator has ended this transaction")

    def _end(self, transaction: Transaction, decision: str) -> None:
        self._open.remove(transaction)
        transaction.state = decision
        ends: list[Partition | None] = [*transaction.touched]
        if transaction.group is not None:
            ends.append(None)
        transaction.unmarked = len(ends)
        for end in ends:
            delay = self.marker_s()
            if delay:
                self._unmarked.append((self.clock.now + delay, transaction, end))
            else:
                self._mark(transaction, end)

    def _mark(self, transaction: Transaction, partition: Partition | None) -> None:
        """Make the decision visible in a partition, or (None) in the group's offsets."""
        transaction.unmarked -= 1
        if partition is not None:
            partition.mark(transaction)
            return
        assert transaction.group is not None
        transaction.group.pending.remove(transaction)
        if transaction.state == COMMITTED:
            transaction.group.offsets |= transaction.offsets
