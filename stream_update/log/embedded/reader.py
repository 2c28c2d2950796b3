"""Records from positions that the caller chooses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from stream_update.events import Batch, TopicPartition
from stream_update.log.embedded.reading import Reading
from stream_update.log.embedded.store import Store, attempts
from stream_update.log.embedded.topics import place_of
from stream_update.protocols import Closing

__all__ = ["EmbeddedReader"]


class EmbeddedReader(Closing):
    """Reads outside any group; see :class:`stream_update.protocols.Reader`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reading = Reading(store)

    def close(self) -> None:
        self._store.close()

    def beginning_offsets(self, where: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return {one: place_of(self._store, *one).first for one in where}

    def end_offsets(self, where: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return {one: place_of(self._store, *one).next for one in where}

    def offsets_for_times(
        self, times_ms: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, int | None]:
        found: dict[TopicPartition, int | None] = {}
        for one, time_ms in times_ms.items():
            place = place_of(self._store, *one)
            # From the first on: times of records need not rise.
            row = self._store.ask(
                "SELECT id - ?1 FROM records WHERE id >= ?1 AND id < ?1 + ?2 AND timestamp >= ?3 "
                "ORDER BY id LIMIT 1",
                place.base,
                place.next,
                time_ms,
            )
            found[one] = None if row is None else row[0]
        return found

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        places = {one: place_of(self._store, *one) for one in positions}
        self._reading.clear()
        for one, offset in positions.items():
            self._reading.add(one, places[one], offset)

    def poll(self, timeout_s: float, max_records: int = 500) -> list[Batch]:
        for _ in attempts(timeout_s):
            batches = self._reading.next(max_records)
            if batches:
                return batches
        return []

    def position(self, where: TopicPartition) -> int:
        if where not in self._reading.positions:
            raise ValueError(f"{where.topic}[{where.partition}] is not being read")
        return self._reading.positions[where]
