"""Processes of ``stream-update`` that have imported everything when they begin.

Imports take a second or two of processor time, and the tests start hundreds of processes. So
one server for each process of the test run imports once, and forks: what it forks then
runs ``stream-update`` from its entry point, in a folder, with an environment and with pipes of its
own, and can be killed as any other. ``python -m tests.warm`` is that server; the other end of
its standard input is a socket, over which each request comes as one packet with three
descriptors: where to write, where to complain, and where to say how it ended.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import io
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self, TextIO

import msgspec
import numpy as np

__all__ = ["Started", "start"]

ROOT = Path(__file__).parents[1]
AHEAD = (
    "stream_update.cli",
    "stream_update.learners.river",
    "stream_update.log.embedded",
    "stream_update.log.kafka",
    "river.ensemble",
    "river.forest",
    "river.linear_model",
    "river.preprocessing",
    "river.tree",
)
PACKET = 1 << 20


class Request(msgspec.Struct, frozen=True):
    arguments: Sequence[str]
    folder: str
    environment: Mapping[str, str]


class Started:
    """A process that was forked; what tests need of :class:`subprocess.Popen`."""

    def __init__(self, pid: int, stdout: TextIO, stderr: TextIO, ending: socket.socket) -> None:
        self.pid = pid
        self.stdout = stdout
        self.stderr = stderr
        self.returncode: int | None = None
        self._ending = ending

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stdout.close()
        self.stderr.close()
        self.wait()

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            ready, _, _ = select.select([self._ending], [], [], timeout)
            if not ready:
                raise subprocess.TimeoutExpired("stream-update", timeout or 0.0)
            told = self._ending.recv(16)
            assert told, "the server of this process has died"
            self.returncode = int(told)
            self._ending.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        deadline = None if timeout is None else time.monotonic() + timeout
        found = ["", ""]

        def read(place: int, file: TextIO) -> None:
            if not file.closed:
                found[place] = file.read()

        readers = [
            threading.Thread(target=read, args=one, daemon=True)
            for one in enumerate((self.stdout, self.stderr))
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired("stream-update", timeout or 0.0)
        self.stdout.close()
        self.stderr.close()
        self.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return found[0], found[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Started:
    """Start ``stream-update`` with these arguments."""
    files, theirs = [], []
    for _ in range(2):
        read, write = os.pipe()
        files.append(io.open(read, encoding="utf-8"))  # noqa: SIM115, UP020 - its owner closes it
        theirs.append(write)
    ending, telling = socket.socketpair()
    request = msgspec.json.encode(Request(arguments, str(folder), environment))
    with _lock:
        server = _server()
        socket.send_fds(server, [request], [*theirs, telling.fileno()])
        pid = int(server.recv(16))
    for write in theirs:
        os.close(write)
    telling.close()
    return Started(pid, files[0], files[1], ending)


_lock = threading.Lock()


@functools.cache
def _server() -> socket.socket:
    """The socket of this process's server, which ends when it is closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.warm"],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        stdin=theirs.fileno(),
    )
    theirs.close()
    atexit.register(process.wait, 60)
    atexit.register(ours.close)
    return ours


# -- the server


def serve(control: socket.socket) -> tuple[Request, list[int]]:
    """Fork for each request until there are no more; returns in each of those processes."""
    read, write = os.pipe()
    for end in (read, write):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    living: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([control.fileno(), read], [], [])
        if read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(read, 4096)
            _tell_of(living)
        if control.fileno() not in ready:
            continue
        packet, descriptors, _, _ = socket.recv_fds(control, PACKET, 3)
        if not packet:
            os._exit(0)
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            for end in (read, write, descriptors[2], *living.values()):
                os.close(end)
            return msgspec.json.decode(packet, type=Request), descriptors[:2]
        for end in descriptors[:2]:
            os.close(end)
        living[pid] = descriptors[2]
        control.send(b"%d" % pid)


def _tell_of(living: dict[int, int]) -> None:
    while living:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        ending = living.pop(pid)
        # Nobody may be left who wants to know.
        with contextlib.suppress(BrokenPipeError):
            os.write(ending, b"%d" % os.waitstatus_to_exitcode(status))
        os.close(ending)


def run(request: Request, descriptors: Sequence[int]) -> None:
    """Be that process."""
    from stream_update.__main__ import main  # noqa: PLC0415 - the client needs none of it

    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in zip((nothing, *descriptors), range(3), strict=True):
        os.dup2(source, target)
        os.close(source)
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.folder)
    # As `python -m` has it, so that a module beside the configuration is found.
    given = request.environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:1] = [request.folder, *filter(None, given)]
    sys.argv = ["stream-update", *request.arguments]
    random.seed()
    np.random.seed()  # noqa: NPY002 - the one that libraries share
    main()


if __name__ == "__main__":
    for name in AHEAD:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    run(*serve(socket.socket(fileno=os.dup(0))))
