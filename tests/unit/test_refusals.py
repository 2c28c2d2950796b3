"""What is refused is counted, and logged without flooding."""

from __future__ import annotations

import pytest

from stream_update.refusals import Refusal, Refusals


def test_a_flood_is_counted_and_not_all_of_it_logged(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals("s")
    assert not refusals
    for offset in range(100):
        refusals.add(0, Refusal("unsigned", "it is not signed", offset))
    refusals.add(1, Refusal("rollback", "snapshot 1", 100))
    assert refusals.counts == {"unsigned": 100, "rollback": 1}
    assert str(refusals) == "rollback 1, unsigned 100"
    logged = [record.getMessage() for record in caplog.records]
    assert len([line for line in logged if "unsigned" in line]) == 7
    assert "s[1] offset 100: refused, the current model stays: rollback" in logged[-1]
