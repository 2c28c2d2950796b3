"""Several real workers on one model, one act at a time, and everything that can befall them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from unittest import mock

from stream_update import slots
from stream_update.cadence import Cadence
from stream_update.errors import Doubt, StreamUpdateError, Transient
from stream_update.events import Record, TopicPartition, TopicSpec
from stream_update.plans import Plan
from stream_update.snapshot import Identity
from stream_update.worker import Worker
from tests.model.broker import Broker, Transaction
from tests.model.learning import fresh_kit
from tests.model.log import ModelLog
from tests.model.process import Clock, Killed, Process, Silence, Step
from tests.model.truth import APP, TOPICS, Truth, Violation

__all__ = ["FAULTS", "Life", "Trial"]

PARTITIONS = 2
ROUNDS = 150

WORK_S = 0.02
"""What a turn takes besides waiting: without it a busy member would stop time."""

FAULTS = ["crash", "freeze", "silence", "lose"]


class Life:
    """One process: a worker, and what is going to happen to it at which step."""

    def __init__(
        self, name: str, worker: Worker, log: ModelLog, closing: Callable[[], None]
    ) -> None:
        self.name = name
        self.worker = worker
        self.process: Process = log.process
        self.close = closing
        self.acting = False
        self.fault: tuple[Step, str, int] | None = None


class Trial:
    """The world of one example. Close it: a module's clock is replaced meanwhile.

    ``broken`` once an invariant does not hold: nothing that comes later means anything.
    """

    def __init__(
        self,
        *,
        learner: str = "counting",
        single: bool = False,
        every: int = 2,
        fences: bool = True,
        waits: bool = True,
    ) -> None:
        self.truth = Truth(learner, PARTITIONS, single=single)
        self.clock = Clock()
        self.delay_s = 0.0
        self.broker = Broker(
            self.clock,
            marker_s=self._marker_s,
            fences=fences,
            waits=waits,
            on_commit=self._decided,
        )
        self.lives: list[Life] = []
        self.broken = False
        self.deaths = 0
        self.joined = 0
        self._learner = learner
        self._single = single
        self._every = every
        self._open = contextlib.ExitStack()
        self._open.enter_context(mock.patch.object(slots, "time", self.clock))
        self._markers = 0
        self.broker.create(
            [
                TopicSpec("events", PARTITIONS),
                *(TopicSpec(TOPICS[k], PARTITIONS) for k in TOPICS if k != "journal"),
                TopicSpec(TOPICS["journal"]),
            ]
        )
        self._appender = ModelLog(self.broker, Process("producer")).appender()

    def close(self) -> None:
        self._open.close()

    def _decided(self, transaction: Transaction) -> None:
        try:
            self.truth.decided(transaction)
        except Violation:
            self.broken = True
            raise

    def _marker_s(self) -> float:
        """Markers take their time one after the other, so the end is seen in pieces."""
        self._markers += 1
        return self.delay_s * (1 + self._markers % 3)

    # -- what a machine can do

    def produce(self, partition: int, kinds: list[str]) -> None:
        with self._appender:
            self._appender.append([self.truth.add(partition, kind) for kind in kinds])

    def join(self, pace: int | None = None) -> Life:
        self.joined += 1
        name = f"worker {self.joined}"
        process = Process(name)
        process.pace = pace
        log = ModelLog(self.broker, process)
        reader, publisher = log.reader(), log.publisher(APP)
        member = log.member(APP, "events", single=self._single)
        learner = self._learner
        plan = Plan(
            identity=Identity(
                app=APP,
                lineage=APP,
                task="binary",
                topic="events",
                topic_id=log.topics()["events"].topic_id,
                learner=learner,
                fingerprint=learner,
                config={},
                versions={},
                seed=0,
            ),
            source_topic="events",
            topics=TOPICS,
            build=lambda start: fresh_kit(learner, start),
            alarm_value=lambda alarm: alarm._asdict(),
            open_reader=log.reader,
            partitions=lambda: range(PARTITIONS),
            grow=lambda total: log.add_partitions(TOPICS["snapshots"], total),
            journal=self._single,
        )
        worker = Worker(
            plan,
            member,
            publisher,
            reader,
            Cadence(4, 2.0, every=self._every, max_overhead=1.0, now=self.clock.now),
            report=lambda _slot: {},
            single=self._single,
            max_poll_records=3,
            clock=self.clock.monotonic,
        )
        life = Life(name, worker, log, member.close)
        process.at = lambda step: self._at(life, step)
        self.lives.append(life)
        return life

    def turn(self, life: Life) -> None:
        self._act(life, life.worker._turn)

    def checkpoint(self, life: Life) -> None:
        self._act(life, life.worker.checkpoint)

    def leave(self, life: Life) -> None:
        """Drain and go, while the others take their turns."""

        def drain() -> None:
            life.worker.stop()
            life.worker.run()
            life.close()

        self.broker.on_wait = self._others_turn
        try:
            self._act(life, drain)
        finally:
            self.broker.on_wait = lambda: None
        if life in self.lives:
            self.broker.kill(life.process)
            self.lives.remove(life)

    def crash(self, life: Life) -> None:
        self.broker.kill(life.process)
        self._bury()

    def stand_still(self, life: Life, seconds: int) -> None:
        """A zombie in the making: the others, at least one, go on without it."""
        if len(self.lives) == 1:
            self.join()
        self.broker.freeze(life.process)
        for _ in range(seconds):
            self.clock.sleep(1.0)
            for other in [*self.lives]:
                self.turn(other)
        self.broker.thaw(life.process)

    def pass_time(self, seconds: float) -> None:
        self.broker.wait(seconds)
        self._bury()

    def retain(self, partition: int) -> None:
        """Delete the events that the newest snapshot has learned, once it can be read."""
        if self.broker.marking:
            return
        where = TopicPartition("events", partition)
        stored = self.truth.lineages[partition].stored(partition)
        self.broker.partition(where).delete_before(stored)

    def compact(self) -> None:
        for partition in self.broker.topic(TOPICS["snapshots"]).partitions:
            partition.compact()

    # -- the end

    def settle(self) -> None:
        """Nothing goes wrong any more: all is learned, said, stored and readable (I6)."""
        self.delay_s = 0.0
        for life in self.lives:
            life.fault, life.process.pace = None, None
            self.broker.thaw(life.process)
        self._learn_to_the_end()
        while self.lives:
            self.leave(self.lives[0])
            if self.lives:
                self._learn_to_the_end()
        self.pass_time(60.0)
        self.truth.must_be_stored()
        self.truth.must_be_read(
            {TOPICS[k]: self._read(TOPICS[k]) for k in ("drift", "dead-letters")}
        )

    def _learn_to_the_end(self) -> None:
        for _ in range(ROUNDS):
            if not self.lives:
                self.join()
            for life in [*self.lives]:
                self.turn(life)
            if self.truth.complete() and self._learned() == [*range(PARTITIONS)]:
                return
        raise Violation(f"I6: stuck at {self.truth.committed}, learned is {self._learned()}")

    def _learned(self) -> list[int]:
        """The partitions that some lane has learned to their end."""
        lanes = [slot.lane for life in self.lives for slot in life.worker.slots.values()]
        ends = [len(values) for values in self.truth.values]
        return sorted(p for lane in lanes for p, at in lane.next.items() if at == ends[p])

    def _read(self, topic: str) -> list[Record]:
        found = []
        for partition in self.broker.topic(topic).partitions:
            if partition.stable_end != len(partition.entries):
                raise Violation(f"I6: a transaction hangs in {topic}")
            found += [record for _, record, _ in partition.visible(0)]
        return found

    # -- acting

    def _act(self, life: Life, what: Callable[[], object]) -> None:
        if life.acting or not life.process.running:
            return
        life.acting = True
        self.clock.sleep(WORK_S)
        try:
            what()
        except Killed:
            self.broker.kill(life.process)
        except (Doubt, Transient):
            # The process ends with 17 or 4, and its supervisor starts another.
            self.broker.kill(life.process)
        except StreamUpdateError as error:
            self.broken = True
            raise Violation(f"{life.name} ended with {type(error).__name__}: {error}") from error
        finally:
            life.acting = False
        self._bury()

    def _bury(self) -> None:
        dead = [life for life in self.lives if life.process.dead]
        self.deaths += len(dead)
        self.lives = [life for life in self.lives if not life.process.dead]

    def _others_turn(self) -> None:
        """While one waits the others go on; not while one of those waits."""
        on_wait, self.broker.on_wait = self.broker.on_wait, lambda: None
        try:
            for life in [*self.lives]:
                self.turn(life)
        finally:
            self.broker.on_wait = on_wait

    def _at(self, life: Life, step: Step) -> None:
        if life.fault is None or life.fault[0] is not step:
            return
        (_, kind, seconds), life.fault = life.fault, None
        if kind == "crash":
            raise Killed
        if kind == "silence":
            raise Silence("no answer")
        if kind == "lose":
            self.broker.lose_transactions()
            return
        self.stand_still(life, seconds)
