from __future__ import annotations

import pytest

from stream_update.errors import ConfigError
from stream_update.events import Committed
from tests.contract.seats import Place, settle, until
from tests.contract.stage import Stage


def test_one_member_has_everything_paused_until_it_says_where(stage: Stage) -> None:
    stage.create(source=2)
    stage.fill(10, partitions=2)
    with stage.log.member(stage.group, stage.source) as member:
        assert not member.stable()
        gained: list[int] = []

        def joined() -> bool:
            poll = member.poll(0.1)
            assert not poll.batches
            gained.extend(poll.gained)
            return len(gained) == 2 and member.stable()

        until(joined)
        read: dict[int, list[int]] = {0: [], 1: []}

        def read_to_end(partition: int) -> bool:
            for batch in member.poll(0.1).batches:
                read[batch.partition] += batch.offsets
            return member.position(partition) == 10

        member.resume_at(1, 4)
        assert member.position(1) == 4
        until(lambda: read_to_end(1))
        assert read == {0: [], 1: [*range(4, 10)]}
        with pytest.raises(ValueError, match="does not flow"):
            member.position(0)
        member.resume_at(0, 9)
        until(lambda: read_to_end(0))
        # One that flows can be set back.
        member.resume_at(1, 8)
        until(lambda: read_to_end(1))
        assert read == {0: [9], 1: [*range(4, 10), 8, 9]}
        with pytest.raises(ValueError, match="not assigned"):
            member.resume_at(2, 0)


def test_two_members_share_and_a_third_takes_only_what_it_gets(stage: Stage) -> None:
    stage.create(source=6)
    stage.fill(10, partitions=6)
    first, second, third = stage.seat(), stage.seat(), stage.seat()
    settle([first], 6)
    settle([first, second], 3, 3)
    assert len(first.lost) == 3
    before = [set(first.owned), set(second.owned)]
    lost = [len(first.lost), len(second.lost)]
    settle([first, second, third], 2, 2, 2)
    moved = {*first.lost[lost[0] :], *second.lost[lost[1] :]}
    assert moved == third.owned
    assert [first.owned, second.owned] == [owned - moved for owned in before]


def test_who_leaves_gives_its_partitions_to_the_rest(stage: Stage) -> None:
    stage.create(source=4)
    first, second, third = stage.seat(), stage.seat(), stage.seat()
    settle([first, second, third], 2, 1, 1)
    kept = [set(first.owned), set(second.owned)]
    third.close()
    settle([first, second], 2, 2)
    assert all(owned <= seat.owned for owned, seat in zip(kept, (first, second), strict=True))
    second.close()
    settle([first], 4)


def test_more_members_than_partitions_leaves_some_without(stage: Stage) -> None:
    stage.create(source=1)
    stage.fill(10)
    first, second = stage.seat(), stage.seat()
    settle([first], 1)
    settle([first, second], 1, 0)
    assert first.lost == []
    assert first.commit({0: 3}) == ""
    # A position can be asked for wherever the partition is.
    assert second.member.committed([0]) == {0: Committed(3)}
    first.close()
    settle([second], 1)


def test_nothing_is_read_twice_or_left_out_while_members_come_and_go(stage: Stage) -> None:
    stage.create(source=4)
    stage.fill(200, partitions=4)
    learned: dict[int, list[int]] = {partition: [] for partition in range(4)}
    seats = [stage.seat()]

    def turn() -> bool:
        for seat in seats:
            seat.poll()
            fresh = {p: [o for q, o in seat.read if q == p] for p in seat.owned}
            positions = {p: offsets[-1] + 1 for p, offsets in fresh.items() if offsets}
            if positions and not seat.commit(positions):
                for partition in positions:
                    learned[partition] += fresh[partition]
                seat.read.clear()
            # What could not be committed, or was of a partition that went, is void.
            seat.read = [(p, o) for p, o in seat.read if p in seat.owned]
        return all(offsets and offsets[-1] == goal for offsets in learned.values())

    for goal, change in ((199, "join"), (399, "join"), (599, "leave"), (799, "none")):
        until(turn, f"{[len(offsets) for offsets in learned.values()]}")
        assert all(offsets == [*range(goal + 1)] for offsets in learned.values())
        if change == "join":
            seats.append(stage.seat())
        if change == "leave":
            seats.pop(0).close()
        if change != "none":
            stage.fill(200, partitions=4)


def test_a_member_of_another_division_is_turned_away(stage: Stage) -> None:
    stage.create(source=2)
    spread = stage.seat()
    settle([spread], 2)
    with (
        stage.log.member(stage.group, stage.source, single=True) as single,
        pytest.raises(ConfigError) as error,
    ):
        until(lambda: single.poll(0.1).gained)
    assert "group_id" in error.value.hint
    settle([spread], 2)


# -- single: one owner, the others stand by


def test_a_single_owner_keeps_everything_while_others_join(stage: Stage) -> None:
    stage.create(source=3)
    stage.fill(5, partitions=3)
    first, second, third = (stage.seat(single=True) for _ in range(3))
    settle([first], 3)
    settle([first, second, third], 3, 0, 0)
    assert first.owned == {0, 1, 2}
    assert first.lost == []
    assert second.read == third.read == []
    assert first.commit({0: 1, 1: 2, 2: 3}, [(stage.output, "x")]) == ""
    assert second.commit({0: 9}, [(stage.output, "refused")])
    assert third.member.committed(range(3)) == {p: Committed(p + 1) for p in range(3)}
    third.close()
    settle([first, second], 3, 0)
    assert first.lost == []


def test_a_standby_takes_over_from_an_owner_that_leaves(stage: Stage) -> None:
    stage.create(source=3)
    stage.fill(5, partitions=3)
    seats = [stage.seat(single=True) for _ in range(3)]
    settle(seats, 3, 0, 0)
    (owner,) = (seat for seat in seats if seat.owned)
    assert owner.commit(dict.fromkeys(range(3), 4)) == ""
    owner.close()
    rest: list[Place] = [seat for seat in seats if seat is not owner]
    settle(rest, 3, 0)
    (heir,) = (seat for seat in rest if seat.owned)
    until(lambda: heir.has_read(3))
    assert sorted(heir.read) == [(p, 4) for p in range(3)]
    assert heir.commit(dict.fromkeys(range(3), 5)) == ""
