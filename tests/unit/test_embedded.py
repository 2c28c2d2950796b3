"""What the embedded log does beyond the contract of both logs (``tests/contract``)."""

from __future__ import annotations

import contextlib
import gc
import itertools
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from stream_update.errors import ConfigError, Doubt, Fatal, LogGap, Refused, Transient
from stream_update.events import Committed, Record, TopicPartition, TopicSpec
from stream_update.log.embedded import EmbeddedLog, retention
from stream_update.log.embedded import member as member_module
from stream_update.log.embedded import publisher as publisher_module
from stream_update.log.embedded.address import Address, parse
from stream_update.log.embedded.group import monotonic_ms
from stream_update.log.embedded.member import EmbeddedMember
from stream_update.log.embedded.publisher import EmbeddedPublisher
from stream_update.log.embedded.store import Store, attempts

T = TopicPartition("t", 0)


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def log(path: Path) -> EmbeddedLog:
    """A log with topic ``t`` of two partitions and ``out`` of one."""
    made = EmbeddedLog(f"sqlite:///{path}")
    made.create_topics([TopicSpec("t", 2), TopicSpec("out")])
    return made


def append(log: EmbeddedLog, *records: Record) -> None:
    with log.appender() as appender:
        appender.append(records)
        appender.flush()


def rows(log: EmbeddedLog, where: TopicPartition = T) -> list[tuple[int, bytes | None]]:
    """(offset, value) of all records of a partition."""
    with log.reader() as reader:
        reader.seek(reader.beginning_offsets([where]))
        found: list[tuple[int, bytes | None]] = []
        while reader.position(where) < reader.end_offsets([where])[where]:
            for batch in reader.poll(0):
                found += zip(batch.offsets, batch.values, strict=True)
        return found


def keyed(*pairs: tuple[bytes | None, bytes | None]) -> list[Record]:
    return [Record("t", value, key, 0) for key, value in pairs]


# -- the address, and the file behind it


def test_a_relative_path_is_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    log = EmbeddedLog("sqlite:///sub.db")
    monkeypatch.chdir("/")
    log.create_topics([TopicSpec("t")])
    assert (tmp_path / "sub.db").exists()
    assert parse(f"sqlite:///{tmp_path}/x.db").path == tmp_path / "x.db"


def test_options_stand_behind_the_path() -> None:
    assert parse("sqlite:////x.db") == Address(Path("/x.db"), 10_000, 300_000)
    url = "sqlite:////x.db?session_timeout_ms=500&max_poll_interval_ms=2000"
    assert parse(url) == Address(Path("/x.db"), 500, 2_000)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://x.db",
        "sqlite:x.db",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///folder/",
        "kafka://x:1",
        "sqlite:///x.db?session_timeout=500",
        "sqlite:///x.db?session_timeout_ms=soon",
        "sqlite:///x.db?session_timeout_ms=5",
        "sqlite:///x.db?session_timeout_ms",
    ],
)
def test_an_address_that_cannot_work_is_a_config_error_with_a_way_out(url: str) -> None:
    with pytest.raises(ConfigError) as error:
        EmbeddedLog(url)
    assert error.value.hint


def test_nothing_is_made_before_it_is_needed(path: Path) -> None:
    with EmbeddedLog(f"sqlite:///{path}") as log:
        assert not path.exists()
        assert log.topics() == {}
    assert path.exists()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no folder .*/missing for x\.db"):
        EmbeddedLog(f"sqlite:///{tmp_path}/missing/x.db").topics()


def test_a_folder_or_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.mkdir()
    with pytest.raises(ConfigError, match="cannot be used as a log"):
        EmbeddedLog(f"sqlite:///{path}").topics()
    path.rmdir()
    path.write_bytes(b"a,b,c\n" * 1000)
    with pytest.raises(ConfigError, match="not a database"):
        EmbeddedLog(f"sqlite:///{path}").topics()
    assert path.read_bytes() == b"a,b,c\n" * 1000


def test_the_database_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE mine (x)")
    other.commit()
    other.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="another program"):
        EmbeddedLog(f"sqlite:///{path}").topics()
    assert path.read_bytes() == before


def test_a_file_of_another_version_is_refused(log: EmbeddedLog, path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(ConfigError, match="version 99, this one knows version 1"):
        log.topics()


def test_a_damaged_file_is_fatal_and_says_how_to_find_out(log: EmbeddedLog, path: Path) -> None:
    append(log, *[Record("t", b"x" * 1000, partition=0) for _ in range(100)])
    with path.open("r+b") as file:
        file.seek(4096 * 20)
        file.write(b"\xff" * 4096 * 5)
    with pytest.raises(Fatal, match="malformed") as error:
        rows(log)
    assert "integrity_check" in error.value.hint


OPEN_AT_ONCE = """
import sys
from stream_update.events import Record, TopicSpec
from stream_update.log.embedded import EmbeddedLog
url, name = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
log = EmbeddedLog(url)
log.create_topics([TopicSpec("t"), TopicSpec(name)])
with log.appender() as appender:
    appender.append(Record("t", name.encode(), name.encode(), 0) for _ in range(10))
    appender.flush()
"""


def test_many_processes_may_open_the_same_new_file_at_once(path: Path) -> None:
    names = [f"p{i}" for i in range(6)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN_AT_ONCE, f"sqlite:///{path}", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for name in names
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    log = EmbeddedLog(f"sqlite:///{path}")
    assert set(log.topics()) == {"t", *names}
    values = [value for _, value in rows(log)]
    assert sorted(map(bytes, filter(None, values))) == sorted(n.encode() for n in names * 10)


def test_threads_may_share_the_log_and_hand_over_what_it_made(log: EmbeddedLog) -> None:
    append(log, *keyed((b"a", b"1")))
    reader, found = log.reader(), list[object]()

    def read() -> None:
        reader.seek({T: 0})
        found.extend(reader.poll(5))
        found.append(log.topics())

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    reader.close()
    assert len(found) == 2


# -- retention and compaction


def test_what_is_deleted_is_gone_and_offsets_stay(log: EmbeddedLog) -> None:
    append(log, *[Record("t", b"%d" % i, partition=i % 2) for i in range(10)])
    assert log.delete_before("t", 0, 3) == 3
    assert rows(log) == [(3, b"6"), (4, b"8")]
    assert log.delete_before("t", 0, 2) == 0
    assert log.delete_before("t", 0, 5) == 2
    append(log, Record("t", b"next", partition=0))
    assert rows(log) == [(5, b"next")]
    assert len(rows(log, TopicPartition("t", 1))) == 5
    with pytest.raises(ValueError, match="ends at 6, before 7"):
        log.delete_before("t", 0, 7)
    with pytest.raises(ConfigError, match="no partition 2"):
        log.delete_before("t", 2, 0)


def test_compaction_keeps_the_newest_of_each_key(log: EmbeddedLog) -> None:
    append(log, *keyed((b"a", b"1"), (None, b"n"), (b"b", b"2"), (b"a", b"3"), (b"", b"4")))
    append(log, Record("t", b"elsewhere", b"a", 1))
    assert log.compact("t") == 1
    assert rows(log) == [(1, b"n"), (2, b"2"), (3, b"3"), (4, b"4")]
    append(log, *keyed((b"b", None), (b"a", b"5")))
    assert log.compact("t") == 3
    assert rows(log) == [(1, b"n"), (4, b"4"), (6, b"5")]
    assert rows(log, TopicPartition("t", 1)) == [(0, b"elsewhere")]
    append(log, *keyed((b"a", None)))
    assert log.compact("t") == 2
    with log.reader() as reader:
        reader.seek({T: 5})
        assert reader.poll(0) == []
        assert reader.position(T) == 8, "over the hole at the end"
        assert reader.beginning_offsets([T]) == {T: 0}


@pytest.mark.parametrize("done", range(4))
def test_a_compaction_that_breaks_off_brings_nothing_back(
    log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    append(log, *keyed((b"a", b"1"), (b"b", b"2"), (b"a", b"3"), (b"a", None)))
    monkeypatch.setattr(retention, "ROWS_AT_ONCE", 1)
    writing, calls = Store.writing, itertools.count()

    def breaking_off(store: Store, what: str, wait_s: float) -> Any:
        if next(calls) == done:
            raise Transient("locked")
        return writing(store, what, wait_s)

    monkeypatch.setattr(Store, "writing", breaking_off)
    with contextlib.suppress(Transient):
        log.compact("t")
    left = rows(log)
    assert len(left) == 4 - done
    assert left[-1] in {(3, None), (1, b"2")}, "no old value of the key without its tombstone"


def test_a_deleted_topic_is_gone_with_all_that_groups_knew(log: EmbeddedLog, path: Path) -> None:
    append(log, *keyed((b"a", b"1"), (b"b", b"2")))
    with log.member("g", "t") as member, log.publisher("g") as publisher:
        assert member.poll(5).gained == [0, 1]
        publisher.publish([Record("out", b"x")], {0: Committed(1)}, member)
        log.delete_topic("t")
        with pytest.raises(Refused):
            publisher.publish([Record("out", b"y")], {0: Committed(2)}, member)
        with pytest.raises(LogGap, match="topic t was deleted"):
            member.poll(5)
    with pytest.raises(ConfigError, match="topic t does not exist"):
        log.delete_topic("t")
    with sqlite3.connect(path) as sql:
        for table in ("commits", "groups", "members", "claims"):
            count = f"SELECT count(*) FROM {table}"  # noqa: S608
            assert sql.execute(count).fetchone() == (0,)
        assert sql.execute("SELECT count(*) FROM records").fetchone() == (1,)
    sql.close()


def test_large_records_do_not_all_come_at_once(log: EmbeddedLog) -> None:
    append(log, *[Record("t", bytes(900_000), partition=0) for _ in range(40)])
    with log.reader() as reader:
        reader.seek({T: 0})
        sizes = []
        while reader.position(T) < 40:
            sizes.append(sum(map(len, reader.poll(5))))
    assert sum(sizes) == 40
    assert max(sizes) < 40


def test_a_gap_in_one_partition_loses_nothing_of_another(log: EmbeddedLog) -> None:
    append(log, *[Record("t", b"%d" % i, partition=i % 2) for i in range(10)])
    log.delete_before("t", 1, 2)
    first, second = TopicPartition("t", 0), TopicPartition("t", 1)
    with log.reader() as reader:
        reader.seek({first: 0, second: 0})
        with pytest.raises(LogGap, match=r"t\[1\] has no offset 0: it holds 2 to 5"):
            reader.poll(0)
        assert reader.position(first) == 0


def test_partitions_take_turns_at_coming_first(log: EmbeddedLog) -> None:
    append(log, *[Record("t", b"x", partition=i % 2) for i in range(40)])
    with log.reader() as reader:
        reader.seek({TopicPartition("t", 0): 0, TopicPartition("t", 1): 0})
        order = [[batch.partition for batch in reader.poll(5, 5)] for _ in range(4)]
    assert order == [[0], [1], [0], [1]]


# -- groups


def joined(log: EmbeddedLog, **options: bool) -> EmbeddedMember:
    member = log.member("g", "t", **options)
    assert member.poll(5).gained
    return member


def gather(member: EmbeddedMember, what: Literal["gained", "lost"], count: int) -> list[int]:
    """Poll until so many partitions have been gained, or lost."""
    found: list[int] = []

    def enough() -> bool:
        found.extend(getattr(member.poll(0.05), what))
        return len(found) >= count

    until(enough)
    return sorted(found)


def with_timeouts(log: EmbeddedLog, session_ms: int, poll_ms: int = 300_000) -> EmbeddedLog:
    return EmbeddedLog(f"{log.url}?session_timeout_ms={session_ms}&max_poll_interval_ms={poll_ms}")


def test_a_member_that_is_busy_keeps_its_partitions(log: EmbeddedLog) -> None:
    patient = with_timeouts(log, 1_500)
    with joined(patient) as busy, patient.member("g", "t") as other:
        other.poll(0)
        busy_until = time.monotonic() + 4
        until(lambda: other.poll(0.1).gained or time.monotonic() > busy_until)
        assert busy.stable()
        assert busy.poll(0).lost == [1], "only what the other shall have, and only now"


def test_a_long_step_costs_nothing_if_it_is_said_to_be_one(log: EmbeddedLog) -> None:
    strict = with_timeouts(log, 600, 300)
    with joined(strict) as member, strict.publisher("g") as publisher:
        with member.busy(), log.member("g", "t") as other:
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                assert not other.poll(0.1).gained
            other.close()
        publisher.publish([], {0: Committed(1)}, member)
        assert not member.poll(0).lost


def test_a_member_that_does_not_poll_for_too_long_is_expelled(log: EmbeddedLog) -> None:
    strict = with_timeouts(log, 600, 300)
    with joined(strict) as stuck, log.member("g", "t") as other, log.publisher("g") as publisher:
        assert gather(other, "gained", 2) == [0, 1]
        assert not stuck.stable()
        with pytest.raises(Refused, match="gone on without"):
            publisher.publish([], {0: Committed(1)}, stuck)
        poll = stuck.poll(0)
        assert sorted(poll.lost) == [0, 1]


def test_a_member_that_is_dropped_without_a_word_ends_its_lease(log: EmbeddedLog) -> None:
    short = with_timeouts(log, 600)
    member = joined(short)
    thread, store = member._heartbeat, member._store
    del member
    gc.collect()
    until(lambda: not thread.is_alive())
    store.close()
    with log.member("g", "t") as other:
        assert gather(other, "gained", 2) == [0, 1]


def test_a_lease_from_before_the_machine_was_started_anew_has_ended(
    log: EmbeddedLog, path: Path
) -> None:
    with joined(log) as former, log.member("g", "t") as other:
        with sqlite3.connect(path) as sql:
            sql.execute("UPDATE members SET renewed_ms = ?", (monotonic_ms() + 10**9,))
        sql.close()
        assert other.poll(5).gained == [0, 1]
        assert not former.stable()


def test_the_dead_are_found_by_those_who_are_busy(log: EmbeddedLog, path: Path) -> None:
    with joined(log) as busy, log.member("g", "t") as dead:
        dead.poll(0)
        assert busy.poll(0).lost == [1]
        assert dead.poll(5).gained == [1]
        with sqlite3.connect(path) as sql:
            assert dead._standing is not None
            sql.execute(
                "UPDATE members SET renewed_ms = 0 WHERE id = ?", (dead._standing.member_id,)
            )
        sql.close()
        busy._heartbeat.renewed_ms = 0
        busy._heartbeat._beat()
        assert busy.poll(0).gained == [1]


def test_a_partition_stays_with_a_living_owner_until_that_has_seen_it(log: EmbeddedLog) -> None:
    with joined(log) as first, log.member("g", "t") as second, log.publisher("g") as publisher:
        assert not second.poll(0.1).gained
        # Still the owner of all: a last checkpoint is possible.
        publisher.publish([], {0: Committed(1), 1: Committed(1)}, first)
        assert first.poll(0).lost == [1]
        with pytest.raises(Refused, match=r"t\[1\].*nobody has it"):
            publisher.publish([], {1: Committed(2)}, first)
        assert second.poll(5).gained == [1]
        with pytest.raises(Refused, match=r"t\[1\].*another member has it"):
            publisher.publish([], {1: Committed(2)}, first)
        publisher.publish([], {0: Committed(2)}, first)


def test_polls_go_on_while_somebody_writes_and_end_with_the_lease(
    log: EmbeddedLog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member_module, "WAIT_S", 0.02)
    append(log, *keyed((b"a", b"1")))
    with joined(with_timeouts(log, 1_000)) as member, Store(parse(log.url)) as store:
        member.resume_at(0, 0)
        with store.writing("nothing", 5):
            assert [*member.poll(5).batches[0].values] == [b"1"]
            assert gather(member, "lost", 2) == [0, 1]
            assert not member.stable()
            with pytest.raises(ValueError, match="not assigned"):
                member.position(0)
        assert member.poll(5).gained == [0, 1]
        assert member.stable()


def test_lanes_of_different_kinds_do_not_mix(log: EmbeddedLog) -> None:
    with (
        joined(log, single=True),
        log.member("g", "t") as other,
        pytest.raises(ConfigError, match='"single", this one has lanes = "per-partition"'),
    ):
        other.poll(5)


# -- checkpoints and doubt


@pytest.fixture
def publishing(log: EmbeddedLog) -> Iterator[tuple[EmbeddedPublisher, EmbeddedMember]]:
    with joined(log) as member, log.publisher("g") as publisher:
        yield publisher, member


Publishing = tuple[EmbeddedPublisher, EmbeddedMember]


def test_a_lock_that_is_held_for_too_long_is_a_refusal(
    log: EmbeddedLog, publishing: Publishing, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher, member = publishing
    monkeypatch.setattr(publisher_module, "WAIT_S", 0.05)
    with (
        Store(parse(log.url)) as store,
        store.writing("nothing", 5),
        pytest.raises(Refused, match="locked"),
    ):
        publisher.publish([Record("out", b"x")], {0: Committed(1)}, member)
    assert publisher.publish([Record("out", b"y")], {0: Committed(1)}, member) == [0]


class Failing:
    """A connection whose commit fails, before or after it has done its work."""

    def __init__(self, sql: sqlite3.Connection, *, after: bool) -> None:
        self._sql = sql
        self._after = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sql, name)

    def execute(self, statement: str, *values: Any) -> Any:
        if statement == "COMMIT":
            if self._after:
                self._sql.execute(statement)
            raise sqlite3.OperationalError("disk I/O error")
        return self._sql.execute(statement, *values)


@pytest.mark.parametrize("after", [False, True])
def test_a_commit_that_fails_is_doubt_and_stays_doubt(
    log: EmbeddedLog, publishing: Publishing, after: bool
) -> None:
    publisher, member = publishing
    real = publisher._store.sql
    publisher._store.sql = Failing(real, after=after)  # type: ignore[assignment]
    with pytest.raises(Doubt, match="a checkpoint of group g was committed"):
        publisher.publish([Record("out", b"x")], {0: Committed(1)}, member)
    publisher._store.sql = real
    with pytest.raises(Doubt):
        publisher.publish([Record("out", b"y")], {0: Committed(2)}, member)
    # The log knows.
    out = TopicPartition("out", 0)
    assert rows(log, out) == ([(0, b"x")] if after else [])
    assert member.committed([0]) == {0: Committed(1) if after else None}


def test_a_value_that_is_no_bytes_takes_its_whole_checkpoint_with_it(
    log: EmbeddedLog, publishing: Publishing
) -> None:
    publisher, member = publishing
    records = [Record("out", b"x"), Record("out", object())]  # type: ignore[arg-type]
    with pytest.raises(Fatal, match="nothing was changed"):
        publisher.publish(records, {0: Committed(1)}, member)
    assert rows(log, TopicPartition("out", 0)) == []
    assert publisher.publish([Record("out", b"y")], {0: Committed(1)}, member) == [0]


def test_an_appender_keeps_what_it_could_not_write_yet(
    log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_update.log.embedded.appender.WAIT_S", 0.05)
    with log.appender() as appender, Store(parse(log.url)) as store:
        appender.append(keyed((b"a", b"1"), (b"a", b"2")))
        with store.writing("nothing", 5), pytest.raises(Transient, match="2 records"):
            appender.flush()
        appender.flush()
        appender.flush()
    assert rows(log) == [(0, b"1"), (1, b"2")]


def test_attempts_are_made_at_least_once_and_end() -> None:
    assert len([*attempts(0)]) == 1
    assert len([*attempts(-1)]) == 1
    assert len([*itertools.islice(attempts(60), 3)]) == 3
