"""What the lanes of a process have in common, as the composition root has put it together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from stream_update.bounds import Limits
from stream_update.events import Alarm, Batch, Block
from stream_update.lane import Lane
from stream_update.protocols import Reader
from stream_update.serving import Serving
from stream_update.signing import SigningKey, TrustedKeys
from stream_update.snapshot import Identity

__all__ = ["Kit", "Plan"]


class Kit(NamedTuple):
    """What a slot needs of a freshly built lane."""

    lane: Lane
    decode: Callable[[Batch], Block]
    recent_loss: Callable[[], float]


class Plan(NamedTuple):
    """What all slots of a process share.

    ``copies``: whether the state of a lane may be written down in a copy of the process.

    ``start`` is where a lineage begins that does not begin as ``auto_offset_reset`` says (a
    backfill); then every lane is put into a snapshot, also one that has nothing to learn.
    """

    identity: Identity
    source_topic: str
    topics: Mapping[str, str]
    build: Callable[[Mapping[int, int]], Kit]
    alarm_value: Callable[[Alarm], Mapping[str, Any]]
    open_reader: Callable[[], Reader]
    partitions: Callable[[], Sequence[int]]
    grow: Callable[[int], None]
    auto_offset_reset: str = "earliest"
    journal: bool = False
    fenced: bool = True
    compression_level: int = 3
    copies: bool = True
    signing: SigningKey | None = None
    trusted: TrustedKeys | None = None
    limits: Limits = Limits()
    expires_ms: int | None = None
    wait_s: float = 20.0
    bad_ratio: float = 1.0
    bad_window: int = 10_000
    start: Mapping[int, int] | None = None
    serving: Serving | None = None

    @property
    def lineage(self) -> str:
        return self.identity.lineage
