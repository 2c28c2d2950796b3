from __future__ import annotations

import math
from typing import Any

import pytest

pytest.importorskip("torch")

from stream_update.errors import ConfigError
from stream_update.learners.torch.schedules import Schedule

EXPECTED: list[tuple[Any, dict[int, float]]] = [
    ("constant", {0: 1.0, 10**9: 1.0}),
    ({"use": "constant", "warmup": 3}, {0: 0.25, 1: 0.5, 2: 0.75, 3: 1.0, 99: 1.0}),
    ({"use": "linear", "steps": 4}, {0: 1.0, 1: 0.75, 4: 0.0, 9: 0.0}),
    ({"use": "linear", "steps": 4, "last": 0.5, "warmup": 1}, {0: 0.5, 1: 1.0, 3: 0.75, 9: 0.5}),
    ({"use": "cosine", "steps": 4, "last": 0.2}, {0: 1.0, 2: 0.6, 4: 0.2, 9: 0.2}),
    ({"use": "exponential", "half_life": 3, "last": 0.1}, {0: 1.0, 3: 0.5, 6: 0.25, 99: 0.1}),
    ({"use": "inverse-sqrt", "steps": 2}, {0: 1.0, 6: 0.5, 10**9: math.sqrt(2 / (10**9 + 2))}),
]


@pytest.mark.parametrize(("table", "factors"), EXPECTED, ids=lambda value: str(value)[:40])
def test_factors_by_the_number_of_the_step(table: Any, factors: dict[int, float]) -> None:
    schedule = Schedule(table)
    # Asked in whatever order: nothing is remembered.
    for step in (*factors, *reversed(factors)):
        assert schedule.factor(step) == pytest.approx(factors[step], rel=1e-12)


@pytest.mark.parametrize(
    ("table", "message", "hint"),
    [
        ({"use": "cosin"}, "there is no 'cosin'", "cosine"),
        (
            {"use": "cosine", "steps": 9, "warmupp": 2},
            "learner.schedule.warmupp: .*did you mean warmup",
            "it accepts: steps, last, warmup",
        ),
        ({"use": "cosine"}, "cosine needs steps", "steps = 10000"),
        ({"use": "exponential"}, "exponential needs half_life", "half_life = 10000"),
        ({"use": "linear", "steps": 9, "last": 2}, "schedule.last: 2 is no number from 0 to 1", ""),
        ({"use": "linear", "steps": "9"}, "schedule.steps: '9' is no number of 0 or more", ""),
    ],
)
def test_a_wrong_option_is_named_with_what_is_accepted(
    table: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Schedule(table)
    assert hint in (caught.value.hint or "")
