from __future__ import annotations

from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment

from stream_update.log.kafka.assignor import SingleOwnerAssignor

TOPIC = "events"


class Cluster(NamedTuple):
    partitions: int

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return set(range(self.partitions)) if topic == TOPIC and self.partitions else None


class Joining(NamedTuple):
    member_id: str
    metadata: Any


def joining(name: str, owned: set[int], topic: str = TOPIC) -> Joining:
    """A member as the leader sees it, through the assignor's own words on the wire."""
    assignor = SingleOwnerAssignor()
    if owned:
        assignment = ConsumerProtocolAssignment(1, [(TOPIC, sorted(owned))], b"")
        assignor.on_assignment(assignment, 1)
    encoded = assignor.metadata({topic})
    return Joining(name, type(encoded).decode(encoded.encode()))


def assign(partitions: int, members: dict[str, set[int]]) -> dict[str, set[int]]:
    given_out = SingleOwnerAssignor().assign(
        Cluster(partitions), [joining(name, owned) for name, owned in members.items()]
    )
    return {
        name: {where.partition for where in assignment.partitions()}
        for name, assignment in given_out.items()
    }


def test_the_first_by_name_gets_everything_when_nobody_has_anything() -> None:
    assert assign(3, {"b": set(), "a": set()}) == {"a": {0, 1, 2}, "b": set()}


def test_the_owner_stays_whoever_comes() -> None:
    assert assign(3, {"b": {0, 1, 2}, "a": set()}) == {"a": set(), "b": {0, 1, 2}}


def test_new_partitions_go_to_the_owner_at_once() -> None:
    assert assign(5, {"b": {0, 1}, "a": set()}) == {"a": set(), "b": {0, 1, 2, 3, 4}}


def test_what_another_still_owns_is_given_away_one_round_later() -> None:
    first = assign(3, {"a": {0, 1}, "b": {2}})
    assert first == {"a": {0, 1}, "b": set()}
    assert assign(3, first) == {"a": {0, 1, 2}, "b": set()}


def test_what_two_claim_goes_to_nobody_until_one_let_go() -> None:
    first = assign(2, {"a": {0, 1}, "b": {0}})
    assert first == {"a": {1}, "b": set()}
    assert assign(2, first) == {"a": {0, 1}, "b": set()}


def test_a_topic_that_is_not_known_yet_is_nobodys() -> None:
    assert assign(0, {"a": set()}) == {"a": set()}


def test_a_member_of_another_topic_gets_nothing_of_this_one() -> None:
    members = [joining("a", set(), topic="other"), joining("b", set())]
    given_out = SingleOwnerAssignor().assign(Cluster(2), members)
    assert given_out["a"].partitions() == []
    assert len(given_out["b"].partitions()) == 2


claims = st.dictionaries(
    st.sampled_from("abcde"), st.sets(st.integers(0, 5), max_size=6), min_size=1
)


@given(st.integers(1, 6), claims)
def test_any_group_comes_to_one_owner_and_nothing_is_owned_twice(
    partitions: int, members: dict[str, set[int]]
) -> None:
    now = {name: {p for p in owned if p < partitions} for name, owned in members.items()}
    for _ in range(3):
        before, now = now, assign(partitions, now)
        together = [partition for owned in now.values() for partition in owned]
        assert len(together) == len(set(together))
        for name, owned in now.items():
            others = {p for other in before if other != name for p in before[other]}
            assert not (owned - before[name]) & others, "given away before it was let go"
    assert sorted(map(len, now.values())) == [0] * (len(now) - 1) + [partitions]
    assert assign(partitions, now) == now
