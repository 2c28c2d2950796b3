"""What :class:`tests.contract.seats.RemoteSeat` is, for the model: a process inside the test."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from typing import Any

from tests.contract.seats import Seat
from tests.model.broker import Broker
from tests.model.log import ModelLog
from tests.model.process import Clock, Killed, Process, Step

__all__ = ["ModelSeat", "model_log"]

SESSION_S = 3.0


def model_log() -> ModelLog:
    """A cluster of its own; records are stamped with the time of day."""
    return ModelLog(Broker(Clock(time.time), session_s=SESSION_S), Process("test"))


class ModelSeat(Seat):
    """A seat in a process of its own. A killed one dies in the middle of a checkpoint."""

    def __init__(self, log: ModelLog, group: str, topic: str, *, single: bool = False) -> None:
        self.process = Process(f"{group} on {topic}")
        self._broker = log.broker
        self._answers: Iterator[Any] = iter(())
        super().__init__(ModelLog(log.broker, self.process), group, topic, single=single)

    def has_lost(self, partitions: set[int]) -> bool:
        self.poll()
        return partitions <= set(self.lost)

    def tell(self, name: str, *values: Any) -> None:
        topic, tag, count = values
        assert name == "many"
        self._answers = self._many(topic, tag, count)

    def hear(self) -> Any:
        return next(self._answers)

    def _many(self, topic: str, tag: str, count: int) -> Iterator[Any]:
        for i in range(count):
            refusal = self.commit({0: i + 1}, [(topic, f"{tag}-{i}-a"), (topic, f"{tag}-{i}-b")])
            assert not refusal, refusal
            yield i
        yield "done"

    def kill(self) -> None:
        steps = itertools.count()

        def at(_step: Step) -> None:
            if next(steps) == 3:
                raise Killed

        self.process.at = at
        with contextlib.suppress(Killed):
            next(self._answers, None)
        self._broker.kill(self.process)

    def freeze(self) -> None:
        self._broker.freeze(self.process)

    def thaw(self) -> None:
        self._broker.thaw(self.process)

    def close(self) -> None:
        if not self.process.dead:
            super().close()
