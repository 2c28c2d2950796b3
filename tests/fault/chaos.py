"""Break trainers for as long as it takes, and see that nothing is lost or said twice.

    python -m tests.fault.chaos --log sqlite --kills 100 --events 100000 --learner tree
    python -m tests.fault.chaos --log kafka --kills 500 --events 300000 --seed 7
    python -m tests.fault.chaos --log kafka --client librdkafka --kills 40 --events 40000
    python -m tests.fault.chaos --log sqlite --learner mine.toml --stream mine.csv

Real trainer processes (``stream-update run``) over a real log, and faults drawn from the
seed: SIGKILL, SIGTERM, SIGSTOP for shorter and longer than a session, processes that
join and leave, an end or a standstill at each numbered step of the checkpoint protocol
(:data:`tests.fault.steps.STEPS`), and on Kafka a broker that is killed or frozen. After
each death, and at the end, the log is held against the invariants I1 to I6 (see
:mod:`tests.fault.witness`) and against one uninterrupted run over the same log.

``--kills`` counts the deaths by SIGKILL, from outside or at a step; the other faults come
on top (with ``--only`` and a kind that kills nobody, the faults count). ``--log kafka``
starts a broker of its own, unless ``--address`` names one, which is then neither killed
nor frozen. The same seed draws the same faults, but the machine decides what they hit.
The exit code is 0 if every invariant held, else 1.
"""

from __future__ import annotations

import argparse
import logging
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from stream_update.assemble import open_log
from stream_update.config import Config, load
from stream_update.errors import ConfigError, StreamUpdateError
from stream_update.events import Record, TopicPartition
from stream_update.plugins import KAFKA_CLIENTS
from stream_update.protocols import Log
from stream_update.restore import read_range
from stream_update.topics import create_topics
from tests.broker import Broker
from tests.fault.child import News, Request
from tests.fault.matter import (
    ID,
    LABEL,
    LEARNERS,
    STREAMS,
    WINDOW,
    lines,
    open_learner,
    open_stream,
)
from tests.fault.nursery import ROOT, Nursery
from tests.fault.steps import MUTANTS, STEPS, steps_of
from tests.fault.witness import Violation, Witness

APP = "chaos"
REFERENCE = "uninterrupted"
LIVE_S = 180.0
"""How long it may take, after the last fault, until everything is learned."""

AGAIN_S = 1.0

SESSION_MS = {"sqlite": 1_000, "kafka": 2_000, "shared": 6_000}
FAULTS = {
    "step": 0,
    "kill": 40,
    "terminate": 8,
    "stand still, short": 8,
    "stand still, long": 10,
    "join": 6,
    "leave": 5,
    "broker killed": 3,
    "broker frozen": 3,
}
DEADLY = {"kill", "step"}
GOING_ON = {17: "in doubt", 4: "the log did not answer"}
"""Ends that a supervisor answers with a new start."""


class Options(NamedTuple):
    log: str
    client: str
    address: str
    session_ms: int | None
    kills: int
    events: int
    seed: int
    learner: str
    stream: str
    label: str
    task: str
    lanes: str
    processes: int
    partitions: int
    bad: float
    duplicates: float
    serving: str
    mutant: str
    only: list[str]
    keep: bool
    trace: str


class Feeder(threading.Thread):
    """Appends events on a thread of its own: whoever stands still may hold a lock meanwhile.

    What could not be written for certain is written again, and may then be there twice.
    """

    def __init__(self, config: Config, events: Iterator[bytes]) -> None:
        super().__init__(daemon=True)
        self.sent = self.again = 0
        self.failure: BaseException | None = None
        self._config = config
        self._events = events
        self._orders: queue.Queue[int | None] = queue.Queue()

    def feed(self, upto: int) -> None:
        """Let there be so many events in the source topic, soon."""
        self._orders.put(upto)

    def finish(self) -> None:
        """Wait until all of them are there."""
        self._orders.put(None)
        self.join(LIVE_S)
        if self.failure is not None or self.is_alive():
            raise Violation("the events could not be appended") from self.failure

    def run(self) -> None:
        try:
            with open_log(self._config) as log:
                while (upto := self._orders.get()) is not None:
                    while self.sent < upto:
                        self._append(log, min(2000, upto - self.sent))
        except BaseException as error:  # noqa: BLE001 - finish() raises it
            self.failure = error

    def _append(self, log: Log, count: int) -> None:
        topic, partitions = self._config.source.topic, self._config.source.partitions
        records = [
            Record(topic, line, partition=(self.sent + number) % partitions)
            for number, line in zip(range(count), self._events, strict=False)
        ]
        deadline = time.monotonic() + LIVE_S
        while True:
            try:
                with log.appender() as appender:
                    appender.append(records)
                break
            except StreamUpdateError:
                if time.monotonic() > deadline:
                    raise
                self.again += 1
        self.sent += count


@dataclass
class Child:
    """A trainer: what it was started with, and what has been done to it."""

    pid: int
    number: int
    said: Path
    member: int
    armed: tuple[int, int, int] | None = None
    killed: bool = False
    leaving: bool = False
    thaw_at: float | None = None


class Chaos:
    """One run; :meth:`run` raises :class:`Violation`."""

    def __init__(self, options: Options, folder: Path) -> None:
        self._options = options
        self._folder = folder
        self._chance = random.Random(options.seed)
        self._opened = ExitStack()
        self._broker: Broker | None = None
        self._children: dict[int, Child] = {}
        self._started = self._kills = 0
        self._blind = ""
        self._unsure_until = 0.0
        self._quiet = False
        self._again: list[tuple[float, int]] = []
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()
        self._began = self._last_fault = time.monotonic()

    def __enter__(self) -> Self:
        options = self._options
        scheme = options.log
        if scheme == "sqlite":
            url = f"sqlite:///{self._folder / 'log.db'}?session_timeout_ms={SESSION_MS['sqlite']}"
        elif options.address:
            scheme, url = "shared", f"kafka://{options.address.removeprefix('kafka://')}"
        else:
            self._broker = self._opened.enter_context(Broker())
            url = f"kafka://{self._broker.bootstrap}"
        self._session_ms = options.session_ms or SESSION_MS[scheme]
        self._path = self._configure(url, scheme)
        self._config: Config = load(self._path)
        self._log: Log = self._opened.enter_context(open_log(self._config))
        create_topics(self._config, self._log)
        self._nursery = self._opened.enter_context(Nursery())
        self._witness = Witness(self._config, self._log)
        self._opened.callback(self._witness.close)
        stream = open_stream(options.stream, options.label, options.task)
        events = lines(stream, options.seed, options.bad, options.duplicates)
        self._feeder = Feeder(self._config, events)
        self._feeder.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._broker is not None and self._broker.poll() is None:
            self._broker.thaw()
        self._opened.close()

    def _configure(self, url: str, scheme: str) -> Path:
        options, learner = self._options, open_learner(self._options.learner)
        task = options.task or open_stream(options.stream, options.label, options.task).task
        chunk = options.events / (options.kills + 1)
        every = int(min(2000, max(20, chunk / 6)))
        app = APP if scheme != "shared" else f"{APP}-{os.urandom(4).hex()}"
        kafka = f"""
[kafka]
client = "{options.client}"
[kafka.consumer]
session_timeout_ms = {self._session_ms}
heartbeat_interval_ms = {self._session_ms // 5}
[kafka.producer]
request_timeout_ms = 2000
delivery_timeout_ms = 3000
transaction_timeout_ms = 5000
"""
        path = self._folder / "app.toml"
        path.write_text(
            f"""
app = "{app}"
log = "{url}"
task = "{task}"
lanes = "{options.lanes}"
max_poll_records = {max(10, every // 3)}
[source]
topic = "{app}.labelled"
partitions = {options.partitions}
label = "{LABEL}"
features = "*"
id = "{ID}"
duplicate_window = {WINDOW}
[learner]
{learner.table}
{learner.monitors}
[checkpoint]
events = {every}
seconds = 0.3
[snapshot]
every = 2
{f'serving = "{options.serving}"' if options.serving else ""}
{kafka if scheme != "sqlite" else ""}
""",
            encoding="utf-8",
        )
        return path

    # -- the run

    def run(self) -> None:
        options = self._options
        self._feeder.feed(self._share(1))
        for _ in range(options.processes):
            self._start()
        while (done := self._done()) < options.kills:
            if time.monotonic() > self._last_fault + LIVE_S:
                raise Violation(f"I6: nothing has happened for {LIVE_S:.0f} s")
            self._feeder.feed(self._share(done + 2))
            self._strike()
            self._pause()
        self._feeder.feed(options.events)
        self._calm()
        self._end()

    def _done(self) -> int:
        """How many of the faults that count there were."""
        only = self._options.only
        return len(self.faults) if only and not DEADLY & {*only} else self._kills

    def _share(self, kills: int) -> int:
        options = self._options
        return min(options.events, options.events * kills // (options.kills + 1))

    def _pause(self) -> None:
        """Mostly until the trainers have got on, sometimes only for a moment."""
        now = time.monotonic()
        soonest = now + self._chance.uniform(0.1, 0.6)
        hasty = self._chance.random() < 0.25
        latest = soonest if hasty else now + 4 * self._session_ms / 1000
        before = self._progress()
        while (now := time.monotonic()) < latest:
            self._hear(0.02 if now < soonest else 0.05)
            if now >= soonest and self._progress() > before:
                return

    def _progress(self) -> int:
        try:
            return self._witness.progress()
        except StreamUpdateError:
            return -1

    def _calm(self) -> None:
        """No more faults: replace who is armed, and wait until everything is learned."""
        self._say("no more faults; waiting until everything is learned")
        self._quiet = True
        for child in [*self._children.values()]:
            if child.thaw_at is not None:
                self._thaw(child)
            if child.armed or self._options.mutant:
                child.leaving = True
                self._signal(child, signal.SIGTERM)
        for _ in range(2):
            self._start(calm=True)
        self._feeder.finish()
        ends = self._ends()
        deadline = time.monotonic() + LIVE_S
        while True:
            self._hear(0.1)
            began = time.monotonic()
            looked = self._look()
            at = {p: c.offset for p, c in self._witness.committed.items()}
            if looked and at == ends:
                break
            if looked:
                # What the comparing takes is no standstill of the trainers.
                deadline += time.monotonic() - began
            if time.monotonic() > deadline:
                raise Violation(
                    f"I6: after {LIVE_S:.0f} s without faults {at} of {ends} is learned; the last "
                    f"look in vain: {self._blind or 'none'}"
                )
        for child in self._children.values():
            child.leaving = True
            self._signal(child, signal.SIGTERM)
        self._again.clear()
        while self._children:
            self._hear(0.2)
            if time.monotonic() > deadline:
                raise Violation(f"I6: {len(self._children)} trainers do not end after SIGTERM")

    def _ends(self) -> dict[int, int]:
        deadline = time.monotonic() + LIVE_S
        while True:
            try:
                return self._witness.ends()
            except StreamUpdateError:
                if time.monotonic() > deadline:
                    raise

    def _end(self) -> None:
        """The last look, and the comparison with one process that nobody disturbs."""
        self._look_at_the_end()
        if self._options.lanes == "single" and self._options.partitions > 1:
            self._say("one lane reads its partitions in an order of its own: compared by journal")
            return
        ends = self._ends()
        if any(
            track.manifests[-1].positions[number] < ends[number]
            for number, track in self._witness.tracks.items()
        ):
            # Who loses a lane while it leaves does not seal it: that is for the next to do.
            self._say("one lane was left behind its offset: going on once more")
            self._run_to_the_end()
            self._look_at_the_end()
        self._say("one uninterrupted run over the same log")
        self._run_to_the_end("-s", f"lineage={REFERENCE}")
        deadline = time.monotonic() + LIVE_S
        other = Witness(load(self._path, [f"lineage={REFERENCE}"]), self._log)
        try:
            while not other.look():
                if time.monotonic() > deadline:
                    raise Violation("the uninterrupted run is not to be seen")
            for number, track in self._witness.tracks.items():
                ours, right = track.manifests[-1], other.tracks[number].manifests[-1]
                if (ours.digest, ours.next) != (right.digest, right.next):
                    raise Violation(
                        f"I1: lane {number}: state {ours.digest[:12]} at {ours.next}, after an "
                        f"uninterrupted run {right.digest[:12]} at {right.next}"
                    )
            for what in ("dead letters", "alarms"):
                if self._witness.counts[what] != other.counts[what]:
                    raise Violation(
                        f"I2: {self._witness.counts[what]} {what}, after an uninterrupted run "
                        f"{other.counts[what]}"
                    )
        finally:
            other.close()

    def _look_at_the_end(self) -> None:
        deadline = time.monotonic() + LIVE_S
        while not self._look() or (left := self._witness.open_transactions()):
            if time.monotonic() > deadline:
                raise Violation(f"I6: a transaction is left open in {left}")
            time.sleep(0.1)

    def _run_to_the_end(self, *options: str) -> None:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "stream_update", "run"),
                *("--until-end", "-c", str(self._path), *options),
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise Violation(f"an undisturbed run ended with {done.returncode}: {done.stderr}")

    def summary(self) -> str:
        counts, options = self._witness.counts, self._options
        ends = self._ends()
        deaths = ", ".join(f"{count} {what}" for what, count in sorted(self.counts.items()))
        return (
            f"{options.log}{f' by {options.client}' if options.log == 'kafka' else ''}, "
            f"{options.learner} on {options.stream}, lanes {options.lanes}: "
            f"{len(self.faults)} faults, {self._kills} of them kills, over {sum(ends.values()):,} "
            f"events in {time.monotonic() - self._began:.0f} s\n"
            f"  {deaths}\n"
            f"  compared with an uninterrupted learning: {counts['snapshots']} snapshots, "
            f"{counts['for serving']} for serving, "
            f"{counts['rows']} rows of metrics, {counts['dead letters']} dead letters, "
            f"{counts['alarms']} alarms, {counts['journal entries']} journal entries; in "
            f"{counts['looks']} looks"
        )

    # -- trainers

    def _start(self, *, calm: bool = False, member: int | None = None) -> None:
        chance, options = self._chance, self._options
        armed = None
        only = options.only
        if not calm and chance.random() < (0.6 if not only else float("step" in only)):
            step = chance.choice(steps_of(self._config.log))
            often = step in {5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18}
            number = signal.SIGSTOP if chance.random() < 0.2 else signal.SIGKILL
            armed = (step, chance.randint(1, 6) if often else 1, int(number))
        self._started += 1
        said = self._folder / f"trainer-{self._started:04}.log"
        chunk = options.events / (options.kills + 1)
        taken = {child.member for child in self._children.values()}
        taken |= {number for _, number in self._again}
        if member is None:
            member = next(number for number in range(1000) if number not in taken)
        arguments = ["run", "-c", str(self._path)]
        if options.log == "kafka" and member % 2 == 0:
            # Every second one is a static member: it comes back without a rebalance.
            arguments += ["-s", f'kafka.consumer.group_instance_id="trainer-{member}"']
        pid = self._nursery.start(
            Request(
                arguments,
                str(self._folder),
                str(said),
                events_per_s=0.0 if calm else max(100.0, 1.5 * chunk),
                armed=armed,
                mutant="" if calm else options.mutant,
                trace=options.trace,
            )
        )
        self._children[pid] = Child(pid, self._started, said, member, armed)

    def _hear(self, timeout_s: float) -> None:
        """What became of the trainers; starts others for those that died."""
        now = time.monotonic()
        for child in self._children.values():
            if child.thaw_at is not None and now >= child.thaw_at:
                self._thaw(child)
        due = [member for at, member in self._again if now >= at]
        self._again = [(at, member) for at, member in self._again if now < at]
        for member in due:
            self._start(member=member, calm=self._quiet)
        for news in self._nursery.news(timeout_s):
            child_or_none = self._children.get(news.pid)
            if child_or_none is None:
                continue
            if news.what == "ended":
                self._ended(child_or_none, news)
            elif child_or_none.thaw_at is None and child_or_none.armed:
                self._fault(f"trainer {child_or_none.number} stands still at step", child_or_none)
                length = self._chance.uniform(0.3, 2.5) * self._session_ms / 1000
                child_or_none.thaw_at = time.monotonic() + length
                child_or_none.armed = None

    def _ended(self, child: Child, news: News) -> None:
        del self._children[child.pid]
        if news.code == -signal.SIGKILL:
            self._kills += 1
            if not child.killed:
                self._fault(f"trainer {child.number} is killed at step", child)
        elif news.code in GOING_ON:
            self.counts[f"ended {GOING_ON[news.code]}"] += 1
        elif news.code == ConfigError.exit_code and time.monotonic() < self._unsure_until:
            self.counts["found no broker"] += 1
        elif child.leaving and news.code == -signal.SIGTERM:
            self.counts["ended before it listened"] += 1
        elif news.code or not child.leaving:
            said = child.said.read_text(errors="replace")[-3000:]
            raise Violation(f"trainer {child.number} ended with {news.code}:\n{said}")
        self._look()
        if not child.leaving:
            # A supervisor waits a little before it starts one again that ended by itself.
            wait_s = 0.0 if news.code == -signal.SIGKILL else AGAIN_S
            self._again.append((time.monotonic() + wait_s, child.member))

    def _look(self) -> bool:
        """Judge the log as it is now, if it can be read."""
        try:
            return self._witness.look()
        except StreamUpdateError as error:
            self.counts["looks in vain"] += 1
            self._blind = str(error)
            return False

    # -- faults

    def _strike(self) -> None:
        running = [c for c in self._children.values() if c.thaw_at is None and not c.leaving]
        only = {*self._options.only}
        # Some steps are reached by a process that is told to end, and by no other.
        allowed = only | {"terminate"} if "step" in only else only or {*FAULTS}
        weights = {
            name: weight
            for name, weight in FAULTS.items()
            if weight
            and name in allowed
            and (self._broker is not None or not name.startswith("broker"))
            and (name != "join" or len(self._children) < self._options.processes + 2)
            and (name != "leave" or len(running) > max(1, self._options.processes - 1))
            and (running or name in {"join", "broker killed", "broker frozen"})
        }
        if not weights:
            return
        name = self._chance.choices([*weights], [*weights.values()])[0]
        if name.startswith("broker"):
            self._break_broker(name)
        elif name == "join":
            self._fault(f"a trainer joins {len(self._children)}", kind=name)
            self._start()
        else:
            # Most of those that are armed are let live, so that they come to their step.
            unarmed = [child for child in running if not child.armed]
            child = self._chance.choice((self._chance.random() < 0.7 and unarmed) or running)
            self._fault(f"{name}: trainer {child.number}", kind=name)
            if name == "kill":
                child.killed = True
                self._signal(child, signal.SIGKILL)
            elif name.startswith("stand"):
                low, high = (0.1, 0.7) if name.endswith("short") else (1.2, 2.5)
                length = self._chance.uniform(low, high) * self._session_ms / 1000
                child.thaw_at = time.monotonic() + length
                self._signal(child, signal.SIGSTOP)
            else:
                child.leaving = True
                self._signal(child, signal.SIGTERM)
                if name == "terminate":
                    self._start()

    def _break_broker(self, name: str) -> None:
        assert self._broker is not None
        length = self._chance.uniform(0.2, 6.0)
        self._fault(f"{name} for {length:.1f} s", kind=name)
        self._unsure_until = float("inf")
        if name == "broker killed":
            self._broker.kill()
            self._wait(length / 3)
            self._broker.start()
        else:
            self._broker.freeze()
            self._wait(length)
            self._broker.thaw()
        self._unsure_until = time.monotonic() + 30.0

    def _wait(self, length: float) -> None:
        until = time.monotonic() + length
        while time.monotonic() < until:
            time.sleep(0.05)

    def _thaw(self, child: Child) -> None:
        child.thaw_at = None
        self._signal(child, signal.SIGCONT)

    def _signal(self, child: Child, number: int) -> None:
        try:
            os.kill(child.pid, number)
        except ProcessLookupError:
            return

    def _fault(self, what: str, child: Child | None = None, *, kind: str = "") -> None:
        if child is not None:
            assert child.armed is not None, "nobody else ends a trainer"
            step, visit, number = child.armed
            kind = f"{'stopped' if number == signal.SIGSTOP else 'killed'} at a step"
            what = f"{what} {step} ({STEPS[step]}), visit {visit}"
            self.counts[f"at step {step}"] += 1
        self.counts[kind] += 1
        self._last_fault = time.monotonic()
        if len(self.faults) % 50 == 49:
            self._say(f"{len(self.faults) + 1} faults, {self._kills} kills")
        self.faults.append(f"{time.monotonic() - self._began:7.2f} s  {what}")

    def dump(self) -> None:
        """Write all that the topics hold beside what the trainers said, for who looks into it."""
        with (self._folder / "topics.txt").open("w") as file, self._log.reader() as reader:
            for topic, info in sorted(self._log.topics().items()):
                for where in (TopicPartition(topic, p) for p in range(info.partitions)):
                    end = reader.end_offsets([where])[where]
                    for batch in read_range(reader, where, 0, end):
                        columns = (batch.offsets, batch.timestamps, batch.headers, batch.values)
                        for offset, at, headers, value in zip(*columns, strict=True):
                            shown = f"{dict(headers)} {(value or b'')[:2000]!r}"
                            print(f"{topic}[{where.partition}] {offset} {at} {shown}", file=file)

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:7.2f} s  {text}", flush=True)


def parse(arguments: list[str] | None = None) -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fault.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--log", choices=["sqlite", "kafka"], default="sqlite")
    add("--client", choices=[*KAFKA_CLIENTS], default="kafka-python", help="for --log kafka")
    add("--address", default="", help="host:port of a broker that runs already")
    add("--session-ms", type=int, help="of the trainers' group, if that broker allows it")
    add("--kills", type=int, default=30)
    add("--events", type=int, default=30_000)
    add("--seed", type=int, default=0, help="default: a new one")
    add("--learner", default="logistic", help=f"{', '.join(LEARNERS)}, module:Class, FILE.toml")
    add("--stream", default="elec2", help=f"{', '.join(STREAMS)}, or a CSV file")
    add("--label", default="", help="the CSV's label column (default: the last)")
    add("--task", choices=["binary", "multiclass", "regression"], default="")
    add("--lanes", choices=["per-partition", "single"], default="per-partition")
    add("--processes", type=int, default=3)
    add("--partitions", type=int, default=3)
    add("--bad", type=float, default=0.02, help="share of bad events")
    add("--duplicates", type=float, default=0.02, help="share of events that are sent twice")
    precisions = ["float32", "bfloat16", "float16"]
    add("--serving", choices=precisions, default="", help="publish a smaller one beside each")
    add("--mutant", choices=[*MUTANTS], default="", help="trainers that do it wrong")
    add("--only", choices=[*FAULTS], action="append", default=[], help="this kind of fault")
    add("--keep", action="store_true", help="keep the folder with the log and what was said")
    add("--trace", default="", help="a file that takes the number of each step that is reached")
    given = vars(parser.parse_args(arguments))
    given["seed"] = given["seed"] or random.SystemRandom().randrange(1, 1 << 31)
    return Options(**given)


def main() -> int:
    if os.environ.get("PYTHONHASHSEED") != "0":
        # As the trainers do: some models walk a set, whose order depends on it.
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        os.execve(  # noqa: S606 - this program again
            sys.executable, [sys.executable, "-m", "tests.fault.chaos", *sys.argv[1:]], environment
        )
    options = parse()
    logging.getLogger("stream_update").setLevel(logging.CRITICAL)
    folder = Path(tempfile.mkdtemp(prefix="stream-update-chaos-"))
    print(f"seed {options.seed}", flush=True)
    code = 0
    with Chaos(options, folder) as chaos:
        try:
            chaos.run()
            print(chaos.summary())
            print("every invariant held")
        except Violation as violation:
            code = 1
            print("\n".join(["faults so far:", *chaos.faults, f"VIOLATED {violation}"]))
            chaos.dump()
        except Exception:  # noqa: BLE001 - whatever it is, the faults are needed to find it
            code = 1
            print("\n".join(["faults so far:", *chaos.faults, "FAILED"]))
            traceback.print_exc()
    if options.keep or code:
        print(f"kept in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"seed {options.seed}", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
