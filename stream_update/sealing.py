"""Snapshots made beside the lane, so that learning goes on meanwhile.

To write down what a forest of 10 MB knows takes seconds of Python, and from the first object
to the last nothing of it may change. A copy of the process costs milliseconds: the operating
system shares the memory and copies the pages that one of the two writes to. So the copy
writes its state down, at rest, sends the bytes back and ends, and the lane goes on at once.
(Redis saves its memory in the same way.)

What a copy may do is little: it has one thread, and whatever lock another thread held stays
locked for ever. So only the state is written down there, by code that takes no locks;
hashing and compressing, which let go of the interpreter's lock, happen on a thread here. A
learner says by ``dumps_in_a_copy`` that its state can be had so; of others, and
where there is no safe ``fork``, it is written down at once, and only the rest is left to the
thread. The bytes are the same either way.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import select
import signal
import struct
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple, NoReturn, Protocol

from stream_update.errors import Refused
from stream_update.events import Record, Tree
from stream_update.snapshot import Snapshot, pack

__all__ = ["COPY_BYTES", "Sealed", "Sealer", "Sealing"]

logger = logging.getLogger(__name__)

COPY_BYTES = 1 << 17
"""From this size on a state is written down in a copy of the process: of a forest it takes
some 30 ms, more than a copy costs."""

THREAD_BYTES = 1 << 18
"""From this size on hashing and compressing are worth a thread."""

PIECE_BYTES = 1 << 20
LOOK_MS = 100
PATIENCE_S = 60.0
PATIENCE_S_PER_MB = 10.0
FIRST_TO_DIE = b"1000"
HEAD = struct.Struct("<dQ")
"""What a copy sends before the state: the seconds it took, and its bytes."""


class Sealed(NamedTuple):
    """A snapshot, and the records of all that is published of it."""

    snapshot: Snapshot
    records: list[Record]


Finish = Callable[[bytes], Sealed]


class Sealing(Protocol):
    """A snapshot that is being made."""

    def done(self) -> bool:
        """Whether :meth:`result` would return, or raise, at once."""
        ...

    def result(self) -> Sealed:
        """The snapshot; waits for it.

        Raises what writing it down raised, and :class:`~stream_update.errors.Refused` if the
        copy of the process was lost: nothing has happened then.
        """
        ...

    def cost_s(self) -> float:
        """Seconds of the processor that it took, wherever."""
        ...

    def cancel(self) -> None:
        """Nobody wants it any more."""
        ...


class Sealer:
    """Makes the snapshots of one lane, each in the way that holds the lane up least.

    ``size`` is that of its last state in bytes, as far as it is known. ``copies``: whether
    its state may be written down in a copy of the process.
    """

    def __init__(self, *, copies: bool = False, size: int = 0) -> None:
        self.size = size
        self._copies = copies and sys.platform == "linux"

    def seal(self, dump: Callable[[], Tree], finish: Finish) -> Sealing:
        """Begin; ``dump`` gives the state as it is now, and ``finish`` makes a snapshot of it."""
        if self._copies and self.size >= COPY_BYTES:
            try:
                return _Copied(self, dump, finish)
            except OSError as error:
                logger.warning(
                    "no copy of this process can be made (%s): snapshots hold learning up from "
                    "now on",
                    error,
                )
                self.give_up_copies()
        began = time.thread_time()
        packed = pack(dump())
        self.size = len(packed)
        if self.size >= THREAD_BYTES:
            return _Threaded(packed, finish, time.thread_time() - began)
        return _Ready(finish(packed), time.thread_time() - began)

    def give_up_copies(self) -> None:
        """Write the state down in this process from now on."""
        self._copies = False


class _Ready:
    def __init__(self, sealed: Sealed, cost_s: float) -> None:
        self._sealed = sealed
        self._cost_s = cost_s

    def done(self) -> bool:
        return True

    def result(self) -> Sealed:
        return self._sealed

    def cost_s(self) -> float:
        return self._cost_s

    def cancel(self) -> None:
        """It has been made."""


class _Threaded:
    """Hashed and compressed on a thread."""

    def __init__(self, packed: bytes, finish: Finish, cost_s: float) -> None:
        self._packed = packed
        self._finish = finish
        self._cost_s = cost_s
        self._sealed: Sealed
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="stream-update-seal", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        began = time.thread_time()
        try:
            self._sealed = self._finish(self._get())
        except BaseException as error:  # noqa: BLE001 - raised again by result()
            self._error = error
        self._cost_s += time.thread_time() - began

    def _get(self) -> bytes:
        return self._packed

    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> Sealed:
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._sealed

    def cost_s(self) -> float:
        return self._cost_s

    def cancel(self) -> None:
        """It ends by itself."""


class _Copied(_Threaded):
    """Written down in a copy of the process; the rest on a thread that waits for it."""

    def __init__(self, sealer: Sealer, dump: Callable[[], Tree], finish: Finish) -> None:
        self._sealer = sealer
        self._patience_s = PATIENCE_S + PATIENCE_S_PER_MB * sealer.size / 1e6
        self._cancelled = False
        self._pid, self._pipe = _copy_of_this_process(dump)
        super().__init__(b"", finish, 0.0)

    def _get(self) -> bytes:
        ended, received = self._receive()
        os.close(self._pipe)
        if not ended:
            os.kill(self._pid, signal.SIGKILL)
        try:
            _, status = os.waitpid(self._pid, 0)
        except ChildProcessError:
            status = 0  # this program has the system forget its children
        if len(received) >= HEAD.size:
            seconds, size = HEAD.unpack_from(received)
            packed = bytes(memoryview(received)[HEAD.size :])
            if len(packed) == size:
                self._sealer.size, self._cost_s = size, seconds
                return packed
        if self._cancelled:
            raise Refused("a snapshot was called off")
        # The next try is made here, and if the state cannot be written down, tells why.
        self._sealer.give_up_copies()
        raise Refused(
            f"the copy of this process that should have written the snapshot ended with status "
            f"{os.waitstatus_to_exitcode(status)}; snapshots hold learning up from now on",
            hint="was it killed for its memory? It needs up to as much again as this process",
        )

    def _receive(self) -> tuple[bool, bytearray]:
        """Whether it has sent all that it had to, and that."""
        received, deadline = bytearray(), time.monotonic() + self._patience_s
        waiting = select.poll()
        waiting.register(self._pipe, select.POLLIN)
        while not self._cancelled and time.monotonic() < deadline:
            if not waiting.poll(LOOK_MS):
                continue
            piece = os.read(self._pipe, PIECE_BYTES)
            if not piece:
                return True, received
            received += piece
        return False, received

    def cancel(self) -> None:
        self._cancelled = True


def _copy_of_this_process(dump: Callable[[], Tree]) -> tuple[int, int]:
    """Begin to write a state down in a copy of this process: its id, and where to read."""
    reading, writing = os.pipe()
    try:
        with warnings.catch_warnings():
            # Of locks that other threads hold; see above.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
    except BaseException:
        os.close(reading)
        os.close(writing)
        raise
    if pid == 0:
        _write_down(dump, writing)
    os.close(writing)
    return pid, reading


def _write_down(dump: Callable[[], Tree], pipe: int) -> NoReturn:
    """The life of the copy: whatever happens, it ends here."""
    status = 1
    try:
        gc.disable()
        # A group's signals are for the process that it is a copy of.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _close_all_but(pipe)
        with open("/proc/self/oom_score_adj", "wb", buffering=0) as score:  # noqa: PTH123
            score.write(FIRST_TO_DIE)
        began = time.thread_time()
        packed = pack(dump())
        head = HEAD.pack(time.thread_time() - began, len(packed))
        for part in (head, packed):
            left = memoryview(part)
            while left:
                left = left[os.write(pipe, left) :]
        status = 0
    finally:
        os._exit(status)


def _close_all_but(pipe: int) -> None:
    """Connections must not outlive the process in its copy."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - no object more than needed
        if int(name) != pipe:
            with contextlib.suppress(OSError):
                os.close(int(name))
