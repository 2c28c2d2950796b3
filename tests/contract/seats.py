"""A place in a consumer group, in this process or in one of its own, for every log.

A :class:`Seat` is a member and a publisher that behave as a worker does: what is
gained flows from the committed offset, what is lost is forgotten. A :class:`RemoteSeat`
is the same in a process that can be killed or frozen; it does nothing by itself, so a
test decides what such a process has seen. ``python -m tests.contract.seats`` is that
process: one command a line on standard input, one answer a line on standard output.
"""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from stream_update.errors import Refused
from stream_update.events import Batch, Committed, Record
from stream_update.log.embedded import EmbeddedLog
from stream_update.protocols import Log

__all__ = ["PATIENCE_S", "Place", "RemoteSeat", "Seat", "gather", "open_log", "settle", "until"]

PATIENCE_S = 60.0
ROOT = Path(__file__).parents[2]


def open_log(url: str) -> Log:
    """The log at the address, with short timeouts for its groups."""
    if url.startswith("sqlite:"):
        return EmbeddedLog(url)
    if url == "model://":
        from tests.model.seats import model_log  # noqa: PLC0415 (it is made of seats itself)

        return model_log()
    kind: Callable[..., Log]
    # A log may be tested alone.
    if url.startswith("librdkafka:"):
        from stream_update.log.librdkafka import LibrdkafkaLog as kind  # noqa: N813, PLC0415
    else:
        from stream_update.log.kafka import KafkaLog as kind  # noqa: N813, PLC0415

    return kind(
        url.removeprefix("librd"),
        client={"metadata_max_age_ms": 2_000},
        consumer={"session_timeout_ms": 6_000, "heartbeat_interval_ms": 500},
        producer={
            "delivery_timeout_ms": 5_000,
            "request_timeout_ms": 4_000,
            "transaction_timeout_ms": 5_000,
        },
    )


def until(holds: Callable[[], object], what: str = "") -> None:
    """Call it until it is true; fail after :data:`PATIENCE_S`."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain: {what}"


def gather(poll: Callable[[], Sequence[Batch]], count: int) -> list[Batch]:
    """Poll until so many records have come."""
    batches: list[Batch] = []

    def enough() -> bool:
        batches.extend(poll())
        return sum(map(len, batches)) >= count

    until(enough, f"{count} records")
    return batches


class Place(Protocol):
    """What a test sees of a seat."""

    owned: set[int]
    lost: list[int]
    read: list[tuple[int, int]]

    def poll(self) -> None: ...

    def has_read(self, count: int) -> bool: ...

    def stable(self) -> bool: ...

    def commit(self, offsets: Mapping[int, int], out: Sequence[tuple[str, str]] = ()) -> str: ...


class Seat:
    """``owned`` by the reports of its polls; ``lost`` and ``read`` (partition, offset) so far."""

    def __init__(self, log: Log, group: str, topic: str, *, single: bool = False) -> None:
        self.member = log.member(group, topic, single=single)
        self.publisher = log.publisher(group)
        self._closed = False
        self.owned: set[int] = set()
        self.lost: list[int] = []
        self.read: list[tuple[int, int]] = []

    def poll(self) -> None:
        batches, gained, lost = self.member.poll(0.05)
        assert set(lost) <= self.owned, "lost what it did not have"
        self.owned -= set(lost)
        assert not self.owned & set(gained), "gained twice without a loss"
        self.owned |= set(gained)
        self.lost += lost
        for batch in batches:
            assert batch.partition in self.owned, "reads what it does not own"
            self.read += [(batch.partition, offset) for offset in batch.offsets]
        if gained:
            for partition, at in self.member.committed(gained).items():
                self.member.resume_at(partition, at.offset if at else 0)

    def has_read(self, count: int) -> bool:
        """Poll once more; whether so many records have been read so far."""
        self.poll()
        return len(self.read) >= count

    def stable(self) -> bool:
        return self.member.stable()

    def commit(self, offsets: Mapping[int, int], out: Sequence[tuple[str, str]] = ()) -> str:
        """Publish; empty, or why it was refused."""
        records = [Record(topic, value.encode(), partition=0) for topic, value in out]
        positions = {partition: Committed(offset) for partition, offset in offsets.items()}
        try:
            given = self.publisher.publish(records, positions, self.member)
        except Refused as refusal:
            return str(refusal) or "refused"
        assert len(given) == len(records)
        return ""

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.publisher.close()
            self.member.close()


class RemoteSeat:
    """A :class:`Seat` in a process of its own."""

    def __init__(self, url: str, group: str, topic: str, *, single: bool = False) -> None:
        self.owned: set[int] = set()
        self.lost: list[int] = []
        self.read: list[tuple[int, int]] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.contract.seats", url, group, topic, str(int(single))],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._answers.put(line)

    def tell(self, name: str, *values: object) -> None:
        """Give a command without waiting for its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([name, *values]) + "\n")
        self.process.stdin.flush()

    def hear(self) -> Any:
        """The next answer."""
        return json.loads(self._answers.get(timeout=PATIENCE_S))

    def _ask(self, name: str, *values: object) -> Any:
        self.tell(name, *values)
        return self.hear()

    def poll(self) -> None:
        owned, lost, read = self._ask("poll")
        self.owned = set(owned)
        self.lost += lost
        self.read += [(partition, offset) for partition, offset in read]

    def has_read(self, count: int) -> bool:
        self.poll()
        return len(self.read) >= count

    def has_lost(self, partitions: set[int]) -> bool:
        """Poll once more; whether all of these have been lost so far."""
        self.poll()
        return partitions <= set(self.lost)

    def stable(self) -> bool:
        return bool(self._ask("stable"))

    def commit(self, offsets: Mapping[int, int], out: Sequence[tuple[str, str]] = ()) -> str:
        return str(self._ask("commit", [*offsets.items()], [*out]))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Leave in good order, if there is still somebody to leave."""
        if self.process.poll() is None:
            self.thaw()
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                self.process.wait(PATIENCE_S)
            finally:
                self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def settle(seats: Sequence[Place], *sizes: int) -> None:
    """Poll all in turn until so many partitions are owned, in any order, and all is quiet."""

    def settled() -> bool:
        for seat in seats:
            seat.poll()
        together = [partition for seat in seats for partition in seat.owned]
        assert len(together) == len(set(together)), "a partition has two owners"
        return sorted(len(seat.owned) for seat in seats) == sorted(sizes) and all(
            seat.stable() for seat in seats
        )

    until(settled, f"{[*map(len, (seat.owned for seat in seats))]} for {sizes}")


def _serve(url: str, group: str, topic: str, single: str) -> None:
    with open_log(url) as log:
        seat = Seat(log, group, topic, single=single == "1")
        for line in sys.stdin:
            name, *values = json.loads(line)
            print(json.dumps(_do(seat, name, values)), flush=True)
        seat.close()


def _do(seat: Seat, name: str, values: list[Any]) -> Any:
    if name == "poll":
        seat.poll()
        answer = [sorted(seat.owned), seat.lost, seat.read]
        seat.lost, seat.read = [], []
        return answer
    if name == "stable":
        return seat.stable()
    if name == "commit":
        return seat.commit(dict(values[0]), values[1])
    # One checkpoint after the other, each with two records and the position behind them.
    topic, tag, count = values
    for i in range(count):
        refusal = seat.commit({0: i + 1}, [(topic, f"{tag}-{i}-a"), (topic, f"{tag}-{i}-b")])
        assert not refusal, refusal
        print(json.dumps(i), flush=True)
    return "done"


if __name__ == "__main__":
    _serve(*sys.argv[1:])
