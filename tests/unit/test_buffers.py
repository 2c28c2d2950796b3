"""Which events are kept: against what each algorithm promises."""

from __future__ import annotations

import statistics
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_update.wraps.buffers import BUFFERS, ClassBalanced, Recency, Reservoir
from stream_update.wraps.draws import Draws
from tests.streams import through_bytes

PLENTY = 1 << 20


def item(number: int, size: int = 4) -> bytes:
    return number.to_bytes(4, "big").ljust(size, b".")


def numbers(buffer: Any) -> list[int]:
    items = buffer.dump()["items"]
    if isinstance(buffer, ClassBalanced):
        items = [one for _, kept in items for one in kept]
    return sorted(int.from_bytes(one[:4], "big") for one in items)


def test_draws_are_those_of_the_published_generator() -> None:
    # The first numbers of SplitMix64 with seed 1234567, as its reference code prints them.
    draws = Draws(1234567)
    assert [draws._next() for _ in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_draws_go_on_from_their_state_and_are_spread_evenly() -> None:
    draws = Draws(5)
    counts = Counter(draws.below(7) for _ in range(7000))
    assert set(counts) == set(range(7))
    assert all(850 < count < 1150 for count in counts.values())
    again = Draws(draws.state)
    assert [again.below(1000) for _ in range(5)] == [draws.below(1000) for _ in range(5)]
    assert all(0 <= draws.unit() < 1 for _ in range(100))


def test_a_reservoir_keeps_every_event_with_the_same_chance() -> None:
    kept: Counter[int] = Counter()
    for seed in range(2000):
        buffer = Reservoir(10, PLENTY, Draws(seed))
        for number in range(40):
            buffer.add(item(number), None)
        kept.update(numbers(buffer))
    # Each has a chance of 10 in 40: 500 times of 2000, with a deviation of 19.
    assert all(400 < kept[number] < 600 for number in range(40)), kept


def test_recency_halves_the_chance_with_each_seven_tenths_of_the_buffer() -> None:
    kept: Counter[int] = Counter()
    for seed in range(1000):
        buffer = Recency(50, PLENTY, Draws(seed))
        for number in range(300):
            buffer.add(item(number), None)
        kept.update(numbers(buffer))
    newest, older = (
        sum(kept[number] for number in range(start, start + 35)) for start in (265, 230)
    )
    assert kept[299] == 1000
    assert older / newest == pytest.approx(0.5, abs=0.05)


def test_classes_are_balanced_however_rare_or_late_they_are() -> None:
    buffer = ClassBalanced(60, PLENTY, Draws(1))
    labels = ["often"] * 1000 + ["rare"] * 12 + ["often"] * 500 + ["late"] * 300
    for number, label in enumerate(labels):
        buffer.add(item(number), label)
    counts = dict(buffer.counts())
    assert counts == {"rare": 12, "often": 24, "late": 24}
    picked = Counter(
        buffer.pick() in {item(number) for number in range(1000, 1012)} for _ in range(3000)
    )
    assert picked[True] / 3000 == pytest.approx(1 / 3, abs=0.04)


def test_a_full_class_is_sampled_uniformly() -> None:
    means = []
    for seed in range(300):
        buffer = ClassBalanced(20, PLENTY, Draws(seed))
        for number in range(400):
            buffer.add(item(number), number % 2)
        means.append(statistics.mean(numbers(buffer)))
    assert statistics.mean(means) == pytest.approx(199.5, abs=6)


@pytest.mark.parametrize("name", BUFFERS)
def test_an_event_that_is_too_large_is_not_kept_and_costs_no_other_its_place(name: str) -> None:
    buffer = BUFFERS[name](10, 100, Draws(0))
    for number in range(10):
        buffer.add(item(number, 10), "a")
    before = buffer.dump()["items"]
    buffer.add(item(99, 101), "a")
    assert buffer.dump()["items"] == before


@settings(deadline=None)
@given(
    st.sampled_from(sorted(BUFFERS)),
    st.integers(1, 8),
    st.integers(1, 100),
    st.lists(st.tuples(st.integers(4, 60), st.sampled_from("abc")), max_size=60),
    st.integers(0, 60),
    st.integers(0, 2**64 - 1),
)
def test_bounds_hold_and_a_buffer_survives(
    name: str, most: int, most_bytes: int, offered: list[tuple[int, str]], stop: int, seed: int
) -> None:
    buffer = BUFFERS[name](most, most_bytes, Draws(seed))
    other = BUFFERS[name](most, most_bytes, Draws(seed))
    picked: list[list[bytes]] = [[], []]
    for number, (size, label) in enumerate(offered):
        if number == stop:
            draws = Draws(buffer._draws.state)
            tree = through_bytes(buffer.dump())
            buffer = BUFFERS[name](most, most_bytes, draws)
            buffer.load(tree)
        for which, one in enumerate((buffer, other)):
            one.add(item(number, size), label)
            assert len(one) <= most
            assert one.size <= most_bytes
            if len(one):
                picked[which].append(one.pick())
        assert len(numbers(buffer)) == len(buffer)
        if number % 7 == 3 and len(buffer):
            bad = picked[0][-1]
            buffer.discard(bad)
            other.discard(bad)
    assert picked[0] == picked[1]
    assert buffer.dump() == other.dump()
