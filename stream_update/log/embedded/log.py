"""The log itself: its topics, and the makers of readers, members and writers."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Sequence

from stream_update.errors import ConfigError
from stream_update.events import Committed, TopicInfo, TopicSpec
from stream_update.log.embedded import retention
from stream_update.log.embedded.address import parse
from stream_update.log.embedded.appender import EmbeddedAppender
from stream_update.log.embedded.group import committed
from stream_update.log.embedded.member import EmbeddedMember
from stream_update.log.embedded.publisher import EmbeddedPublisher
from stream_update.log.embedded.reader import EmbeddedReader
from stream_update.log.embedded.store import Store
from stream_update.log.embedded.topics import topic_of
from stream_update.protocols import Closing, Delivery

__all__ = ["EmbeddedLog"]

WAIT_S = 10.0

# Kafka's rule, so that a configuration that works here works there.
NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}")


class EmbeddedLog(Closing):
    """A log in one SQLite file; see :class:`stream_update.protocols.Log`.

    ``url`` is ``sqlite:///path`` for a path relative to the working directory at this
    moment, ``sqlite:////path`` for an absolute one; the folder has to exist, the file
    is made when it is first needed. ``?session_timeout_ms=10000`` and
    ``?max_poll_interval_ms=300000`` mean what Kafka's options of these names mean.

    Topics' ``configs`` and ``replication_factor`` are Kafka's business and change nothing
    here: records stay until :meth:`delete_before`, :meth:`compact` or
    :meth:`delete_topic` removes them.

    Everything it makes has a connection of its own and belongs to one thread at a
    time; the log itself may be used by several. None of it survives a fork.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._address = parse(url)

    def close(self) -> None:
        """Nothing to let go of: connections belong to what was made, and are closed there."""

    def create_topics(self, topics: Sequence[TopicSpec]) -> list[str]:
        for topic in topics:
            if not NAME.fullmatch(topic.name):
                raise ConfigError(
                    f"{topic.name!r} cannot be the name of a topic",
                    hint="1 to 249 of the characters A-Z a-z 0-9 . _ - and not . or .. alone",
                )
            if topic.partitions < 1:
                raise ConfigError(
                    f"topic {topic.name} cannot have {topic.partitions} partitions",
                    hint="at least 1",
                )
        created = []
        with self._store() as store, store.writing("new topics", WAIT_S) as sql:
            for topic in topics:
                added = sql.execute(
                    "INSERT OR IGNORE INTO topics (name, topic_id, partitions) VALUES (?, ?, ?)",
                    (topic.name, str(uuid.uuid4()), topic.partitions),
                )
                if added.rowcount:
                    number = added.lastrowid
                    sql.executemany(
                        "INSERT INTO partitions (topic, partition) VALUES (?, ?)",
                        [(number, partition) for partition in range(topic.partitions)],
                    )
                    created.append(topic.name)
        return created

    def add_partitions(self, topic: str, total: int) -> None:
        with self._store() as store:
            topic_of(store, topic)
            with store.writing(f"partitions of {topic}", WAIT_S) as sql:
                number, partitions = sql.execute(
                    "SELECT number, partitions FROM topics WHERE name = ?", (topic,)
                ).fetchone()
                if partitions >= total:
                    return
                sql.execute("UPDATE topics SET partitions = ? WHERE number = ?", (total, number))
                sql.executemany(
                    "INSERT INTO partitions (topic, partition) VALUES (?, ?)",
                    [(number, partition) for partition in range(partitions, total)],
                )
                # So that every member looks again.
                sql.execute(
                    "UPDATE groups SET generation = generation + 1 WHERE topic = ?", (number,)
                )

    def topics(self) -> dict[str, TopicInfo]:
        with self._store() as store, store.reading() as sql:
            rows = sql.execute("SELECT name, topic_id, partitions FROM topics ORDER BY name")
            return {row[0]: TopicInfo(*row) for row in rows}

    def committed(self, group_id: str, topic: str) -> dict[int, Committed]:
        with self._store() as store:
            return committed(store, group_id, topic_of(store, topic))

    def reader(self) -> EmbeddedReader:
        return EmbeddedReader(self._store())

    def member(self, group_id: str, topic: str, *, single: bool = False) -> EmbeddedMember:
        store = self._store()
        try:
            return EmbeddedMember(
                store, self._address, group_id, topic_of(store, topic), single=single
            )
        except BaseException:
            store.close()
            raise

    def publisher(
        self,
        group_id: str,
        topics: Iterable[str] = (),  # noqa: ARG002 - nothing has to be looked up
        *,
        delivery: Delivery = "exactly-once",  # noqa: ARG002 - it costs nothing here
    ) -> EmbeddedPublisher:
        return EmbeddedPublisher(self._store(), group_id)

    def appender(self) -> EmbeddedAppender:
        return EmbeddedAppender(self._store())

    def delete_before(self, topic: str, partition: int, offset: int) -> int:
        """Let a partition begin at ``offset``; how many records that removed."""
        with self._store() as store:
            return retention.delete_before(store, topic, partition, offset)

    def compact(self, topic: str) -> int:
        """Keep the newest record of each key, and none of a key whose newest has no value.

        Offsets stay, so holes appear. Records without a key stay too. Returns how many
        records were removed. Others may read and write meanwhile.
        """
        with self._store() as store:
            return retention.compact(store, topic)

    def delete_topic(self, name: str) -> None:
        """Remove a topic with its records, and all that groups have noted about it."""
        with self._store() as store:
            retention.delete_topic(store, name)

    def _store(self) -> Store:
        return Store(self._address)
