"""When a model is stale, and when a trainer says that it lives."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from stream_update.cadence import Cadence
from stream_update.freshness import Freshness


def test_the_partition_that_was_silent_for_longest_counts() -> None:
    fresh = Freshness(max_age=10)
    assert fresh.age(5000) == 0
    assert not fresh.why_stale(5000)
    fresh.seen(0, 1000, None, 5000)
    fresh.seen(1, 4000, None, 5000)
    assert fresh.age(6000) == 5
    assert not fresh.why_stale(11_000)
    assert "partition 0" in fresh.why_stale(11_001)
    fresh.seen(0, 11_000, None, 11_000)
    assert not fresh.why_stale(11_001)
    assert "partition 1" in fresh.why_stale(14_001)


def test_a_clock_that_is_ahead_makes_nothing_younger() -> None:
    fresh = Freshness(max_age=10)
    fresh.seen(0, 1_000_000, None, 5000)
    assert fresh.at(0) == 5000
    assert fresh.why_stale(15_001)


def test_what_expires_is_stale_without_a_limit_on_age() -> None:
    assert not Freshness().limited
    fresh = Freshness()
    fresh.seen(0, 1000, 9000, 1000)
    assert fresh.limited
    assert not fresh.why_stale(8999)
    assert "expired" in fresh.why_stale(9000)
    fresh.seen(0, 9000, 18_000, 9000)
    assert not fresh.why_stale(9000)


def test_a_heartbeat_is_due_when_nothing_is_read() -> None:
    cadence = Cadence(10, 5.0, every=2, heartbeat=3.0)
    assert not cadence.due(2.9)
    assert cadence.due(3.0)
    assert cadence.heartbeat_due(3.0)
    cadence.begun(3.0)
    assert not cadence.due(5.9)
    cadence.refused(3.0, begun=True)
    assert cadence.heartbeat_due(3.2), "what was refused is due again"
    cadence.begun(3.2)
    assert not cadence.heartbeat_due(6.1)
    # Heartbeats alone do not bring the next snapshot nearer.
    cadence.begun(6.2)
    assert not cadence.snapshot_due(6.3)
    for _ in range(2):
        cadence.advance(10)
        cadence.begun(6.4)
    assert not cadence.snapshot_due(6.5)
    cadence.advance(10)
    cadence.begun(6.5)
    assert cadence.snapshot_due(6.6)


def test_without_heartbeats_nothing_is_due_when_nothing_is_read() -> None:
    cadence = Cadence(10, 5.0)
    assert not cadence.due(1e9)
    assert not cadence.heartbeat_due(1e9)


@given(
    st.integers(1, 8),
    st.integers(1, 40),
    st.none() | st.integers(1, 40),
    st.lists(st.tuples(st.sampled_from(["read", "begin", "refuse", "wait"]), st.integers(0, 9))),
)
def test_it_is_known_how_long_a_checkpoint_is_away(
    events: int, seconds: int, heartbeat: int | None, acts: list[tuple[str, int]]
) -> None:
    now = 0.0
    cadence = Cadence(events, seconds, heartbeat=heartbeat)
    for act, amount in acts:
        if act == "read":
            cadence.advance(amount)
        elif act == "begin":
            cadence.begun(now)
        elif act == "refuse":
            cadence.refused(now, begun=False)
        else:
            now += amount
        left = cadence.left(now)
        assert cadence.due(now) == (left == 0)
        if left == math.inf:
            assert not cadence.due(1e9)
        else:
            assert cadence.due(now + left + 1e-6)
            assert not left or not cadence.due(now + left - 1e-6)
