"""Ends transactions that a broker's crash left hanging.

A transaction ends in each partition by a marker that the transaction coordinator has
written there. When a 4.3 broker is killed and starts again, the coordinator's own
record of the transaction says "complete" while the markers are missing: everybody who
reads committed records only stays in front of it for ever, and offsets that were
committed with it stay pending. (Measured on one node: after 12 of 12 kills with a transaction
open, and after 6 of 13 right after a confirmed commit, in some or all of its
partitions.) What is missing is written here,
with the request that the coordinator itself uses (KIP-664).

Which marker, is told by what the coordinator knows of the producer:

* Still at work (``Ongoing``, ``Prepare...``): left alone, whatever its age. The
  coordinator ends it itself.
* ``CompleteCommit``, by a producer of ours, of the same epoch: COMMIT. The coordinator
  speaks only of the *last* transaction of a producer, and what hangs may be a former one.
  But a publisher uses its producer again only after a success, so with the last one all
  before it were committed, and a transactional id is new with each producer and never
  initialised twice, so the epoch rises only when the coordinator gives a transaction up.
  Nothing of a later transaction can be among the records either: the broker takes
  records only into transactions that the coordinator has open, and a commit is asked
  for only after all of them were acknowledged. Of another program's producer none of
  this is known: left alone.
* ``CompleteAbort``: the last one was aborted, those before were committed, if it is one
  of ours. What hangs is the last one if its first record is no older than the start of
  the last one by the coordinator's clock; :data:`NEAR_MS` is allowed for the way there.
  A former one that hangs is older by at least the broker's restart. Then ABORT;
  otherwise it is left alone.
* ``Empty``, of the same epoch: no transaction was ever begun there, so none was
  committed. ABORT.
* Not known to the coordinator: ABORT, if it could not be hidden from us (the broker
  leaves out, in silence, what the user may not see), all parts of the coordinator
  answer, and it is younger than :data:`FORGOTTEN_MS` (the coordinator forgets what ended
  long ago). Otherwise left alone.

The coordinator reports completion after it has dealt with the markers. So partition,
coordinator, partition, and coordinator are asked in this order, and only what is the
same both times, and has not moved for longer than a transaction may last, is ended. What is
left alone in doubt is reported once, with how to end it by hand.

A marker that comes late does not move a group back: offsets that were committed after
those that it confirms stay (measured).
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, NamedTuple

from kafka import errors as vendor
from kafka.admin import TransactionState
from kafka.protocol.producer.transaction import WriteTxnMarkersRequest
from kafka.structs import TopicPartition as VendorPartition

from stream_update.errors import StreamUpdateError

__all__ = ["Coordinator", "Ending", "Janitor", "Open", "judge", "partition_of_group"]

logger = logging.getLogger(__name__)

OFFSETS = "__consumer_offsets"
TRANSACTIONS = "__transaction_state"
NEAR_MS = 2_000
FORGOTTEN_MS = 24 * 3600 * 1000
ASK_MS = 5_000

# What KafkaPublisher calls its producers: the group, and sixteen random digits.
OURS = re.compile(r".+\.[0-9a-f]{16}", re.DOTALL)

RIGHTS = (
    "allow READ and DESCRIBE on the topics and on __consumer_offsets, DESCRIBE on "
    "__transaction_state and on the transactional ids that start with the group's name, and "
    "ALTER (or CLUSTER_ACTION) on the cluster"
)


class Open(NamedTuple):
    """A transaction that a partition's leader holds for open, and since which offset."""

    topic: str
    partition: int
    producer_id: int
    epoch: int
    coordinator_epoch: int
    start: int
    last_sequence: int
    last_ms: int

    @property
    def where(self) -> VendorPartition:
        return VendorPartition(self.topic, self.partition)

    def __str__(self) -> str:
        return (
            f"{self.topic}[{self.partition}]: the transaction of producer {self.producer_id} "
            f"from offset {self.start} on"
        )


class Coordinator(NamedTuple):
    """What the coordinator says of the producer; ``state`` None: it does not know it."""

    transactional_id: str
    state: TransactionState | None
    epoch: int
    started_ms: int


class Ending(Enum):
    """What becomes of an open transaction."""

    COMMIT = "committed"
    ABORT = "aborted"
    WAIT = "still at work"
    DOUBT = "in doubt"


UNKNOWN = Coordinator("", None, -1, -1)


def judge(one: Open, told: Coordinator, first_ms: int | None) -> tuple[Ending, str]:
    """How to end an open transaction, and why; see the module for the reasoning.

    ``first_ms`` is the timestamp of its first record, None if it cannot be read. A
    producer that the coordinator does not know must be known not to be hidden.
    """
    if told.state is None:
        return Ending.ABORT, "the coordinator does not know it"
    if one.topic == OFFSETS and not _ours(told):
        return Ending.WAIT, "it belongs to another program"
    if told.state not in DONE:
        return Ending.WAIT, f"the coordinator says {told.state.value}"
    ending, doubt = DONE[told.state](one, told, first_ms)
    if doubt:
        return Ending.DOUBT, f"the coordinator says {told.state.value}, but {doubt}"
    return ending, f"the coordinator says {told.state.value}"


def _never_begun(one: Open, told: Coordinator, _: int | None) -> tuple[Ending, str]:
    taken_over = told.epoch != one.epoch
    return Ending.ABORT, "of another producer with the same id" if taken_over else ""


def _committed(one: Open, told: Coordinator, _: int | None) -> tuple[Ending, str]:
    if not _ours(told):
        return Ending.COMMIT, "of another program, whose former ones may have been aborted"
    return Ending.COMMIT, "of another epoch" if told.epoch != one.epoch else ""


def _aborted(_: Open, told: Coordinator, first_ms: int | None) -> tuple[Ending, str]:
    if first_ms is None:
        return Ending.ABORT, "the first record cannot be read, which tells whether of this one"
    older_ms = told.started_ms - first_ms
    if older_ms > NEAR_MS:
        return Ending.ABORT, f"of one that began {older_ms / 1000:.1f} s after the first record"
    return Ending.ABORT, ""


DONE = {
    TransactionState.EMPTY: _never_begun,
    TransactionState.COMPLETE_COMMIT: _committed,
    TransactionState.COMPLETE_ABORT: _aborted,
}
"""What the coordinator says when it has finished, and how to end by that, if nothing speaks
against it."""


def _ours(told: Coordinator) -> bool:
    return OURS.fullmatch(told.transactional_id) is not None


def partition_of_group(group_id: str, partitions: int) -> int:
    """The partition of ``__consumer_offsets`` that holds a group's offsets."""
    value = 0
    units = group_id.encode("utf-16-be")
    for high, low in zip(units[::2], units[1::2], strict=True):
        value = (31 * value + (high << 8 | low)) & 0xFFFFFFFF
    signed = value - (1 << 32) if value >= 1 << 31 else value
    return 0 if signed == -(1 << 31) else abs(signed) % partitions


class Janitor:
    """Looks at partitions in which readers wait, and ends what hangs in them.

    ``admin`` gives a connected admin client, ``consumer`` a new consumer with the given
    options. ``patience_s`` is how long a transaction may stand still before it counts as
    hanging. Any thread may call; what goes wrong is logged, never raised, as the caller
    waits anyway. ``ended`` counts what was done, by :class:`Ending`.
    """

    def __init__(
        self, admin: Callable[[], Any], consumer: Callable[..., Any], patience_s: float
    ) -> None:
        self.patience_s = patience_s
        self.ended: Counter[Ending] = Counter()
        self._admin = admin
        self._consumer = consumer
        self._lock = threading.Lock()
        self._seen: dict[Open, float] = {}
        self._said: set[tuple[Any, ...]] = set()

    def tend_group(self, group_id: str, topics: Iterable[str]) -> None:
        """Look at a group's offsets and at all partitions of the topics it writes to."""
        self._tend(lambda: self._of_group(group_id, topics))

    def tend(self, where: Iterable[tuple[str, int]]) -> None:
        """Look at these partitions."""
        self._tend(lambda: [VendorPartition(*one) for one in where])

    def _tend(self, places: Callable[[], list[VendorPartition]]) -> None:
        with self._lock:
            try:
                where = places()
                for one in self._standing_still(where):
                    self._end(one)
            except vendor.AuthorizationError as error:
                self._say_once(
                    (type(error),),
                    f"cannot look for transactions that a broker's crash left hanging: {error}; "
                    f"{RIGHTS}",
                )
            except (vendor.KafkaError, StreamUpdateError) as error:
                logger.warning("cannot look for hanging transactions now: %s", error)

    def _of_group(self, group_id: str, topics: Iterable[str]) -> list[VendorPartition]:
        found = []
        for topic in self._admin().describe_topics([*{*topics, OFFSETS}]):
            if vendor.for_code(topic["error_code"]) is vendor.UnknownTopicOrPartitionError:
                continue
            count = self._checked(topic)
            one = topic["name"] == OFFSETS
            numbers = [partition_of_group(group_id, count)] if one else range(count)
            found += [VendorPartition(topic["name"], number) for number in numbers]
        return found

    def _checked(self, topic: Any) -> int:
        refusal = vendor.for_code(topic["error_code"])
        if refusal is not vendor.NoError:
            raise refusal(f"topic {topic['name']}")
        return len(topic["partitions"])

    def _open_in(self, where: Iterable[VendorPartition]) -> list[Open]:
        return [
            Open(
                place.topic,
                place.partition,
                one.producer_id,
                one.producer_epoch,
                one.coordinator_epoch,
                one.current_transaction_start_offset,
                one.last_sequence,
                one.last_timestamp,
            )
            for place, state in sorted(self._admin().describe_producers([*where]).items())
            for one in state.active_producers
            if one.current_transaction_start_offset >= 0
        ]

    def _standing_still(self, where: list[VendorPartition]) -> list[Open]:
        """What is open and has not moved for longer than patience allows."""
        opened = self._open_in(where)
        now, looked_at = time.monotonic(), {*where}
        self._seen = {
            one: since
            for one, since in self._seen.items()
            if one.where not in looked_at or one in opened
        }
        still = []
        for one in opened:
            since = self._seen.setdefault(one, now)
            # By the record's own time it is old at once; but its writer chose that.
            if max(now - since, time.time() - one.last_ms / 1000) > self.patience_s:
                still.append(one)
        return still

    def _end(self, one: Open) -> None:
        told, (ending, why) = self._judged(one)
        if ending is Ending.WAIT:
            logger.info("%s is open: %s", one, why)
            return
        if ending is Ending.DOUBT:
            self._leave(one, why)
            return
        if one not in self._open_in([one.where]) or self._judged(one)[0] != told:
            return
        try:
            self._write_marker(one, commit=ending is Ending.COMMIT)
        except vendor.KafkaError as error:
            hint = f"; {RIGHTS}" if isinstance(error, vendor.AuthorizationError) else ""
            self._say_once(
                ("refused", one),
                f"{one} hangs since a broker's crash and should be {ending.value} ({why}), but "
                f"the broker refused: {error}{hint}",
            )
            return
        self.ended[ending] += 1
        logger.error(
            "%s was left hanging by a broker's crash and is %s now: %s", one, ending.value, why
        )

    def _leave(self, one: Open, why: str) -> None:
        if self._say_once(
            ("in doubt", one),
            f"{one} hangs and is left alone: {why}. Nobody reads past it. If its records may "
            f"be dropped, end it by hand: `kafka-transactions.sh abort --topic {one.topic} "
            f"--partition {one.partition} --start-offset {one.start}`",
        ):
            self.ended[Ending.DOUBT] += 1

    def _say_once(self, about: tuple[Any, ...], text: str) -> bool:
        if about in self._said:
            return False
        self._said.add(about)
        logger.error("%s", text)
        return True

    def _judged(self, one: Open) -> tuple[Coordinator, tuple[Ending, str]]:
        told = self._ask_coordinator(one.producer_id)
        if told is UNKNOWN:
            hidden = self._may_be_hidden(one)
            if hidden:
                return told, (Ending.DOUBT, hidden)
        first_ms = None
        if told.state == TransactionState.COMPLETE_ABORT:
            first_ms = self._first_ms(one)
        return told, judge(one, told, first_ms)

    def _ask_coordinator(self, producer_id: int) -> Coordinator:
        admin = self._admin()
        listed = admin.list_transactions(producer_id_filters=[producer_id])
        names = {row.transactional_id for rows in listed.values() for row in rows}
        for name, found in admin.describe_transactions(names).items():
            if found.producer_id == producer_id:
                return Coordinator(
                    name, found.state, found.producer_epoch, found.transaction_start_time_ms
                )
        return UNKNOWN

    def _may_be_hidden(self, one: Open) -> str:
        """Why a producer that is not listed may nevertheless be known; else nothing."""
        (topic,) = self._admin().describe_topics([TRANSACTIONS])
        self._checked(topic)
        if any(partition["leader_id"] < 0 for partition in topic["partitions"]):
            return "a part of the transaction coordinator does not answer"
        try:
            # No rule that names ids or prefixes of ids can cover this one.
            self._admin().describe_transactions([f"{time.time_ns():x}"])
        except vendor.TransactionalIdAuthorizationFailedError:
            return "its producer is unknown, or not ours to see"
        except vendor.TransactionalIdNotFoundError:
            pass
        if time.time() * 1000 - one.last_ms > FORGOTTEN_MS:
            return "it is so old that the coordinator may have forgotten how it ended"
        return ""

    def _first_ms(self, one: Open) -> int | None:
        """The timestamp of the first record, which only a reader of uncommitted ones sees."""
        with_all = self._consumer(isolation_level="read_uncommitted")
        try:
            with_all.assign([one.where])
            with_all.seek(one.where, one.start)
            for records in with_all.poll(timeout_ms=ASK_MS, max_records=1).values():
                if records[0].offset == one.start:
                    return int(records[0].timestamp)
        finally:
            with_all.close(autocommit=False, timeout_ms=1_000)
        return None

    def _write_marker(self, one: Open, *, commit: bool) -> None:
        marker = WriteTxnMarkersRequest.WritableTxnMarker
        request = WriteTxnMarkersRequest(
            markers=[
                marker(
                    producer_id=one.producer_id,
                    producer_epoch=one.epoch,
                    transaction_result=commit,
                    topics=[
                        marker.WritableTxnMarkerTopic(
                            name=one.topic, partition_indexes=[one.partition]
                        )
                    ],
                    # -1 means that there was no marker before, which itself is no epoch.
                    coordinator_epoch=max(0, one.coordinator_epoch),
                )
            ]
        )
        admin = self._admin()

        async def send() -> Any:
            # The client's own abort_transaction() does the same, but knows no commit.
            leaders = await admin._async_get_leader_for_partitions([one.where])  # noqa: SLF001
            (leader,) = leaders
            return await admin._manager.send(request, node_id=leader)  # noqa: SLF001

        answer = admin._manager.run(send)  # noqa: SLF001
        for result in answer.markers:
            for topic in result.topics:
                for partition in topic.partitions:
                    refusal = vendor.for_code(partition.error_code)
                    if refusal is not vendor.NoError:
                        raise refusal(f"writing a transaction marker into {one.where}")
