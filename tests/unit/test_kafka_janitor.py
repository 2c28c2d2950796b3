from __future__ import annotations

import pytest
from kafka.admin import TransactionState

from stream_update.log.kafka.janitor import (
    NEAR_MS,
    OFFSETS,
    UNKNOWN,
    Coordinator,
    Ending,
    Open,
    judge,
    partition_of_group,
)

STARTED = 1_000_000
OURS, OTHERS = "trainer.0123456789abcdef", "somebody"


def opened(topic: str = "outputs", epoch: int = 3) -> Open:
    return Open(topic, 0, 7, epoch, -1, 5, 0, STARTED)


def told(state: TransactionState, epoch: int = 3, name: str = OURS) -> Coordinator:
    return Coordinator(name, state, epoch, STARTED)


@pytest.mark.parametrize(
    "state",
    [
        one
        for one in TransactionState
        if one.value not in {"Empty", "CompleteCommit", "CompleteAbort"}
    ],
)
def test_what_the_coordinator_works_on_is_left_alone(state: TransactionState) -> None:
    assert judge(opened(), told(state), STARTED)[0] is Ending.WAIT


@pytest.mark.parametrize(
    ("coordinator", "first_ms", "ending"),
    [
        (told(TransactionState.COMPLETE_COMMIT), None, Ending.COMMIT),
        (told(TransactionState.COMPLETE_COMMIT, epoch=4), None, Ending.DOUBT),
        (told(TransactionState.COMPLETE_COMMIT, name=OTHERS), None, Ending.DOUBT),
        (told(TransactionState.COMPLETE_ABORT), STARTED - 10, Ending.ABORT),
        (told(TransactionState.COMPLETE_ABORT, epoch=4), STARTED + 10, Ending.ABORT),
        (told(TransactionState.COMPLETE_ABORT), STARTED - NEAR_MS - 1, Ending.DOUBT),
        (told(TransactionState.COMPLETE_ABORT), None, Ending.DOUBT),
        (told(TransactionState.EMPTY), None, Ending.ABORT),
        (told(TransactionState.EMPTY, epoch=4), None, Ending.DOUBT),
        (UNKNOWN, None, Ending.ABORT),
    ],
)
def test_what_the_coordinator_has_finished_is_ended_if_it_is_certain_how(
    coordinator: Coordinator, first_ms: int | None, ending: Ending
) -> None:
    assert judge(opened(), coordinator, first_ms)[0] is ending


def test_the_offsets_of_other_programs_are_none_of_our_business() -> None:
    for state in TransactionState:
        assert judge(opened(OFFSETS), told(state, name=OTHERS), STARTED)[0] is Ending.WAIT


@pytest.mark.parametrize(
    ("group", "count", "partition"),
    [("g", 4, 3), ("group", 50, 47), ("polygenelubricants", 50, 0), ("\U0001f600", 50, 49)],
)
def test_the_partition_of_a_groups_offsets_is_the_brokers(
    group: str, count: int, partition: int
) -> None:
    """The third hashes to the smallest number, which has no absolute value."""
    assert partition_of_group(group, count) == partition
