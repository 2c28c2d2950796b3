"""All partitions to one member; the others stand by and take over."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment

__all__ = ["SingleOwnerAssignor"]


class SingleOwnerAssignor(CooperativeStickyAssignor):  # type: ignore[misc]
    """Gives all partitions of a topic to the member that has most of them already.

    So whoever joins stands by, and the owner stays the owner until it leaves or dies;
    then the first by name takes over. It speaks the cooperative protocol (KIP-429):
    every member says in its subscription what it owns, and a partition that another
    member still owns is given away only in the next round, after that one let go.
    """

    name = "stream-update-single"

    def assign(self, cluster: Any, members: Any) -> dict[str, ConsumerProtocolAssignment]:
        claims = {m.member_id: self.parse_member_metadata(m.metadata) for m in members}
        holders: dict[tuple[str, int], set[str]] = defaultdict(set)
        for member, claim in claims.items():
            for where in claim.partitions:
                holders[where].add(member)
        given: dict[str, list[tuple[str, list[int]]]] = {member: [] for member in claims}
        for topic in sorted({topic for claim in claims.values() for topic in claim.subscription}):
            partitions = sorted(cluster.partitions_for_topic(topic) or ())
            owner = min(
                (member for member, claim in claims.items() if topic in claim.subscription),
                key=lambda member: (
                    -sum(member in holders[topic, partition] for partition in partitions),
                    member,
                ),
            )
            free = [p for p in partitions if holders[topic, p] <= {owner}]
            if free:
                given[owner].append((topic, free))
        return {
            member: ConsumerProtocolAssignment(self.version, assigned, b"")
            for member, assigned in given.items()
        }
