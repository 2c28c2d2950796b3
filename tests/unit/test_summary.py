from __future__ import annotations

from typing import Any

from stream_update.view import summary_lines


def report(**counts: int) -> dict[str, Any]:
    numbers = {"learned": 0, "dead_letters": 0, "unlabelled": 0, "duplicates": 0}
    figures = {"metrics": {}, "baselines": {}, "drifts": [], "snapshots": 1}
    run = {"run_events": 1, "elapsed_s": 1.0, "events_per_s": 1.0}
    return numbers | figures | run | counts


def test_events_of_a_batch_that_is_not_full_are_told_of() -> None:
    first = summary_lines(report(events=100, learned=90, dead_letters=2, unlabelled=3))[0]
    assert first.endswith("3 unlabelled, 5 waiting for a full batch")
    first = summary_lines(report(events=100, learned=96, dead_letters=2, duplicates=2))[0]
    assert "waiting" not in first
