"""Polling for a member that is busy with something else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Busy"]


class Busy:
    """Calls ``breathe`` every ``every_s`` seconds while the owner is busy for longer than that.

    The client gives up its place in the group when nobody polls it, and rests its
    heartbeats between the end of a join and the next poll. It may be used by one thread
    at a time: the other thread here acts only between the beginning and the end of
    :meth:`step`, and the end waits for it.
    """

    def __init__(self, name: str, every_s: float, breathe: Callable[[], None]) -> None:
        self._name = name
        self._every_s = every_s
        self._breathe = breathe
        self._lock = threading.Lock()
        self._since: float | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def step(self) -> Iterator[None]:
        """The owner does not touch the client in here."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._since = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._since = None

    def close(self) -> None:
        """Wait for the other thread to end; no step may be under way."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._every_s):
            with self._lock:
                since = self._since
                if since is not None and time.monotonic() - since >= self._every_s:
                    self._breathe()
