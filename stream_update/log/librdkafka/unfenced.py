"""Checkpoints without transactions, for brokers or rights that have none.

Everything is there at least once: the records are acknowledged first, then the offsets
are committed. A process that dies in between leaves records that its successor says
again, and a snapshot that is ahead of the committed offsets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from confluent_kafka import KafkaException

from stream_update.errors import Refused
from stream_update.events import Committed, Record
from stream_update.log.librdkafka.connect import Heard
from stream_update.log.librdkafka.member import LibrdkafkaMember
from stream_update.log.librdkafka.publisher import LibrdkafkaPublisher
from stream_update.log.librdkafka.refusals import STALE_MEMBER, cause, is_passing, translated
from stream_update.log.librdkafka.rounds import Identity
from stream_update.log.watchdog import Call, Overdue

__all__ = ["UnfencedPublisher"]


class UnfencedPublisher(LibrdkafkaPublisher):
    """See :class:`stream_update.protocols.Publisher`.

    Records are written topic after topic in the order that they are given in, each topic
    acknowledged before the next begins: a snapshot, which comes last, is never there
    without what was said on the way to it. Nothing is ever in doubt: what may not have
    been committed is said again.
    """

    def _publication(
        self, call: Call[list[int]], offsets: Mapping[int, Committed], member: LibrdkafkaMember
    ) -> UnfencedPublication:
        return UnfencedPublication(call, offsets, member)

    def _new_producer(self) -> Any:
        self._heard = Heard()
        return self._connect.producer(self._heard)

    def _write(
        self,
        call: Call[list[int]],
        producer: Any,
        sends: Sequence[tuple[Record, int]],
        positions: list[Any],  # noqa: ARG002 - committed when all is there
        identity: Identity,  # noqa: ARG002
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
        self, call: Call[list[int]], offsets: Mapping[int, Committed], member: LibrdkafkaMember
    ) -> None:
        self._call = call
        self._offsets = offsets
        self._member = member
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
            self._member.commit(self._offsets)
        except KafkaException as error:
            one = cause(error)
            if one.code() not in STALE_MEMBER and not is_passing(one):
                raise translated(error, "committing the offsets of a checkpoint") from error
            raise Refused(
                f"group {self._member.group_id} did not take the offsets of a checkpoint whose "
                f"records are in the log, and will be there again: {one.str()}"
            ) from error
        self._given = given
        return given
