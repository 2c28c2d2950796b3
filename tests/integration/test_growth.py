"""Hidden layers grow while a stream is learned, also by steps that are added on the way."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from stream_update.assemble import Trainer, open_log
from stream_update.config import load
from stream_update.errors import LineageMismatch
from stream_update.proof.held import held_snapshots
from stream_update.proof.verifying import verify
from stream_update.worker import Worker
from tests.learning import Case, finished, learn, newest
from tests.programs import call, elec2, start, write_jsonl

pytest.importorskip("torch")
pytest.importorskip("safetensors")

ROWS = 1600
EVERY = "[snapshot]\nmax_overhead = 1.0\n"

NETWORK = """
use = "torch"
module = { use = "mlp", hidden = [8] }
optimizer = { use = "adam", lr = 0.01 }
batch = 32
ema = 0.95
schedule = { use = "cosine", steps = 40, last = 0.2, warmup = 5 }
"""
WIDER = "[[learner.grow]]\nafter = 300\nwiden = 16\n"
DEEPER = "[[learner.grow]]\nafter = 1200\ndeepen = true\n"
PLATEAU = "[[learner.grow]]\nplateau = 128\nmin_delta = 0.1\nwiden = 24\n"


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path, elec2(ROWS), learner=NETWORK, extra=EVERY, checkpoint=137)


def change(case: Case, config: Path, steps: str) -> Path:
    """The same application with other steps."""
    return case._configure(config.parent, learner=NETWORK + steps)


def taken(config: Path) -> list[tuple[int, list[int]]]:
    """After how many events which step was taken, as the newest snapshot has it."""
    settings = load(config)
    with open_log(settings) as log, log.reader() as reader:
        state = held_snapshots(settings, reader, 0)[-1].state()["learner"]
    growth = state.get("growth") or {"taken": []}
    return [(step["at"], state["hidden"]) for step in growth["taken"]]


def proven(config: Path) -> list[bool | None]:
    settings = load(config)
    with open_log(settings) as log:
        return [verdict.ok for verdict in verify(settings, log, 0)]


def test_cuts_change_nothing(case: Case) -> None:
    steps = WIDER + PLATEAU + DEEPER
    whole = change(case, case.config("whole"), steps)
    finished(whole)
    cut = change(case, case.config("cut"), steps)
    for events in (1, 33, 310, 250, 600):
        learn(cut, max_events=events)
    finished(cut)
    assert newest(cut).manifest.digest == newest(whole).manifest.digest
    assert [at for at, _ in taken(cut)] == [320, 576, 1216]
    assert taken(cut)[0][1] == [24, 24]
    assert set(proven(cut)) == {True}


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_kills_change_nothing(case: Case) -> None:
    steps = WIDER + PLATEAU + DEEPER
    whole = change(case, case.config("whole"), steps)
    finished(whole)
    killed = change(case, case.config("killed"), steps)
    for seconds in (2.5, 3.5, 4.5):
        process = start("run", "-c", killed, cwd=killed.parent)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finished(killed)
    assert newest(killed).manifest.digest == newest(whole).manifest.digest


def test_steps_are_added_on_the_way(case: Case) -> None:
    config = case.config("app")
    learn(config, max_events=700)
    began = newest(config).manifest
    assert taken(config) == []
    copy = config.parent.parent / "copy"
    shutil.copytree(config.parent, copy)
    change(case, config, WIDER)
    other = change(case, copy / config.name, WIDER)
    for events in (1, 40):
        learn(other, max_events=events)
    for one in (config, other):
        finished(one)
        # The step is long due: it is taken when the batch is full that was waiting.
        assert taken(one) == [((began.learned // 32 + 1) * 32, [16])]
    assert newest(config).manifest.digest == newest(other).manifest.digest
    assert set(proven(config)) == {True}
    change(case, config, WIDER + DEEPER)
    assert set(proven(config)) == {True}
    call("snapshots", "verify", "-c", config, cwd=config.parent)
    out, _ = call("snapshots", "diff", "1", str(newest(config).manifest.seq), "-c", config,
                  cwd=config.parent)  # fmt: skip
    assert "steps of growth  0 -> 1" in out


def test_steps_that_were_taken_have_to_stay(case: Case) -> None:
    config = change(case, case.config("app"), WIDER + DEEPER)
    learn(config, max_events=900)
    # What has not been taken yet may still be another step.
    change(case, config, WIDER + PLATEAU)
    learn(config, max_events=100)
    for steps in ("", DEEPER, WIDER.replace("16", "17") + PLATEAU):
        change(case, config, steps)
        with pytest.raises(LineageMismatch, match="it has taken the step"):
            learn(config, max_events=10)
        verdicts = proven(config)
        assert verdicts[0] is True
        assert verdicts[-1] is False
    change(case, config, WIDER + PLATEAU + DEEPER.replace("1200", "1300"))
    finished(config)
    assert len(taken(config)) == 3
    assert set(proven(config)) == {True}


REPLAY = """[[wrap]]
use = "replay"
max_events = 100
"""
ENSEMBLE = """
use = "ensemble"
combine = "mean"
[[learner.members]]
use = "river.naive_bayes:GaussianNB"
[[learner.members]]
use = "torch"
module = { use = "mlp", hidden = [8] }
optimizer = { use = "adam", lr = 0.01 }
batch = 16
"""
DISTIL = """
use = "distil"
[learner.teacher]
use = "river.naive_bayes:GaussianNB"
[learner.student]
use = "torch"
module = { use = "mlp", hidden = [8] }
optimizer = { use = "adam", lr = 0.01 }
batch = 16
"""


@pytest.mark.parametrize(
    ("learner", "key", "wrap"),
    [
        (ENSEMBLE, "members", REPLAY),
        (DISTIL, "student", ""),
        (NETWORK, "", REPLAY),
        (NETWORK, "", '[[wrap]]\nuse = "twin"\n'),
    ],
)
def test_a_learner_in_others_grows(tmp_path: Path, learner: str, key: str, wrap: str) -> None:
    case = Case(tmp_path, elec2(600), learner=learner, extra=EVERY + wrap, checkpoint=137)
    config = case.config("app")
    learn(config, max_events=400)
    step = WIDER.replace("learner", f"learner.{key}" if key else "learner")
    case._configure(config.parent, learner=learner + step)
    learn(config, max_events=50)
    case._configure(config.parent, learner=learner + step + step.replace("16", "32"))
    finished(config)
    assert set(proven(config)) == {True}
    steps = newest(config).manifest.identity.steps
    assert [len(listed) for listed in steps.values()] == [2]
    case._configure(config.parent, learner=learner)
    with pytest.raises(LineageMismatch, match="it has taken the step"):
        learn(config, max_events=10)


def poll(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def running(config: Path) -> Iterator[Worker]:
    """A trainer in a thread of its own, which leaves in the end."""
    settings = load(config)
    with open_log(settings) as log:
        trainer = Trainer(settings, log)
        thread = Thread(target=trainer.run)
        thread.start()
        try:
            yield trainer.worker
        finally:
            trainer.worker.stop()
            thread.join()


@pytest.mark.timeout(200)
def test_a_stand_by_knows_of_a_step_that_the_owner_does_not(tmp_path: Path) -> None:
    """It takes the step where the owner did not, so its lane is none to go on with."""
    events = elec2(ROWS)
    case = Case(
        tmp_path, events[:250], learner=NETWORK, extra=EVERY, checkpoint=100,
        top='lanes = "single"',
    )  # fmt: skip
    config = case.config("app")

    def produce(rows: list[dict[str, Any]]) -> None:
        file = write_jsonl(tmp_path / "more.jsonl", rows)
        call("produce", file, "-c", config, cwd=config.parent)

    with ExitStack() as stand_by:
        with running(config) as owner:
            poll(lambda: 0 in owner.slots and owner.slots[0].lane.learned >= 224)
            change(case, config, WIDER)
            heir = stand_by.enter_context(running(config))
            poll(lambda: heir.standing_by)
            produce(events[250:900])
            poll(lambda: owner.slots[0].lane.learned >= 896)
            followed = heir._standby
            assert followed is not None
            poll(lambda: followed.lane.learned >= 600)
            assert followed.lane.learner.dump()["growth"]["taken"][0]["at"] == 320
        poll(lambda: 0 in heir.slots)
        produce(events[900:])
        poll(lambda: 0 in heir.slots and heir.slots[0].lane.learned == ROWS)
    assert taken(config) == [(928, [16])]
    assert set(proven(config)) == {True}
