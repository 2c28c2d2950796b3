"""Processes that end or stand still without a word."""

from __future__ import annotations

import pytest

from stream_update.events import Committed
from tests.contract.seats import settle, until
from tests.contract.stage import Stage

pytestmark = [pytest.mark.fault, pytest.mark.slow]


def test_the_partitions_of_a_killed_process_go_to_the_living(stage: Stage) -> None:
    stage.create(source=4)
    stage.fill(10, partitions=4)
    here, there = stage.seat(), stage.remote()
    settle([here, there], 2, 2)
    kept, orphaned = set(here.owned), set(there.owned)
    assert there.commit(dict.fromkeys(orphaned, 7)) == ""
    there.kill()
    until(lambda: here.has_read(20))
    here.read.clear()
    settle([here], 4)
    assert kept | orphaned == here.owned
    until(lambda: here.has_read(6))
    assert sorted(here.read) == [(p, offset) for p in sorted(orphaned) for offset in (7, 8, 9)]


def test_a_standby_takes_over_from_an_owner_that_was_killed(stage: Stage) -> None:
    stage.create(source=3)
    stage.fill(10, partitions=3)
    owner, standby = stage.remote(single=True), stage.seat(single=True)
    settle([owner], 3)
    settle([owner, standby], 3, 0)
    assert owner.commit({0: 5, 1: 6, 2: 7}, [(stage.output, "last words")]) == ""
    owner.kill()
    settle([standby], 3)
    assert standby.member.committed(range(3)) == {p: Committed(5 + p) for p in range(3)}
    assert standby.commit({0: 8}, [(stage.output, "first words")]) == ""
    assert stage.wait_for(2, stage.output) == [b"last words", b"first words"]


@pytest.mark.parametrize("single", [False, True])
def test_a_process_that_stood_still_is_refused_and_learns_its_loss(
    stage: Stage, single: bool
) -> None:
    stage.create(source=2)
    stage.fill(10, partitions=2)
    zombie, other = stage.remote(single=single), stage.seat(single=single)
    settle([zombie], 2)
    settle([zombie, other], *((2, 0) if single else (1, 1)))
    had = set(zombie.owned)
    first = min(had)
    assert zombie.commit({first: 3}, [(stage.output, "before")]) == ""
    zombie.lost.clear()
    zombie.freeze()
    settle([other], 2)
    assert other.commit({first: 4}, [(stage.output, "meanwhile")]) == ""
    zombie.thaw()
    assert zombie.commit({first: 9}, [(stage.output, "zombie")])
    assert other.member.committed([first]) == {first: Committed(4)}
    # Its next polls tell it that everything is gone; then it is a member like any other.
    until(lambda: zombie.has_lost(had))
    settle([zombie, other], *((2, 0) if single else (1, 1)))
    owner = zombie if first in zombie.owned else other
    assert owner.commit({first: 5}, [(stage.output, "after")]) == ""
    assert stage.wait_for(3, stage.output) == [b"before", b"meanwhile", b"after"]


def test_a_process_that_stood_still_alone_learns_its_loss_too(stage: Stage) -> None:
    stage.create(source=2)
    alone, watcher = stage.remote(), stage.seat()
    settle([alone], 2)
    alone.freeze()
    settle([watcher], 2)
    watcher.close()
    alone.thaw()
    until(lambda: alone.has_lost({0, 1}))
    settle([alone], 2)
    assert alone.commit({0: 1, 1: 1}) == ""
