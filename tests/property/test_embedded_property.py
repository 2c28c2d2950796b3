"""The embedded log against lists and dictionaries that do the same."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stream_update.errors import LogGap, Refused
from stream_update.events import Batch, Committed, Headers, Record, TopicPartition, TopicSpec
from stream_update.log.embedded import EmbeddedLog
from stream_update.log.embedded.address import parse
from stream_update.log.embedded.member import EmbeddedMember
from stream_update.log.embedded.sharing import all_to_one, spread
from stream_update.log.embedded.store import Store
from stream_update.partitions import partition_for

PARTITIONS = 3


class Row(NamedTuple):
    key: bytes | None
    value: bytes | None
    timestamp: int
    headers: Headers


class Log(RuleBasedStateMachine):
    """Appends, reads, deletions and compactions, beside a dictionary for each partition."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.log = EmbeddedLog(f"sqlite:///{self.folder.name}/log.db")
        self.log.create_topics([TopicSpec("other"), TopicSpec("t", PARTITIONS)])
        self.reader = self.log.reader()
        self.following = self.log.reader()
        self.appender = self.log.appender()
        self.model: list[dict[int, Row]] = [{} for _ in range(PARTITIONS)]
        self.first = [0] * PARTITIONS
        self.end = [0] * PARTITIONS
        self.turn = 0
        self.seen: dict[int, int] = dict.fromkeys(range(PARTITIONS), 0)
        self.following.seek(dict.fromkeys(map(self.place, range(PARTITIONS)), 0))

    def teardown(self) -> None:
        for closing in (self.reader, self.following, self.appender):
            closing.close()
        self.folder.cleanup()

    @staticmethod
    def place(partition: int) -> TopicPartition:
        return TopicPartition("t", partition)

    @rule(
        rows=st.lists(
            st.builds(
                Row,
                st.none() | st.sampled_from([b"", b"a", b"b", b"key"]),
                st.none() | st.binary(max_size=5),
                st.integers(0, 20),
                st.lists(st.tuples(st.text(max_size=3), st.binary(max_size=3)), max_size=2),
            ).filter(lambda row: row.key is not None or row.value is not None),
            max_size=8,
        ),
        named=st.none() | st.integers(0, PARTITIONS - 1),
    )
    def append(self, rows: list[Row], named: int | None) -> None:
        for key, value, timestamp, headers in rows:
            self.appender.append([Record("t", value, key, named, headers, timestamp)])
            if named is not None:
                partition = named
            elif key is not None:
                partition = partition_for(key, PARTITIONS)
            else:
                partition = self.turn % PARTITIONS
                self.turn += 1
            self.model[partition][self.end[partition]] = Row(key, value, timestamp, headers)
            self.end[partition] += 1
        self.appender.flush()

    @rule(partition=st.integers(0, PARTITIONS - 1), back=st.integers(0, 5))
    def delete_before(self, partition: int, back: int) -> None:
        offset = max(0, self.end[partition] - back)
        rows = self.model[partition]
        gone = [o for o in rows if o < offset]
        assert self.log.delete_before("t", partition, offset) == len(gone)
        self.first[partition] = max(self.first[partition], offset)
        for o in gone:
            del rows[o]

    @rule()
    def compact(self) -> None:
        removed = 0
        for partition, rows in enumerate(self.model):
            newest = {row.key: offset for offset, row in rows.items()}
            kept = {
                offset: row
                for offset, row in rows.items()
                if row.key is None or (newest[row.key] == offset and row.value is not None)
            }
            removed += len(rows) - len(kept)
            self.model[partition] = kept
        assert self.log.compact("t") == removed

    @rule(
        partition=st.integers(0, PARTITIONS - 1),
        start=st.integers(-1, 30),
        size=st.integers(1, 6),
    )
    def read_all_from(self, partition: int, start: int, size: int) -> None:
        where = self.place(partition)
        self.reader.seek({where: start})
        if not self.first[partition] <= start <= self.end[partition]:
            with pytest.raises(LogGap):
                self.reader.poll(0, size)
            return
        expected = {o: row for o, row in self.model[partition].items() if o >= start}
        found: dict[int, Row] = {}
        while self.reader.position(where) < self.end[partition]:
            batches = self.reader.poll(0, size)
            assert sum(map(len, batches)) <= size
            found |= table(batches)
        assert found == expected
        assert [*found] == sorted(found)

    @rule(size=st.integers(1, 10))
    def follow(self, size: int) -> None:
        """A reader of all partitions that goes on where it was."""
        for partition, offset in self.seen.items():
            if offset < self.first[partition]:
                with pytest.raises(LogGap):
                    self.read_up(size)
                self.seen |= {p: max(o, self.first[p]) for p, o in self.seen.items()}
                self.following.seek({self.place(p): o for p, o in self.seen.items()})
                return
        self.read_up(size)
        for partition, end in enumerate(self.end):
            self.seen[partition] = self.following.position(self.place(partition))
            assert self.seen[partition] == end

    def read_up(self, size: int) -> None:
        while batches := self.following.poll(0, size):
            assert sum(map(len, batches)) <= size
            assert len({batch.partition for batch in batches}) == len(batches)
            for batch in batches:
                for offset, row in table([batch]).items():
                    assert offset >= self.seen[batch.partition]
                    assert self.model[batch.partition][offset] == row

    @rule(partition=st.integers(0, PARTITIONS - 1), time=st.integers(-1, 21))
    def find_time(self, partition: int, time: int) -> None:
        where = self.place(partition)
        later = [o for o, row in self.model[partition].items() if row.timestamp >= time]
        expected = min(later, default=None)
        assert self.reader.offsets_for_times({where: time}) == {where: expected}

    @invariant()
    def bounds(self) -> None:
        places = [*map(self.place, range(PARTITIONS))]
        assert [*self.reader.beginning_offsets(places).values()] == self.first
        assert [*self.reader.end_offsets(places).values()] == self.end


def table(batches: Sequence[Batch]) -> dict[int, Row]:
    return {
        offset: Row(key, value, timestamp, [*headers])
        for batch in batches
        for offset, value, key, timestamp, headers in zip(
            batch.offsets, batch.values, batch.keys, batch.timestamps, batch.headers, strict=True
        )
    }


class Player:
    """A member, and what it believes."""

    def __init__(self, member: EmbeddedMember) -> None:
        self.member = member
        self.owned: set[int] = set()
        self.lapsed = False

    def poll(self) -> None:
        poll = self.member.poll(0)
        assert set(poll.lost) <= self.owned
        if self.lapsed:
            assert set(poll.lost) == self.owned, "it hears of everything at once"
        self.owned -= set(poll.lost)
        assert not self.owned & set(poll.gained)
        self.owned |= set(poll.gained)
        self.lapsed = False


class Group(RuleBasedStateMachine):
    """Members that come, go, fall silent, poll and publish in any order."""

    single = False
    players: list[Player]

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.log = EmbeddedLog(f"sqlite:///{self.folder.name}/log.db")
        self.log.create_topics([TopicSpec("t", PARTITIONS), TopicSpec("out")])
        self.publisher = self.log.publisher("g")
        self.observer = self.log.member("g", "t", single=self.single)
        self.players = []
        self.committed: dict[int, Committed | None] = dict.fromkeys(range(PARTITIONS))
        self.published = 0

    def teardown(self) -> None:
        for _ in range(3):
            for player in self.players:
                player.poll()
        sizes = [len(player.owned) for player in self.players]
        if self.players:
            assert sum(sizes) == PARTITIONS
            assert self.single or max(sizes) - min(sizes) <= 1
            assert not self.single or max(sizes) == PARTITIONS
        for player in self.players:
            player.member.close()
        self.observer.close()
        self.publisher.close()
        self.folder.cleanup()

    @precondition(lambda self: len(self.players) < 4)
    @rule()
    def join(self) -> None:
        self.players.append(Player(self.log.member("g", "t", single=self.single)))

    @precondition(lambda self: self.players)
    @rule(data=st.data(), count=st.integers(1, 4))
    def poll(self, data: st.DataObject, count: int) -> None:
        for _ in range(count):
            data.draw(st.sampled_from(self.players)).poll()

    @precondition(lambda self: self.players)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        player = data.draw(st.sampled_from(self.players))
        self.players.remove(player)
        player.member.close()

    @precondition(lambda self: self.players)
    @rule(data=st.data())
    def fall_silent(self, data: st.DataObject) -> None:
        """As if its lease had ended while the process stood still."""
        player = data.draw(st.sampled_from(self.players))
        standing = player.member._standing
        if standing is None:
            return
        with Store(parse(self.log.url)) as store, store.writing("silence", 5) as sql:
            sql.execute(
                "UPDATE members SET renewed_ms = renewed_ms - 1000000 WHERE id = ?",
                (standing.member_id,),
            )
        player.member._heartbeat.renewed_ms -= 1_000_000
        player.lapsed = True

    @precondition(lambda self: self.players)
    @rule(data=st.data(), partitions=st.sets(st.integers(0, PARTITIONS - 1), min_size=1))
    def publish(self, data: st.DataObject, partitions: set[int]) -> None:
        player = data.draw(st.sampled_from(self.players))
        self.published += 1
        value = b"%d" % self.published
        offsets = {partition: Committed(self.published, "note") for partition in partitions}
        if partitions <= player.owned and not player.lapsed:
            self.publisher.publish([Record("out", value)], offsets, player.member)
            self.committed |= offsets
            assert self.last_value() == value
        else:
            with pytest.raises(Refused):
                self.publisher.publish([Record("out", value)], offsets, player.member)
            assert self.last_value() != value

    def last_value(self) -> bytes | None:
        where = TopicPartition("out", 0)
        with self.log.reader() as reader:
            reader.seek({where: max(0, reader.end_offsets([where])[where] - 1)})
            return next((batch.values[-1] for batch in reader.poll(0)), None)

    @invariant()
    def nobody_shares(self) -> None:
        living = [p for player in self.players if not player.lapsed for p in player.owned]
        assert len(living) == len(set(living))

    @invariant()
    def what_is_committed_is_seen_by_all(self) -> None:
        for member in (self.observer, *(player.member for player in self.players)):
            assert member.committed(range(PARTITIONS)) == self.committed


class SingleOwner(Group):
    single = True


TestLog = Log.TestCase
TestGroup = Group.TestCase
TestSingleOwner = SingleOwner.TestCase
TestLog.settings = TestGroup.settings = TestSingleOwner.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None
)


# -- who gets which partition

MEMBERS = st.lists(st.sampled_from("abcdefgh"), unique=True)


@st.composite
def divisions(draw: st.DrawFn) -> tuple[int, list[str], dict[int, str]]:
    partitions = draw(st.integers(1, 20))
    current = draw(st.dictionaries(st.integers(0, partitions - 1), st.sampled_from("abcdefgh")))
    return partitions, draw(MEMBERS), current


@given(divisions())
def test_shares_are_even_and_as_little_as_possible_moves(
    division: tuple[int, list[str], dict[int, str]],
) -> None:
    partitions, members, current = division
    given_to = spread(partitions, members, current)
    if not members:
        assert given_to == {}
        return
    assert sorted(given_to) == [*range(partitions)]
    sizes = [list(given_to.values()).count(member) for member in members]
    assert max(sizes) - min(sizes) <= 1
    kept = sum(given_to[p] == member for p, member in current.items() if member in members)
    held = sorted((list(current.values()).count(member) for member in members), reverse=True)
    shares = sorted(sizes, reverse=True)
    assert kept == sum(map(min, held, shares)), "no even division keeps more"
    assert spread(partitions, members, given_to) == given_to


@given(divisions())
def test_a_single_owner_is_whoever_has_most(
    division: tuple[int, list[str], dict[int, str]],
) -> None:
    partitions, members, current = division
    owners = set(all_to_one(partitions, members, current).values())
    assert len(owners) == min(len(members), 1)
    for owner in owners:
        counts = [list(current.values()).count(member) for member in members]
        assert list(current.values()).count(owner) == max(counts)
