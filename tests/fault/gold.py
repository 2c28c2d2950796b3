"""One uninterrupted learning of the same log, kept level with what the trainers have published."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from stream_update import plugins
from stream_update.codecs import dead_letter_record, json_record
from stream_update.components import Components, components, fresh_lane
from stream_update.config import Config
from stream_update.events import Batch, TopicPartition
from stream_update.journal import JournalEntry
from stream_update.lane import PoisonEvent
from stream_update.monitors.drift import alarm_record
from stream_update.monitors.prequential import Prequential
from stream_update.plans import Kit
from stream_update.protocols import Reader
from stream_update.restore import read_range
from stream_update.snapshot import Manifest, state_digest

__all__ = ["Gold", "Said"]

Said = dict[tuple[Any, ...], Any]
"""What a lane says to the outside, by a key that no two of them share."""


class Gold:
    """A lane that was never interrupted.

    It reads the source topic by itself, up to where it is told. ``letters`` and
    ``alarms`` are what it has said since they were last emptied.
    """

    def __init__(self, config: Config, partitions: list[int], reader: Reader) -> None:
        self._config = config
        self._reader = reader
        self._parts: Components = components(config)
        self._start = dict.fromkeys(partitions, 0)
        self._poisoned: dict[tuple[int, int], str] = {}
        self._kit = self._fresh()
        # Where to begin again, and the way from there, when an event breaks the learner.
        self._safe = self._kit.lane.freeze()
        self._path: list[tuple[int, int]] = []
        self._told = dict(self._start)
        self.letters: Said = {}
        self.alarms: Said = {}

    def _fresh(self) -> Kit:
        kit = fresh_lane(self._config, self._parts, self._start)
        kit.lane.poisoned.update(self._poisoned)
        return kit

    @property
    def next(self) -> dict[int, int]:
        return self._kit.lane.next

    def advance(self, partition: int, offset: int) -> None:
        """Learn one partition up to an offset."""
        self._learn(partition, offset)
        self._path.append((partition, offset))

    def follow(self, entry: JournalEntry) -> None:
        """Learn what one entry of a journal names, in its order."""
        for partition, first, count in entry.runs:
            self.advance(partition, first + count)

    def _learn(self, partition: int, offset: int) -> None:
        where = TopicPartition(self._config.source.topic, partition)
        while self.next[partition] < offset:
            for batch in read_range(self._reader, where, self.next[partition], offset):
                try:
                    self._feed(batch)
                except PoisonEvent as event:
                    self._poisoned[event.partition, event.offset] = str(event)
                    break
            else:
                return
            self._kit = self._fresh()
            self._kit.lane.thaw(self._safe)
            for before in self._path:
                self._learn(*before)

    def _feed(self, batch: Batch) -> None:
        lane, config = self._kit.lane, self._config
        told = self._told[batch.partition]
        effects = lane.feed(self._kit.decode(batch))
        lane.runs.clear()
        for letter in effects.dead_letters:
            if letter.offset >= told:
                record = dead_letter_record(letter, "", config.source.topic, config.lineage_name)
                said = (record.value, record.key, sorted(record.headers))
                self.letters[letter.partition, letter.offset] = said
        for alarm in effects.alarms:
            if alarm.offset >= told:
                value = plain(alarm_record(alarm))
                self.alarms[alarm.partition, alarm.offset, alarm.kind, alarm.monitor] = value
        self._told[batch.partition] = max(told, self.next[batch.partition])

    def digest(self) -> str:
        """That of the state, as a snapshot taken here would have it."""
        self._safe = self._kit.lane.freeze()
        self._path.clear()
        return state_digest(self._safe)

    def serving_digest(self, manifest: Manifest) -> str:
        """That of what is published for serving beside a snapshot taken at :meth:`digest`."""
        precision = self._config.snapshot.serving
        assert precision is not None
        _, tree = plugins.served(
            manifest.identity.learner, self._safe["learner"], precision, where="gold"
        )
        return state_digest({"learner": tree})

    def figures(self) -> dict[str, Any]:
        """What the trainer's metrics record says here, but for the times and the snapshot."""
        lane = self._kit.lane
        monitor = lane.monitor("metrics")
        assert isinstance(monitor, Prequential)
        found: Mapping[str, Any] = {
            **monitor.report(),
            "next": {str(p): offset for p, offset in sorted(lane.next.items())},
            "events": lane.events,
            "learned": lane.learned,
            "dead_letters": lane.rejected,
            "unlabelled": lane.unlabelled,
            "duplicates": lane.duplicates,
            "event_time": lane.event_time,
        }
        return plain(found)


def plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """A value as it comes out of a record."""
    found: dict[str, Any] = json.loads(json_record("", value).value or b"")
    return found
