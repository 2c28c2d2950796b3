"""Which partition a record goes to, for clients of Kafka."""

from __future__ import annotations

from collections.abc import Callable

from stream_update.errors import ConfigError
from stream_update.events import Record, TopicInfo

__all__ = ["Partitions"]


class Partitions:
    """Gives records their partition: the one they name, by key, or in turn.

    Knows the topics too, because a client waits in silence for one that does not exist.
    """

    def __init__(self, describe: Callable[[str], TopicInfo]) -> None:
        self._describe = describe
        self._topics: dict[str, TopicInfo] = {}
        self._turns: dict[str, int] = {}

    def partition(self, record: Record) -> int | None:
        """The partition, or None: the client's partitioner decides by the key."""
        known = self._topics.get(record.topic)
        if known is None or (record.partition or 0) >= known.partitions:
            known = self._topics[record.topic] = self._describe(record.topic)
        if record.partition is not None:
            if not 0 <= record.partition < known.partitions:
                raise ConfigError(
                    f"topic {record.topic} has no partition {record.partition}: it has "
                    f"{known.partitions}",
                    hint="add partitions to it, or create it anew with as many as are needed",
                )
            return record.partition
        if record.key is not None:
            return None
        turn = self._turns.get(record.topic, -1) + 1
        self._turns[record.topic] = turn
        return turn % known.partitions
