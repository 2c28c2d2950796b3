"""What a publisher and an appender have in common: where a record goes, and putting it there."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence

from stream_update.errors import Fatal
from stream_update.events import Record
from stream_update.log.embedded.batch import pack
from stream_update.log.embedded.store import Store
from stream_update.log.embedded.topics import Place, Topic, no_such_partition, topic_of
from stream_update.partitions import partition_for

__all__ = ["Writing"]


class Writing:
    """Gives records their partition (the one they name, by key, or in turn) and their offset."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, Topic] = {}
        self._turns: dict[str, int] = {}

    def check(self, record: Record) -> None:
        """Raise for what cannot be written, such as to a topic that does not exist."""
        _check_content(record)
        known = self._known.get(record.topic)
        if known is None or not _fits(record, known):
            known = self._known[record.topic] = topic_of(self._store, record.topic)
            if not _fits(record, known):
                assert record.partition is not None
                raise no_such_partition(known, record.partition)

    def write(self, sql: sqlite3.Connection, records: Sequence[Record]) -> list[int]:
        """Append the records in the transaction that is open; their offsets."""
        now_ms = time.time_ns() // 1_000_000
        tails: dict[str, list[_Tail]] = {}
        rows, given = [], []
        for record in records:
            topic, value, key, partition, headers, timestamp_ms = record
            _check_content(record)
            if topic not in tails:
                tails[topic] = self._tails(sql, topic)
            ends = tails[topic]
            if partition is None:
                partition = self._choose(topic, key, len(ends))
            elif not 0 <= partition < len(ends):
                raise no_such_partition(topic_of(self._store, topic), partition)
            end = ends[partition]
            offset = end.next
            end.next = offset + 1
            given.append(offset)
            rows.append(
                (
                    end.base + offset,
                    now_ms if timestamp_ms is None else timestamp_ms,
                    key,
                    value,
                    pack(headers),
                )
            )
        sql.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?)", rows)
        sql.executemany(
            "UPDATE partitions SET next = ? WHERE id = ?",
            [(end.next, end.id) for ends in tails.values() for end in ends if end.next > end.start],
        )
        return given

    def _tails(self, sql: sqlite3.Connection, topic: str) -> list[_Tail]:
        places = sql.execute(
            "SELECT id, first, next FROM partitions JOIN topics ON topic = number "
            "WHERE name = ? ORDER BY partition",
            (topic,),
        ).fetchall()
        if not places:
            topic_of(self._store, topic)  # raises: it was there when the record was handed over
        return [_Tail(Place(*place)) for place in places]

    def _choose(self, topic: str, key: bytes | None, partitions: int) -> int:
        if key is not None:
            return partition_for(key, partitions)
        turn = self._turns.get(topic, 0)
        self._turns[topic] = turn + 1
        return turn % partitions


class _Tail:
    """The growing end of a partition."""

    __slots__ = ("base", "id", "next", "start")

    def __init__(self, place: Place) -> None:
        self.id = place.id
        self.base = place.base
        self.start = self.next = place.next


def _check_content(record: Record) -> None:
    if record.value is None and record.key is None:
        raise Fatal(
            f"a record for topic {record.topic} cannot be written: it has neither value nor key",
            hint="a record needs a value or a key",
        )


def _fits(record: Record, topic: Topic) -> bool:
    return record.partition is None or 0 <= record.partition < topic.partitions
