"""A topic that gets more partitions while trainers read it; on both logs."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from stream_update.assemble import Trainer
from stream_update.config import load
from stream_update.events import Record
from stream_update.plugins import open_log
from stream_update.proof import verify
from stream_update.topics import create_topics
from tests.kafka_setting import until
from tests.programs import call, configure, elec2


@pytest.mark.parametrize("lanes", ["per-partition", "single"])
def test_new_partitions_are_learned_too(tmp_path: Path, log_url: str, app: str, lanes: str) -> None:
    """By a trainer that runs, and the topic of its snapshots grows with it."""
    path = configure(tmp_path, log_url, app, partitions=2, checkpoint=50, top=f'lanes = "{lanes}"')
    overrides = ["kafka.metadata_max_age_ms=500"] if log_url.startswith("kafka") else []
    config = load(path, overrides)
    events = iter(elec2(1200))
    with open_log(config.log, config.kafka) as log:
        create_topics(config, log)

        def fill(partitions: int) -> None:
            with log.appender() as appender:
                appender.append(
                    Record(f"{app}.labelled", json.dumps(next(events)).encode(), partition=p)
                    for p in range(partitions)
                    for _ in range(100)
                )

        def learned() -> int:
            return sum(slot.lane.learned for slot in [*trainer.worker.slots.values()])

        fill(2)
        report: dict[str, Any] = {}
        trainer = Trainer(config, log)
        thread = threading.Thread(target=lambda: report.update(trainer.run()))
        thread.start()
        try:
            until(lambda: learned() >= 200)
            said, _ = call(
                "topics", "create", "-c", path, "-s", "source.partitions=4", cwd=tmp_path
            )
            assert f"added partitions to {app}.labelled" in said
            fill(4)
            until(lambda: learned() >= 600)
        finally:
            trainer.worker.stop()
            thread.join()
        assert report["learned"] == 600
        ends = {p: at for lane in report["lanes"] for p, at in lane["next"].items()}
        assert ends == {"0": 200, "1": 200, "2": 100, "3": 100}
        again = Trainer(load(path, overrides), log, until_end=True).run()
        assert again["metrics"] == report["metrics"]
        for number in range(4 if lanes == "per-partition" else 1):
            assert {one.ok for one in verify(config, log, number)} == {True}
