"""A consumer group: who is in it, and who has which partition. All of it is in the file.

A member is alive while its lease runs, which it renews. A partition has an *owner*, who may
commit its offsets, and an *heir*, who should have it. Whoever finds a lease that
has ended removes that member, and works out new heirs. A living owner that is not the
heir any more lets go in its own next poll, and only then the heir takes over. So a
partition never has two owners, and an owner that is alive hears of its loss before
anybody else starts.

The name of a membership is new at every join and is never used again: "the owner is this
membership" is all the fencing there is. ``generation`` counts the changes, and tells a
member whether it has to look.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from stream_update.errors import ConfigError, Refused
from stream_update.events import Committed
from stream_update.log.embedded.sharing import all_to_one, spread
from stream_update.log.embedded.store import Store
from stream_update.log.embedded.topics import Topic, topic_deleted

__all__ = ["Group", "Standing", "committed", "monotonic_ms"]

LAPSED = "NOT (renewed_ms <= ? AND ? < renewed_ms + session_ms)"
"""A lease from the future is one from before the machine was started anew."""


def monotonic_ms() -> int:
    """Milliseconds on a clock that all processes of the machine share and nobody sets."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000_000


def committed(store: Store, group_id: str, topic: Topic) -> dict[int, Committed]:
    """What a group has committed in a topic, by partition."""
    with store.reading() as sql:
        rows = sql.execute(
            "SELECT partition, offset, metadata FROM commits WHERE group_id = ? AND topic = ?",
            (group_id, topic.number),
        )
        return {partition: Committed(offset, text) for partition, offset, text in rows}


class Standing(NamedTuple):
    """A member's place in the group after it looked."""

    member_id: str
    generation: int
    owned: frozenset[int]


class Group:
    """One group on one topic, through one connection."""

    def __init__(
        self, store: Store, group_id: str, topic: Topic, *, single: bool, session_ms: int
    ) -> None:
        self._store = store
        self._group_id = group_id
        self._topic = topic
        self._single = single
        self._session_ms = session_ms
        self._key = (group_id, topic.number)
        self._what = f"the membership of group {group_id}"

    def generation(self) -> int | None:
        """The number of changes so far; None if the group or its topic is gone."""
        row = self._store.ask(
            "SELECT generation FROM groups WHERE group_id = ? AND topic = ?", *self._key
        )
        return None if row is None else int(row[0])

    def settle(self, member_id: str | None, wait_s: float) -> Standing:
        """Renew the lease, let go of what goes elsewhere, and take what is free for us.

        Joins anew under another name if there is no such member (any more). Raises
        :class:`ConfigError` if the others of the group want another division.
        """
        with self._store.writing(self._what, wait_s) as sql:
            now = monotonic_ms()
            changed = self._expel(sql, now)
            changed = self._grown(sql) or changed
            if member_id is None or not self._renew(sql, member_id, now):
                member_id = self._join(sql, now)
                changed = True
            if changed:
                self._choose_heirs(sql)
            moved = sql.execute(
                "UPDATE claims SET owner = NULL "
                "WHERE group_id = ? AND topic = ? AND owner = ? AND heir IS NOT owner",
                (*self._key, member_id),
            ).rowcount
            moved += sql.execute(
                "UPDATE claims SET owner = heir "
                "WHERE group_id = ? AND topic = ? AND heir = ? AND owner IS NULL",
                (*self._key, member_id),
            ).rowcount
            if moved:
                self._count_change(sql)
            owned = sql.execute(
                "SELECT partition FROM claims WHERE group_id = ? AND topic = ? AND owner = ?",
                (*self._key, member_id),
            )
            standing = frozenset(partition for (partition,) in owned)
            generation = self.generation()
        assert generation is not None
        return Standing(member_id, generation, standing)

    def renew(self, member_id: str, wait_s: float) -> None:
        """A sign of life, and a look after the others; an ended lease stays ended."""
        with self._store.writing(self._what, wait_s) as sql:
            now = monotonic_ms()
            if self._expel(sql, now):
                self._choose_heirs(sql)
            self._renew(sql, member_id, now)

    def leave(self, member_id: str, wait_s: float) -> None:
        with self._store.writing(self._what, wait_s) as sql:
            sql.execute("DELETE FROM members WHERE id = ?", (member_id,))
            self._expel(sql, monotonic_ms())
            self._choose_heirs(sql)

    def alive(self, member_id: str) -> bool:
        """Whether this member's lease runs."""
        with self._store.reading() as sql:
            return _alive(sql, member_id)

    def fence(
        self, sql: sqlite3.Connection, member_id: str | None, partitions: Iterable[int]
    ) -> None:
        """Raise :class:`Refused` unless this member is alive and owns all the partitions.

        To be asked inside the transaction that is fenced.
        """
        if member_id is None or not _alive(sql, member_id):
            raise Refused(
                f"group {self._group_id} has gone on without this member: its lease ended"
            )
        for partition in partitions:
            row = sql.execute(
                "SELECT owner FROM claims WHERE group_id = ? AND topic = ? AND partition = ?",
                (*self._key, partition),
            ).fetchone()
            if row is None or row[0] != member_id:
                owner = "nobody" if row is None or row[0] is None else "another member"
                raise Refused(
                    f"{self._topic.name}[{partition}] is not this member's in group "
                    f"{self._group_id}: {owner} has it"
                )

    def commit(self, sql: sqlite3.Connection, offsets: Mapping[int, Committed]) -> None:
        sql.executemany(
            "INSERT OR REPLACE INTO commits VALUES (?, ?, ?, ?, ?)",
            [(*self._key, partition, *at) for partition, at in offsets.items()],
        )

    def committed(self) -> dict[int, Committed]:
        """What is committed, by partition; nobody can change it under an owner's hands."""
        return committed(self._store, self._group_id, self._topic)

    def _grown(self, sql: sqlite3.Connection) -> bool:
        """Whether the topic has partitions that the group has not divided yet."""
        row = sql.execute(
            "SELECT partitions FROM topics WHERE number = ?", (self._topic.number,)
        ).fetchone()
        if row is None or row[0] <= self._topic.partitions:
            return False
        self._topic = self._topic._replace(partitions=row[0])
        self._claim(sql)
        return True

    def _claim(self, sql: sqlite3.Connection) -> None:
        sql.executemany(
            "INSERT OR IGNORE INTO claims (group_id, topic, partition) VALUES (?, ?, ?)",
            [(*self._key, partition) for partition in range(self._topic.partitions)],
        )

    def _join(self, sql: sqlite3.Connection, now: int) -> str:
        others = sql.execute(
            "SELECT 1 FROM members WHERE group_id = ? AND topic = ? AND single <> ?",
            (*self._key, self._single),
        ).fetchone()
        if others is not None:
            ours, theirs = ("single", "per-partition")[:: 1 if self._single else -1]
            raise ConfigError(
                f'group {self._group_id} has members with lanes = "{theirs}", this one has '
                f'lanes = "{ours}"',
                hint="stop the others, or use another group_id",
            )
        if not sql.execute(
            "INSERT OR IGNORE INTO groups (group_id, topic) "
            "SELECT ?, number FROM topics WHERE number = ?",
            self._key,
        ).rowcount:
            self._must_exist(sql)
        self._claim(sql)
        member_id = secrets.token_hex(8)
        sql.execute(
            "INSERT INTO members (id, group_id, topic, single, session_ms, renewed_ms) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (member_id, *self._key, self._single, self._session_ms, now),
        )
        return member_id

    def _must_exist(self, sql: sqlite3.Connection) -> None:
        if (
            sql.execute("SELECT 1 FROM topics WHERE number = ?", (self._topic.number,)).fetchone()
            is None
        ):
            raise topic_deleted(self._topic.name)

    def _renew(self, sql: sqlite3.Connection, member_id: str, now: int) -> bool:
        return bool(
            sql.execute("UPDATE members SET renewed_ms = ? WHERE id = ?", (now, member_id)).rowcount
        )

    def _expel(self, sql: sqlite3.Connection, now: int) -> bool:
        return bool(
            sql.execute(
                f"DELETE FROM members WHERE group_id = ? AND topic = ? AND {LAPSED}",  # noqa: S608
                (*self._key, now, now),
            ).rowcount
        )

    def _choose_heirs(self, sql: sqlite3.Connection) -> None:
        members = [
            member
            for (member,) in sql.execute(
                "SELECT id FROM members WHERE group_id = ? AND topic = ? ORDER BY joined",
                self._key,
            )
        ]
        current = {}
        for partition, owner, heir in sql.execute(
            "SELECT partition, owner, heir FROM claims WHERE group_id = ? AND topic = ?",
            self._key,
        ):
            holder = owner if owner in members else heir
            if holder in members:
                current[partition] = holder
        divide = all_to_one if self._single else spread
        heirs = divide(self._topic.partitions, members, current)
        sql.executemany(
            "UPDATE claims SET heir = ?, "
            "owner = CASE WHEN owner IN (SELECT id FROM members) THEN owner END "
            "WHERE group_id = ? AND topic = ? AND partition = ?",
            [(heirs.get(p), *self._key, p) for p in range(self._topic.partitions)],
        )
        self._count_change(sql)

    def _count_change(self, sql: sqlite3.Connection) -> None:
        sql.execute(
            "UPDATE groups SET generation = generation + 1 WHERE group_id = ? AND topic = ?",
            self._key,
        )


def _alive(sql: sqlite3.Connection, member_id: str) -> bool:
    now = monotonic_ms()
    found = sql.execute(
        f"SELECT 1 FROM members WHERE id = ? AND NOT {LAPSED}",  # noqa: S608
        (member_id, now, now),
    )
    return found.fetchone() is not None
