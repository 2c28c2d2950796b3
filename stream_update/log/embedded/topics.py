"""What the file knows about topics, and the errors for what it does not know."""

from __future__ import annotations

from typing import NamedTuple

from stream_update.errors import ConfigError, LogGap
from stream_update.log.embedded.schema import OFFSET_BITS
from stream_update.log.embedded.store import Store

__all__ = ["Place", "Topic", "no_such_partition", "place_of", "topic_deleted", "topic_of"]


class Topic(NamedTuple):
    """A topic; ``number`` is its own for ever, whatever is created under its name later."""

    number: int
    name: str
    topic_id: str
    partitions: int


class Place(NamedTuple):
    """One partition: its ``id``, the log's first offset in it, and the next to be given."""

    id: int
    first: int
    next: int

    @property
    def base(self) -> int:
        """What is added to an offset to make a record's id."""
        return self.id << OFFSET_BITS


def topic_of(store: Store, name: str) -> Topic:
    """The topic as it is now; raises :class:`ConfigError` if it does not exist."""
    row = store.ask("SELECT number, name, topic_id, partitions FROM topics WHERE name = ?", name)
    if row is None:
        raise ConfigError(
            f"topic {name} does not exist in {store.path}",
            hint="create it with `stream-update topics create`, or correct the name",
        )
    return Topic(*row)


def place_of(store: Store, name: str, partition: int) -> Place:
    """The partition as it is now; raises :class:`ConfigError` if it does not exist."""
    row = store.ask(
        "SELECT id, first, next FROM partitions JOIN topics ON topic = number "
        "WHERE name = ? AND partition = ?",
        name,
        partition,
    )
    if row is None:
        raise no_such_partition(topic_of(store, name), partition)
    return Place(*row)


def no_such_partition(topic: Topic, partition: int) -> ConfigError:
    return ConfigError(
        f"topic {topic.name} has no partition {partition}: it has {topic.partitions}",
        hint="partitions are numbered from 0; their number is fixed when a topic is created",
    )


def topic_deleted(name: str) -> LogGap:
    return LogGap(
        f"topic {name} was deleted while it was read",
        hint="offsets and snapshots of the old topic mean nothing in a new one of its name: "
        "start a new lineage",
    )
