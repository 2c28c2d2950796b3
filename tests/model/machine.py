"""The order in which things go well and wrong, as Hypothesis chooses it."""

from __future__ import annotations

from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.model.learning import KINDS
from tests.model.process import Step
from tests.model.trial import FAULTS, PARTITIONS, Life, Trial

__all__ = ["OverAll", "PerPartition"]

MEMBERS = 3

partitions = st.integers(0, PARTITIONS - 1)
which = st.integers(0, MEMBERS - 1)
paces = st.sampled_from([None, 0, 1, 3])


class PerPartition(RuleBasedStateMachine):
    """A lane for each partition; every invariant is looked at in every transaction."""

    options: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.trial: Trial

    @initialize(
        learner=st.sampled_from(["counting", "counting", "river"]),
        every=st.integers(1, 3),
        pace=paces,
    )
    def begin(self, learner: str, every: int, pace: int | None) -> None:
        self.trial = Trial(learner=learner, every=every, **self.options)
        for partition in range(PARTITIONS):
            self.trial.produce(partition, ["good"] * 5)
        self.trial.join(pace)

    def teardown(self) -> None:
        if hasattr(self, "trial"):
            try:
                if not self.trial.broken:
                    self.trial.settle()
            finally:
                self.trial.close()

    def life(self, number: int) -> Life:
        return self.trial.lives[number % len(self.trial.lives)]

    @rule(partition=partitions, kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=8))
    def produce(self, partition: int, kinds: list[str]) -> None:
        self.trial.produce(partition, kinds)

    @precondition(lambda self: len(self.trial.lives) < MEMBERS)
    @rule(pace=paces)
    def join(self, pace: int | None) -> None:
        self.trial.join(pace)

    @precondition(lambda self: self.trial.lives)
    @rule(number=which, turns=st.integers(1, 6))
    def turn(self, number: int, turns: int) -> None:
        life = self.life(number)
        for _ in range(turns):
            self.trial.turn(life)

    @precondition(lambda self: self.trial.lives)
    @rule(turns=st.integers(1, 6))
    def all_turn(self, turns: int) -> None:
        for _ in range(turns):
            for life in [*self.trial.lives]:
                self.trial.turn(life)

    @precondition(lambda self: self.trial.lives)
    @rule(number=which)
    def checkpoint(self, number: int) -> None:
        self.trial.checkpoint(self.life(number))

    @precondition(lambda self: self.trial.lives)
    @rule(number=which)
    def crash(self, number: int) -> None:
        self.trial.crash(self.life(number))

    @precondition(lambda self: self.trial.lives)
    @rule(
        number=which,
        step=st.sampled_from(Step),
        fault=st.sampled_from(FAULTS),
        seconds=st.sampled_from([2, 8, 15]),
    )
    def fault(self, number: int, step: Step, fault: str, seconds: int) -> None:
        """In the next checkpoint of a member, at this step."""
        life = self.life(number)
        life.fault = (step, fault, seconds)
        self.trial.checkpoint(life)

    @precondition(lambda self: self.trial.lives)
    @rule(number=which)
    def freeze(self, number: int) -> None:
        self.trial.broker.freeze(self.life(number).process)

    @precondition(lambda self: any(life.process.frozen for life in self.trial.lives))
    @rule(checkpoints=st.booleans())
    def thaw(self, checkpoints: bool) -> None:
        """A zombie goes on: with a poll, or with a checkpoint of what it had learned."""
        life = next(life for life in self.trial.lives if life.process.frozen)
        self.trial.broker.thaw(life.process)
        if checkpoints:
            self.trial.checkpoint(life)
        self.trial.turn(life)

    @precondition(lambda self: self.trial.lives)
    @rule(number=which, partition=partitions)
    def zombie(self, number: int, partition: int) -> None:
        """One with something to say stands still until its partitions have another owner."""
        life = self.life(number)
        self.trial.produce(partition, ["good"] * 3)
        self.trial.turn(life)
        self.trial.stand_still(life, 9)
        self.trial.checkpoint(life)

    @precondition(lambda self: self.trial.lives)
    @rule(number=which)
    def succession(self, number: int) -> None:
        """One crashes after a checkpoint whose end cannot be seen everywhere yet."""
        life, before = self.life(number), self.trial.delay_s
        for partition in range(PARTITIONS):
            self.trial.produce(partition, ["good"] * 3)
        self.trial.delay_s = 4.0
        for _ in range(3):
            self.trial.turn(life)
        self.trial.checkpoint(life)
        self.trial.crash(life)
        self.trial.delay_s = before
        self.all_turn(6)

    @precondition(lambda self: self.trial.lives)
    @rule(number=which)
    def leave(self, number: int) -> None:
        life = self.life(number)
        if life.process.running:
            self.trial.leave(life)

    @rule(seconds=st.sampled_from([1.0, 7.0, 12.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.trial.pass_time(seconds)

    @rule()
    def lose_transactions(self) -> None:
        self.trial.broker.lose_transactions()

    @rule(seconds=st.sampled_from([0.0, 0.1, 2.0]))
    def markers_take(self, seconds: float) -> None:
        self.trial.delay_s = seconds

    @rule(partition=partitions)
    def retention(self, partition: int) -> None:
        self.trial.retain(partition)

    @rule()
    def compaction(self) -> None:
        self.trial.compact()


class OverAll(PerPartition):
    """One lane over all partitions, with its journal; the other members stand by."""

    options: ClassVar[dict[str, Any]] = {"single": True}
