"""After a promotion, what is asked about is the lineage that is live, in the live group."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stream_update.assemble import live
from stream_update.config import load
from stream_update.errors import LineageMismatch
from stream_update.events import TopicPartition
from stream_update.exchange import import_snapshot
from stream_update.log.embedded import EmbeddedLog
from stream_update.proof import why
from tests.integration.test_backfill import Setting
from tests.programs import call

EVENTS = 1200


@pytest.fixture
def setting(tmp_path: Path) -> Any:
    """One that a backfill has been promoted in, and that has learned on since."""
    made = Setting(
        tmp_path,
        f"sqlite:///{tmp_path / 'shown.db'}",
        "shown",
        partitions=1,
        extra="[snapshot]\nmax_overhead = 1.0",
    )
    made.produce(EVENTS // 2)
    made.learn()
    made.backfill()
    made.promote(wait_s=0.5)
    made.produce(EVENTS // 2)
    made.learn()
    with made.opened:
        yield made


def test_the_live_lineage_answers(setting: Setting) -> None:
    config = live(setting.config, setting.log)
    for offset in (10, EVENTS // 2 - 1, EVENTS // 2):
        answer = why(config, setting.log, 0, offset)
        assert (answer.fate, answer.proven) == ("learned", True)
    assert why(config, setting.log, 0, 98).fate == "rejected"
    out, _ = call("why", str(EVENTS - 1), "-c", setting.path, "--json", cwd=setting.folder)
    found = json.loads(out)
    assert (found["lineage"], found["fate"], found["proven"]) == ("v2", "learned", True)
    out, _ = call("snapshots", "diff", "1", "2", "-c", setting.path, cwd=setting.folder)
    assert "lineage v2, partition 0: 1 -> 2" in out


def test_its_snapshots_go_out_and_in(setting: Setting) -> None:
    file = setting.folder / "v2.snapshot"
    call("snapshots", "export", "-o", file, "-c", setting.path, cwd=setting.folder)
    assert isinstance(setting.log, EmbeddedLog)
    where = TopicPartition("shown.snapshots", 0)
    with setting.log.reader() as reader:
        end = reader.end_offsets([where])[where]
    setting.log.delete_before(where.topic, 0, end)
    # The backfill's own group has let go of it.
    own = load(setting.path, ["lineage=v2"])
    with pytest.raises(LineageMismatch, match="has been promoted"):
        import_snapshot(own, setting.log, file)
    call("snapshots", "import", file, "-c", setting.path, cwd=setting.folder)
    manifest = setting.newest("v2")
    assert manifest.positions == {0: EVENTS}
    before = len(setting.letters())
    setting.produce(300)
    setting.learn()
    assert setting.newest("v2").positions == {0: EVENTS + 300}
    assert setting.newest("v2").seq > manifest.seq
    letters = setting.letters()
    assert len(letters) == len(set(letters)) == before + 3
    assert live(setting.config, setting.log).lineage_name == "v2"
