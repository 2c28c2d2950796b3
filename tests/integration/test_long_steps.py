"""A step of a network may take longer than the group waits for a sign of life."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any

import pytest

from stream_update import ModelSubscriber
from stream_update.assemble import Trainer, open_log
from stream_update.config import load
from tests.programs import call, configure, elec2, write_jsonl

pytest.importorskip("torch")
pytest.importorskip("safetensors")

PATIENCE_MS = 2_500
NAP_S = 3 * PATIENCE_MS / 1000

SLOW = """
import time
from torch import nn

naps = []

class Slow(nn.Linear):
    def forward(self, inputs):
        if self.training and naps:
            time.sleep(naps.pop())
        return super().forward(inputs)

def build(inputs, outputs):
    return Slow(inputs, outputs)
"""

LEARNER = """
use = "torch"
module = "slownet:build"
optimizer = { use = "adam", lr = 0.01 }
batch = 32
"""


def finished(folder: Path, log_url: str, app: str) -> tuple[dict[str, Any], list[Any]]:
    """What a trainer in this process reports, and what followers then say."""
    if log_url.startswith("kafka"):
        options: dict[str, Any] = {"log": log_url, "extra": f"max_poll_interval_ms = {PATIENCE_MS}"}
    else:
        options = {"log": f"{log_url}&max_poll_interval_ms={PATIENCE_MS}"}
    events = elec2(600)
    config = configure(folder, app=app, learner=LEARNER, checkpoint=200, **options)
    call("produce", write_jsonl(folder / "events.jsonl", events), "-c", config, cwd=folder)
    settings = load(config)
    with open_log(settings) as log:
        report = Trainer(settings, log, until_end=True).run()
        allow = [importlib.import_module("slownet").build]
        with ModelSubscriber(app, log=log, allow=allow) as model:
            model.wait(60)
            said = [model.predict_proba_one(event) for event in events[:20]]
    return report, said


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_step_longer_than_the_groups_patience_loses_nothing(
    tmp_path: Path,
    log_url: str,
    app: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path.cwd()}")
    (tmp_path / "slownet.py").write_text(SLOW)
    naps = importlib.import_module("slownet").naps
    expected, quick = finished(tmp_path, log_url, f"{app}-quick")
    naps += [NAP_S, NAP_S]
    with caplog.at_level(logging.INFO, "stream_update"):
        report, slow = finished(tmp_path, log_url, f"{app}-slow")
    assert naps == []
    assert report["events"] == expected["events"] == 600
    assert report["metrics"] == expected["metrics"]
    assert slow == quick
    begun = [text for text in caplog.messages if "goes on at" in text]
    assert len(begun) == 1, "who was expelled gains its partitions once more"
