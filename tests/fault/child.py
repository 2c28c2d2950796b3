"""Where the trainers of a chaos run come from: a process that forks one for each request.

    python -m tests.fault.child

One JSON object a line on standard input starts a trainer (:class:`Request`); one JSON
object a line on standard output says what became of it: ``started``, ``stopped`` or
``ended``. Everything is imported once, before the first fork: a trainer is up in tens
of milliseconds instead of a second and a half, and then runs ``stream-update`` from its
entry point, as a process of its own, with the visitor of :mod:`tests.fault.steps`
around it. When the input ends, all trainers are killed.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import sys

import msgspec

from stream_update.cli import main
from tests.fault.steps import MUTANTS, Armed, Visitor, pace, wrap

__all__ = ["News", "Request"]

AHEAD = (
    "stream_update.log.embedded",
    "stream_update.log.kafka",
    "river.drift",
    "river.ensemble",
    "river.forest",
    "river.linear_model",
    "river.naive_bayes",
    "river.preprocessing",
    "river.tree",
)


class Request(msgspec.Struct, frozen=True):
    """A trainer to be started; its standard output and error go to the file ``said``."""

    arguments: list[str]
    folder: str
    said: str
    events_per_s: float = 0.0
    armed: tuple[int, int, int] | None = None
    mutant: str = ""
    trace: str = ""


class News(msgspec.Struct, frozen=True):
    """What became of a trainer; ``code`` as :attr:`subprocess.Popen.returncode`."""

    what: str
    pid: int
    code: int = 0


def serve() -> Request:
    """Start trainers until the input ends; returns in each of them."""
    read, write = os.pipe()
    for end in (read, write):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    living: set[int] = set()
    waiting = b""
    while True:
        ready, _, _ = select.select([0, read], [], [])
        if read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(read, 4096)
            _tell_of(living)
        if 0 not in ready:
            continue
        arrived = os.read(0, 65536)
        if not arrived:
            for pid in living:
                os.kill(pid, signal.SIGKILL)
            sys.exit(0)
        *lines, waiting = (waiting + arrived).split(b"\n")
        for line in lines:
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os.close(read)
                os.close(write)
                return msgspec.json.decode(line, type=Request)
            living.add(pid)
            _tell(News("started", pid))


def _tell_of(living: set[int]) -> None:
    while living:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if os.WIFSTOPPED(status):
            _tell(News("stopped", pid))
        else:
            living.discard(pid)
            _tell(News("ended", pid, os.waitstatus_to_exitcode(status)))


def _tell(news: News) -> None:
    os.write(1, msgspec.json.encode(news) + b"\n")


def run(request: Request) -> None:
    """Be that trainer."""
    said = os.open(request.said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (said, 1), (said, 2)):
        os.dup2(source, target)
    os.chdir(request.folder)
    sys.argv = ["stream-update", *request.arguments]
    if request.mutant:
        MUTANTS[request.mutant]()
    if request.events_per_s:
        pace(request.events_per_s)
    wrap(Visitor(Armed(*request.armed) if request.armed else None, request.trace))
    main()


if __name__ == "__main__":
    for name in AHEAD:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    run(serve())
