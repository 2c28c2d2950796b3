"""Processes that die, hang, or say that a person is needed."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from stream_update import supervisor
from stream_update.errors import Fatal
from stream_update.supervisor import Supervisor

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs process groups")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(supervisor, "LOOK_S", 0.01)


def script(text: str) -> Callable[[int, int], list[str]]:
    """Runs a program that knows its ``number`` and the ``fd``."""
    return lambda number, fd: [sys.executable, "-c", f"number, fd = {number}, {fd}\n{text}"]


def supervise(text: str, count: int = 2, *, to_the_end: bool = True) -> tuple[list[bytes], str]:
    err = io.BytesIO()
    said = Supervisor(script(text), count, to_the_end=to_the_end, err=err).run()
    return said, err.getvalue().decode()


def test_lines_have_the_number_of_their_process_before_them() -> None:
    said, err = supervise(
        "import sys; print(number * 10); print('a\\nb', file=sys.stderr); "
        "sys.stderr.write('no end')"
    )
    assert said == [b"10\n", b"20\n"]
    assert sorted(err.splitlines()) == sorted(
        f"[{number}] {line}" for number in (1, 2) for line in ("a", "b", "no end")
    )


def test_one_that_dies_is_started_again(tmp_path: Path) -> None:
    once = f"""
import os, signal, pathlib
died = pathlib.Path({str(tmp_path)!r}, str(number))
if not died.exists():
    died.touch()
    os.kill(os.getpid(), signal.SIGKILL) if number == 1 else os._exit(17)
print(number)
"""
    assert supervise(once)[0] == [b"1\n", b"2\n"]


def test_a_program_that_outlives_its_process_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "REST_S", 0.1)
    other = tmp_path / "pid"
    leaving = f"""
import pathlib, subprocess, sys
if number == 1:
    made = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    pathlib.Path({str(other)!r}).write_text(str(made.pid))
    made.returncode = 0
print(number)
"""
    try:
        assert b"2\n" in supervise(leaving)[0]
    finally:
        os.kill(int(other.read_text()), signal.SIGKILL)


@pytest.mark.parametrize("code", [2, 3, 5])
def test_a_code_for_a_person_ends_all(code: int) -> None:
    with pytest.raises(Fatal, match=f"exit code {code}") as failed:
        supervise(
            f"import os, time; os._exit({code}) if number == 1 else time.sleep(1000)",
            to_the_end=False,
        )
    assert failed.value.exit_code == code


def test_a_run_to_the_end_gives_up() -> None:
    with pytest.raises(Fatal, match="exit code 4"):
        supervise("import os; os._exit(4)", 1)


def test_without_an_end_one_that_finished_is_started_again(tmp_path: Path) -> None:
    counted = tmp_path / "starts"
    own = Supervisor(
        script(f"open({str(counted)!r}, 'a').write('x')"), 1, err=io.BytesIO()
    )  # fmt: skip
    running = threading.Thread(target=own.run)
    running.start()
    while not counted.exists() or len(counted.read_text()) < 3:
        assert running.is_alive()
    own.stop()
    running.join()


DRAINS = """
import signal, sys, time
def drain(*_):
    print("drained")
    sys.exit(0)
signal.signal(signal.SIGTERM, drain)
print("ready", file=sys.stderr, flush=True)
time.sleep(1000)
"""


class Waiting(io.BytesIO):
    """Calls somebody when so many lines have come."""

    def __init__(self, lines: int, call: Callable[[], None]) -> None:
        super().__init__()
        self._lines = lines
        self._call = call

    def flush(self) -> None:
        if self.getvalue().count(b"\n") == self._lines:
            self._call()


def test_all_are_drained() -> None:
    own = Supervisor(script(DRAINS), 3, err=Waiting(3, lambda: own.stop()))  # noqa: PLW0108
    assert own.run() == [b"drained\n"] * 3


def test_one_that_does_not_drain_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "DRAIN_S", 0.1)
    deaf = DRAINS.replace("signal.SIGTERM, drain", "signal.SIGTERM, signal.SIG_IGN")
    own = Supervisor(script(deaf), 1, err=Waiting(1, lambda: own.stop()))  # noqa: PLW0108
    with pytest.raises(Fatal, match="exit code 1"):
        own.run()


def test_one_told_to_stop_before_it_listens_has_nothing_to_drain() -> None:
    early = "import sys, time; print('x', file=sys.stderr, flush=True); time.sleep(1000)"
    own = Supervisor(script(early), 1, err=Waiting(1, lambda: own.stop()))  # noqa: PLW0108
    assert own.run() == []


def test_none_outlives_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    child = f"""
import os, pathlib, time
from stream_update import supervisor
supervisor.ORPHAN_S = 0.0
supervisor.end_with(fd, lambda: pathlib.Path({str(tmp_path)!r}, f"told-{{number}}").touch())
pathlib.Path({str(tmp_path)!r}, f"started-{{number}}").write_text(str(os.getpid()))
time.sleep(1000)
"""
    parent = os.fork()
    if parent == 0:
        try:
            Supervisor(script(child), 2, err=io.BytesIO()).run()
        finally:
            os._exit(1)
    started = [tmp_path / f"started-{number}" for number in (1, 2)]
    while not all(one.exists() and one.read_text() for one in started):
        assert os.waitpid(parent, os.WNOHANG) == (0, 0)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    for one in started:
        while lives(int(one.read_text())):
            pass
    assert all((tmp_path / f"told-{number}").exists() for number in (1, 2))


def lives(pid: int) -> bool:
    """Whether a process runs; one that nobody has buried yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
