"""One connection to the file: its settings, its transactions, and what SQLite says.

With write-ahead logging readers never wait for the writer, and ``synchronous=NORMAL``
is durable against the end of the process at any instant: a committed transaction has
been handed to the operating system, which outlives the process. Only the end of the
machine (power, kernel) can take the last transactions, whole and from the newest
backwards, so what is left is a state that the log once had.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

from stream_update.errors import ConfigError, Doubt, Fatal, StreamUpdateError, Transient
from stream_update.log.embedded.address import Address
from stream_update.log.embedded.schema import prepare
from stream_update.protocols import Closing

__all__ = ["Store", "attempts"]

BUSY_S = 5.0
"""How long a reader waits, which it has to only while the journal is put in order."""

JOURNAL_BYTES = 64 * 1024 * 1024
CREATE_S = 30.0
LONGEST_PAUSE_S = 0.02


def attempts(timeout_s: float) -> Iterator[None]:
    """Once now, and again after 1, 2, 4 ... 20 ms until the time is over."""
    deadline, pause = time.monotonic() + timeout_s, 0.001
    while True:
        yield
        left = deadline - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(pause, left))
        pause = min(2 * pause, LONGEST_PAUSE_S)


class Store(Closing):
    """A connection of its own to the file at ``address``, which is made if it is new.

    Used by one thread at a time. Raises :class:`ConfigError` when it is opened and the
    file cannot be a log.
    """

    def __init__(self, address: Address) -> None:
        self.path = address.path
        if not self.path.parent.is_dir():
            raise ConfigError(
                f"log: there is no folder {self.path.parent} for {self.path.name}",
                hint="create the folder, or correct the path",
            )
        try:
            # Handing the object from one thread to another is the caller's business.
            self.sql = sqlite3.connect(
                self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        try:
            self._prepare()
        except BaseException:
            self.sql.close()
            raise

    def close(self) -> None:
        self.sql.close()

    def _prepare(self) -> None:
        for _ in attempts(CREATE_S):
            try:
                prepare(self.sql, self.path)
                self.sql.execute("PRAGMA synchronous = NORMAL")
                self.sql.execute(f"PRAGMA journal_size_limit = {JOURNAL_BYTES}")
                return
            except sqlite3.Error as error:
                self._roll_back()
                # SQLite does not wait for others while it changes the journal's mode.
                if not _locked(error):
                    raise self._unusable(error) from error
        raise self._locked_out("opening the file", CREATE_S)

    def version(self) -> int:
        """Another number than before if another connection has written since."""
        return int(self.ask("PRAGMA data_version")[0])

    def ask(self, question: str, *values: object) -> Any:
        """The first row of the answer, or None."""
        try:
            return self.sql.execute(question, values).fetchone()
        except sqlite3.Error as error:
            raise self._failed("reading", error) from error

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """All that is read in the block is of one moment."""
        try:
            self.sql.execute("BEGIN")
            yield self.sql
        except sqlite3.Error as error:
            raise self._failed("reading", error) from error
        finally:
            self._roll_back()

    @contextlib.contextmanager
    def writing(self, what: str, wait_s: float) -> Iterator[sqlite3.Connection]:
        """All that is written in the block becomes visible together, or nothing.

        ``what`` is the thing written, for messages. Raises :class:`Transient` if others
        were writing all the time, :class:`Fatal` if the block could not be written, both
        with nothing written, and :class:`Doubt` if the commit itself failed.
        """
        self._begin(what, wait_s)
        try:
            yield self.sql
        except sqlite3.Error as error:
            self._roll_back()
            raise self._failed(f"writing {what}", error) from error
        except BaseException:
            self._roll_back()
            raise
        try:
            self.sql.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise Doubt(
                f"nobody can tell whether {what} was committed to {self.path}: {error}",
                hint="start again: the log knows, and the start asks it",
            ) from error

    def _begin(self, what: str, wait_s: float) -> None:
        # SQLite's own waiting sleeps up to 100 ms at a time, and loses every race against a
        # writer that has only microseconds between its transactions.
        self.sql.execute("PRAGMA busy_timeout = 0")
        try:
            deadline = time.monotonic() + wait_s
            while True:
                try:
                    self.sql.execute("BEGIN IMMEDIATE")
                    return
                except sqlite3.Error as error:
                    if not _locked(error):
                        raise self._failed(f"writing {what}", error) from error
                if time.monotonic() > deadline:
                    raise self._locked_out(f"writing {what}", wait_s)
                # Uneven, so that two who wait do not always meet.
                time.sleep(0.0002 + time.monotonic_ns() % 1_500 / 1e6)
        finally:
            self.sql.execute(f"PRAGMA busy_timeout = {BUSY_S * 1000:.0f}")

    def _roll_back(self) -> None:
        if self.sql.in_transaction:
            # What made it necessary is being raised, and says more.
            with contextlib.suppress(sqlite3.Error):
                self.sql.execute("ROLLBACK")

    def _failed(self, doing: str, error: sqlite3.Error) -> StreamUpdateError:
        if _locked(error):
            return self._locked_out(doing, BUSY_S)
        return Fatal(
            f"{doing} in {self.path} failed, nothing was changed: {error}",
            hint="is the disk full, or the file damaged? "
            f"`sqlite3 {self.path} 'PRAGMA integrity_check'` tells",
        )

    def _locked_out(self, doing: str, waited_s: float) -> Transient:
        return Transient(
            f"{doing}: other processes kept {self.path} locked for {waited_s:.0f} s",
            hint="a process that was stopped (Ctrl-Z, a debugger) in the middle of a write keeps "
            "the lock until it goes on or ends",
        )

    def _unusable(self, error: sqlite3.Error) -> StreamUpdateError:
        return ConfigError(
            f"log: {self.path} cannot be used as a log: {error}",
            hint="name a new file, or one that this package made, in a folder that this user "
            "may write to",
        )


def _locked(error: sqlite3.Error) -> bool:
    # Errors that the Python module found by itself have no code.
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
