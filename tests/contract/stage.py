"""One test's corner of a log, whichever log it is."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import NamedTuple

from stream_update.events import Record, TopicPartition, TopicSpec
from stream_update.log.embedded import EmbeddedLog
from stream_update.protocols import Log, Reader
from tests.contract.seats import RemoteSeat, Seat, open_log, until
from tests.model.log import ModelLog
from tests.model.seats import ModelSeat

__all__ = ["Row", "Stage"]


class Row(NamedTuple):
    offset: int
    value: bytes | None
    key: bytes | None
    timestamp: int
    headers: list[tuple[str, bytes]]


class Stage:
    """A log, names that no other test has, and all that a test opens on it."""

    def __init__(self, url: str, tag: str) -> None:
        self.url = url
        self.source, self.output, self.group = f"source-{tag}", f"output-{tag}", f"group-{tag}"
        self._open = ExitStack()
        self.log: Log = self._open.enter_context(open_log(url))
        self._reader: Reader | None = None

    def close(self) -> None:
        self._open.close()

    def create(self, source: int = 1, output: int = 1) -> None:
        self.log.create_topics([TopicSpec(self.source, source), TopicSpec(self.output, output)])

    def create_source(self) -> bool:
        """Whether the source was created now; right after a deletion Kafka may not know of it."""
        return self.log.create_topics([TopicSpec(self.source)]) == [self.source]

    def reader(self) -> Reader:
        if self._reader is None:
            self._reader = self._open.enter_context(self.log.reader())
        return self._reader

    def closing(self, seat: Seat | RemoteSeat) -> None:
        """Close it at the end of the test."""
        self._open.callback(seat.close)

    def seat(self, *, single: bool = False) -> Seat:
        seat = Seat(self.log, self.group, self.source, single=single)
        self.closing(seat)
        return seat

    def remote(self, tag: str = "", *, single: bool = False) -> RemoteSeat | ModelSeat:
        """A seat in a process of its own; in another group with a tag."""
        group = self.group + tag
        seat: RemoteSeat | ModelSeat
        if isinstance(self.log, ModelLog):
            seat = ModelSeat(self.log, group, self.source, single=single)
        else:
            seat = RemoteSeat(self.url, group, self.source, single=single)
        self.closing(seat)
        return seat

    def append(self, records: Iterable[Record]) -> None:
        with self.log.appender() as appender:
            appender.append(records)
            appender.flush()

    def fill(self, count: int, partitions: int = 1) -> None:
        """``count`` numbered records into each partition of the source."""
        self.append(
            Record(self.source, b"%d" % i, partition=partition)
            for i in range(count)
            for partition in range(partitions)
        )

    def end(self, topic: str, partition: int = 0) -> int:
        where = TopicPartition(topic, partition)
        return self.reader().end_offsets([where])[where]

    def rows(self, topic: str, partition: int = 0) -> list[Row]:
        """Every committed record of a partition, read up to its end as it is now."""
        where, reader = TopicPartition(topic, partition), self.reader()
        end = reader.end_offsets([where])[where]
        reader.seek({where: reader.beginning_offsets([where])[where]})
        rows: list[Row] = []

        def at_end() -> bool:
            for batch in reader.poll(0.1):
                headers = [list(one) for one in batch.headers]
                columns = (batch.offsets, batch.values, batch.keys, batch.timestamps, headers)
                rows.extend(map(Row, *columns))
            return reader.position(where) >= end

        until(at_end, f"{topic} to be read up to {end}")
        return rows

    def values(self, topic: str, partition: int = 0) -> list[bytes | None]:
        return [row.value for row in self.rows(topic, partition)]

    def wait_for(
        self, count: int, topic: str, partitions: Iterable[int] = (0,)
    ) -> list[bytes | None]:
        """The values of some partitions of a topic when there are so many.

        The end of a Kafka transaction may become visible a little after its commit.
        """
        found: list[bytes | None] = []

        def complete() -> bool:
            found[:] = [
                value for partition in partitions for value in self.values(topic, partition)
            ]
            return len(found) >= count

        until(complete, f"{count} records in {topic}")
        return found

    def delete_before(self, topic: str, offset: int, partition: int = 0) -> None:
        if isinstance(self.log, EmbeddedLog):
            self.log.delete_before(topic, partition, offset)
            return
        if isinstance(self.log, ModelLog):
            where = TopicPartition(topic, partition)
            self.log.broker.partition(where).delete_before(offset)
            return
        from kafka import KafkaAdminClient  # noqa: PLC0415
        from kafka.structs import TopicPartition as KafkaPartition  # noqa: PLC0415

        admin = KafkaAdminClient(bootstrap_servers=self._bootstrap())
        try:
            admin.delete_records({KafkaPartition(topic, partition): offset})
        finally:
            admin.close()

    def delete_topic(self, topic: str) -> None:
        if isinstance(self.log, EmbeddedLog):
            self.log.delete_topic(topic)
            return
        if isinstance(self.log, ModelLog):
            self.log.broker.delete_topic(topic)
            return
        from kafka import KafkaAdminClient  # noqa: PLC0415

        admin = KafkaAdminClient(bootstrap_servers=self._bootstrap())
        try:
            admin.delete_topics([topic])
        finally:
            admin.close()
        until(lambda: topic not in self.log.topics(), f"{topic} to be gone")

    def _bootstrap(self) -> str:
        return self.url.partition("://")[2]
