"""Checkpoints without transactions, with librdkafka."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaException

from stream_update.events import Committed
from stream_update.log.librdkafka.connect import Heard
from stream_update.log.librdkafka.publisher import LibrdkafkaPublisher
from stream_update.log.librdkafka.refusals import STALE_MEMBER, cause, is_passing, translated
from stream_update.log.unfenced import NotTaken, Unfenced

__all__ = ["UnfencedPublisher"]


class UnfencedPublisher(Unfenced, LibrdkafkaPublisher):
    """See :class:`stream_update.log.unfenced.Unfenced`."""

    def _new_producer(self) -> Any:
        self._heard = Heard()
        return self._connect.producer(self._heard)

    def _commit_offsets(self, member: Any, offsets: Mapping[int, Committed]) -> None:
        try:
            member.commit(offsets)
        except KafkaException as error:
            one = cause(error)
            if one.code() not in STALE_MEMBER and not is_passing(one):
                raise translated(error, "committing the offsets of a checkpoint") from error
            raise NotTaken(one.str()) from error
