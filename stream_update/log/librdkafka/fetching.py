"""What a reader and a member have in common: positions, fetching, and what stops it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as VendorPartition

from stream_update.errors import LogGap, Overtaken, StreamUpdateError, Unreadable
from stream_update.events import Batch, TopicInfo, TopicPartition
from stream_update.log.librdkafka.asking import MISSING, Asking, topic_id
from stream_update.log.librdkafka.batch import MessagesBatch
from stream_update.log.librdkafka.refusals import (
    FENCED,
    NEEDS_A_PERSON,
    cause,
    is_passing,
    translated,
)

__all__ = ["Behind", "Fetching"]

Behind = Callable[[TopicPartition, int], int | None]
"""Where it goes on behind a damaged batch that holds this offset; None if it is good."""

MISSING_S = 15.0
"""How long a topic may be missing before it counts as deleted."""

KNOWN_S = 5.0
"""How long the place of a topic may be asked for."""

MOST = 1_000_000
"""More messages than the client hands over at once."""

END = KafkaError._PARTITION_EOF  # noqa: SLF001 - the vendor's own errors are named so
GAPS = frozenset({KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET})  # noqa: SLF001
DAMAGED = frozenset(
    {KafkaError._BAD_COMPRESSION, KafkaError._BAD_MSG, KafkaError._UNDERFLOW}  # noqa: SLF001
)
GONE = MISSING | {
    KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
    KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
}
GROUP = frozenset({KafkaError.GROUP_AUTHORIZATION_FAILED, *FENCED})
"""Said of a group that this consumer is not in."""

_error = Message.error


class Fetching:
    """Reads partitions through one consumer that is in no group.

    The client's own position knows nothing of what lies between two records that it
    hands over, so the positions are kept here: behind the last record, or where the
    client says that the partition ends for now.
    """

    def __init__(self, consumer: Any, asking: Asking, behind: Behind, look_s: float) -> None:
        self.consumer = consumer
        self._behind = behind
        self._asking = asking
        self._look_s = look_s
        self._next: dict[TopicPartition, int] = {}
        self._rest: list[Any] = []
        self._failure: StreamUpdateError | None = None
        self._stopped: set[TopicPartition] = set()
        self._topics: dict[str, _Watched] = {}
        self._known: set[str] = set()

    def close(self) -> None:
        self._next.clear()
        self.consumer.close()

    # -- what is read, and from where

    @property
    def positions(self) -> Mapping[TopicPartition, int]:
        """The next offset of every partition that flows."""
        return self._next

    def watch(self, topics: Iterable[TopicInfo]) -> None:
        """The topics that are read from now on, as they are known to be."""
        known = self._topics
        self._topics = {}
        for topic in topics:
            before = known.get(topic.name)
            same = before is not None and before.topic_id == topic.topic_id
            self._topics[topic.name] = before if same and before else _Watched(topic.topic_id)

    def flow(self, positions: Mapping[TopicPartition, int]) -> None:
        """Let these partitions flow from these offsets on, whatever they did before."""
        self.rest(positions)
        try:
            self._make_known({where.topic for where in positions} - self._known)
            self.consumer.incremental_assign(
                [VendorPartition(*where, offset) for where, offset in positions.items()]
            )
        except KafkaException as error:
            raise translated(error, "starting to read") from error
        self._next.update(positions)

    def _make_known(self, topics: set[str]) -> None:
        """Else the client asks for a topic that is new to it when its next second begins."""
        for topic in topics:
            try:
                self.consumer.list_topics(topic, timeout=KNOWN_S)
            except KafkaException as error:
                if not is_passing(cause(error)):
                    raise
            else:
                self._known.add(topic)

    def rest(self, where: Iterable[TopicPartition]) -> None:
        """Let partitions no longer flow; nothing fetched from them arrives any more."""
        ending = [one for one in where if one in self._next]
        self._stop([one for one in ending if one not in self._stopped])
        for one in ending:
            del self._next[one]
            self._stopped.discard(one)

    def _stop(self, where: list[TopicPartition]) -> None:
        """Nothing of these arrives from now on; where they stand is still known."""
        if not where:
            return
        try:
            self.consumer.incremental_unassign([VendorPartition(*one) for one in where])
        except KafkaException as error:
            raise translated(error, "ending to read") from error
        self._stopped.update(where)
        self._rest = [message for message in self._rest if _where(message) not in self._stopped]

    # -- reading

    def poll(self, timeout_s: float, max_records: int) -> list[Batch]:
        """At most one batch for a partition; returns early when something has arrived."""
        self._raise()
        messages = self._rest or self._consume(timeout_s, min(max_records, MOST))
        self._rest = []
        batches, failure = self._sorted(messages, max_records)
        self._failure = failure or self._look()
        if not batches:
            self._raise()
        # What came before a failure is good.
        return batches

    def _raise(self) -> None:
        failure, self._failure = self._failure, None
        if isinstance(failure, _Damage):
            self.flow({failure.where: failure.first})
        if failure is not None:
            raise failure

    def _consume(self, timeout_s: float, count: int) -> list[Any]:
        try:
            # The client would wait the whole time for so many, and not only for the first.
            messages: list[Any] = self.consumer.consume(count, 0)
            if not messages and timeout_s > 0:
                messages = self.consumer.consume(1, timeout_s)
                if messages and count > 1:
                    messages += self.consumer.consume(count - 1, 0)
        except KafkaException as error:
            raise translated(error, "polling") from error
        return messages

    def _sorted(
        self, messages: list[Any], max_records: int
    ) -> tuple[list[Batch], StreamUpdateError | None]:
        """The messages by partition up to the first that stops the reading, and why it does."""
        failure: StreamUpdateError | None = None
        if len(messages) > max_records:
            messages, self._rest = messages[:max_records], messages[max_records:]
        if any(map(_error, messages)):
            good: list[Any] = []
            ends: dict[TopicPartition, int] = {}
            void: set[TopicPartition] = set()
            for number, message in enumerate(messages):
                where = _where(message)
                error = message.error()
                if where in void:
                    continue
                if error is None:
                    good.append(message)
                elif error.code() == END:
                    ends[where] = message.offset()
                else:
                    # What is meant, is meant of what comes behind the good ones.
                    for last in (one for one in reversed(good) if _where(one) == where):
                        self._next[where] = last.offset() + 1
                        break
                    failure = self._meant(where, error)
                    if error.code() in GAPS | DAMAGED:
                        void.add(where)  # it is read anew, if at all
                    if failure is not None:
                        left = messages[number + 1 :] + self._rest
                        self._rest = [one for one in left if _where(one) not in void]
                        break
            batches = self._batches(good)
            for where, offset in ends.items():
                if where in self._next:
                    self._next[where] = max(self._next[where], offset)
            return batches, failure
        return self._batches(messages), None

    def _batches(self, messages: list[Any]) -> list[Batch]:
        if not messages:
            return []
        if len(self._next) == 1:
            ((topic, partition),) = self._next
            groups = {(topic, partition): messages}
        else:
            groups = {}
            for message in messages:
                key = (message.topic(), message.partition())
                if key not in self._next:
                    continue
                group = groups.get(key)
                if group is None:
                    groups[key] = [message]
                else:
                    group.append(message)
        batches: list[Batch] = []
        for (topic, partition), group in groups.items():
            batch = MessagesBatch(topic, partition, group)
            self._next[TopicPartition(topic, partition)] = batch.offsets[-1] + 1
            batches.append(batch)
        return batches

    def behind(self) -> dict[TopicPartition, int]:
        """Where the log goes on behind the position, as far as the last answer told."""
        found = {}
        for where, position in self._next.items():
            known = self.consumer.get_watermark_offsets(VendorPartition(*where), cached=True)
            if known is not None and position < known[1]:
                found[where] = position
        return found

    # -- what stops it

    def _meant(self, where: TopicPartition, error: KafkaError) -> StreamUpdateError | None:
        """What an error among the messages means for who reads; None: nothing."""
        code = error.code()
        if code in GAPS:
            return self._gap(where, error)
        if code in DAMAGED:
            return self._damage(where, error) if where in self._next else None
        if code in GONE:
            self.look_now()
            return None
        if code in NEEDS_A_PERSON - GROUP or error.fatal():
            return translated(error, "polling")
        return None  # the client tries again by itself

    def _damage(self, where: TopicPartition, error: KafkaError) -> StreamUpdateError | None:
        """After a batch that is damaged the client does not find its way to the next one."""
        self._stop([where])
        first = self._next[where]
        try:
            after = self._behind(where, first)
        except StreamUpdateError as second:
            self.flow({where: first})
            return second
        if after is None:
            self.flow({where: first})
            return None
        return _Damage(where, first, after, error.str())

    def _gap(self, where: TopicPartition, error: KafkaError) -> StreamUpdateError | None:
        wanted = self._next.get(where)
        if wanted is None:
            return None
        # The client has given it up; from here it goes on if there is nothing to be told, and
        # it is told again if there is and nobody changes the position.
        self.flow({where: wanted})
        try:
            first = self._asking.first_offsets([where])[where]
            end = self._asking.end_offsets([where])[where]
        except StreamUpdateError as second:
            return second
        watched = self._topics.get(where.topic)
        if watched is not None and (gone := self._changed(where.topic, watched)):
            return gone
        if first <= wanted <= end:
            # A broker that started again, or a leader that had not caught up.
            return None
        message = f"{_name(where)} has no offset {wanted}: it holds {first} to {end}"
        if wanted < first:
            return Overtaken(
                message,
                partition=where.partition,
                wanted=wanted,
                first=first,
                hint="retention or a deletion overtook it: the records before are gone; decide "
                "whether to go on without them",
            )
        return LogGap(
            message,
            hint=f"the topic was created again, or lost its end ({error.name()}); decide whether "
            "to go on without what is missing",
        )

    # -- topics that are deleted, or created again

    def look_now(self) -> None:
        for watched in self._topics.values():
            watched.look_at = 0.0

    def _look(self) -> StreamUpdateError | None:
        """An offset of a topic that is gone reads, silently, whatever came in its place."""
        now = time.monotonic()
        for topic, watched in self._topics.items():
            if watched.asked is None:
                if now >= watched.look_at:
                    watched.asked = self._asking.describing(topic)
                continue
            if watched.asked.done():
                failure = self._changed(topic, watched)
                if failure is not None:
                    return failure
        return None

    def _changed(self, topic: str, watched: _Watched) -> StreamUpdateError | None:
        """What the answer says, if it is bad."""
        now = time.monotonic()
        asked, watched.asked = watched.asked or self._asking.describing(topic), None
        watched.look_at = now + self._look_s
        try:
            now_id = topic_id(asked.result())
        except KafkaException as error:
            if cause(error).code() not in MISSING:
                return None  # it is asked again
            watched.missing_since = watched.missing_since or now
            watched.look_at = now + min(1.0, self._look_s)
            if now - watched.missing_since <= MISSING_S:
                return None
            return LogGap(
                f"topic {topic} is gone: it was deleted while it was read",
                hint="nothing can be read of it any more; what was learned is in the snapshots",
            )
        watched.missing_since = None
        if now_id == watched.topic_id:
            return None
        return LogGap(
            f"topic {topic} was deleted and created again while it was read "
            f"(it had id {watched.topic_id} and has {now_id})",
            hint="offsets and snapshots of the old topic mean nothing in the new one: "
            "start a new lineage",
        )


class _Damage(Unreadable):
    """Damage in one place; who is told goes on behind it."""

    def __init__(self, where: TopicPartition, first: int, after: int, said: str) -> None:
        super().__init__(
            f"{_name(where)} offsets {first} to {after - 1} cannot be read: {said}",
            partition=where.partition,
            wanted=first,
            first=after,
            hint="the batch is damaged on the broker's disk: restore it from a replica, or go on "
            "without it",
        )
        self.where = where


class _Watched:
    """A topic that is read, and when it is looked at next."""

    def __init__(self, known: str) -> None:
        self.topic_id = known
        self.look_at = 0.0
        self.asked: Future[Any] | None = None
        self.missing_since: float | None = None


def _where(message: Any) -> TopicPartition:
    return TopicPartition(message.topic(), message.partition())


def _name(where: TopicPartition) -> str:
    return f"{where.topic}[{where.partition}]"
