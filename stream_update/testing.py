"""The laws of components, for the tests of those who write one.

    from stream_update.testing import check_learner

    def test_the_laws() -> None:
        check_learner(lambda: MyLearner(seed=1), features, labels)

Who breaks one gets an :class:`AssertionError` that says which. A trainer relies on them: it
goes on from a dump after every crash, and cuts a stream wherever it is stopped.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import msgspec

from stream_update.events import Alarm, Features, Outcomes, Predictions, Table, Tree
from stream_update.protocols import Learner, Monitor, TakesTables
from stream_update.snapshot import state_digest

__all__ = ["check_learner", "check_monitor"]

LEAST = 4
"""Batches, or outcomes: fewer leave nothing to cut."""
BLOCKS = (1, 3, 7)


def check_learner(
    make: Callable[[], Learner], features: Sequence[Features], labels: Sequence[Any]
) -> None:
    """Hold a learner to the laws of :class:`~stream_update.protocols.Learner`.

    ``make`` builds a fresh one, the same each time. The events should have in them what is
    hard: features and classes that come late, features that are missing. They are learned in
    whole batches; at least four are needed, or :class:`ValueError` is raised.
    """
    learner = make()
    size = learner.batch
    if len(features) != len(labels) or len(features) < LEAST * size:
        raise ValueError(f"{len(features)} events: as many labels, and {LEAST * size} or more")
    given = copy.deepcopy((features, labels))
    said = _run(learner, features, labels)
    state = _stored(learner.dump())
    assert (features, labels) == given, "events were changed by who learned them"
    other = make()
    assert _alike(_run(other, features, labels), said), (
        "two fresh learners say different things of the same events"
    )
    assert state_digest(_stored(other.dump())) == state_digest(state), (
        "two fresh learners have different dumps after the same events"
    )
    _check_pure(make(), features, labels, [*said, learner.predict(features)])
    for cut in (size, len(features) // 2 // size * size, (len(features) // size - 1) * size):
        _check_dump(make, features, labels, cut, said, state)
    if size == 1:
        _check_blocks(make, features, labels, said, state)
    if isinstance(learner, TakesTables) and learner.takes_tables:
        _check_tables(make, features, labels, said, state)


def _check_pure(
    learner: Learner,
    features: Sequence[Features],
    labels: Sequence[Any],
    said: Sequence[Predictions],
) -> None:
    """By what is said later: a dump may have grown by what was only asked for."""
    learner.predict(features)
    for number, (xs, ys) in enumerate(_batches(learner.batch, features, labels)):
        learner.predict(features[: learner.batch + 1])
        assert _alike([learner.predict(xs)], [said[number]]), (
            f"batch {number}: to predict other events changed what is said of these"
        )
        learner.predict(features[-learner.batch :])
        learner.learn(xs, ys)
    assert _alike(learner.predict(features), said[-1]), "to predict changed what was learned"


def _check_dump(
    make: Callable[[], Learner],
    features: Sequence[Features],
    labels: Sequence[Any],
    cut: int,
    said: Sequence[Predictions],
    state: Tree,
) -> None:
    first = make()
    _run(first, features[:cut], labels[:cut])
    tree = _stored(first.dump())
    # Into one that has learned something else: what it was must be gone.
    second = make()
    _run(second, features, labels)
    second.load(tree)
    assert state_digest(_stored(second.dump())) == state_digest(tree), (
        f"after {cut} events: what was loaded dumps something else"
    )
    rest = _run(second, features[cut:], labels[cut:])
    assert _alike(rest, said[cut // second.batch :]), (
        f"after {cut} events: what was loaded goes on to say other things"
    )
    assert state_digest(_stored(second.dump())) == state_digest(state), (
        f"after {cut} events: what was loaded goes on to learn other things"
    )


def _check_blocks(
    make: Callable[[], Learner],
    features: Sequence[Features],
    labels: Sequence[Any],
    said: Sequence[Predictions],
    state: Tree,
) -> None:
    one_by_one = [value for answer in said for value in answer.values]
    for size in (*BLOCKS, len(features)):
        learner = make()
        values: list[Any] = []
        for xs, ys in _batches(size, features, labels, whole=False):
            values += learner.predict_then_learn(xs, ys).values
        assert _alike(values, one_by_one), (
            f"predict_then_learn of {size} events at once says other things than one by one"
        )
        assert state_digest(_stored(learner.dump())) == state_digest(state), (
            f"predict_then_learn of {size} events at once learns other things than one by one"
        )


def _check_tables(
    make: Callable[[], Learner],
    features: Sequence[Features],
    labels: Sequence[Any],
    said: Sequence[Predictions],
    state: Tree,
) -> None:
    learner = make()
    again = []
    for xs, ys in _batches(learner.batch, features, labels):
        again.append(learner.predict(_table(xs)))
        learner.learn(_table(xs), ys)
    assert _alike(again, said), "of events as a table it says other things"
    assert state_digest(_stored(learner.dump())) == state_digest(state), (
        "of events as a table it learns other things"
    )
    if learner.batch > 1:
        return
    learner = make()
    values: list[Any] = []
    stop = 0
    for _, alike in groupby(map(tuple, features)):
        start, stop = stop, stop + len(list(alike))
        values += learner.predict_then_learn(
            _table(features[start:stop]), labels[start:stop]
        ).values
    assert _alike(values, [value for answer in said for value in answer.values]), (
        "predict_then_learn of events as a table says other things than one by one"
    )
    assert state_digest(_stored(learner.dump())) == state_digest(state), (
        "predict_then_learn of events as a table learns other things than one by one"
    )


def _table(features: Sequence[Features]) -> Sequence[Features]:
    """The events as a table, if they have the same names and have any."""
    names = list(features[0])
    if not names or any(list(event) != names for event in features):
        return features
    return Table(names, [value for event in features for value in event.values()])


def check_monitor(make: Callable[[], Monitor], outcomes: Outcomes) -> None:
    """Hold a monitor to the laws of :class:`~stream_update.protocols.Monitor`.

    At least four outcomes are needed, or :class:`ValueError` is raised; alarms should be
    among what they bring.
    """
    total = len(outcomes.labels)
    if total < LEAST:
        raise ValueError(f"{total} outcomes: {LEAST} or more are needed")
    whole = make()
    alarms = [*whole.observe(outcomes)]
    state, report = _stored(whole.dump()), whole.report()
    for size in BLOCKS:
        monitor = make()
        found: list[Alarm] = []
        for start in range(0, total, size):
            found += monitor.observe(_part(outcomes, start, start + size))
        assert _alike(found, alarms), f"{size} outcomes at once bring other alarms"
        assert _alike(monitor.report(), report), f"{size} outcomes at once make another report"
    for cut in (1, total // 2, total - 1):
        first, second = make(), make()
        found = [*first.observe(_part(outcomes, 0, cut))]
        second.observe(_part(outcomes, total - 1, total))
        second.load(_stored(first.dump()))
        found += second.observe(_part(outcomes, cut, total))
        assert _alike(found, alarms), f"after {cut} outcomes: what was loaded brings other alarms"
        assert _alike(second.report(), report), (
            f"after {cut} outcomes: what was loaded makes another report"
        )
        assert state_digest(_stored(second.dump())) == state_digest(state), (
            f"after {cut} outcomes: what was loaded goes on in another way"
        )


def _part(outcomes: Outcomes, start: int, stop: int) -> Outcomes:
    values, chances = outcomes.predictions
    return Outcomes(
        outcomes.partition,
        outcomes.offsets[start:stop],
        outcomes.labels[start:stop],
        Predictions(values[start:stop], None if chances is None else chances[start:stop]),
        lambda index: outcomes.time_of(start + index),
    )


def _run(
    learner: Learner, features: Sequence[Features], labels: Sequence[Any]
) -> list[Predictions]:
    said = []
    for xs, ys in _batches(learner.batch, features, labels):
        said.append(learner.predict(xs))
        learner.learn(xs, ys)
    return said


def _batches(
    size: int, features: Sequence[Features], labels: Sequence[Any], *, whole: bool = True
) -> Iterator[tuple[Sequence[Features], Sequence[Any]]]:
    last = len(features) - size if whole else len(features) - 1
    for start in range(0, last + 1, size):
        yield features[start : start + size], labels[start : start + size]


def _stored(tree: Tree) -> Tree:
    """A dump as it comes out of a snapshot."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(tree))


def _alike(one: Any, other: Any) -> bool:
    """To the last bit, where NaN is NaN."""
    return msgspec.msgpack.encode(one, enc_hook=repr) == msgspec.msgpack.encode(
        other, enc_hook=repr
    )
