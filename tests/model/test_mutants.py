"""A machine that finds nothing proves nothing: each of these breaks the protocol, and is found.

What is broken is the product, in one place, or the log that it relies on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from stream_update.events import Batch, Committed
from stream_update.slots import Draft, Part, Slot
from stream_update.worker import Worker
from tests.model import machine
from tests.model.trial import Trial
from tests.model.truth import Violation

pytestmark = [pytest.mark.fault, pytest.mark.slow]

SEARCH = settings(
    max_examples=500,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=[*HealthCheck],
)

part, confirm, restore = Slot.part, Slot.confirm, Slot.restore
restore_lane, journal_done = Worker._restore, Slot.journal_done


def stored_ahead(self: Slot, draft: Draft) -> Part:
    """S passes C: the snapshot has learned an event that is not committed."""
    made = part(self, draft)
    if made.snapshot is None:
        return made
    behind = {p: at._replace(offset=max(0, at.offset - 1)) for p, at in made.offsets.items()}
    return made._replace(offsets=behind)


def learn_aloud(self: Slot, batch: Batch) -> None:
    """What is learned again between S and C is said again."""
    self._say(self._learn(batch))


def forget_the_committed(self: Slot, committed: Mapping[int, Committed | None]) -> None:
    """A restored lane takes S for C."""
    restore(self, committed)
    self.committed = {p: self.lane.next[p] for p in self.partitions}


def drop_what_was_refused(self: Slot, made: Draft | Part) -> None:
    """What a refused checkpoint had to say is never said."""


def forget_the_parent(self: Slot, made: Part, given: list[int]) -> None:
    """Every snapshot names the same one before it."""
    before = self._parent
    confirm(self, made, given)
    self._parent = before


def keep_the_broken(self: Worker, slot: Slot, committed: Mapping[int, Committed | None]) -> None:
    """A lane that broke while it learned an event goes on as it is."""
    if slot._kit is None:
        restore_lane(self, slot, committed)
    else:
        slot.lane.poisoned.update(slot._poisoned)


def trust_the_journal(self: Slot, committed: Mapping[int, Committed | None]) -> bool:
    """The journal is thought complete although its last entry cannot be seen yet."""
    return journal_done(self, {})


BROKEN: dict[Callable[..., Any], tuple[type, str]] = {
    stored_ahead: (Slot, "part"),
    learn_aloud: (Slot, "feed"),
    forget_the_committed: (Slot, "restore"),
    drop_what_was_refused: (Slot, "refuse"),
    forget_the_parent: (Slot, "confirm"),
    keep_the_broken: (Worker, "_restore"),
}


def search(kind: type[machine.PerPartition], found: str) -> None:
    with pytest.raises(Violation, match=found):
        run_state_machine_as_test(kind, settings=SEARCH)


@pytest.mark.parametrize("mutant", BROKEN, ids=lambda mutant: mutant.__name__)
def test_a_broken_worker_is_found(
    mutant: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*BROKEN[mutant], mutant)
    search(machine.PerPartition, "^I[1-5]: ")


def test_an_heir_that_trusts_half_a_journal_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Slot, "journal_done", trust_the_journal)
    search(machine.OverAll, "^I[1-5]: ")


def test_a_log_that_lets_zombies_publish_is_found() -> None:
    class Unfenced(machine.PerPartition):
        options: ClassVar[dict[str, Any]] = {"fences": False}

    search(Unfenced, "^(fence|I[1-5]): ")


def test_a_log_that_tells_positions_too_early_is_found() -> None:
    class Hasty(machine.PerPartition):
        options: ClassVar[dict[str, Any]] = {"waits": False}

    search(Hasty, "^(fence|I[1-5]): |somebody moved it back")


def test_every_kind_of_event_is_what_it_says() -> None:
    """Or the machine would look at nothing but dead letters."""
    trial = Trial()
    try:
        trial.produce(0, ["good", "bad", "good", "twice", "poison", "unlabelled", "good"])
        trial.settle()
    finally:
        trial.close()
    lane = trial.truth.lineages[0].kit.lane
    counts = (lane.learned, lane.rejected, lane.unlabelled, lane.duplicates)
    assert counts == (3, 2, 1, 1)
    reasons = {offset: outcome.reason for offset, outcome in trial.truth.said[0].items()}
    assert reasons == {0: "", 1: "not-json", 2: "", 4: "learner-failed", 6: ""}
