"""When a network grows, and to what: needs no torch."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_update.components import steps_of, with_steps
from stream_update.errors import ConfigError, LineageMismatch
from stream_update.learners.torch.growth import Growth, grow_of
from tests.streams import through_bytes

WIDEN = {"after": 100, "widen": 16}
DEEPEN = {"after": 200, "deepen": True}
FLAT = {"plateau": 64, "min_delta": 0.1, "widen": 32, "layer": 0}


def growth(*tables: dict[str, Any], since: float = 0) -> Growth:
    return Growth(grow_of(tables), since)


def feed(made: Growth, losses: list[float], events: int = 32) -> list[int]:
    """After how many events which steps are taken."""
    taken = []
    for loss in losses:
        made.observe(events, loss)
        while (step := made.due()) is not None:
            made.take(step)
            taken.append(made.events)
    return taken


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"widen": 8}, "either after or plateau"),
        ({"after": 1, "plateau": 1, "widen": 8}, "either after or plateau"),
        ({"after": 0, "widen": 8}, "learner.grow.after: 0 is no number of events"),
        ({"after": True, "widen": 8}, "True is no number of events"),
        ({"plateau": 1.5, "widen": 8}, "1.5 is no number of events"),
        ({"after": 1}, "either widen or deepen"),
        ({"after": 1, "widen": 8, "deepen": 1}, "either widen or deepen"),
        ({"after": 1, "widen": 0}, "learner.grow.widen: 0 is not accepted"),
        ({"after": 1, "widen": 1 << 20}, "learner.grow.widen"),
        ({"after": 1, "deepen": -1}, "learner.grow.deepen: -1 is not accepted"),
        ({"after": 1, "deepen": 1, "layer": 0}, "learner.grow.layer"),
        ({"after": 1, "widen": 8, "layer": -1}, "learner.grow.layer: -1"),
        ({"after": 1, "widen": 8, "min_delta": 0.1}, "learner.grow.min_delta"),
        ({"plateau": 1, "widen": 8, "min_delta": math.nan}, "learner.grow.min_delta"),
        ({"after": 1, "wider": 8}, "did you mean widen"),
    ],
)
def test_what_no_step_can_be_is_refused(table: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        grow_of([table])


def test_steps_are_a_list_in_their_order() -> None:
    with pytest.raises(ConfigError, match=r"each written \[\[learner.grow\]\]"):
        grow_of(WIDEN)
    with pytest.raises(ConfigError, match="after = 100 stands behind after = 200"):
        grow_of([DEEPEN, FLAT, WIDEN])


def test_sizes() -> None:
    wide, one, deep = grow_of([{"after": 1, "widen": 8}, {"after": 1, "widen": 8, "layer": 1},
                               {"after": 1, "deepen": 2}])  # fmt: skip
    assert wide.sizes([4, 8]) == [8, 8]
    assert one.sizes([4, 5]) == [4, 8]
    assert deep.sizes([4, 5]) == [4, 5, 5, 5]
    for step, sizes in ((wide, [4, 9]), (wide, [8, 8]), (one, [4, 8]), (one, [4])):
        with pytest.raises(ConfigError, match=r"learner\.grow: "):
            step.sizes(sizes)


def test_a_step_is_taken_at_the_end_of_the_batch_in_which_it_is_due() -> None:
    assert feed(growth(WIDEN, DEEPEN), [1.0] * 10) == [128, 224]
    assert feed(growth(WIDEN, {**DEEPEN, "after": 100}), [1.0] * 10) == [128, 128]


def test_a_plateau_is_where_a_stretch_is_no_better_than_the_one_before() -> None:
    losses = [3.0, 3.0, 2.0, 2.0, 1.95, 1.95, 1.0, 1.0]
    assert feed(growth(FLAT), losses) == [192]
    assert feed(growth({**FLAT, "min_delta": 0.0}), losses) == []
    assert feed(growth({**FLAT, "min_delta": 0.0}), [1.0] * 4) == [128]
    assert feed(growth({"plateau": 40, "widen": 8}), [1.0] * 4) == [128]
    assert feed(growth(FLAT, {**FLAT, "widen": 64}), [1.0] * 9) == [128, 256]
    assert feed(growth(WIDEN, FLAT), [1.0] * 9) == [128, 256]
    assert feed(growth(FLAT, since=100), [1.0] * 9) == [256]


def test_a_loss_that_is_none_counts_for_nothing() -> None:
    assert feed(growth(FLAT), [1.0, math.nan, 1.0, math.inf, 1.0, 1.0]) == [192]


@given(
    losses=st.lists(st.floats(0, 4, width=16), min_size=1, max_size=40),
    cut=st.integers(0, 40),
    size=st.sampled_from([1, 16, 32, 100]),
)
def test_it_goes_on_as_if_nobody_had_cut_it(losses: list[float], cut: int, size: int) -> None:
    tables = (FLAT, {**FLAT, "widen": 64}, {"after": 700, "deepen": 2}, {**FLAT, "widen": 65})
    whole, first, rest = growth(*tables), growth(*tables), growth(*tables)
    taken = feed(whole, losses, size)
    before = feed(first, losses[:cut], size)
    tree = through_bytes({"growth": first.dump()})["growth"]
    rest.load(tree, first.events)
    assert rest.dump() == first.dump()
    assert before + feed(rest, losses[cut:], size) == taken
    assert rest.dump() == whole.dump()


def test_steps_may_be_added_and_those_ahead_changed() -> None:
    one = growth(WIDEN)
    feed(one, [1.0] * 10)
    longer = growth(WIDEN, {**WIDEN, "widen": 20}, FLAT)
    longer.load(one.dump(), one.events)
    # It has been due for long: at the end of the next batch.
    assert feed(longer, [1.0]) == [352]
    feed(longer, [1.0] * 3)
    other = growth(WIDEN, {**WIDEN, "widen": 20}, {**FLAT, "widen": 40})
    other.load(longer.dump(), longer.events)
    # What was seen for a step that is gone says nothing of this one.
    assert feed(other, [1.0] * 4) == [other.events]
    same = growth(WIDEN, {**WIDEN, "widen": 20}, FLAT)
    same.load(longer.dump(), longer.events)
    assert feed(same, [1.0] * 4) == [other.events - 96]


@pytest.mark.parametrize("tables", [[], [DEEPEN], [{**WIDEN, "widen": 17}], [FLAT, WIDEN]])
def test_steps_that_were_taken_are_the_first_ones(tables: list[dict[str, Any]]) -> None:
    one = growth(WIDEN)
    feed(one, [1.0] * 10)
    with pytest.raises(LineageMismatch, match=r"it has taken the step .*'widen': 16"):
        growth(*tables).load(one.dump(), one.events)


def test_an_option_of_ones_own_that_is_called_grow_is_no_step() -> None:
    steps = [WIDEN, DEEPEN]
    learner = {
        "use": "ensemble",
        "members": [{"factory": "mine:make", "grow": 3}, {"use": "torch", "grow": steps}],
    }
    assert steps_of(learner) == {"learner.members[1]": steps}
    assert steps_of({"factory": "mine:make", "grow": True}) == {}
    without = with_steps(learner, {})
    assert without["members"] == [{"factory": "mine:make", "grow": 3}, {"use": "torch"}]
    assert with_steps(without, steps_of(learner)) == learner
