"""Checkpoints without transactions, with kafka-python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kafka import errors as vendor

from stream_update.events import Committed
from stream_update.log.kafka.publisher import KafkaPublisher
from stream_update.log.unfenced import NotTaken, Unfenced

__all__ = ["UnfencedPublisher"]


class UnfencedPublisher(Unfenced, KafkaPublisher):
    """See :class:`stream_update.log.unfenced.Unfenced`."""

    def _new_producer(self) -> Any:
        return self._connect.producer(enable_idempotence=True, transaction_timeout_ms=None)

    def _commit_offsets(self, member: Any, offsets: Mapping[int, Committed]) -> None:
        try:
            member.commit(offsets)
        except (vendor.CommitFailedError, vendor.RetriableError) as error:
            raise NotTaken(str(error)) from error
