"""Removing what is not needed any more. Nothing here happens by itself."""

from __future__ import annotations

from stream_update.log.embedded.schema import OFFSET_BITS
from stream_update.log.embedded.store import Store
from stream_update.log.embedded.topics import Place, place_of, topic_of

__all__ = ["compact", "delete_before", "delete_topic"]

ROWS_AT_ONCE = 2000
"""So that nobody who waits to write waits for long."""

WAIT_S = 60.0


def delete_before(store: Store, topic: str, partition: int, offset: int) -> int:
    """Let the partition begin at ``offset``; how many records that removed."""
    with store.writing(f"the new beginning of {topic}[{partition}]", WAIT_S) as sql:
        place = place_of(store, topic, partition)
        if offset > place.next:
            raise ValueError(f"{topic}[{partition}] ends at {place.next}, before {offset}")
        if offset <= place.first:
            return 0
        sql.execute("UPDATE partitions SET first = ? WHERE id = ?", (offset, place.id))
        return sql.execute(
            "DELETE FROM records WHERE id >= ? AND id < ?", (place.base, place.base + offset)
        ).rowcount


def compact(store: Store, topic: str) -> int:
    """Keep the newest record of each key only, and none of a key whose newest has no value.

    Offsets stay, so holes appear. Records without a key stay as well. Returns how many
    records were removed. In memory: one entry for each key of one partition.
    """
    partitions = topic_of(store, topic).partitions
    places = [place_of(store, topic, partition) for partition in range(partitions)]
    return sum(_compact(store, topic, place) for place in places)


def _compact(store: Store, topic: str, place: Place) -> int:
    newest: dict[bytes, int] = {}
    removable: list[int] = []
    with store.reading() as sql:
        tombstones = set()
        for number, key, empty in sql.execute(
            "SELECT id, key, value IS NULL FROM records "
            "WHERE id >= ? AND id < ? AND key IS NOT NULL ORDER BY id",
            (place.base, place.base + place.next),
        ):
            if key in newest:
                removable.append(newest[key])
            newest[key] = number
            if empty:
                tombstones.add(number)
    removable += tombstones & set(newest.values())
    # In this order an old value is gone before the tombstone that hides it, so breaking
    # off anywhere brings nothing back.
    removable.sort()
    for start in range(0, len(removable), ROWS_AT_ONCE):
        with store.writing(f"the compaction of {topic}", WAIT_S) as sql:
            sql.executemany(
                "DELETE FROM records WHERE id = ?",
                [(number,) for number in removable[start : start + ROWS_AT_ONCE]],
            )
    return len(removable)


def delete_topic(store: Store, name: str) -> None:
    """Remove a topic with its records, and all that groups have noted about it."""
    number = topic_of(store, name).number
    with store.writing(f"the deletion of {name}", WAIT_S) as sql:
        for (partition,) in sql.execute(
            "SELECT id FROM partitions WHERE topic = ?", (number,)
        ).fetchall():
            start = partition << OFFSET_BITS
            sql.execute(
                "DELETE FROM records WHERE id >= ? AND id < ?",
                (start, start + (1 << OFFSET_BITS)),
            )
        for table in ("partitions", "commits", "claims", "members", "groups"):
            sql.execute(f"DELETE FROM {table} WHERE topic = ?", (number,))  # noqa: S608
        sql.execute("DELETE FROM topics WHERE number = ?", (number,))
