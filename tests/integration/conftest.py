"""Both logs for tests of the whole path, with a name of their own for each test."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def log_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a log."""
    if request.param == "embedded":
        return f"sqlite:///{tmp_path / 'log.db'}?session_timeout_ms=3000"
    return f"kafka://{request.getfixturevalue('kafka_bootstrap')}"


@pytest.fixture
def app() -> str:
    """An application's name, with topics that no other test has."""
    return f"app-{uuid.uuid4().hex[:8]}"
