"""Checkpoints over Kafka, whatever the client: one transaction each."""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from stream_update.errors import Doubt, Fatal, Refused, StreamUpdateError
from stream_update.events import Committed, Record
from stream_update.log.watchdog import Call, Overdue, Watchdog
from stream_update.protocols import Closing, Member, Publication

__all__ = ["ABORT_S", "Checkpoints", "Displaced", "GroupMember", "Sends", "Transaction"]

logger = logging.getLogger(__name__)

ABORT_S = 5.0
AHEAD_S = 30.0
"""Making a producer: some requests, each with the client's own limit."""

Sends = Sequence[tuple[Record, Any]]
"""Records, and for each its partition as the client has it."""


class GroupMember(Member, Protocol):
    """What a checkpoint has to know of the member that makes it."""

    group_id: str
    topic: str

    @property
    def identity(self) -> Any:
        """Who it was in the group right after the last poll; None: nobody yet."""
        ...

    def goes_by(self, identity: Any) -> bool:
        """Whether the client knows itself by this identity still."""
        ...

    def owns(self, partitions: Iterable[int]) -> bool:
        """Whether all of these are assigned to it, and have been without a break."""
        ...

    def displaced(self, by: Fatal) -> None:
        """Let every later poll raise."""
        ...


class Checkpoints(Closing):
    """See :class:`stream_update.protocols.Publisher`; each client has a subclass.

    Each producer has a transactional id that was never used before: with one that
    outlives the process, a former process can abort a checkpoint of this one, and what
    the broker left open at a crash can become committed. What fences is the
    generation of the group, in the offsets. A producer is used again only after a
    success, and only if no connection was lost since: a broker that was killed may have lost
    the end of the last transaction, and then the end of the next one, whatever it is, would be
    that of both.
    """

    members: type[GroupMember]
    failures: type[Exception]
    """What the client raises."""

    grace_s = 0.0
    """How much longer than a step's own limit it is waited for."""

    def __init__(self, group_id: str, step_s: float, topics: Iterable[str]) -> None:
        self._group_id = group_id
        self._step_s = step_s
        self._watchdog = Watchdog(f"checkpoints of {group_id}")
        self._producer: Any = None
        self._doubt: Doubt | None = None
        self._working: Any = None
        self._last: Call[Any] = self._watchdog.start(lambda call: self._make_ready(call, [*topics]))

    # -- what each client does in its own way

    def _partition(self, record: Record) -> Any:
        raise NotImplementedError

    def _positions(self, topic: str, offsets: Mapping[int, Committed]) -> Any:
        """The offsets as the client takes them."""
        raise NotImplementedError

    def _made(self, transactional_id: str) -> Any:
        """A producer, not yet ready for transactions."""
        raise NotImplementedError

    def _initialise(self, producer: Any) -> None:
        raise NotImplementedError

    def _look_up(self, producer: Any, topic: str) -> None:
        """Let the producer know the topic."""
        raise NotImplementedError

    def _has_kept_its_connections(self, producer: Any) -> bool:
        """Whether no connection was lost since the last success."""
        raise NotImplementedError

    def _succeeded(self, producer: Any) -> None:
        """It is kept for the next checkpoint."""

    def _discard(self, producer: Any) -> None:
        """Close a producer, whatever it still holds."""
        raise NotImplementedError

    def _deliver(self, call: Call[list[int]], producer: Any, sends: Sends) -> list[int]:
        """Send, and see every record acknowledged."""
        raise NotImplementedError

    def _send_offsets(self, producer: Any, positions: Any, identity: Any) -> None:
        raise NotImplementedError

    def _abort(self, producer: Any) -> None:
        raise NotImplementedError

    def _commit(self, producer: Any) -> None:
        raise NotImplementedError

    def _translated(self, error: Exception, doing: str) -> StreamUpdateError:
        raise NotImplementedError

    def _verdict(self, error: Exception) -> StreamUpdateError:
        """Our error for a transaction that was begun and is certainly aborted."""
        raise NotImplementedError

    # -- what they share

    def close(self) -> None:
        with contextlib.suppress(Exception):  # whoever began it has been told, or is gone
            self._last.result()
        producer, self._producer = self._producer, None
        if producer is not None:
            self._discard(producer)
        # A client may live as long as anybody refers to it.
        self._working = None
        self._watchdog.close()

    def begin(
        self, records: Sequence[Record], offsets: Mapping[int, Committed], member: Member
    ) -> Publication:
        if self._doubt is not None:
            raise self._doubt
        if not isinstance(member, self.members) or member.group_id != self._group_id:
            raise TypeError(f"a publisher of group {self._group_id} needs a member of that group")
        identity = self._checked(offsets, member)
        positions = self._positions(member.topic, offsets)
        sends = [(record, self._partition(record)) for record in records]
        self._last = self._watchdog.start(
            lambda call: self._transact(call, sends, positions, identity), AHEAD_S
        )
        return self._publication(self._last, offsets, member)

    def publish(
        self, records: Sequence[Record], offsets: Mapping[int, Committed], member: Member
    ) -> list[int]:
        return self.begin(records, offsets, member).result()

    def _publication(
        self,
        call: Call[list[int]],
        offsets: Mapping[int, Committed],  # noqa: ARG002 - the transaction has them
        member: GroupMember,
    ) -> Publication:
        return Transaction(call, self._in_doubt, member)

    def _checked(self, offsets: Mapping[int, Committed], member: GroupMember) -> Any:
        """Who publishes, after what the broker would let pass."""
        if not offsets:
            raise Refused("a checkpoint without offsets would not be fenced")
        identity = member.identity
        if identity is None or not member.stable():
            raise Refused(f"group {self._group_id} is in a rebalance")
        if not member.owns(offsets):
            raise Refused(
                f"partitions {sorted(offsets)} of {member.topic} are not all assigned to this "
                f"member of group {self._group_id}"
            )
        return identity

    def _make_ready(self, call: Call[None], topics: Sequence[str]) -> None:
        """Do ahead what would delay the first checkpoint by a quarter of a second."""
        call.step("starting the transactions", AHEAD_S)
        try:
            producer = self._new_producer()
            try:
                for topic in topics:
                    self._look_up(producer, topic)
            except BaseException:
                self._discard(producer)
                raise
        except (StreamUpdateError, self.failures) as error:
            # The first checkpoint finds the same, and says it to those who wait for it.
            logger.debug("cannot prepare the checkpoints of %s: %s", self._group_id, error)
        else:
            self._producer = producer

    def _new_producer(self) -> Any:
        producer = self._made(f"{self._group_id}.{secrets.token_hex(8)}")
        try:
            self._initialise(producer)
        except self.failures as error:
            self._discard(producer)
            doing = f"starting the transactions of {self._group_id}"
            raise self._translated(error, doing) from error
        except BaseException:
            self._discard(producer)
            raise
        return producer

    def _transact(
        self, call: Call[list[int]], sends: Sends, positions: Any, identity: Any
    ) -> list[int]:
        call.step("starting the transactions", AHEAD_S)
        # Put back only after a success; see above.
        producer, self._producer = self._producer, None
        if producer is not None and not self._has_kept_its_connections(producer):
            self._discard(producer)
            producer = None
        producer = producer or self._new_producer()
        self._working = producer
        try:
            given = self._write(call, producer, sends, positions, identity)
        except BaseException:
            self._discard(producer)
            self._working = None
            raise
        self._producer = producer
        self._succeeded(producer)
        return given

    def _write(
        self, call: Call[list[int]], producer: Any, sends: Sends, positions: Any, identity: Any
    ) -> list[int]:
        call.step("begin_transaction", self._step_s)
        try:
            producer.begin_transaction()
        except self.failures as error:
            raise Uncertain(f"begin_transaction failed: {error}") from error
        try:
            given = self._deliver(call, producer, sends)
            # Last, so that it is also the proof that the coordinator has not given up this
            # transaction meanwhile: kafka-python's commit reports success for one that timed out.
            call.step("send_offsets_to_transaction", self._step_s + self.grace_s)
            self._send_offsets(producer, positions, identity)
        except Exception as error:
            call.step("abort_transaction", ABORT_S + self.grace_s)
            try:
                self._abort(producer)
            except self.failures as second:
                raise Uncertain(f"{error}; then abort_transaction failed: {second}") from error
            raise self._verdict(error) from error
        call.step("commit_transaction", self._step_s + self.grace_s)
        try:
            self._commit(producer)
        except self.failures as error:
            raise Uncertain(f"commit_transaction failed: {error}") from error
        return given

    def _displaced(self) -> Displaced:
        return Displaced(
            f"another process of group {self._group_id} runs with the same group_instance_id",
            hint="give each process its own group_instance_id, or leave it out",
        )

    def _in_doubt(self, what: str) -> Doubt:
        self._doubt = Doubt(
            f"group {self._group_id}: nobody can tell whether a checkpoint was committed: {what}",
            hint="start again: the log knows, and the start asks it",
        )
        working, self._working = self._working, None
        if working is not None:
            self._discard(working)
        return self._doubt


class Transaction:
    """See :class:`stream_update.protocols.Publication`."""

    def __init__(
        self, call: Call[list[int]], in_doubt: Callable[[str], Doubt], member: GroupMember
    ) -> None:
        self._call = call
        self._in_doubt = in_doubt
        self._member = member
        self._identity = member.identity

    def done(self) -> bool:
        return self._call.done()

    def result(self) -> list[int]:
        try:
            return self._call.result()
        except (Overdue, Uncertain) as error:
            raise self._in_doubt(str(error)) from error
        except Displaced as error:
            if self._identity is None or not self._member.goes_by(self._identity):
                # It was evicted and is on its way back in: what displaced it is itself.
                raise Refused("the group has gone on without this member") from error
            self._member.displaced(Fatal(str(error), hint=error.hint))
            raise


class Uncertain(Exception):
    """The transaction may or may not be committed, or may still be open."""


class Displaced(Refused):
    """Refused, and so will be all that come."""
