"""What the worker does with a checkpoint that is late, refused, or not possible."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from stream_update.assemble import Trainer
from stream_update.config import load
from stream_update.errors import LineageMismatch, Refused, Transient
from stream_update.events import Committed, Poll, Record, TopicPartition
from stream_update.journal import Journal
from stream_update.plugins import open_log
from stream_update.proof import verify
from stream_update.protocols import Log, Member, Publication, Publisher
from stream_update.sealing import Sealed, _Copied
from stream_update.topics import create_topics
from stream_update.worker import Worker
from tests.programs import configure, elec2

EVENTS = 1500

LATE, REFUSED, REFUSED_LATER, DOWN, DOWN_LATER = [
    "late",
    "refused",
    "refused-later",
    "down",
    "down-later",
]


class Stubborn:
    """A publisher that treats checkpoint after checkpoint as the script says."""

    def __init__(self, publisher: Publisher, script: Sequence[str]) -> None:
        self._publisher = publisher
        self._script = itertools.cycle(script)
        self.treated: list[str] = []

    def begin(
        self, records: Sequence[Record], offsets: Mapping[int, Committed], member: Member
    ) -> Publication:
        how = next(self._script)
        self.treated.append(how)
        if how in {REFUSED, DOWN}:
            raise failure(how)
        if how in {REFUSED_LATER, DOWN_LATER}:
            return Failing(failure(how))
        return Late(self._publisher.begin(records, offsets, member))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._publisher, name)


class Late:
    """Done only when it has been asked a few times."""

    def __init__(self, publication: Publication) -> None:
        self._publication = publication
        self._asked = 0

    def done(self) -> bool:
        self._asked += 1
        return self._asked > 2

    def result(self) -> list[int]:
        return self._publication.result()


class Failing(Late):
    def __init__(self, error: Exception) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self._error = error

    def result(self) -> list[int]:
        raise self._error


def failure(how: str) -> Exception:
    return (Refused if "refused" in how else Transient)(f"because the test says {how}")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with open_log(f"sqlite:///{tmp_path / 'worker.db'}") as log:
        yield log


def run(folder: Path, log: Log, app: str, lanes: str, script: Sequence[str]) -> dict[str, Any]:
    """Learn Elec2 with a bad event here and there; the report, and what the topics hold."""
    path = configure(folder, log.url, app, checkpoint=100, partitions=2, top=f'lanes = "{lanes}"')
    config = load(path, ["max_poll_records=70"])
    create_topics(config, log)
    with log.appender() as appender:
        for number, event in enumerate(elec2(EVENTS)):
            value = b"{" if number % 97 == 0 else json.dumps(event).encode()
            appender.append([Record(config.source.topic, value, partition=number % 2)])
    trainer = Trainer(config, log, until_end=True)
    stubborn = Stubborn(trainer.worker._publisher, script)
    trainer.worker._publisher = stubborn
    report = trainer.run()
    assert {*stubborn.treated} == {*script}
    topics = {
        kind: read(log, config.topic(kind)) for kind in ("dead-letters", "journal", "snapshots")
    }
    return {"report": report, "topics": topics}


def read(log: Log, topic: str) -> list[Record]:
    found: list[Record] = []
    if topic not in log.topics():
        return found
    with log.reader() as reader:
        for partition in range(log.topics()[topic].partitions):
            where = TopicPartition(topic, partition)
            end = reader.end_offsets([where])[where]
            reader.seek({where: 0})
            while reader.position(where) < end:
                for batch in reader.poll(1.0):
                    found += [
                        Record(topic, value, key, partition, headers)
                        for value, key, headers in zip(
                            batch.values, batch.keys, batch.headers, strict=True
                        )
                    ]
    return found


@pytest.mark.parametrize("lanes", ["per-partition", "single"])
@pytest.mark.parametrize(
    "script",
    [
        [LATE],
        [REFUSED, LATE],
        [LATE, REFUSED_LATER, REFUSED_LATER],
        [DOWN, DOWN_LATER, LATE, REFUSED],
    ],
    ids=" ".join,
)
def test_nothing_is_lost_or_said_twice(
    tmp_path: Path, log: Log, lanes: str, script: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_update.cadence.AGAIN_S", 0.0)
    found = run(tmp_path, log, "stubborn", lanes, script)
    report = found["report"]
    assert report["events"] == report["run_events"] == EVENTS
    bad = len(range(0, EVENTS, 97))
    assert (report["dead_letters"], report["learned"]) == (bad, EVENTS - bad)
    letters = [dict(record.headers) for record in found["topics"]["dead-letters"]]
    assert len({(letter["partition"], letter["offset"]) for letter in letters}) == len(letters)
    assert len(letters) == bad
    if lanes == "single":
        runs = [
            run
            for record in found["topics"]["journal"]
            for run in json.loads(record.value or b"")["runs"]
        ]
        for partition in (0, 1):
            offsets = [
                offset
                for number, first, count in runs
                if number == partition
                for offset in range(first, first + count)
            ]
            assert offsets == list(range(EVENTS // 2))
    if lanes == "per-partition":
        undisturbed = run(tmp_path, log, "undisturbed", lanes, [LATE])["report"]
        assert report["metrics"] == undisturbed["metrics"]


@pytest.mark.skipif(sys.platform != "linux", reason="there is no safe fork")
@pytest.mark.parametrize("lanes", ["per-partition", "single"])
@pytest.mark.parametrize("script", [[LATE], [LATE, REFUSED_LATER, DOWN]], ids=" ".join)
def test_learning_goes_on_while_snapshots_are_made(
    tmp_path: Path, log: Log, lanes: str, script: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_update.cadence.AGAIN_S", 0.0)
    at_once = run(tmp_path, log, "at-once", lanes, [LATE])["report"]
    monkeypatch.setattr("stream_update.sealing.COPY_BYTES", 0)
    behind: list[int] = []
    done, publish, asked = _Copied.done, Worker._publish, itertools.count()

    def publish_late(worker: Worker) -> bool:
        assert worker._made is not None
        behind.extend(
            sum(draft.slot.lane.next.values()) - sum(draft.next.values())
            for draft in worker._made.drafts
        )
        return publish(worker)

    monkeypatch.setattr(_Copied, "done", lambda one: next(asked) % 4 == 3 and done(one))
    monkeypatch.setattr(Worker, "_publish", publish_late)
    beside = run(tmp_path, log, "beside", lanes, script)["report"]
    assert max(behind) > 0
    for key in ("events", "learned", "dead_letters", "metrics"):
        assert beside[key] == at_once[key]
    config = load(tmp_path / "beside.toml")
    for number in range(2 if lanes == "per-partition" else 1):
        assert {verdict.ok for verdict in verify(config, log, number)} == {True}


@pytest.mark.skipif(sys.platform != "linux", reason="there is no safe fork")
def test_a_snapshot_that_is_being_made_is_called_off_with_the_worker(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_update.sealing.COPY_BYTES", 0)
    cancelled: list[_Copied] = []
    cancel = _Copied.cancel

    def called_off(one: _Copied) -> None:
        cancelled.append(one)
        cancel(one)

    def end(worker: Worker) -> None:
        if worker._made is not None:
            raise Transient("the end of this process")

    monkeypatch.setattr(_Copied, "done", lambda _: False)
    monkeypatch.setattr(_Copied, "cancel", called_off)
    config = load(configure(tmp_path, log.url, "off", checkpoint=100))
    create_topics(config, log)
    with log.appender() as appender:
        appender.append(
            Record(config.source.topic, json.dumps(event).encode()) for event in elec2(EVENTS)
        )
    with pytest.raises(Transient, match="of this process"):
        Trainer(config, log, on_progress=end).run()
    assert len(cancelled) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="there is no safe fork")
def test_where_one_copy_is_lost_the_others_are_called_off(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_update.sealing.COPY_BYTES", 0)
    monkeypatch.setattr("stream_update.cadence.AGAIN_S", 0.0)
    monkeypatch.setattr(_Copied, "done", lambda _: False)
    lost: list[_Copied] = []
    cancelled: list[_Copied] = []
    result, cancel = _Copied.result, _Copied.cancel

    def lose_the_first(one: _Copied) -> Sealed:
        if not lost:
            lost.append(one)
            raise Refused("the copy was lost")
        return result(one)

    def called_off(one: _Copied) -> None:
        cancelled.append(one)
        cancel(one)

    monkeypatch.setattr(_Copied, "result", lose_the_first)
    monkeypatch.setattr(_Copied, "cancel", called_off)
    report = run(tmp_path, log, "lost", "per-partition", [LATE])["report"]
    assert report["events"] == EVENTS
    assert lost[0] in cancelled
    assert len(cancelled) == 2


@pytest.mark.parametrize("lanes", ["per-partition", "single"])
def test_the_end_is_that_of_the_start(tmp_path: Path, log: Log, lanes: str) -> None:
    path = configure(tmp_path, log.url, "ended", checkpoint=100, top=f'lanes = "{lanes}"')
    config = load(path)
    create_topics(config, log)
    events = [
        Record(config.source.topic, json.dumps(event).encode(), partition=0) for event in elec2(400)
    ]

    def append(some: Sequence[Record]) -> None:
        with log.appender() as appender:
            appender.append(some)

    append(events[:250])
    first = Trainer(config, log, until_end=True)
    append(events[250:])
    report = first.run()
    assert report["events"] == report["learned"] == 250
    assert report["lanes"][0]["next"] == {"0": 250}
    assert Trainer(config, log, until_end=True).run()["learned"] == 400


def test_a_log_that_stays_away_ends_the_worker(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_update.cadence.AGAIN_S", 0.0)
    monkeypatch.setattr("stream_update.worker.PATIENCE_S", 0.05)
    with pytest.raises(Transient, match="the test says down-later"):
        run(tmp_path, log, "away", "per-partition", [DOWN_LATER])


class Stale:
    """A member that says so many times where the group was long ago."""

    def __init__(self, member: Member, times: int) -> None:
        self._member = member
        self._times = times

    def committed(self, partitions: Sequence[int]) -> dict[int, Committed | None]:
        self._times -= 1
        if self._times >= 0:
            return {partition: Committed(1) for partition in partitions}
        return self._member.committed(partitions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._member, name)


def test_a_process_that_stood_still_in_its_take_over_asks_again(tmp_path: Path, log: Log) -> None:
    run(tmp_path, log, "stale", "per-partition", [LATE])
    config = load(tmp_path / "stale.toml")
    trainer = Trainer(config, log, until_end=True)
    trainer.worker._member = Stale(trainer.worker._member, 1)  # type: ignore[assignment]
    assert trainer.run()["events"] == EVENTS
    trainer = Trainer(config, log, until_end=True)
    trainer.worker._member = Stale(trainer.worker._member, 100)  # type: ignore[assignment]
    with pytest.raises(LineageMismatch, match="somebody moved it back"):
        trainer.run()


def test_a_journal_whose_end_is_hidden_is_waited_for(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = configure(tmp_path, log.url, "hidden", checkpoint=100, top='lanes = "single"')
    config = load(path, ["snapshot.every=1000"])
    create_topics(config, log)
    with log.appender() as appender:
        appender.append(
            Record(config.source.topic, json.dumps(event).encode()) for event in elec2(EVENTS)
        )

    def end(worker: Any) -> None:
        if worker.events >= 500:
            raise Transient("the end of this process")

    with pytest.raises(Transient, match="of this process"):
        Trainer(config, log, on_checkpoint=end).run()
    reading, ending, hidden = Journal.read, Journal.end, [True] * 3

    def read_on(journal: Journal, timeout_s: float) -> list[Any]:
        if hidden:
            hidden.pop()
            return []
        return reading(journal, timeout_s)

    monkeypatch.setattr(Journal, "read", read_on)
    monkeypatch.setattr(Journal, "end", lambda j: j.offset if hidden else ending(j))
    assert Trainer(config, log, until_end=True).run()["events"] == EVENTS
    entries = [json.loads(record.value or b"") for record in read(log, config.topic("journal"))]
    assert [entry["number"] for entry in entries] == [*range(len(entries))]


class Together:
    """Polls so that records and the partitions that were added come at once, as the client of a
    broker may bring them.
    """

    def __init__(self, poll: Callable[..., Poll]) -> None:
        self._poll = poll
        self.waiting = False

    def __call__(self, timeout_s: float, max_records: int = 500) -> Poll:
        poll = self._poll(timeout_s, max_records)
        if not self.waiting or not (poll.batches or poll.gained):
            return poll
        batches = [*poll.batches]
        while not poll.gained:
            poll = self._poll(timeout_s, max_records)
            batches += poll.batches
        self.waiting = False
        return poll._replace(batches=batches)


@pytest.mark.parametrize("lanes", ["per-partition", "single"])
def test_records_that_come_with_new_partitions_are_learned_once(
    tmp_path: Path, log: Log, lanes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = configure(
        tmp_path, log.url, "grown", partitions=2, checkpoint=100, top=f'lanes = "{lanes}"'
    )
    config = load(path, ["max_poll_records=30"])
    create_topics(config, log)
    with log.appender() as appender:
        appender.append(
            Record(config.source.topic, json.dumps(event).encode(), partition=number % 2)
            for number, event in enumerate(elec2(EVENTS))
        )
    grown: list[int] = []

    def grow(worker: Any) -> None:
        if worker.events > 250 and not grown:
            grown.append(worker.events)
            together.waiting = True
            log.add_partitions(config.source.topic, 3)

    trainer = Trainer(config, log, until_end=True, on_progress=grow)
    together = Together(trainer.worker._member.poll)
    monkeypatch.setattr(trainer.worker._member, "poll", together)
    report = trainer.run()
    assert not together.waiting
    assert report["learned"] == EVENTS
    for number in range(2 if lanes == "per-partition" else 1):
        assert {verdict.ok for verdict in verify(config, log, number)} == {True}


def test_a_checkpoint_that_time_makes_due_does_not_wait_for_events(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short silence must not hold back what was learned before it."""
    monkeypatch.setattr("stream_update.worker.IDLE_S", 60.0)
    config = load(configure(tmp_path, log.url, "silence"), ["checkpoint.seconds=0.05"])
    create_topics(config, log)
    with log.appender() as appender:
        appender.append(
            Record(config.source.topic, json.dumps(event).encode()) for event in elec2(30)
        )
    trainer = Trainer(config, log)
    asked: list[tuple[int, float]] = []
    poll = trainer.worker._member.poll

    def noted(timeout_s: float, max_records: int) -> Poll:
        if log.committed(config.trainer_group, config.source.topic):
            trainer.worker.stop()
            return poll(0.0, max_records)
        asked.append((trainer.worker.events, timeout_s))
        return poll(timeout_s, max_records)

    monkeypatch.setattr(trainer.worker._member, "poll", noted)
    trainer.run()
    after = [timeout_s for events, timeout_s in asked if events]
    assert after
    assert max(after) <= 0.05
