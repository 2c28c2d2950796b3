"""Which member should have which partition, moving as few as possible."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

__all__ = ["all_to_one", "spread"]


def spread(partitions: int, members: Sequence[str], current: Mapping[int, str]) -> dict[int, str]:
    """A member for each partition, so that the shares differ by one at most.

    ``members`` are in the order in which they joined, ``current`` names the member
    that has a partition now. Members keep what they have as far as their share allows,
    and those that have most get the larger shares, so no assignment with equal
    shares moves fewer partitions.
    """
    if not members:
        return {}
    held: dict[str, list[int]] = {member: [] for member in members}
    for partition in sorted(current):
        if current[partition] in held:
            held[current[partition]].append(partition)
    share, larger = divmod(partitions, len(members))
    shares = {
        member: share + (rank < larger)
        for rank, member in enumerate(sorted(members, key=lambda m: -len(held[m])))
    }
    given = {p: member for member in members for p in held[member][: shares[member]]}
    free = iter(sorted(set(range(partitions)) - given.keys()))
    for member in members:
        for _ in range(shares[member] - len(held[member])):
            given[next(free)] = member
    return given


def all_to_one(
    partitions: int, members: Sequence[str], current: Mapping[int, str]
) -> dict[int, str]:
    """All partitions to the member that has most of them, or to the first that joined."""
    if not members:
        return {}
    counts = Counter(current.values())
    owner = max(members, key=lambda member: counts[member])
    return dict.fromkeys(range(partitions), owner)
