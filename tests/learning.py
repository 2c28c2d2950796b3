"""Trainers of this process over a stream on an embedded log, and what they leave behind."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from stream_update.assemble import Trainer, open_log
from stream_update.config import load
from stream_update.follower import Model, ModelSubscriber
from tests.programs import call, configure, write_jsonl

__all__ = ["Case", "finished", "learn", "newest"]


class Case:
    """A stream on a log, which each of its applications has a copy of."""

    def __init__(self, folder: Path, events: list[dict[str, Any]], **options: Any) -> None:
        self.folder = folder
        self.options = {"checkpoint": 300} | options
        config = self._configure(folder)
        call("produce", write_jsonl(folder / "events.jsonl", events), "-c", config, cwd=folder)

    def _configure(self, folder: Path, **options: Any) -> Path:
        log = f"sqlite:///{folder / 'log.db'}?session_timeout_ms=3000"
        return configure(folder, log, "app", **{**self.options, **options})

    def config(self, name: str, **options: Any) -> Path:
        """Of an application that has nothing learned yet."""
        folder = self.folder / name
        folder.mkdir()
        for file in self.folder.glob("log.db*"):
            shutil.copy(file, folder)
        return self._configure(folder, **options)


def learn(config: Path, **limits: Any) -> dict[str, Any]:
    """What a trainer in this process reports when it ends."""
    settings = load(config)
    with open_log(settings) as log:
        return Trainer(settings, log, **limits).run()


def finished(config: Path) -> dict[str, Any]:
    return learn(config, until_end=True)


def newest(config: Path) -> Model:
    """The newest state: learner, monitors, waiting events and all are in its manifest."""
    settings = load(config)
    seen: list[Model] = []
    with (
        open_log(settings) as log,
        ModelSubscriber(settings.app, log=log, on_model=seen.append) as model,
    ):
        model.wait(60)
    return seen[-1]
