"""Checkpoints without transactions, for brokers or rights that have none.

Everything is there at least once: the records are acknowledged first, then the offsets
are committed. A process that dies in between leaves records that its successor says
again, and a snapshot that is ahead of the committed offsets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any

from stream_update.errors import Refused
from stream_update.events import Committed
from stream_update.log.checkpoints import Checkpoints, GroupMember, Sends
from stream_update.log.watchdog import Call, Overdue

__all__ = ["NotTaken", "Unfenced"]


class NotTaken(Exception):
    """The group did not take the offsets; the next checkpoint has them again."""


class Unfenced(Checkpoints):
    """See :class:`stream_update.protocols.Publisher`; stands before a client's own.

    Records are written topic after topic in the order that they are given in, each topic
    acknowledged before the next begins: a snapshot, which comes last, is never there
    without what was said on the way to it. Nothing is ever in doubt: what may not have
    been committed is said again.
    """

    def _commit_offsets(self, member: Any, offsets: Mapping[int, Committed]) -> None:
        """Without a transaction. Raises :class:`NotTaken`."""
        raise NotImplementedError

    def _publication(
        self, call: Call[list[int]], offsets: Mapping[int, Committed], member: GroupMember
    ) -> UnfencedPublication:
        return UnfencedPublication(call, offsets, member, self._commit_offsets)

    def _write(
        self,
        call: Call[list[int]],
        producer: Any,
        sends: Sends,
        positions: Any,  # noqa: ARG002 - committed when all is there
        identity: Any,  # noqa: ARG002
    ) -> list[int]:
        given: list[int] = []
        try:
            for _, group in groupby(sends, key=lambda send: send[0].topic):
                given += self._deliver(call, producer, [*group])
        except Exception as error:
            raise self._verdict(error) from error
        return given


class UnfencedPublication:
    """See :class:`stream_update.protocols.Publication`."""

    def __init__(
        self,
        call: Call[list[int]],
        offsets: Mapping[int, Committed],
        member: GroupMember,
        commit: Callable[[Any, Mapping[int, Committed]], None],
    ) -> None:
        self._call = call
        self._offsets = offsets
        self._member = member
        self._commit = commit
        self._identity = member.identity
        self._given: list[int] | None = None

    def done(self) -> bool:
        return self._call.done()

    def result(self) -> list[int]:
        if self._given is not None:
            return self._given
        try:
            given = self._call.result()
        except Overdue as error:
            raise Refused(f"the records of a checkpoint were not acknowledged: {error}") from error
        if not self._member.stable() or self._member.identity != self._identity:
            raise Refused(f"group {self._member.group_id} has gone on since the records were sent")
        try:
            self._commit(self._member, self._offsets)
        except NotTaken as error:
            raise Refused(
                f"group {self._member.group_id} did not take the offsets of a checkpoint whose "
                f"records are in the log, and will be there again: {error}"
            ) from error
        self._given = given
        return given
