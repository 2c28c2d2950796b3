"""What the machine has found, one story each."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.model.trial import Life, Trial

Make = Callable[..., Trial]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Trial] = []

    def make(**options: object) -> Trial:
        made.append(Trial(single=True, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for trial in made:
        trial.close()


def owner_and_standby(trial: Trial) -> tuple[Life, Life]:
    owner, standby = trial.join(), trial.join()
    turn(trial, 10)
    assert owner.worker.slots
    assert standby.worker.standing_by
    return owner, standby


def turn(trial: Trial, times: int) -> None:
    for _ in range(times):
        for life in [*trial.lives]:
            trial.turn(life)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("warm", [True, False])
def test_an_heir_waits_for_the_journal_and_the_snapshot_that_the_positions_promise(
    make: Make, every: int, warm: bool
) -> None:
    trial = make(every=every)
    trial.produce(0, ["good"] * 3)
    owner, standby = owner_and_standby(trial)
    # The last checkpoint is decided; its end is seen in one place after the other.
    trial.delay_s = 5.0
    trial.produce(1, ["good"] * 4)
    trial.produce(0, ["good"] * 4)
    while not trial.truth.complete():
        trial.turn(owner)
    if not warm:
        trial.crash(standby)
        trial.join()
    trial.crash(owner)
    turn(trial, 60)
    trial.produce(1, ["good"] * 4)
    trial.settle()


def test_a_standby_that_retention_overtook_goes_on_from_a_newer_snapshot(make: Make) -> None:
    trial = make(every=2)
    owner, standby = owner_and_standby(trial)
    trial.produce(0, ["good"] * 20)
    for _ in range(12):
        trial.turn(owner)
    assert trial.truth.lineages[0].stored(0) > 0
    trial.retain(0)
    turn(trial, 5)
    assert standby.worker.standing_by
    trial.crash(owner)
    trial.settle()


def test_an_heir_that_retention_overtook_goes_back_to_the_newest_snapshot(make: Make) -> None:
    trial = make(every=2)
    owner, _ = owner_and_standby(trial)
    trial.produce(0, ["good"] * 20)
    for _ in range(12):
        trial.turn(owner)
    trial.retain(0)
    trial.crash(owner)
    trial.pass_time(10.0)
    trial.settle()
