"""Several trainers as one command, on both logs."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.programs import call, configure, start
from tests.warm import Started

pytestmark = pytest.mark.slow

ROWS = 4000
PATIENCE_S = 60.0


CHATTY = """
from river import linear_model
print("made by a module that says so")
def make():
    return linear_model.LogisticRegression()
"""


def prepare(folder: Path, log: str, app: str, **options: Any) -> Path:
    """An application of two partitions with all of its events."""
    config = configure(folder, log, app, partitions=2, **options)
    call("produce", "elec2", "-c", config, "--limit", str(ROWS), cwd=folder)
    return config


def started(config: Path, *options: str) -> Started:
    return start("run", "-c", config, "--processes", "2", "--json", *options, cwd=config.parent)


def read_until(process: Started, pattern: str, times: int = 1) -> list[str]:
    """What the lines say that match, when so many have come."""
    assert process.stderr is not None
    found: list[str] = []
    lines: list[str] = []
    deadline = time.monotonic() + PATIENCE_S
    for line in process.stderr:
        lines.append(line)
        found += re.findall(pattern, line)
        if len(found) >= times:
            return found
        assert time.monotonic() < deadline, "".join(lines)
    raise AssertionError("".join(lines))


def ended(process: Started, code: int = 0) -> dict[str, Any]:
    out, err = process.communicate(timeout=100)
    assert process.returncode == code, err
    report: dict[str, Any] = json.loads(out) if out else {}
    return report


def lives(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    return True


def test_to_the_end_with_one_killed_on_the_way(tmp_path: Path, log_url: str, app: str) -> None:
    config = prepare(tmp_path, log_url, app, checkpoint=100)
    process = started(config, "--until-end")
    pids = read_until(process, r"process \d of 2 has pid (\d+)", 2)
    read_until(process, r"\[\d\] .* checkpoint: ")
    os.kill(int(pids[0]), signal.SIGKILL)
    together = ended(process)
    assert together["events"] == together["learned"] == ROWS
    assert sorted(lane["partition"] for lane in together["lanes"]) == [0, 1]
    alone = ended(start("run", "-c", config, "--until-end", "--json", cwd=tmp_path))
    assert alone["run_events"] == 0
    for key in ("events", "metrics", "rolling", "baselines", "drifts", "snapshots"):
        assert together[key] == alone[key]
    call("snapshots", "verify", "-c", config, cwd=tmp_path)


def test_all_are_drained_by_one_signal(tmp_path: Path, log_url: str, app: str) -> None:
    config = prepare(tmp_path, log_url, app)
    process = started(config)
    read_until(process, r"\[\d\] .* checkpoint: ")
    process.send_signal(signal.SIGTERM)
    report = ended(process)
    assert 0 < report["learned"] == report["run_events"] <= ROWS
    again = ended(started(config, "--until-end"))
    assert again["learned"] == ROWS
    assert again["run_events"] == ROWS - report["learned"]


def test_what_a_module_prints_is_no_report(tmp_path: Path) -> None:
    (tmp_path / "chatty.py").write_text(CHATTY)
    log = f"sqlite:///{tmp_path / 'log.db'}"
    config = prepare(tmp_path, log, "app", learner='factory = "chatty:make"')
    process = start("run", "-c", config, "--processes", "2", "--until-end", cwd=tmp_path)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert f"{ROWS:,}" in out


def test_none_outlives_the_supervisor(tmp_path: Path, log_url: str, app: str) -> None:
    config = prepare(tmp_path, log_url, app)
    process = started(config)
    pids = read_until(process, r"process \d of 2 has pid (\d+)", 2)
    read_until(process, r"\[\d\] .* goes on at ", 1)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + PATIENCE_S
    while any(map(lives, pids)):
        assert time.monotonic() < deadline
    assert ended(started(config, "--until-end"))["learned"] == ROWS


def test_what_a_person_has_to_decide_ends_all(tmp_path: Path, log_url: str, app: str) -> None:
    config = prepare(tmp_path, log_url, app)
    call("run", "-c", config, "--max-events", "500", cwd=tmp_path)
    changed = config.read_text().replace("lr = 0.01", "lr = 0.02")
    config.write_text(changed)
    ended(started(config), 3)
    config.write_text(changed.replace("StandardScaler", "NoSuchScaler"))
    ended(started(config), 2)


def test_what_looks_at_one_process_is_refused(tmp_path: Path) -> None:
    config = configure(tmp_path, f"sqlite:///{tmp_path / 'log.db'}", "app")
    _, err = call(
        "run", "-c", config, "--processes", "2", "--max-events", "5", cwd=tmp_path, code=2
    )
    assert "--max-events" in err
