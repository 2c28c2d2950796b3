"""The newest snapshot of a topic that holds other things besides."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from stream_update.events import Record, TopicSpec
from stream_update.log.embedded import EmbeddedLog
from stream_update.restore import newest


def test_whoever_looks_again_and_again_is_told_once_what_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with EmbeddedLog(f"sqlite:///{tmp_path / 'log.db'}") as log:
        log.create_topics([TopicSpec("a.snapshots", 1)])

        def damaged() -> None:
            headers = (("kind", b"manifest"), ("lineage", b"a"), ("format", b"1"))
            with log.appender() as appender:
                appender.append([Record("a.snapshots", b"{", partition=0, headers=headers)])

        def told_of() -> list[str]:
            found = [line for line in caplog.messages if "passed over" in line]
            caplog.clear()
            return found

        damaged()
        told: set[int] = set()
        with log.reader() as reader, caplog.at_level(logging.ERROR):
            assert newest(reader, "a.snapshots", 0, "a", told=told) is None
            assert ["offset 0" in line for line in told_of()] == [True]
            damaged()
            assert newest(reader, "a.snapshots", 0, "a", told=told) is None
            assert ["offset 1" in line for line in told_of()] == [True]
            assert newest(reader, "a.snapshots", 0, "a") is None
            assert len(told_of()) == 2, "somebody else is told of both"
