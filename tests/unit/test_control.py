"""What stands on APP.control and is no decision: passed over, whoever reads it goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stream_update.control import Control, Pointer, Stretch, control_record
from stream_update.events import Record, TopicSpec
from stream_update.log.embedded import EmbeddedLog

POINTER: dict[str, Any] = {
    "app": "a", "name": "a", "lineage": "v2", "previous": "a", "number": 7,
    "learned": {0: 5}, "promoted_ms": 0,
}  # fmt: skip
STRETCH: dict[str, Any] = {
    "app": "a", "name": "v2", "since": "beginning", "until": "end",
    "start": {0: 0}, "ends": {0: 5}, "created_ms": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"current/a", b"\x80\x04pickle"),
        (b"current/a", b"[" * 200_000),
        (b"current/a", b'{"learned":' + b'{"a":' * 200_000),
        (b"current/a", json.dumps({**POINTER, "app": "b"}).encode()),
        (b"current/b", json.dumps(POINTER).encode()),
        (b"current/a", json.dumps({**POINTER, "lineage": "../x\n"}).encode()),
        (b"current/a", json.dumps({**POINTER, "lineage": ""}).encode()),
        (b"current/a", json.dumps({**POINTER, "number": -1}).encode()),
        (b"current/a", json.dumps({**POINTER, "learned": {"x": 5}}).encode()),
        (b"\xff", json.dumps(POINTER).encode()),
        (b"backfill/v2", json.dumps({**STRETCH, "start": {"x": 0}}).encode()),
        (b"backfill/v2", json.dumps({**STRETCH, "start": {"1": 0}}).encode()),
        (b"backfill/v2", json.dumps({**STRETCH, "start": {}, "ends": {}}).encode()),
        (b"backfill/v2", json.dumps({**STRETCH, "start": {"0": -5}}).encode()),
        (b"backfill/v2", json.dumps({**STRETCH, "ends": {"0": 10**30}}).encode()),
    ],
)
def test_what_is_no_decision_is_passed_over(
    key: bytes, value: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with EmbeddedLog(f"sqlite:///{tmp_path / 'log.db'}") as log:
        log.create_topics([TopicSpec("a.control", 1)])
        genuine = [control_record(Stretch(**STRETCH), "a.control")]
        genuine.append(control_record(Pointer(**POINTER), "a.control"))
        with log.appender() as appender:
            appender.append([Record("a.control", value, key=key, partition=0), *genuine])
        with Control(log, "a.control", "a") as control:
            assert control.current("a") == "v2"
            assert control.pointers == {"a": Pointer(**POINTER)}
            assert control.stretches == {"v2": Stretch(**STRETCH)}
    assert "a.control[0] offset 0 is passed over" in caplog.text


def test_of_two_promotions_at_one_moment_the_one_that_compaction_keeps_counts(
    tmp_path: Path,
) -> None:
    with EmbeddedLog(f"sqlite:///{tmp_path / 'log.db'}") as log:
        log.create_topics([TopicSpec("a.control", 1)])
        numbers = {"v2": 7, "v3": 7, "v1": 6}
        with log.appender() as appender:
            for lineage, number in numbers.items():
                pointer = Pointer(**{**POINTER, "lineage": lineage, "number": number})
                appender.append([control_record(pointer, "a.control")])
        with Control(log, "a.control", "a") as control:
            assert control.current("a") == "v3"
