"""Learning a stretch of the past, under a lineage of its own.

A backfill is a trainer like any other: the same lanes, snapshots and checkpoints, in a group
of its own, over a stretch that is fixed at its start, and speaking to topics of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from stream_update.assemble import Trainer, open_control, signing_key
from stream_update.components import components, fresh_lane
from stream_update.config import Config
from stream_update.control import Stretch, control_record
from stream_update.errors import ConfigError
from stream_update.events import Batch, TopicPartition, TopicSpec
from stream_update.protocols import Log, Reader
from stream_update.restore import read_range
from stream_update.topics import backfill_topics, source_topic

__all__ = ["Estimate", "backfill", "estimate", "planned"]

BEGINNING, END, COMMITTED = "beginning", "end", "committed"
SAMPLE_S = 3.0


# -- which events


def planned(
    config: Config,
    log: Log,
    since: str = "",
    until: str = "",
    *,
    record: bool = True,
    live_group: str = "",
) -> Stretch:
    """The stretch that the backfill of ``config`` covers: as it was fixed by the process that
    began it, or else from ``since`` to ``until`` as the log is now.

    Both are ISO 8601 dates or times (UTC unless they say otherwise), or ``beginning`` and
    ``end``, which is what an empty one means; ``until`` may be ``committed``: what the trainers
    of ``live_group`` have spoken of. With ``record`` it is fixed from now on.
    Raises :class:`ConfigError` if it was fixed before to something else.
    """
    info = source_topic(config, log)
    with open_control(config, log) as control, log.reader() as reader:
        name = config.lineage_name
        known = control.stretches.get(name)
        if known is None:
            places = [TopicPartition(info.name, partition) for partition in range(info.partitions)]
            end = reader.end_offsets(places)
            if until == COMMITTED:
                at = log.committed(live_group, info.name)
                end = {p: at[p.partition].offset if p.partition in at else 0 for p in places}
            stretch = _stretch(config, reader, end, since or BEGINNING, until or END)
            if not record:
                return stretch
            decision = control_record(stretch, config.topic("control"), signing_key(config))
            with log.appender() as appender:
                appender.append([decision])
            control.catch_up()
            known = control.stretches[name]
        for option, asked, fixed in (("--from", since, known.since), ("--to", until, known.until)):
            if asked and asked != fixed:
                raise ConfigError(
                    f"{option} {asked}: the backfill {name} was begun with {option} {fixed}",
                    hint=f"leave {option} out to go on with it, or begin another with --as",
                )
        return known


def _stretch(
    config: Config, reader: Reader, end: Mapping[TopicPartition, int], since: str, until: str
) -> Stretch:
    places = sorted(end)
    first = reader.beginning_offsets(places)
    starts = first if since == BEGINNING else _at(reader, end, since, "--from")
    ends = end if until in {END, COMMITTED} else _at(reader, end, until, "--to")
    return Stretch(
        app=config.app,
        name=config.lineage_name,
        since=since,
        until=until,
        start={p.partition: starts[p] for p in places},
        ends={p.partition: max(starts[p], ends[p]) for p in places},
        created_ms=int(time.time() * 1000),
    )


def _at(
    reader: Reader, end: Mapping[TopicPartition, int], text: str, option: str
) -> dict[TopicPartition, int]:
    """The first offset of each partition that is not older; its end if all are."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"{option} {text}: this is no date or time",
            hint="2026-10-01 or 2026-10-01T12:30:00+02:00, or beginning, end, or (for --to) "
            "committed",
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    found = reader.offsets_for_times(dict.fromkeys(end, int(moment.timestamp() * 1000)))
    return {place: offset if (offset := found[place]) is not None else end[place] for place in end}


class Estimate(NamedTuple):
    """How much a backfill has to do: ``events`` at most (offsets have holes), by trying it on
    ``sample`` of them at ``events_per_s``, ``seconds`` in one process.
    """

    events: int
    sample: int
    events_per_s: float
    seconds: float


def estimate(config: Config, log: Log, stretch: Stretch) -> Estimate:
    """Learn the beginning of the stretch for a few seconds, and say nothing of it to anybody."""
    kit, sample = fresh_lane(config, components(config), stretch.start), 0
    began = time.monotonic()
    with log.reader() as reader:
        for batch in _longest_first(config, reader, stretch):
            kit.lane.feed(kit.decode(batch))
            sample += len(batch)
            if time.monotonic() - began > SAMPLE_S:
                break
    rate = sample / max(time.monotonic() - began, 1e-9)
    seconds = round(stretch.events / rate, 1) if sample else 0.0
    return Estimate(stretch.events, sample, round(rate, 1), seconds)


def _longest_first(config: Config, reader: Reader, stretch: Stretch) -> Iterator[Batch]:
    start, ends = stretch.start, stretch.ends
    for partition in sorted(start, key=lambda p: start[p] - ends[p]):
        where = TopicPartition(config.source.topic, partition)
        yield from read_range(reader, where, start[partition], ends[partition])


def backfill(config: Config, log: Log, stretch: Stretch, **options: Any) -> Trainer:
    """The trainer that learns the stretch; ``options`` are :class:`Trainer`'s.

    Several processes share the partitions, and who starts it again goes on where it was.
    """
    info = source_topic(config, log)
    replicas = config.source.replication_factor
    log.create_topics(
        [TopicSpec(name, info.partitions, replicas) for name in backfill_topics(config).values()]
    )
    return Trainer(config, log, stretch=stretch, **options)
