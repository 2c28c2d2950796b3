"""The tables, and making sure that a file has them.

A record's ``id`` is its partition's ``id`` shifted left by 40 bits, plus its offset: one
number says where it stands, and records of a partition lie side by side in their order.
Ids of partitions are never used again, so a position in a topic that was deleted can
not point into the topic that was created in its place.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from stream_update.errors import ConfigError

__all__ = ["OFFSET_BITS", "prepare"]

APPLICATION = 0x53557064
"""``PRAGMA application_id`` of our files."""

VERSION = 1
"""``PRAGMA user_version``: of these tables."""

OFFSET_BITS = 40

TABLES = """
CREATE TABLE topics (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    topic_id TEXT NOT NULL,
    partitions INTEGER NOT NULL
);
CREATE TABLE partitions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    topic INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    first INTEGER NOT NULL DEFAULT 0,
    next INTEGER NOT NULL DEFAULT 0,
    UNIQUE (topic, partition)
);
CREATE TABLE records (
    id INTEGER PRIMARY KEY,
    timestamp INTEGER NOT NULL,
    key BLOB,
    value BLOB,
    headers BLOB
);
CREATE TABLE commits (
    group_id TEXT NOT NULL,
    topic INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    metadata TEXT NOT NULL,
    PRIMARY KEY (group_id, topic, partition)
) WITHOUT ROWID;
CREATE TABLE groups (
    group_id TEXT NOT NULL,
    topic INTEGER NOT NULL,
    generation INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (group_id, topic)
) WITHOUT ROWID;
CREATE TABLE members (
    joined INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    group_id TEXT NOT NULL,
    topic INTEGER NOT NULL,
    single INTEGER NOT NULL,
    session_ms INTEGER NOT NULL,
    renewed_ms INTEGER NOT NULL
);
CREATE TABLE claims (
    group_id TEXT NOT NULL,
    topic INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    owner TEXT,
    heir TEXT,
    PRIMARY KEY (group_id, topic, partition)
) WITHOUT ROWID;
"""


def prepare(sql: sqlite3.Connection, path: Path) -> None:
    """Create the tables in a new file; raises :class:`ConfigError` for one of another kind.

    Any number of processes may do this to the same new file at once. Raises
    :class:`sqlite3.Error` as SQLite does.
    """
    if _is_new(sql, path):
        mode = sql.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise ConfigError(
                f"log: SQLite cannot keep a write-ahead log beside {path}",
                hint="put the file on a local disk",
            )
        sql.execute("BEGIN IMMEDIATE")
        if _is_new(sql, path):
            for table in TABLES.split(";"):
                sql.execute(table)
            sql.execute(f"PRAGMA application_id = {APPLICATION}")
            sql.execute(f"PRAGMA user_version = {VERSION}")
        sql.execute("COMMIT")


def _is_new(sql: sqlite3.Connection, path: Path) -> bool:
    """Whether the file has no tables yet; :class:`ConfigError` if it has others than ours.

    One statement, so that another process cannot create the tables half-way through it.
    """
    application, version, tables = sql.execute(
        "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master) "
        "FROM pragma_application_id, pragma_user_version"
    ).fetchone()
    if application == APPLICATION and version == VERSION:
        return False
    if application == APPLICATION:
        raise ConfigError(
            f"log: {path} was made by another version of this package: its tables are of "
            f"version {version}, this one knows version {VERSION}",
            hint="use the version that made it, or another file",
        )
    if application or version or tables:
        raise ConfigError(
            f"log: {path} is the database of another program", hint="name another file"
        )
    return True
