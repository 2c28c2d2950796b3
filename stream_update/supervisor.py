"""Several processes as one: started together, started again when they die, drained together.

Each writes to standard error, and every line of that comes out here with the number of
its process before it. None outlives this one, however it ends: each holds the reading end of
a pipe that nobody writes to, and whose other end is closed when this process is gone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO

from stream_update.errors import Fatal

__all__ = ["Supervisor", "end_with"]

logger = logging.getLogger(__name__)

LOOK_S = 0.1
DRAIN_S = 90.0
"""How long a process may take to drain before it is killed: longer than it gives itself."""

ORPHAN_S = 10.0
"""How long it may drain when this one has died."""

REST_S = 5.0
"""How long what a process has written may take to arrive here when it has ended: another
program that it started may still hold the other end, and would do so for ever."""

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
WELL_S = 60.0
"""One that ran for so long was well: the next pause is the first again."""

TRIES = 5
"""Deaths in a row after which a run that is to end gives up."""

FOR_A_PERSON = frozenset({2, 3, 5})
"""Exit codes that say the same again however often the process is started."""


class _Process:
    """One place among them, and the process that has it now."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.running: subprocess.Popen[bytes] | None = None
        self.finished = False
        self.deaths = 0
        self.start_at = 0.0
        self.started = 0.0
        self.out = b""
        self.readers: list[threading.Thread] = []


class Supervisor:
    """Runs ``count`` processes, ``command(number, fd)`` each, with numbers from 1.

    ``fd`` is open in the process, which gives it to :func:`end_with`. A process that dies is
    started again after a pause that doubles with each death in a row. With ``to_the_end`` one
    that ends with 0 has finished, and all of them together are; otherwise only :meth:`stop`
    ends them. An exit code that is for a person ends them all.
    """

    def __init__(
        self,
        command: Callable[[int, int], Sequence[str]],
        count: int,
        *,
        to_the_end: bool = False,
        err: IO[bytes] | None = None,
    ) -> None:
        self._command = command
        self._processes = [_Process(number) for number in range(1, count + 1)]
        self._to_the_end = to_the_end
        self._err = err if err is not None else sys.stderr.buffer
        self._writing = threading.Lock()
        self._stopping = False
        self._told_at: float | None = None
        self._code = 0

    def stop(self) -> None:
        """Drain them all. Safe to call from a signal handler."""
        self._stopping = True

    def run(self) -> list[bytes]:
        """Until all have ended; what those that ended with 0 wrote to standard output.

        Raises :class:`~stream_update.errors.Fatal`, with the exit code of the one that
        was not to be cured.
        """
        reading, writing = os.pipe()
        try:
            while any(not one.finished for one in self._processes):
                if self._stopping:
                    self._tell_to_stop()
                for one in self._processes:
                    self._look_after(one, reading)
                time.sleep(LOOK_S)
        finally:
            for one in self._processes:
                if one.running is not None:
                    one.running.kill()
                    one.running.wait()
            os.close(reading)
            os.close(writing)
        if self._code:
            error = Fatal(
                f"a process ended with exit code {self._code}, and the others with it",
                hint="the lines of that process say why",
            )
            error.exit_code = self._code
            raise error
        return [one.out for one in self._processes if one.out]

    def _look_after(self, one: _Process, fd: int) -> None:
        if one.running is not None:
            code = one.running.poll()
            if code is not None:
                self._ended(one, code)
        elif not one.finished and (self._stopping or time.monotonic() >= one.start_at):
            if self._stopping:
                one.finished = True
            else:
                self._start(one, fd)

    def _start(self, one: _Process, fd: int) -> None:
        # A group of its own: a terminal's interrupt is for this process, which tells them.
        process = subprocess.Popen(  # noqa: S603 - this program again
            self._command(one.number, fd),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(fd,),
            process_group=0,
        )
        one.running, one.started, one.out = process, time.monotonic(), b""
        one.readers = [
            threading.Thread(target=self._pass_on, args=(one, process.stderr), daemon=True),
            threading.Thread(target=self._collect, args=(one, process), daemon=True),
        ]
        for reader in one.readers:
            reader.start()
        logger.info("process %d of %d has pid %d", one.number, len(self._processes), process.pid)

    def _pass_on(self, one: _Process, err: IO[bytes]) -> None:
        with err:
            for line in err:
                # Nobody may be listening any more, but the process must not wait for that.
                with self._writing, contextlib.suppress(OSError):
                    self._err.write(b"[%d] %s\n" % (one.number, line.rstrip(b"\n")))
                    self._err.flush()

    @staticmethod
    def _collect(one: _Process, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout as out:
            said = out.read()
        if one.running is process:
            one.out = said

    def _ended(self, one: _Process, code: int) -> None:
        deadline = time.monotonic() + REST_S
        for reader in one.readers:
            reader.join(max(0.0, deadline - time.monotonic()))
        one.running = None
        if code == 0 and (self._to_the_end or self._stopping):
            one.finished = True
            return
        if self._stopping:
            one.finished = True
            # Told to stop before it could listen, it had nothing to drain.
            if code != -signal.SIGTERM:
                self._code = self._code or _exit_code(code)
            return
        well = time.monotonic() - one.started >= WELL_S
        one.deaths = 1 if well else one.deaths + 1
        hopeless = self._to_the_end and one.deaths >= TRIES
        if code in FOR_A_PERSON or hopeless:
            logger.error("process %d ended with %s: the others are drained", one.number, code)
            one.finished = self._stopping = True
            self._code = _exit_code(code)
            return
        pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (one.deaths - 1))
        logger.warning(
            "process %d ended with %d; it is started again in %.0f s", one.number, code, pause
        )
        one.start_at = time.monotonic() + pause

    def _tell_to_stop(self) -> None:
        now = time.monotonic()
        if self._told_at is None:
            self._told_at = now
            for one in self._processes:
                if one.running is not None:
                    one.running.terminate()
        elif now - self._told_at > DRAIN_S:
            for one in self._processes:
                if one.running is not None:
                    logger.error("process %d does not drain: it is killed", one.number)
                    one.running.kill()


def _exit_code(code: int) -> int:
    return code if code > 0 else 1


def end_with(fd: int, stop: Callable[[], None]) -> None:
    """Let this process end when the supervisor that gave it ``fd`` is gone.

    It drains, but not for long: what follows on this supervisor should find its place free.
    """

    def watch() -> None:
        os.read(fd, 1)
        logger.warning("the supervisor is gone: draining")
        stop()
        time.sleep(ORPHAN_S)
        os._exit(1)

    threading.Thread(target=watch, name="stream-update-supervisor", daemon=True).start()
