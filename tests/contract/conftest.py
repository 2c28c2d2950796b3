"""Every log, the model of one too; each test with names of its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.stage import Stage


@pytest.fixture(
    params=[
        "embedded",
        "model",
        pytest.param("kafka", marks=pytest.mark.kafka),
        pytest.param("librdkafka", marks=pytest.mark.kafka),
    ]
)
def log_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a log; the scheme ``librdkafka`` is one of these tests."""
    if request.param == "embedded":
        return f"sqlite:///{tmp_path / 'log.db'}?session_timeout_ms=3000"
    if request.param == "model":
        return "model://"
    if request.param == "librdkafka":
        pytest.importorskip("confluent_kafka")
    return f"{request.param}://{request.getfixturevalue('kafka_bootstrap')}"


@pytest.fixture
def stage(log_url: str) -> Iterator[Stage]:
    """A log to play on; everything opened through it is closed in the end."""
    made = Stage(log_url, uuid.uuid4().hex[:8])
    try:
        yield made
    finally:
        made.close()
