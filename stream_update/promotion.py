"""Handing over from one lineage to another.

A promotion is the last checkpoint of the backfill's group: in one transaction it moves the
pointer that live trainers and scorers follow, and marks the group's offsets, so that
nothing of the backfill goes on afterwards. The live trainers then restore the lineage's
snapshots, learn in silence from there to the offsets that they have committed, and speak on from
those: every event is spoken of once, by the one lineage or by the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import NamedTuple

import msgspec

from stream_update.assemble import (
    backfill_config,
    identity,
    open_control,
    signing_key,
    trusted_keys,
)
from stream_update.components import components
from stream_update.config import Config
from stream_update.control import Control, Pointer, Stretch, control_record
from stream_update.errors import ConfigError, LineageMismatch, Refused, Transient
from stream_update.events import Committed, Record, TopicInfo
from stream_update.protocols import Log, Member, Reader
from stream_update.restore import metadata_of, newest
from stream_update.snapshot import check_identity
from stream_update.topics import source_topic

__all__ = ["Promotion", "promote"]

SAY_S = 2.0
JOIN_S = 10.0
"""Joining a group takes some seconds even if nobody else is in it."""
SEEN_S = 15.0
"""How soon what has been committed can be read."""
ADOPT_S = 15.0
"""Live trainers look for a promotion every second; longer means that none runs."""


class Promotion(NamedTuple):
    """What a promotion did. ``adopted`` are the partitions that the live trainers have
    taken over so far, with the offset that each of them had committed by then.
    """

    pointer: Pointer
    adopted: dict[int, int]


def promote(
    config: Config,
    log: Log,
    lineage: str,
    *,
    wait_s: float = 60.0,
    say: Callable[[str], None] | None = None,
) -> Promotion:
    """Let ``lineage`` stand for the configured lineage from now on.

    ``config`` is that of the live trainers, and has to be what made the lineage. Waits for
    up to ``wait_s`` seconds for the backfill to have left its group, for the live
    trainers to be where its snapshots are, and for them to take it over. Raises
    :class:`ConfigError`, :class:`LineageMismatch` or :class:`Transient` if it cannot be
    promoted now; then nothing has changed.
    """
    with ExitStack() as opened:
        joining = _Patience(max(wait_s, JOIN_S), say)
        handover = _Handover(config, log, lineage, _Patience(wait_s, say), joining, opened)
        pointer = handover.move()
        return Promotion(pointer, handover.adopted(_Patience(min(wait_s, ADOPT_S), say)))


class _Patience:
    """A deadline, and somebody who is told now and then what is waited for."""

    def __init__(self, wait_s: float, say: Callable[[str], None] | None) -> None:
        self._deadline = time.monotonic() + wait_s
        self._say = say
        self._said_at = time.monotonic()

    def over(self) -> bool:
        return time.monotonic() > self._deadline

    def wait(self, text: str, seconds: float = 0.0) -> None:
        if self._say is not None and time.monotonic() - self._said_at > SAY_S:
            self._said_at = time.monotonic()
            self._say(f"waiting: {text}")
        time.sleep(seconds)


class _Handover:
    def __init__(
        self,
        config: Config,
        log: Log,
        lineage: str,
        patience: _Patience,
        joining: _Patience,
        opened: ExitStack,
    ) -> None:
        self._config = config
        self._log = log
        self._lineage = lineage
        self._patience = patience
        self._joining = joining
        self._opened = opened
        self._info: TopicInfo = source_topic(config, log)
        self._identity = identity(config, components(config), self._info, lineage)
        self._control: Control = opened.enter_context(open_control(config, log))
        self._reader: Reader = opened.enter_context(log.reader())
        self._trusted = trusted_keys(config)

    def move(self) -> Pointer:
        """Write the pointer, with the mark on the offsets of the backfill's group."""
        self._check_other_is_live()
        self._learned()
        group = self._own_group()
        learned = self._learned()
        self._wait_for_live(learned)
        # Another promotion may have come in while this one waited.
        self._control.catch_up()
        self._check_other_is_live()
        known = self._control.pointers.get(self._config.lineage_name)
        pointer = Pointer(
            app=self._config.app,
            name=self._config.lineage_name,
            lineage=self._lineage,
            previous=self._control.current(self._config.lineage_name),
            number=known.number + 1 if known is not None else 1,
            learned=dict(sorted(learned.items())),
            promoted_ms=int(time.time() * 1000),
        )
        record = control_record(pointer, self._config.topic("control"), signing_key(self._config))
        if group is not None:
            group.publish(record)
        else:
            with self._log.appender() as appender:
                appender.append([record])
        self._confirm(pointer)
        return pointer

    def _check_other_is_live(self) -> None:
        if self._control.current(self._config.lineage_name) == self._lineage:
            raise ConfigError(
                f"lineage {self._lineage} is the live one already",
                hint="there is nothing to promote",
            )

    def _confirm(self, pointer: Pointer) -> None:
        """Two promotions at one moment have one number, and of these the later one counts."""
        patience = _Patience(SEEN_S, None)
        while True:
            self._control.refresh(0.2)
            found = self._control.pointers.get(pointer.name)
            if found is not None and found.number >= pointer.number:
                self._control.catch_up()
                break
            if patience.over():
                raise Transient(
                    f"the pointer to lineage {pointer.lineage} was written, and cannot be read",
                    hint="promote again; it says if that lineage is the live one already",
                )
        live = self._control.current(pointer.name)
        if live != pointer.lineage:
            raise Transient(
                f"another promotion came at the same time: lineage {live} is live, and not "
                f"{pointer.lineage}",
                hint="promote again if it should not be",
            )

    def adopted(self, patience: _Patience) -> dict[int, int]:
        """The partitions that the live trainers go on with; empty if there are none."""
        while True:
            at = self._live()
            adopted = {
                p: one.offset
                for p, one in sorted(at.items())
                if metadata_of(one.metadata).get("lineage") == self._lineage
            }
            if len(adopted) == len(at) or patience.over():
                return adopted
            patience.wait("for the live trainers to take it over", 0.2)

    def _live(self) -> dict[int, Committed]:
        return self._log.committed(self._config.trainer_group, self._info.name)

    def _learned(self) -> dict[int, int]:
        """What the lineage's newest snapshots have learned; they have to fit the configuration."""
        single = self._config.lanes == "single"
        learned: dict[int, int] = {}
        topic = self._config.topic("snapshots")
        for number in [0] if single else range(self._info.partitions):
            snapshot = newest(self._reader, topic, number, self._lineage, self._trusted)
            if snapshot is None:
                raise ConfigError(
                    f"{topic}[{number}] holds no snapshot of lineage {self._lineage}",
                    hint=f"stream-update backfill --as {self._lineage} makes one",
                )
            try:
                check_identity(snapshot.manifest, self._identity)
            except LineageMismatch as error:
                raise LineageMismatch(
                    str(error),
                    hint="promote it with the configuration that made it (-c FILE), which is also "
                    "what the live trainers have to find in theirs",
                ) from error
            learned |= snapshot.manifest.positions
        return learned

    def _own_group(self) -> _OwnGroup | None:
        """The group that writes the lineage so far; None if the live trainers do."""
        if self._lineage == self._config.lineage_name:
            return None
        own = backfill_config(self._config, self._lineage)
        committed = self._log.committed(own.trainer_group, self._info.name)
        if not committed or all(
            metadata_of(at.metadata).get("promoted") for at in committed.values()
        ):
            return None
        stretch = self._control.stretches.get(self._lineage)
        _complete(stretch, committed)
        group = _OwnGroup(own, self._log, self._info, self._joining, self._opened)
        _complete(stretch, group.committed)
        return group

    def _wait_for_live(self, learned: Mapping[int, int]) -> None:
        """What a lineage has learned must have been spoken of before it takes over."""
        while True:
            behind = {
                p: learned[p] - at.offset
                for p, at in self._live().items()
                if at.offset < learned.get(p, 0)
            }
            if not behind:
                return
            text = (
                f"the live trainers (group {self._config.trainer_group}) are "
                f"{sum(behind.values())} events behind what lineage {self._lineage} has learned, "
                f"in partitions {sorted(behind)} of {self._info.name}"
            )
            if self._patience.over():
                raise Transient(
                    text,
                    hint="let them catch up and promote again; if they cannot run because their "
                    "configuration was changed, promote a backfill that ends where they are "
                    "(--to committed)",
                )
            self._patience.wait(text, 0.2)


class _OwnGroup:
    """The backfill's group with nobody else in it: whoever has a part of it may go on."""

    def __init__(
        self, config: Config, log: Log, info: TopicInfo, patience: _Patience, opened: ExitStack
    ) -> None:
        self._config = config
        self._partitions = range(info.partitions)
        self._patience = patience
        self._owned: set[int] = set()
        self._publisher = opened.enter_context(
            log.publisher(config.trainer_group, [config.topic("control")], delivery=config.delivery)
        )
        self._member: Member = opened.enter_context(
            log.member(config.trainer_group, info.name, single=config.lanes == "single")
        )
        self._join()
        self.committed = {
            p: at for p, at in self._member.committed(self._partitions).items() if at is not None
        }

    def publish(self, record: Record) -> None:
        marked = {p: _marked(at) for p, at in self.committed.items()}
        while True:
            try:
                self._publisher.publish([record], marked, self._member)
            except Refused as error:
                if self._patience.over():
                    raise Transient(
                        f"the pointer could not be moved: {error}", hint="promote again"
                    ) from error
                self._join()
            else:
                return

    def _join(self) -> None:
        name = self._config.lineage_name
        while True:
            poll = self._member.poll(0.2, 1)
            self._owned = (self._owned - {*poll.lost}) | {*poll.gained}
            if self._owned == {*self._partitions} and self._member.stable():
                return
            if self._patience.over():
                raise Transient(
                    f"group {self._config.trainer_group} has other members: the backfill {name} "
                    "is still running",
                    hint="let it finish, or stop it, and promote again",
                )
            self._patience.wait(f"for others to leave group {self._config.trainer_group}")


def _complete(stretch: Stretch | None, committed: Mapping[int, Committed]) -> None:
    """Refuse to promote half of a backfill."""
    if stretch is not None and (left := stretch.left(committed)):
        raise LineageMismatch(
            f"the backfill {stretch.name} is not complete: {left} events are left",
            hint=f"run stream-update backfill --as {stretch.name} again; it goes on where it was",
        )


def _marked(at: Committed) -> Committed:
    note = {**metadata_of(at.metadata), "promoted": True}
    return Committed(at.offset, msgspec.json.encode(note).decode())
