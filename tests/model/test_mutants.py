"""A machine that finds nothing proves nothing: each of these breaks the protocol, and is found.

What is broken is the product, in one place, or the log that it relies on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from stream_update.events import Batch, Committed
from stream_update.slots import Part, Slot
from stream_update.worker import Worker
from tests.model import machine
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


def stored_ahead(self: Slot, **options: Any) -> Part | None:
    """S passes C: the snapshot has learned an event that is not committed."""
    made = part(self, **options)
    if made is None or made.snapshot is None:
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


def drop_what_was_refused(self: Slot, made: Part) -> None:
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


def search(kind: type[machine.PerPartition]) -> None:
    with pytest.raises(Violation) as found:
        run_state_machine_as_test(kind, settings=SEARCH)
    print(found.value)


@pytest.mark.parametrize(
    ("owner", "mutant"),
    [
        (Slot, stored_ahead),
        (Slot, learn_aloud),
        (Slot, forget_the_committed),
        (Slot, drop_what_was_refused),
        (Slot, forget_the_parent),
        (Worker, keep_the_broken),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("kind", [machine.PerPartition, machine.OverAll])
def test_a_broken_worker_is_found(
    kind: type[machine.PerPartition],
    owner: type,
    mutant: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = {
        stored_ahead: "part",
        learn_aloud: "feed",
        forget_the_committed: "restore",
        drop_what_was_refused: "refuse",
        forget_the_parent: "confirm",
        keep_the_broken: "_restore",
    }
    monkeypatch.setattr(owner, names[mutant], mutant)
    search(kind)
