"""Classes that leave a real stream are remembered with replay, and forgotten without."""

from __future__ import annotations

import pytest

from tests.bench.forgetting import LEARNERS, learner, scores, stream


@pytest.mark.parametrize(
    ("name", "gain"), [("torch, MLP 64, batch 8", 0.5), ("river, softmax regression", 0.15)]
)
def test_old_classes_are_remembered(name: str, gain: float) -> None:
    if "torch" in name:
        pytest.importorskip("torch")
        pytest.importorskip("safetensors")
    learned, kept, last = stream(1)
    without, with_replay = (
        scores(learner(LEARNERS[name], wraps, 1), learned, kept, last, 1)
        for wraps in ([], [{"use": "replay", "max_events": 140}])
    )
    assert without.last > 0.8
    assert with_replay.last > 0.8
    assert with_replay.old > without.old + gain
