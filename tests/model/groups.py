"""A group's coordinator: generations, and cooperative rebalances as Kafka makes them.

Whenever the membership changes, everybody has to join again; when all have, a new
generation begins. A partition that is to move is first only taken from its owner, who
hears of it in its next poll and has all join once more; then the heir gets it. A member
is expelled when its process gives no sign of life for the session time-out, or does
not poll for longer than it may.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from stream_update.errors import ConfigError, Refused
from stream_update.events import Committed
from stream_update.log.embedded.sharing import all_to_one, spread
from tests.model.process import Process

if TYPE_CHECKING:
    from tests.model.broker import Broker, Transaction

__all__ = ["Group", "Identity", "Membership"]


class Membership:
    """A member as the coordinator knows it; expelled and joined again it is another one."""

    def __init__(self, name: str, process: Process, now: float) -> None:
        self.name = name
        self.process = process
        self.seen = self.polled = now
        self.busy = False
        self.joined = False
        self.generation = -1
        self.owned: frozenset[int] = frozenset()
        self.assigned: frozenset[int] = frozenset()


class Identity(NamedTuple):
    """Who a member was in the group right after its last poll."""

    membership: Membership | None
    generation: int


class Group:
    """One group on one topic; ``offsets`` are what is committed and visible.

    ``told`` is which process was last told, as the owner, what is committed.
    """

    def __init__(self, broker: Broker, group_id: str, partitions: int, *, single: bool) -> None:
        self.group_id = group_id
        self.single = single
        self.generation = 0
        self.rebalancing = False
        self.members: list[Membership] = []
        self.offsets: dict[int, Committed] = {}
        self.pending: list[Transaction] = []
        self.told: dict[int, Process] = {}
        self._broker = broker
        self._partitions = partitions
        self._joined = 0

    def tick(self) -> None:
        now = self._broker.clock.now
        for member in self.members:
            if member.process.running:
                member.seen = now
        gone = [
            member
            for member in self.members
            if now - member.seen > self._broker.session_s
            or (not member.busy and now - member.polled > self._broker.max_poll_s)
        ]
        for member in gone:
            self.leave(member)

    def join(self, process: Process, *, single: bool) -> Membership:
        if single != self.single:
            raise ConfigError(
                f"group {self.group_id} divides its topic in another way",
                hint="stop the others, or use another group_id",
            )
        self._joined += 1
        member = Membership(f"{self._joined}", process, self._broker.clock.now)
        self.members.append(member)
        self.rebalance()
        return member

    def leave(self, member: Membership) -> None:
        if member in self.members:
            self.members.remove(member)
            self.rebalance()

    def grow(self, partitions: int) -> None:
        self._partitions = partitions
        self.rebalance()

    def rebalance(self) -> None:
        self.rebalancing = True
        for member in self.members:
            member.joined = False

    def poll(self, member: Membership) -> None:
        """Join if everybody has to; the last one to do so begins the next generation."""
        member.polled = self._broker.clock.now
        if self.rebalancing:
            member.joined = True
        if self.rebalancing and all(one.joined for one in self.members):
            self._begin_generation()
        if self.rebalancing or member.generation == self.generation:
            return
        member.generation = self.generation
        lost = member.owned - member.assigned
        member.owned = member.assigned
        if lost:
            self.rebalance()

    def _begin_generation(self) -> None:
        self.generation += 1
        self.rebalancing = False
        current = {p: member.name for member in self.members for p in member.owned}
        divide = all_to_one if self.single else spread
        target = divide(self._partitions, [member.name for member in self.members], current)
        for member in self.members:
            member.assigned = frozenset(
                partition
                for partition, name in target.items()
                if name == member.name and current.get(partition, name) == name
            )

    def check(self, by: Identity) -> None:
        """Raise :class:`Refused` for anybody but a member of the current generation."""
        if by.membership not in self.members or by.generation != self.generation:
            raise Refused(f"group {self.group_id} has gone on without this member")

    def unsettled(self, partitions: Iterable[int]) -> bool:
        """Whether a transaction may still change what is committed for one of these."""
        asked = set(partitions)
        return any(asked & transaction.offsets.keys() for transaction in self.pending)
