"""The harness's end of :mod:`tests.fault.child`."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

import msgspec

from tests.fault.child import News, Request

__all__ = ["Nursery"]

ROOT = Path(__file__).parents[2]
START_S = 60.0


class Nursery:
    """Starts trainers, and hears of their ends; a context manager that leaves none behind."""

    def __init__(self) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("STREAM_UPDATE_")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fault.child"],
            cwd=ROOT,
            env={**environment, "PYTHONHASHSEED": "0"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._news: queue.Queue[News | None] = queue.Queue()
        self._kept: list[News] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=START_S)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._news.put(msgspec.json.decode(line, type=News))
        self._news.put(None)

    def start(self, request: Request) -> int:
        """Start a trainer; its process id."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(request) + b"\n")
        self._process.stdin.flush()
        while (news := self._next(START_S)).what != "started":
            self._kept.append(news)
        return news.pid

    def news(self, timeout_s: float = 0.0) -> list[News]:
        """What has happened since the last time; waits for the first of it."""
        found, self._kept = self._kept, []
        try:
            while True:
                found.append(self._next(0.0 if found else timeout_s))
        except queue.Empty:
            return found

    def _next(self, timeout_s: float) -> News:
        news = self._news.get(timeout=timeout_s) if timeout_s else self._news.get_nowait()
        if news is None:
            raise RuntimeError("the process that starts the trainers has ended")
        return news
