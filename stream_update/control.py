"""What has been decided about an application's lineages: APP.control, one small topic.

``current/NAME`` says which lineage stands for the configured lineage NAME since the last
promotion, and ``backfill/NAME`` which events a backfill covers, so that every process of it,
and every next try, ends at the same offsets. Nothing is ever dropped from the topic, so an old
decision that is written again moves nobody.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from stream_update.errors import CorruptSnapshot
from stream_update.events import Committed, Record, TopicPartition
from stream_update.protocols import Closing, Log
from stream_update.signing import SigningKey, TrustedKeys, signature_headers

__all__ = ["Control", "Pointer", "Stretch", "control_record"]

logger = logging.getLogger(__name__)

# What is found on the topic names lineages, and the topics of some, so it is held to the same
# rules as a configuration.
Name = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9._-]{1,200}$")]
Partition = Annotated[int, Meta(ge=0, lt=10**9)]
Count = Annotated[int, Meta(ge=0, le=2**62)]


class Pointer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``lineage`` stands for the configured lineage ``name`` from now on.

    ``learned`` are the next offsets of the snapshots that it was promoted with, by
    partition. ``number`` counts the promotions, so that an old one which is written
    again moves nothing.
    """

    app: str
    name: Name
    lineage: Name
    previous: Name
    number: Annotated[int, Meta(ge=1)]
    learned: dict[Partition, Count]
    promoted_ms: int

    @property
    def key(self) -> str:
        return f"current/{self.name}"


class Stretch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The events that the backfill of ``name`` covers: by partition, from ``start`` to
    before ``ends``. ``since`` and ``until`` are the bounds as they were asked for.
    """

    app: str
    name: Name
    since: str
    until: str
    start: dict[Partition, Count]
    ends: dict[Partition, Count]
    created_ms: int

    @property
    def key(self) -> str:
        return f"backfill/{self.name}"

    @property
    def events(self) -> int:
        """How many these are at most: offsets have holes."""
        return sum(self.ends.values()) - sum(self.start.values())

    def left(self, committed: Mapping[int, Committed]) -> int:
        """How many of them lie behind what has been committed."""
        begun = self.start | {partition: at.offset for partition, at in committed.items()}
        return sum(max(0, end - begun[partition]) for partition, end in self.ends.items())


Decision = TypeVar("Decision", Pointer, Stretch)


def control_record(
    decision: Pointer | Stretch, topic: str, signing: SigningKey | None = None
) -> Record:
    """The record that makes a decision known."""
    value = msgspec.json.encode(decision)
    headers = signature_headers(signing, value, "control")
    return Record(topic, value, key=decision.key.encode(), partition=0, headers=headers)


class Control(Closing):
    """The decisions about an application, as they come in.

    With ``trusted`` keys only signed ones count; what is not, or is malformed, is logged and
    passed over. One thread at a time. A topic that does not exist (``exists``) when this is
    made has no decisions.
    """

    def __init__(self, log: Log, topic: str, app: str, trusted: TrustedKeys | None = None) -> None:
        self.pointers: dict[str, Pointer] = {}
        self.stretches: dict[str, Stretch] = {}
        self._app = app
        self._trusted = trusted
        self._where = TopicPartition(topic, 0)
        self._reader = log.reader()
        self.exists = topic in log.topics()
        if self.exists:
            beginning = self._reader.beginning_offsets([self._where])
            self._reader.seek(beginning)
            self.catch_up()

    def close(self) -> None:
        self._reader.close()

    def current(self, name: str) -> str:
        """The lineage that stands for the configured lineage ``name``."""
        pointer = self.pointers.get(name)
        return name if pointer is None else pointer.lineage

    def refresh(self, timeout_s: float = 0.0) -> bool:
        """Take what has come; whether anything has."""
        if not self.exists:
            return False
        batches = self._reader.poll(timeout_s)
        for batch in batches:
            for offset, key, value, headers in zip(
                batch.offsets, batch.keys, batch.values, batch.headers, strict=True
            ):
                if key is None or value is None:
                    continue
                try:
                    self._take(key.decode(), value, dict(headers))
                except (ValueError, msgspec.MsgspecError, CorruptSnapshot) as error:
                    logger.error(
                        "%s[0] offset %d is passed over: %s", self._where.topic, offset, error
                    )
        return bool(batches)

    def catch_up(self) -> None:
        """Take all that is there now."""
        if not self.exists:
            return
        end = self._reader.end_offsets([self._where])[self._where]
        while self._reader.position(self._where) < end:
            self.refresh(1.0)

    def _take(self, key: str, value: bytes, headers: Mapping[str, bytes]) -> None:
        if self._trusted is not None:
            self._trusted.check(headers, value, "control")
        kind = key.partition("/")[0]
        if kind == "current":
            pointer = self._checked(msgspec.json.decode(value, type=Pointer), key)
            known = self.pointers.get(pointer.name)
            # Of two with one number, made at one moment, the later one.
            if known is None or pointer.number >= known.number:
                self.pointers[pointer.name] = pointer
        elif kind == "backfill":
            stretch = self._checked(msgspec.json.decode(value, type=Stretch), key)
            if not stretch.start or stretch.start.keys() != stretch.ends.keys():
                raise ValueError(f"backfill {stretch.name} starts in other partitions than it ends")
            # The first counts: processes of the backfill may have begun with it.
            self.stretches.setdefault(stretch.name, stretch)

    def _checked(self, decision: Decision, key: str) -> Decision:
        if decision.app != self._app or decision.key != key:
            raise ValueError(f"it is about {decision.key} of app {decision.app}")
        return decision
