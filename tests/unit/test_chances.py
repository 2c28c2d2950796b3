"""Probabilities as columns stand for the same mappings."""

from __future__ import annotations

import numpy as np
import pytest

from stream_update.answers import joined
from stream_update.events import Chances, Predictions

COLUMNS = {"no": np.array([0.25, 0.5, 1.0]), "yes": np.array([0.75, 0.5, 0.0])}
ROWS = [{"no": 0.25, "yes": 0.75}, {"no": 0.5, "yes": 0.5}, {"no": 1.0, "yes": 0.0}]


def test_they_are_read_as_a_list_of_mappings_would_be() -> None:
    chances = Chances(COLUMNS)

    assert len(chances) == 3
    assert list(chances) == ROWS
    assert [chances[place] for place in range(3)] == ROWS
    assert chances[-1] == ROWS[-1]
    assert chances == ROWS
    assert chances != [*ROWS[:2], {}]
    assert chances != ROWS[:2]
    assert chances != 1
    assert all(type(value) is float for row in [*chances, chances[0]] for value in row.values())


def test_a_slice_is_columns_again() -> None:
    chances = Chances({"no": [0.25, 0.5, 1.0], "yes": [0.75, 0.5, 0.0]})[1:]

    assert isinstance(chances, Chances)
    assert chances == ROWS[1:]
    assert repr(chances) == "Chances({'no': [0.5, 1.0], 'yes': [0.5, 0.0]})"


def test_answers_with_columns_are_joined_to_those_with_mappings() -> None:
    said = joined([Predictions(["yes", "no"], ROWS[:2]), Predictions(["no"], Chances(COLUMNS)[2:])])

    assert said == Predictions(["yes", "no", "no"], ROWS)


@pytest.mark.parametrize("columns", [{}, {"no": [0.5], "yes": [0.5, 0.5]}])
def test_columns_have_one_length(columns: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError, match="columns of one length"):
        Chances(columns)
