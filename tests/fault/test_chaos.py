"""Short chaos runs, one for each kind of fault, and trainers that do it wrong are noticed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fault.steps import steps_of

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(400)]

BETWEEN = 5

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def log(request: pytest.FixtureRequest) -> list[str]:
    """The options for a kind of log; no fault comes to the broker, so all share the run's."""
    if request.param == "sqlite":
        return ["--log", "sqlite"]
    return shared(request.getfixturevalue("kafka_bootstrap"))


def shared(address: str) -> list[str]:
    return ["--log", "kafka", "--address", address, "--session-ms", "2000"]


def chaos(folder: Path, *arguments: str | int) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fault.chaos", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, f"{done.stdout}\n{done.stderr}"


def survives(folder: Path, *arguments: str | int) -> str:
    code, said = chaos(folder, *arguments)
    assert code == 0, said
    first, *_, last = said.strip().splitlines()
    assert first == last, said
    assert first.startswith("seed "), said
    assert "every invariant held" in said
    return said


def test_all_kinds_of_faults(tmp_path: Path) -> None:
    survives(tmp_path, "--kills", 10, "--events", 6000, "--seed", 41)


def test_a_single_lane_with_a_learner_that_reacts(tmp_path: Path) -> None:
    options = ("--lanes", "single", "--learner", "reset", "--events", 5000)
    survives(tmp_path, "--kills", 5, "--seed", 42, *options)


@pytest.mark.slow
@pytest.mark.parametrize("learner", ["network", "replay", "ensemble"])
def test_learners_of_batches(learner: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    options = ("--learner", learner, "--events", 5000, "--serving", "bfloat16")
    said = survives(tmp_path, "--kills", 5, "--seed", 45, *options)
    assert re.search(r"[1-9]\d* for serving", said)


def test_the_end_at_the_steps_of_the_protocol(tmp_path: Path, log: list[str]) -> None:
    trace = tmp_path / "trace"
    kills = 12 if "sqlite" in log else 6
    options = ("--kills", kills, "--events", 6000, "--only", "step", "--trace", str(trace))
    said = survives(tmp_path, *log, "--seed", 43, *options)
    assert "killed at a step" in said
    # Whether anything lies between S and C at a death is left to the machine.
    reached = {int(line) for line in trace.read_text().split()}
    assert reached | {BETWEEN} == {*steps_of(log[1])}


def test_standing_still_for_longer_than_the_session(tmp_path: Path, log: list[str]) -> None:
    options = ("--kills", 4, "--events", 4000, "--only", "stand still, long")
    assert "stand still, long" in survives(tmp_path, *log, "--seed", 44, *options)


@pytest.mark.kafka
@pytest.mark.parametrize("fault", ["broker killed", "broker frozen"])
def test_a_broker_that_is(tmp_path: Path, kafka_bootstrap: str, fault: str) -> None:
    options = ("--kills", 1, "--events", 2000, "--only", fault)
    assert fault in survives(tmp_path, "--log", "kafka", "--seed", 45, *options)


@pytest.mark.kafka
def test_kills_with_the_other_client(tmp_path: Path, kafka_bootstrap: str) -> None:
    pytest.importorskip("confluent_kafka")
    options = ("--client", "librdkafka", "--kills", 6, "--events", 4000)
    survives(
        tmp_path,
        *shared(kafka_bootstrap),
        "--seed",
        47,
        *options,
        "--only",
        "step",
        "--only",
        "kill",
    )


@pytest.mark.parametrize(
    ("mutant", "invariant"),
    [
        ("says-twice", "I2"),
        ("loses-outputs", "I2"),
        ("commits-behind-the-snapshot", "I[25]|ended with 3"),
        ("leaves-out-what-is-silent", "I3"),
        ("learns-what-nobody-sent", "I[12]"),
        ("serves-the-past", "I1.*for serving"),
    ],
)
def test_a_trainer_that_does_it_wrong_is_noticed(
    tmp_path: Path, mutant: str, invariant: str
) -> None:
    options = ("--mutant", mutant, "--kills", 20, "--seed", 46, "--serving", "float32")
    code, said = chaos(tmp_path, *options)
    assert code == 1, said
    violated = said.partition("VIOLATED ")[2]
    assert violated, said
    assert re.search(invariant, violated), said
    assert said.count("seed 46") == 2
