"""The numbered steps of the checkpoint protocol, each a place where a trainer can be ended.

:func:`wrap` puts a visitor around the product's own methods, in a process that belongs to
the tests; the product knows nothing of it. A step is visited *before* what its line says.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

from stream_update.events import Batch, Committed, Record
from stream_update.lane import Effects
from stream_update.log.embedded.group import Group
from stream_update.log.embedded.member import EmbeddedMember
from stream_update.log.embedded.publisher import EmbeddedPublisher
from stream_update.log.embedded.writing import Writing
from stream_update.log.kafka.member import KafkaMember
from stream_update.log.kafka.publisher import KafkaPublisher
from stream_update.log.kafka.sending import Spread
from stream_update.log.watchdog import Call
from stream_update.serving import Serving
from stream_update.slots import Draft, Part, Slot
from stream_update.snapshot import Snapshot
from stream_update.worker import Worker

__all__ = ["STEPS", "Armed", "Visitor", "steps_of", "wrap"]

STEPS = {
    1: "take-over: ask for the committed offsets",
    2: "take-over: look for the newest snapshot",
    3: "take-over: restore the snapshot that was found",
    4: "take-over: let the partitions flow",
    5: "take-over: learn in silence what lies between S and C",
    6: "learn what nobody has learned",
    7: "checkpoint: prepare the records and the snapshot",
    8: "checkpoint: hand them to the publisher",
    9: "checkpoint: begin the transaction",
    10: "checkpoint: send the first record",
    11: "checkpoint: send the second half",
    12: "checkpoint: wait for the acknowledgements",
    13: "checkpoint: write the offsets",
    14: "checkpoint: commit",
    15: "checkpoint: while the commit is under way",
    16: "checkpoint: tell the worker that it is committed",
    17: "checkpoint: note it in the slot",
    18: "checkpoint: go on learning",
    19: "drain: the last checkpoint",
    20: "drain: leave the group",
}

MEMBERS: list[type] = [KafkaMember]
PUBLISHERS: list[type] = [KafkaPublisher]
SPREADS: list[type] = [Spread]
if find_spec("confluent_kafka") is not None:
    from stream_update.log.librdkafka.member import LibrdkafkaMember
    from stream_update.log.librdkafka.publisher import LibrdkafkaPublisher
    from stream_update.log.librdkafka.sending import Spread as LibrdkafkaSpread

    MEMBERS.append(LibrdkafkaMember)
    PUBLISHERS.append(LibrdkafkaPublisher)
    SPREADS.append(LibrdkafkaSpread)

ONLY_KAFKA = frozenset({12})
"""The embedded log has nothing to wait for: it writes into the open transaction."""

COMMIT_MS = {"kafka": 12.0, "embedded": 2.0}
"""About as long as a commit takes; when in it the end comes is left to chance."""


def steps_of(log: str) -> list[int]:
    """The numbers of the steps that a log has; ``log`` is an address or its scheme."""
    return [n for n in STEPS if n not in ONLY_KAFKA or log.startswith("kafka")]


class Armed(NamedTuple):
    """End (``SIGKILL``) or stop (``SIGSTOP``) at the so many-th visit of a step."""

    step: int
    visit: int
    number: int


class Visitor:
    """Counts the visits of each step; ``trace`` is a file that takes the number of each."""

    def __init__(self, armed: Armed | None, trace: str = "") -> None:
        self._armed = armed
        self._trace = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if trace else -1
        self._visits: dict[int, int] = {}

    def __call__(self, step: int, within_ms: float = 0.0) -> None:
        """``within_ms``: not now, but at some moment of the next milliseconds."""
        self._visits[step] = count = self._visits.get(step, 0) + 1
        if count == 1 and self._trace >= 0:
            os.write(self._trace, b"%d\n" % step)
        if self._armed is None or (step, count) != self._armed[:2]:
            return
        number = self._armed.number
        if within_ms:
            wait_s = time.monotonic_ns() % 1000 / 1000 * within_ms / 1000
            threading.Thread(target=_strike, args=(number, wait_s), daemon=True).start()
        else:
            _strike(number, 0.0)


def _strike(number: int, wait_s: float) -> None:
    time.sleep(wait_s)
    os.kill(os.getpid(), number)


def around(owner: type, name: str, make: Callable[[Any], Any]) -> None:
    """Replace a method by what ``make`` returns for it; fails if there is no such method.

    One that is inherited is replaced for its heir alone.
    """
    setattr(owner, name, make(getattr(owner, name)))


def before(owner: type, name: str, visit: Callable[[], None]) -> None:
    def make(method: Any) -> Any:
        def wrapped(*args: Any, **options: Any) -> Any:
            visit()
            return method(*args, **options)

        return wrapped

    around(owner, name, make)


def after(owner: type, name: str, visit: Callable[[], None]) -> None:
    def make(method: Any) -> Any:
        def wrapped(*args: Any, **options: Any) -> Any:
            result = method(*args, **options)
            visit()
            return result

        return wrapped

    around(owner, name, make)


def wrap(visit: Visitor) -> None:
    """Let all that runs in this process from now on pass the visitor at every step."""
    before(Worker, "_committed", lambda: visit(1))
    before(Slot, "_find", lambda: visit(2))
    after(Slot, "_find", lambda: visit(3))
    before(Worker, "_resume", lambda: visit(4))
    around(Slot, "feed", lambda method: _feeding(method, visit))
    before(Slot, "part", lambda: visit(7))
    _wrap_embedded(visit)
    _wrap_kafka(visit)
    for publisher in (EmbeddedPublisher, *PUBLISHERS):
        before(publisher, "begin", lambda: visit(8))
    before(Slot, "confirm", lambda: visit(17))
    after(Slot, "confirm", lambda: visit(18))
    before(Worker, "_drain", lambda: visit(19))
    for member in (EmbeddedMember, *MEMBERS):
        before(member, "close", lambda: visit(20))


def _feeding(method: Any, visit: Visitor) -> Any:
    def feed(slot: Slot, batch: Batch) -> None:
        silent = batch.offsets and batch.offsets[0] < slot.committed.get(batch.partition, 0)
        visit(5 if silent else 6)
        method(slot, batch)

    return feed


def _wrap_embedded(visit: Visitor) -> None:
    """There, the offsets are written first, and the records after them."""

    def positions(method: Any) -> Any:
        def commit(member: EmbeddedMember, sql: Any, offsets: Mapping[int, Committed]) -> None:
            visit(13)
            method(member, sql, offsets)

        return commit

    def writing(method: Any) -> Any:
        def write(self: Writing, sql: Any, records: Sequence[Record]) -> list[int]:
            visit(10)
            half = len(records) // 2
            given: list[int] = method(self, sql, records[:half])
            visit(11)
            given += method(self, sql, records[half:])
            visit(14)
            visit(15, COMMIT_MS["embedded"])
            return given

        return write

    def beginning(method: Any) -> Any:
        def begin(*args: Any) -> Any:
            visit(9)
            result = method(*args)
            visit(16)
            return result

        return begin

    around(EmbeddedMember, "commit", positions)
    around(Writing, "write", writing)
    around(EmbeddedPublisher, "begin", beginning)


def _wrap_kafka(visit: Visitor) -> None:
    """The publisher names its steps to its watchdog."""
    named = {"begin_transaction": 9, "flush": 12, "send_offsets_to_transaction": 13}

    def stepping(method: Any) -> Any:
        def step(call: Call[Any], name: str, limit_s: float) -> None:
            if name in named:
                visit(named[name])
            elif name == "commit_transaction":
                visit(14)
                visit(15, COMMIT_MS["kafka"])
            method(call, name, limit_s)

        return step

    progress = threading.local()

    def delivering(method: Any) -> Any:
        def deliver(self: Any, call: Any, producer: Any, sends: Sequence[Any]) -> Any:
            with _counting(progress, len(sends)):
                return method(self, call, producer, sends)

        return deliver

    def sending(method: Any) -> Any:
        def send(self: Any, producer: Any, record: Record, partition: int | None) -> Any:
            done, total = getattr(progress, "sent", (1, 0))
            progress.sent = (done + 1, total)
            if done == 0:
                visit(10)
            if done == total // 2:
                visit(11)
            return method(self, producer, record, partition)

        return send

    around(Call, "step", stepping)
    for publisher in PUBLISHERS:
        around(publisher, "_deliver", delivering)
        after(publisher, "_write", lambda: visit(16))
    for spread in SPREADS:
        around(spread, "send", sending)


@contextlib.contextmanager
def _counting(progress: threading.local, total: int) -> Iterator[None]:
    progress.sent = (0, total)
    try:
        yield
    finally:
        progress.sent = (1, 0)


def pace(events_per_s: float) -> None:
    """Learn no faster than so many events a second, so that there is always work to break."""

    def make(method: Any) -> Any:
        def feed(slot: Slot, batch: Batch) -> None:
            method(slot, batch)
            time.sleep(len(batch) / events_per_s)

        return feed

    around(Slot, "feed", make)


# -- trainers that do it wrong


def _say_twice() -> None:
    def make(method: Any) -> Any:
        def confirm(slot: Slot, part: Part, given: list[int]) -> None:
            method(slot, part, given)
            slot._pending = [*part.pending, *slot._pending]

        return confirm

    around(Slot, "confirm", make)


def _lag_behind() -> None:
    def make(method: Any) -> Any:
        def part(slot: Slot, draft: Draft) -> Part:
            made: Part = method(slot, draft)
            if made.snapshot is None:
                return made
            offsets = {p: Committed(at.offset - 1, at.metadata) for p, at in made.offsets.items()}
            return made._replace(offsets=offsets)

        return part

    around(Slot, "part", make)


def _leave_out() -> None:
    def make(method: Any) -> Any:
        def restore(slot: Slot, committed: Mapping[int, Committed | None]) -> None:
            method(slot, committed)
            for partition, at in committed.items():
                slot.lane.next[partition] = at.offset if at else slot.lane.next[partition]

        return restore

    around(Slot, "restore", make)


def _lose_outputs() -> None:
    def make(method: Any) -> Any:
        def say(slot: Slot, effects: Effects) -> None:
            letters = [one for one in effects.dead_letters if one.offset % 3]
            method(slot, effects._replace(dead_letters=letters))

        return say

    around(Slot, "_say", make)


def _ignore_the_fence() -> None:
    around(Group, "fence", lambda _: lambda *_: None)


def _learn_twice() -> None:
    def make(method: Any) -> Any:
        def feed(slot: Slot, batch: Batch) -> None:
            method(slot, batch)
            if batch.offsets and batch.offsets[0] % 7 == 0:
                slot.lane.learner.learn([{"nswprice": 0.5}], [True])

        return feed

    around(Slot, "feed", make)


def _serve_the_past() -> None:
    served: dict[Any, Any] = {}

    def make(method: Any) -> Any:
        def seal(serving: Serving, snapshot: Snapshot, dump: Any, **options: Any) -> Snapshot:
            before = served.get(snapshot.manifest.partition, dump)
            served[snapshot.manifest.partition] = dump
            made: Snapshot = method(serving, snapshot, before, **options)
            return made

        return seal

    around(Serving, "seal", make)


MUTANTS: dict[str, Callable[[], None]] = {
    "says-twice": _say_twice,
    "commits-behind-the-snapshot": _lag_behind,
    "leaves-out-what-is-silent": _leave_out,
    "loses-outputs": _lose_outputs,
    "ignores-the-fence": _ignore_the_fence,
    "learns-what-nobody-sent": _learn_twice,
    "serves-the-past": _serve_the_past,
}
"""Faults of the product itself, to see that the harness notices them."""
