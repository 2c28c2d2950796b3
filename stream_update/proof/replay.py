"""Events of the past, in the order in which a lane took them, and a lane to take them again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import msgspec

from stream_update.assemble import identity
from stream_update.components import Components, components, fresh_lane, with_steps
from stream_update.config import Config
from stream_update.events import Batch, Run, TopicPartition
from stream_update.journal import Journal, RunReader
from stream_update.plans import Kit
from stream_update.protocols import Log, Reader
from stream_update.restore import read_range
from stream_update.snapshot import Manifest, Snapshot
from stream_update.topics import source_topic

__all__ = ["Range", "Replay"]

Range = tuple[int, int, int]
"""Partition, first offset, next offset."""
Steps = dict[str, list[dict[str, Any]]]


class Replay:
    """Lanes of one configuration, and the events that they have learned."""

    def __init__(self, config: Config, log: Log, reader: Reader) -> None:
        self._config = config
        self._log = log
        self._reader = reader
        self._parts = components(config)
        self.source = source_topic(config, log)
        self.identity = identity(config, self._parts, self.source)
        self._others: list[tuple[Steps, Components]] = []

    def lane(
        self, base: Snapshot | None, start: Mapping[int, int], made: Manifest | None = None
    ) -> Kit:
        """A lane as it was when ``base`` was made, or a fresh one that begins at ``start``.

        It is to take the steps that the snapshot ``made`` was made with, or those that are
        configured now.
        """
        parts = self._parts if made is None else self._with(made.identity.steps)
        kit = fresh_lane(parts.config, parts, start)
        if base is not None:
            kit.lane.thaw(base.state())
        return kit

    def _with(self, steps: Steps) -> Components:
        if steps == self.identity.steps:
            return self._parts
        for known, parts in self._others:
            if steps == known:
                return parts
        config = msgspec.structs.replace(
            self._config, learner=with_steps(self._config.learner, steps)
        )
        self._others.append((steps, components(config)))
        return self._others[-1][1]

    def events(
        self,
        base: Snapshot | None,
        ranges: Iterable[Range],
        gaps: Sequence[Range],
        until: Manifest | None = None,
    ) -> Iterator[Batch]:
        """The events of these ranges, without the accepted gaps, in the lane's order.

        A lane over several partitions goes by its journal, from ``base`` to the snapshot
        ``until``, or to the journal's end. Raises :class:`~stream_update.errors.LogGap` if
        the log does not hold all of them.
        """
        if self._config.lanes == "single":
            yield from self._journalled(base, until)
        else:
            for partition, start, end in ranges:
                yield from self._stretch(partition, start, end, gaps)

    def _stretch(
        self, partition: int, start: int, end: int, gaps: Sequence[Range]
    ) -> Iterator[Batch]:
        where = TopicPartition(self._config.source.topic, partition)
        for number, missing, first in sorted(gaps):
            if number == partition and start <= missing < end:
                yield from read_range(self._reader, where, start, missing)
                start = first
        yield from read_range(self._reader, where, start, end)

    def _journalled(self, base: Snapshot | None, until: Manifest | None) -> Iterator[Batch]:
        number = base.manifest.journal if base else 0
        offset = base.manifest.journal_offset if base else 0
        topic, lineage = self._config.topic("journal"), self._config.lineage_name
        with ExitStack() as opened:
            entries = Journal(self._log.reader(), topic, lineage, number, offset)
            opened.callback(entries.close)
            runs = RunReader(self._log.reader(), self._config.source.topic)
            opened.callback(runs.close)
            end = entries.end()
            while number < until.journal if until else entries.offset < end:
                for entry in entries.read(1.0):
                    if until is None or entry.number < until.journal:
                        for run in entry.runs:
                            yield from runs.take(Run(*run))
                    number = entry.number + 1
