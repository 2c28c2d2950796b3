"""Calls that may never return, under a deadline for each of their steps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

__all__ = ["Call", "Overdue", "Watchdog"]

T = TypeVar("T")

START_S = 5.0


class Overdue(Exception):
    """A step did not end within its limit; its thread is given up."""


class Call(Generic[T]):
    """One job under way. The job itself announces each step with :meth:`step`."""

    def __init__(self, job: Callable[[Call[T]], T], start_s: float) -> None:
        self._job = job
        self._done = threading.Event()
        self._result: T
        self._error: BaseException | None = None
        self.step("starting", start_s)

    def step(self, name: str, limit_s: float) -> None:
        """What follows is called ``name`` and may take ``limit_s`` seconds."""
        self._limit_s = limit_s
        self._deadline = time.monotonic() + limit_s
        self._name = name

    def run(self) -> None:
        try:
            self._result = self._job(self)
        except BaseException as error:  # noqa: BLE001 - raised again by result()
            self._error = error
        self._done.set()

    def done(self) -> bool:
        """Whether :meth:`result` would return, or raise, at once."""
        return self._done.is_set() or time.monotonic() >= self._deadline

    def result(self) -> T:
        """What the job returned; raises what it raised, and :class:`Overdue`."""
        while not self._done.wait(max(0.0, self._deadline - time.monotonic())):
            if time.monotonic() >= self._deadline:
                raise Overdue(f"{self._name} did not end within {self._limit_s:g} s")
        if self._error is not None:
            raise self._error
        return self._result


class Watchdog:
    """Runs one job at a time on a thread of its own.

    A daemon thread: one that hangs for ever must not keep the process from ending.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[Call[Any] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self, job: Callable[[Call[T]], T], start_s: float = START_S) -> Call[T]:
        """Begin a job; :meth:`Call.result` tells how it ended.

        ``start_s``: how long it may have to wait for the job before it.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        call = Call(job, start_s)
        self._calls.put(call)
        return call

    def close(self) -> None:
        """Let the thread end when its job has; does not wait for it."""
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call.run()
