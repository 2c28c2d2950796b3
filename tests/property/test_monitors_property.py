from __future__ import annotations

import math
import random
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_update.events import Alarm, Chances
from stream_update.monitors import DriftMonitor, Prequential, pooled, prequential
from tests.streams import (
    RIVER,
    Stream,
    bare_baselines,
    bare_kappa_t,
    bare_metrics,
    drift,
    metrics,
    through_bytes,
)

THRESHOLDS = [index / 9 for index in range(10)]

chances = st.one_of(
    st.sampled_from([*THRESHOLDS, 0.0, 1.0, 0.5, 1e-16, -1e-8, 1 + 1e-8, math.nan, math.inf]),
    st.floats(0, 1),
)
binary_events = st.tuples(
    st.booleans(),
    st.sampled_from([True, False, None]),
    st.one_of(st.just({}), chances.map(lambda p: {False: 1 - p, True: p})),
)
classes = st.sampled_from([0, 1, 2, 5, 9, 17])
number_events = st.tuples(
    classes,
    st.one_of(st.none(), classes),
    st.dictionaries(classes, st.floats(0, 1), max_size=3),
)
words = st.sampled_from(["up", "down", "left", "right", "still"])
word_events = st.tuples(words, words, st.dictionaries(words, st.floats(0, 1), max_size=3))
numbers = st.one_of(
    st.integers(-1000, 1000),
    st.floats(-1e6, 1e6),
    st.sampled_from([0, 0.0, -0.0, 1e9, 1e-9]),
)
value_events = st.tuples(numbers, numbers)
cut_lists = st.lists(st.integers(1, 60), max_size=6)


def stream_of(events: list[Any], *, probabilities: bool = True) -> Stream:
    labels, values, *answers = (list(column) for column in zip(*events, strict=True))
    return Stream(labels, values, answers[0] if answers and probabilities else None)


def observed(stream: Stream, cuts: list[int], task: str, **options: Any) -> Prequential:
    """A monitor that saw the blocks, and was written and read again after every second."""
    monitor = Prequential(task, **options)
    for index, outcomes in enumerate(stream.blocks(cuts)):
        monitor.observe(outcomes)
        if index % 2:
            tree = through_bytes(monitor.dump())
            monitor = Prequential(task, **options)
            monitor.load(tree)
    return monitor


def is_close(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    return ours.keys() == theirs.keys() and all(
        value == theirs[name] or math.isclose(value, theirs[name], rel_tol=1e-12, abs_tol=1e-12)
        for name, value in ours.items()
    )


@settings(deadline=None)
@given(
    st.sampled_from([("binary", binary_events), ("multiclass", number_events)]).flatmap(
        lambda chosen: st.tuples(
            st.just(chosen[0]), st.lists(chosen[1], min_size=1, max_size=60), st.booleans()
        )
    ),
    cut_lists,
    st.integers(1, 20),
)
def test_classification_figures_are_those_of_river_in_a_plain_loop(
    drawn: tuple[str, list[Any], bool], cuts: list[int], window: int
) -> None:
    task, events, probabilities = drawn
    stream = stream_of(events, probabilities=probabilities)

    report = observed(stream, cuts, task, window=window).report()

    kappa_t = report["metrics"].pop("kappa_t")
    rolling_kappa_t = report["rolling"].pop("kappa_t")
    assert report["metrics"] == bare_metrics(task, stream)
    assert report["rolling"] == bare_metrics(task, stream.last(window))
    assert report["baselines"] == bare_baselines(task, stream.labels)
    assert kappa_t == bare_kappa_t(stream.labels, stream.values)
    before = stream.labels[-window - 1] if len(stream.labels) > window else None
    last = stream.last(window)
    assert rolling_kappa_t == bare_kappa_t(last.labels, last.values, before)


labelled = st.sampled_from(["binary", "multiclass"]).flatmap(
    lambda task: st.tuples(
        st.just(task),
        st.lists(
            st.tuples(
                st.booleans() if task == "binary" else classes,
                st.lists(chances, min_size=3, max_size=3),
            ),
            min_size=1,
            max_size=60,
        ),
    )
)


@settings(deadline=None)
@given(labelled, cut_lists, st.booleans(), st.sampled_from([1, 20]))
def test_probabilities_may_come_as_columns(
    drawn: tuple[str, list[tuple[Any, list[float]]]], cuts: list[int], arrays: bool, pending: int
) -> None:
    task, events = drawn
    names = [False, True] if task == "binary" else [2, 5, 17]
    rows = [dict(zip(names, row, strict=False)) for _, row in events]
    columns: dict[Any, Any] = {name: [row[name] for row in rows] for name in names}
    if arrays:
        columns = {name: np.array(column) for name, column in columns.items()}
    labels = [label for label, _ in events]
    metrics_of, losses_of = [], []
    with mock.patch.object(prequential, "PENDING", pending):
        for answers in (rows, Chances(columns)):
            stream = Stream(labels, labels, answers)
            metrics_of.append(observed(stream, cuts, task, window=20).dump())
            monitor = DriftMonitor(task, lambda: drift.ADWIN(clock=1), "ADWIN", watch="loss")
            for outcomes in stream.blocks(cuts):
                monitor.observe(outcomes)
            losses_of.append(monitor.dump())

    assert repr(metrics_of[0]) == repr(metrics_of[1])
    assert repr(losses_of[0]) == repr(losses_of[1])


@settings(deadline=None)
@given(st.lists(word_events, min_size=1, max_size=40), cut_lists)
def test_classes_that_are_words_differ_from_river_in_the_order_of_adding_only(
    events: list[Any], cuts: list[int]
) -> None:
    stream = stream_of(events)

    report = observed(stream, cuts, "multiclass", window=10).report()

    assert is_close(
        report["metrics"],
        bare_metrics("multiclass", stream)
        | {"kappa_t": bare_kappa_t(stream.labels, stream.values)},
    )
    for name, baseline in bare_baselines("multiclass", stream.labels).items():
        assert is_close(report["baselines"][name], baseline)


@settings(deadline=None)
@given(st.lists(value_events, min_size=1, max_size=60), cut_lists, st.integers(1, 20))
def test_regression_figures_are_those_of_river_in_a_plain_loop(
    events: list[Any], cuts: list[int], window: int
) -> None:
    stream = stream_of(events)

    report = observed(
        stream, cuts, "regression", metrics=list(RIVER["regression"]), window=window
    ).report()

    assert report["metrics"] == bare_metrics("regression", stream)
    assert report["rolling"] == bare_metrics("regression", stream.last(window))
    assert report["baselines"] == bare_baselines("regression", stream.labels)


@settings(deadline=None)
@given(
    st.sampled_from(
        [("binary", binary_events), ("multiclass", word_events), ("regression", value_events)]
    ).flatmap(
        lambda chosen: st.tuples(st.just(chosen[0]), st.lists(chosen[1], min_size=1, max_size=60))
    ),
    cut_lists,
    st.sampled_from([1.0, 0.999, 0.5, 1e-3, 1e-120]),
)
def test_the_state_does_not_depend_on_how_the_events_were_cut(
    drawn: tuple[str, list[Any]], cuts: list[int], fading: float
) -> None:
    task, events = drawn
    stream = stream_of(events)
    whole = Prequential(task, window=10, fading=fading)
    whole.observe(stream.outcomes())

    in_blocks = observed(stream, cuts, task, window=10, fading=fading)

    assert repr(in_blocks.dump()) == repr(whole.dump())
    assert in_blocks.report() == whole.report()


def long_stream(task: str, rng: random.Random, count: int = 3000) -> Stream:
    """Enough events for several periods of the fading weights and a changing majority."""
    if task == "regression":
        labels = [rng.gauss(5, 2) for _ in range(count)]
        return Stream(labels, [label + rng.gauss(0, 1) for label in labels])
    names: list[Any] = [True, False] if task == "binary" else list(range(6))
    drawn = [rng.choice(names[: 1 + index * len(names) // count]) for index in range(count)]
    values = [rng.choice(names) for _ in drawn]
    chances = [{value: rng.random() for value in names} for _ in drawn]
    return Stream(drawn, values, chances)


@settings(deadline=None, max_examples=20)
@given(
    st.sampled_from(["binary", "multiclass", "regression"]),
    st.integers(0, 1000),
    st.lists(st.integers(1, 2999), max_size=12),
)
def test_long_streams_in_large_and_small_blocks(task: str, seed: int, cuts: list[int]) -> None:
    stream = long_stream(task, random.Random(seed))

    in_blocks = observed(stream, cuts, task)

    whole = Prequential(task)
    whole.observe(stream.outcomes())
    assert in_blocks.dump() == whole.dump()
    expected = bare_metrics(task, stream)
    report = in_blocks.report()
    assert {name: report["metrics"][name] for name in expected if name in report["metrics"]} == {
        name: value for name, value in expected.items() if name in report["metrics"]
    }
    assert report["baselines"] == bare_baselines(task, stream.labels)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(0.01, 0.99)), min_size=1),
    st.sampled_from([1.0, 0.99, 0.9, 0.3, 0.05]),
)
def test_fading_figures_follow_the_recurrence_of_gama(
    events: list[tuple[bool, bool, float]], fading: float
) -> None:
    stream = stream_of([(label, value, {True: p}) for label, value, p in events])
    monitor = Prequential("binary", fading=fading)
    monitor.observe(stream.outcomes())

    right = loss = weight = 0.0
    for label, value, chance in events:
        right = (label == value) + fading * right
        loss = -math.log(chance if label else 1 - chance) + fading * loss
        weight = 1 + fading * weight

    report = monitor.report()["fading"]
    assert report["accuracy"] == pytest.approx(right / weight)
    assert report["log_loss"] == pytest.approx(loss / weight)
    assert monitor.recent_loss() == pytest.approx(1 - right / weight, abs=1e-12)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(-100, 100), st.floats(-100, 100)), min_size=3),
    st.sampled_from([1.0, 0.99, 0.9]),
    st.sampled_from([0.0, 1e6]),
)
def test_fading_errors_follow_the_recurrence_of_gama(
    events: list[tuple[float, float]], fading: float, far: float
) -> None:
    monitor = Prequential("regression", fading=fading)
    monitor.observe(stream_of([(label + far, value + far) for label, value in events]).outcomes())

    weights = [fading ** (len(events) - 1 - index) for index in range(len(events))]
    absolute = sum(w * abs(y - p) for w, (y, p) in zip(weights, events, strict=True))
    residual = sum(w * (y - p) ** 2 for w, (y, p) in zip(weights, events, strict=True))
    mean = sum(w * y for w, (y, _) in zip(weights, events, strict=True)) / sum(weights)
    scatter = sum(w * (y - mean) ** 2 for w, (y, _) in zip(weights, events, strict=True))

    report = monitor.report()["fading"]
    assert report["mae"] == pytest.approx(absolute / sum(weights), abs=1e-6)
    assert report["mse"] == pytest.approx(residual / sum(weights), abs=1e-6)
    if scatter > 1:
        assert report["r2"] == pytest.approx(1 - residual / scatter, rel=1e-6, abs=1e-6)


@settings(deadline=None)
@given(
    st.lists(st.lists(number_events, min_size=1, max_size=20), min_size=1, max_size=4),
)
def test_counts_of_several_lanes_pool_to_those_of_all_events(lanes: list[list[Any]]) -> None:
    monitors = []
    for events in lanes:
        monitors.append(Prequential("multiclass"))
        monitors[-1].observe(stream_of(events).outcomes())
    together = stream_of([event for events in lanes for event in events])

    report = pooled(monitors)

    expected = bare_metrics("multiclass", together)
    del report["metrics"]["kappa_t"], report["rolling"]["kappa_t"]
    assert report["events"] == len(together.labels)
    assert is_close(report["metrics"], expected)
    assert is_close(report["rolling"], expected)
    assert report["metrics"]["accuracy"] == expected["accuracy"]


@settings(deadline=None)
@given(st.lists(st.lists(value_events, min_size=1, max_size=20), min_size=1, max_size=4))
def test_errors_of_several_lanes_pool_to_those_of_all_events(lanes: list[list[Any]]) -> None:
    monitors = []
    for events in lanes:
        monitors.append(Prequential("regression"))
        monitors[-1].observe(stream_of(events).outcomes())
    together = stream_of([event for events in lanes for event in events])

    report = pooled(monitors)["metrics"]

    expected = bare_metrics("regression", together)
    assert report["mae"] == pytest.approx(expected["mae"])
    assert report["mse"] == pytest.approx(expected["mse"])
    metric = metrics.R2()
    for label, value in zip(together.labels, together.values, strict=True):
        metric.update(label, value)
    if metric._y_var.get() > 1e-3 * max(map(abs, together.labels)):
        assert report["r2"] == pytest.approx(expected["r2"], rel=1e-6, abs=1e-6)


DETECTORS = {
    "ADWIN": lambda: drift.ADWIN(delta=0.2, clock=1),
    "KSWIN": lambda: drift.KSWIN(window_size=20, stat_size=8, alpha=0.05, seed=1),
    "PageHinkley": lambda: drift.PageHinkley(min_instances=5, threshold=2.0),
    "DDM": lambda: drift.binary.DDM(warm_start=5, drift_threshold=1.5),
    "HDDM_W": lambda: drift.binary.HDDMW(drift_confidence=0.1, warning_confidence=0.2),
}


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from(sorted(DETECTORS)),
    st.lists(st.tuples(st.sampled_from([0.02, 0.5, 0.98]), st.integers(10, 60)), max_size=4),
    st.randoms(use_true_random=False),
    st.lists(st.integers(1, 200), max_size=6),
    st.sampled_from(["alert", "reset", "swap"]),
)
def test_alarms_do_not_depend_on_how_the_events_were_cut(
    name: str, phases: list[tuple[float, int]], rng: Any, cuts: list[int], reaction: str
) -> None:
    wrong = [rng.random() < rate for rate, length in phases for _ in range(length)]
    stream = Stream([True] * len(wrong), [not error for error in wrong])
    make = DETECTORS[name]
    whole = DriftMonitor("binary", make, name, reaction=reaction)
    expected = whole.observe(stream.outcomes()) if wrong else []

    alarms: list[Alarm] = []
    monitor = DriftMonitor("binary", make, name, reaction=reaction)
    for index, outcomes in enumerate(stream.blocks(cuts)):
        alarms.extend(monitor.observe(outcomes))
        if index % 2:
            tree = through_bytes(monitor.dump())
            monitor = DriftMonitor("binary", make, name, reaction=reaction)
            monitor.load(tree)

    assert alarms == list(expected)
    assert monitor.dump() == whole.dump()
    assert monitor.report() == whole.report()
