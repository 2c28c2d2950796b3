from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import broker

ROOT = Path(__file__).parent.parent.parent
TEST = """
def test_with_kafka(kafka_bootstrap):
    raise AssertionError("there is no broker")

def test_without():
    pass
"""


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize(("ci", "status"), [("", 0), ("true", 1)])
def test_a_run_without_a_broker_says_so_at_its_end(
    tmp_path: Path, workers: str, ci: str, status: int
) -> None:
    (tmp_path / "test_one.py").write_text(TEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in {"STREAM_UPDATE_KAFKA", "JAVA_HOME"} and not name.startswith("PYTEST")
    }
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-c", str(tmp_path / "pytest.ini")),
            *("-p", "tests.conftest", "-n", workers, "--import-mode=importlib", str(tmp_path)),
        ],
        cwd=ROOT,
        env={**environment, "PATH": str(tmp_path), "CI": ci},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert run.returncode == status, run.stdout + run.stderr
    assert "1 passed, 1 skipped" in run.stdout
    *_, said, remedy = [
        line for line in run.stdout.splitlines() if "afka" in line or "KAFKA" in line
    ]
    assert "were SKIPPED: no java found" in said
    assert "STREAM_UPDATE_KAFKA=host:port" in remedy
    assert ("counts as failed" in run.stdout) is (ci == "true")


def test_without_maven_the_jars_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAM_UPDATE_KAFKA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(broker.Unavailable, match="install Maven"):
        broker.jars()
    assert not (tmp_path / "home" / "complete").exists()


def test_jars_of_another_version_are_fetched_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAM_UPDATE_KAFKA_HOME", str(tmp_path))
    complete = tmp_path / "complete"
    complete.write_text(broker.POM)
    assert broker.jars() == tmp_path / "libs"
    complete.write_text(broker.POM.replace(broker.VERSION, "0.0.1"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(broker.Unavailable, match="install Maven"):
        broker.jars()


def test_a_java_that_is_too_old_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    java.chmod(0o755)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(broker.Unavailable, match="too old"):
        broker.java()
