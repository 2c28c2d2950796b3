"""What a reader and a member have in common: positions, and the records behind them."""

from __future__ import annotations

import sqlite3
from collections import deque
from typing import Any

from stream_update.errors import LogGap, Overtaken
from stream_update.events import Batch, TopicPartition
from stream_update.log.embedded.batch import RowsBatch
from stream_update.log.embedded.store import Store
from stream_update.log.embedded.topics import Place, topic_deleted

__all__ = ["Reading"]

FIRST_ROWS = 16
ENOUGH_BYTES = 4 * 1024 * 1024

ROWS = """
SELECT id - :base, timestamp, key, value, headers FROM records
WHERE id >= :base + :start AND id < :base + :stop ORDER BY id LIMIT :room
"""


class Reading:
    """Reads partitions from positions; ``positions`` holds the next offset of each."""

    def __init__(self, store: Store) -> None:
        self.positions: dict[TopicPartition, int] = {}
        self._store = store
        self._places: dict[TopicPartition, Place] = {}
        self._turns: deque[TopicPartition] = deque()
        self._read_up: int | None = None

    def add(self, where: TopicPartition, place: Place, position: int) -> None:
        self.drop(where)
        self.positions[where] = position
        self._places[where] = place
        self._turns.append(where)
        self._read_up = None

    def drop(self, where: TopicPartition) -> None:
        if where in self.positions:
            del self.positions[where], self._places[where]
            self._turns.remove(where)

    def clear(self) -> None:
        self.positions.clear()
        self._places.clear()
        self._turns.clear()

    def next(self, max_records: int) -> list[Batch]:
        """What there is now, at most one batch for a partition.

        Partitions take turns at coming first, so that none waits behind a full one.
        """
        version = self._store.version()
        if version == self._read_up or not self._turns:
            return []
        batches: list[Batch] = []
        moved: dict[TopicPartition, int] = {}
        room = max_records
        with self._store.reading() as sql:
            for where in self._turns:
                rows, moved[where] = self._rows(sql, where, room)
                if rows:
                    batches.append(RowsBatch(*where, *zip(*rows, strict=True)))
                    room -= len(rows)
                    if room <= 0:
                        break
        # Only now: after an error further up nothing has been read.
        self.positions |= moved
        for batch in batches:
            where = TopicPartition(batch.topic, batch.partition)
            self._turns.remove(where)
            self._turns.append(where)
        self._read_up = None if batches else version
        return batches

    def _rows(
        self, sql: sqlite3.Connection, where: TopicPartition, room: int
    ) -> tuple[list[Any], int]:
        """Rows of one partition, and the position behind them."""
        place, position = self._places[where], self.positions[where]
        bounds = sql.execute(
            "SELECT first, next FROM partitions WHERE id = ?", (place.id,)
        ).fetchone()
        if bounds is None:
            raise topic_deleted(where.topic)
        first, end = bounds
        if not first <= position <= end:
            raise _gap(where, position, first, end)
        if position == end:
            return [], position
        rows: list[Any] = []
        cursor = sql.execute(
            ROWS, {"base": place.base, "start": position, "stop": end, "room": room}
        )
        size, step = 0, FIRST_ROWS
        while size < ENOUGH_BYTES:
            some = cursor.fetchmany(step)
            rows += some
            if len(some) < step:
                break
            size += sum([len(row[3] or b"") for row in some])
            step *= 2
        # Fewer than there was room for: the rest, up to the end, are holes.
        complete = len(rows) < room and size < ENOUGH_BYTES
        return rows, end if complete else rows[-1][0] + 1


def _gap(where: TopicPartition, position: int, first: int, end: int) -> LogGap:
    message = (
        f"{where.topic}[{where.partition}] has no offset {position}: it holds {first} to {end}"
    )
    if position < first:
        return Overtaken(
            message,
            partition=where.partition,
            wanted=position,
            first=first,
            hint="a deletion overtook it: the records before are gone; decide whether to go on "
            "without them",
        )
    return LogGap(
        message,
        hint="the file was replaced by an older one, or the position is of another log; decide "
        "whether to go on without what is missing",
    )
