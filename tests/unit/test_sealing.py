"""Snapshots that are made beside the lane are those that would have been made at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from river import forest, linear_model

from stream_update import sealing
from stream_update.errors import Fatal, Refused
from stream_update.learners.river import RiverLearner
from stream_update.protocols import DumpsInACopy
from stream_update.sealing import Sealed, Sealer, Sealing
from stream_update.snapshot import Identity, Snapshot, pack, seal_packed
from tests.programs import elec2

copies = pytest.mark.skipif(sys.platform != "linux", reason="there is no safe fork")

finish: Callable[[bytes], Snapshot] = partial(
    seal_packed,
    identity=Identity(
        app="a", lineage="a", task="binary", topic="t", topic_id="", learner="river",
        fingerprint="", config={}, versions={}, seed=0,
    ),
    partition=0, seq=1, parent="", next={"0": 0}, events=0, learned=0, rejected=0, unlabelled=0,
    recent_loss=0.0, event_time=None, created_ms=0,
)  # fmt: skip


def stored(packed: bytes) -> Sealed:
    return Sealed(finish(packed), [])


def in_a_copy(dump: Callable[[], Any], size: int = sealing.COPY_BYTES) -> tuple[Sealer, Sealing]:
    sealer = Sealer(copies=True, size=size)
    return sealer, sealer.seal(dump, stored)


@copies
def test_a_copy_writes_down_the_state_as_it_was() -> None:
    learner = RiverLearner(lambda: forest.ARFClassifier(n_models=3, seed=1), "binary")
    events = elec2(600)
    features = [{k: v for k, v in event.items() if k != "class"} for event in events]
    labels = [bool(event["class"]) for event in events]
    learner.learn(features[:400], labels[:400])
    expected = finish(pack({"learner": learner.dump()}))
    sealer, made = in_a_copy(lambda: {"learner": learner.dump()})
    learner.learn(features[400:], labels[400:])  # meanwhile
    assert made.result().snapshot == expected
    assert made.done()
    assert made.cost_s() > 0
    assert sealer.size == expected.manifest.unpacked_size
    assert finish(pack({"learner": learner.dump()})) != expected


@copies
def test_a_compiled_learner_is_written_down_in_a_copy() -> None:
    pytest.importorskip("numba")
    from stream_update.learners.compiled import CompiledLearner  # noqa: PLC0415

    learner = CompiledLearner(linear_model.LogisticRegression(), "binary")
    assert isinstance(learner, DumpsInACopy)
    assert learner.dumps_in_a_copy
    learner.learn([{"a": 1.0, "b": 0.5}], [True])
    expected = finish(pack({"learner": learner.dump()}))
    _, made = in_a_copy(lambda: {"learner": learner.dump()})
    learner.learn([{"a": -1.0, "c": 2.0}], [False])  # meanwhile
    assert made.result().snapshot == expected


@pytest.mark.parametrize("size", [10, sealing.THREAD_BYTES])
def test_without_copies_the_bytes_are_the_same(size: int) -> None:
    state = {"learner": os.urandom(size)}
    here = threading.get_ident()
    dumped_by = []

    def dump() -> Any:
        dumped_by.append(threading.get_ident())
        return state

    assert Sealer(size=1 << 30).seal(dump, stored).result().snapshot == finish(pack(state))
    assert dumped_by == [here]


def test_an_error_on_the_thread_reaches_who_asks() -> None:
    def refuse(packed: bytes) -> Sealed:
        raise Fatal(f"{len(packed)} bytes are too many")

    made = Sealer().seal(lambda: bytes(sealing.THREAD_BYTES), refuse)
    with pytest.raises(Fatal, match="too many"):
        made.result()


@copies
def test_a_copy_that_is_killed_is_refused_and_the_next_is_made_here() -> None:
    def die() -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    sealer, made = in_a_copy(die)
    with pytest.raises(Refused, match="status -9"):
        made.result()
    here = []
    sealer.seal(lambda: here.append(os.getpid()), stored).result()
    assert here == [os.getpid()]


@copies
def test_where_no_copy_can_be_made_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> int:
        raise BlockingIOError("too many processes")

    monkeypatch.setattr(os, "fork", refuse)
    sealer, made = in_a_copy(lambda: "state", sealing.COPY_BYTES)
    assert made.result().snapshot.state() == "state"
    sealer.size = sealing.COPY_BYTES
    sealer.seal(lambda: "state", stored).result()
    assert caplog.text.count("too many processes") == 1


@copies
def test_what_cannot_be_written_down_is_told_by_the_next_try() -> None:
    def fail() -> Any:
        raise ValueError("not to be kept")

    sealer, made = in_a_copy(fail)
    with pytest.raises(Refused, match="status 1"):
        made.result()
    with pytest.raises(ValueError, match="not to be kept"):
        sealer.seal(fail, stored)


@copies
def test_a_copy_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "PATIENCE_S", 0.0)
    monkeypatch.setattr(sealing, "PATIENCE_S_PER_MB", 0.0)
    _, made = in_a_copy(lambda: time.sleep(1000))
    with pytest.raises(Refused, match="status -9"):
        made.result()


@copies
def test_one_that_is_called_off_ends(tmp_path: Path) -> None:
    told = tmp_path / "pid"

    def hang() -> Any:
        told.write_text(str(os.getpid()))
        time.sleep(1000)

    sealer, made = in_a_copy(hang)
    while not told.exists() or not told.read_text():
        assert not made.done()
    made.cancel()
    with pytest.raises(Refused, match="called off"):
        made.result()
    with pytest.raises(ProcessLookupError):
        os.kill(int(told.read_text()), 0)
    # It was not lost: the next is made in a copy again.
    assert sealer.seal(os.getpid, stored).result().snapshot.state() != os.getpid()


@copies
def test_a_copy_heeds_no_signal_and_holds_no_connection() -> None:
    reading, writing = os.pipe()

    def dump() -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        return [one.name for one in Path("/proc/self/fd").iterdir()]

    _, made = in_a_copy(dump)
    held = made.result().snapshot.state()
    os.close(reading)
    os.close(writing)
    assert len(held) == 2  # where it writes to, and the folder that it looks at
