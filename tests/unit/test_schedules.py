from __future__ import annotations

import math
from typing import Any

import pytest

pytest.importorskip("torch")

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
