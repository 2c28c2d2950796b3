"""The figures of several classes at once are river's, whatever the cuts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import river.metrics
from hypothesis import example, given, settings
from hypothesis import strategies as st
from river import stats

from stream_update.errors import ConfigError, Fatal
from stream_update.monitors import DriftMonitor, Prequential, StopCondition, pooled
from stream_update.monitors.multilabel import hamming_loss
from stream_update.testing import check_monitor
from tests.streams import Stream, drift, number, through_bytes

metrics: Any = river.metrics

names = st.sampled_from(["a", "b", "c", "d", "e"])
chances = st.floats(0, 1) | st.sampled_from([0.0, 1.0, 0.5, 1e-17])
events = st.lists(
    st.tuples(
        st.dictionaries(names, st.booleans()),
        st.none() | st.dictionaries(names, st.booleans() | st.sampled_from([0, 1])),
        st.dictionaries(names, chances),
    ),
    min_size=1,
    max_size=40,
)
cut_lists = st.lists(st.integers(1, 40), max_size=5)


def stream_of(events: Sequence[Any], *, probabilities: bool = True) -> Stream:
    labels, values, answers = (list(column) for column in zip(*events, strict=True))
    return Stream(labels, values, answers if probabilities else None)


def known(label: Mapping[Any, bool], value: Any) -> dict[Any, bool]:
    """The label with what was predicted beyond it, which does not apply."""
    return {**{name: False for name, on in (value or {}).items() if on}, **label}


def bare(stream: Stream) -> dict[str, float | None]:
    """river's metrics, updated event by event, by our names."""
    multi = metrics.multioutput
    of_labels = {
        "exact_match": multi.ExactMatch(),
        "jaccard": multi.SampleAverage(metrics.Jaccard()),
        "micro_precision": multi.MicroAverage(metrics.Precision()),
        "micro_recall": multi.MicroAverage(metrics.Recall()),
        "micro_f1": multi.MicroAverage(metrics.F1()),
        "macro_precision": multi.MacroAverage(metrics.Precision()),
        "macro_recall": multi.MacroAverage(metrics.Recall()),
        "macro_f1": multi.MacroAverage(metrics.F1()),
    }
    loss = multi.SampleAverage(metrics.LogLoss())
    hamming = stats.Mean()
    for row, (label, value) in enumerate(zip(stream.labels, stream.values, strict=True)):
        truth = known(label, value)
        said = {name: bool((value or {}).get(name, False)) for name in truth}
        for metric in of_labels.values():
            metric.update(truth, said)
        wrong = sum(said[name] != truth[name] for name in truth)
        hamming.update(wrong / len(truth) if truth else 0.0)
        if stream.probabilities is not None:
            answer = stream.probabilities[row]
            loss.update(label, {name: {True: answer.get(name, 0.0)} for name in label})
    found: dict[str, float | None] = {}
    for name, metric in of_labels.items():
        macro = isinstance(metric, multi.MacroAverage)
        found[name] = number(metric.get()) if not macro or metric.metrics else 0.0
    return found | {
        "hamming_loss": number(hamming.get()),
        "log_loss": None if stream.probabilities is None else number(loss.get()),
    }


def observed(stream: Stream, cuts: list[int], **options: Any) -> Prequential:
    """A monitor that saw the blocks, and was written and read again after every second."""
    monitor = Prequential("multilabel", **options)
    for index, outcomes in enumerate(stream.blocks(cuts)):
        monitor.observe(outcomes)
        if index % 2:
            tree = through_bytes(monitor.dump())
            monitor = Prequential("multilabel", **options)
            monitor.load(tree)
    return monitor


@settings(deadline=None)
@given(events, st.booleans(), cut_lists, st.integers(1, 20))
@example([({}, None, {})], True, [], 1)
@example([({}, {"a": True}, {}), ({"a": True}, {}, {"b": 1.0})], True, [1], 5)
def test_the_figures_are_those_of_river_in_a_plain_loop(
    events: list[Any], probabilities: bool, cuts: list[int], window: int
) -> None:
    stream = stream_of(events, probabilities=probabilities)
    report = observed(stream, cuts, window=window).report()
    assert report["metrics"] == bare(stream)
    assert report["rolling"] == bare(stream.last(window))
    assert report["events"] == len(events)


@settings(deadline=None)
@given(events, cut_lists, st.integers(1, 20), st.sampled_from([0.5, 0.9, 0.999]))
def test_no_cut_changes_a_bit(
    events: list[Any], cuts: list[int], window: int, fading: float
) -> None:
    stream = stream_of(events)
    whole = observed(stream, [], window=window, fading=fading)
    cut = observed(stream, cuts, window=window, fading=fading)
    assert cut.report() == whole.report()
    assert through_bytes(cut.dump()) == through_bytes(whole.dump())


@settings(deadline=None)
@given(events, st.sampled_from([0.5, 0.9]))
def test_fading_weighs_each_event_less_than_its_successor(events: list[Any], fading: float) -> None:
    stream = stream_of(events)
    report = observed(stream, [], fading=fading).report()["fading"]
    total = weight = 0.0
    hits = misses = 0.0
    for label, value in zip(stream.labels, stream.values, strict=True):
        said = {name for name, on in (value or {}).items() if on}
        truth = {name for name, on in label.items() if on}
        weight = weight * fading + 1
        total = total * fading + (said == truth)
        hits = hits * fading + len(said & truth)
        misses = misses * fading + len(said ^ truth)
    assert math.isclose(report["exact_match"], total / weight, rel_tol=1e-9, abs_tol=1e-12)
    f1 = 2 * hits / (2 * hits + misses) if hits else 0.0
    assert math.isclose(report["micro_f1"], f1, rel_tol=1e-9, abs_tol=1e-12)


@settings(deadline=None)
@given(events)
def test_the_baselines_are_learners_that_learn_nothing(events: list[Any]) -> None:
    stream = stream_of(events)
    labels = stream.labels
    previous: list[Any] = [{}, *labels[:-1]]
    common: list[Any] = []
    for row in range(len(labels)):
        votes: dict[Any, int] = {}
        for label in labels[:row]:
            for name, on in label.items():
                votes[name] = votes.get(name, 0) + (1 if on else -1)
        common.append({name: vote > 0 for name, vote in votes.items()})
    # What an event does not speak of is not asked of a baseline.
    answers = {
        "no_change": previous,
        "majority": common,
    }
    alone = observed(Stream(labels, [{}] * len(labels)), []).report()["baselines"]
    for name, values in answers.items():
        asked = [
            {key: on for key, on in value.items() if key in label}
            for label, value in zip(labels, values, strict=True)
        ]
        expected = bare(Stream(labels, asked))
        assert alone[name] == {key: expected[key] for key in alone[name]}


@settings(deadline=None)
@given(events, events)
def test_lanes_are_pooled_before_anything_is_divided(one: list[Any], two: list[Any]) -> None:
    report = pooled([observed(stream_of(one), []), observed(stream_of(two), [])])
    expected = bare(stream_of(one + two))
    for name in ("micro_f1", "macro_f1", "macro_recall", "micro_precision"):
        assert report["metrics"][name] == expected[name]
    for name, value in report["metrics"].items():
        assert math.isclose(value, expected[name] or 0.0, rel_tol=1e-9, abs_tol=1e-12)
    labelled = sum(sum(label.values()) for label, *_ in one + two)
    assert sum(row["labelled"] for row in report["classes"]) == labelled


@given(events, st.sampled_from(["error", "exact", "loss"]))
def test_the_laws_of_monitors(events: list[Any], watch: str) -> None:
    outcomes = stream_of(events * 4).outcomes()
    check_monitor(lambda: Prequential("multilabel", window=7), outcomes)
    check_monitor(
        lambda: DriftMonitor("multilabel", drift.PageHinkley, "PageHinkley", watch=watch), outcomes
    )


def test_counts_by_class() -> None:
    stream = Stream(
        [{"a": True}, {"a": False, 1: True}, {"a": True, 1: True}],
        [None, {"a": True, 1: True}, {"a": True, "x": True}],
    )
    assert observed(stream, [1]).report()["classes"] == [
        {"class": "a", "events": 3, "labelled": 2, "predicted": 2, "right": 1},
        {"class": 1, "events": 2, "labelled": 2, "predicted": 1, "right": 1},
        {"class": "x", "events": 1, "labelled": 0, "predicted": 1, "right": 0},
    ]
    many = Stream([{number: number > 150} for number in range(200)], [None] * 200)
    classes = observed(many, []).report()["classes"]
    assert len(classes) == 100
    assert sum(row["labelled"] for row in classes) == 49


def test_a_drift_is_seen_in_the_hamming_loss_and_in_inexact_matches() -> None:
    good, bad = {"a": True, "b": False}, {"a": False, "b": True}
    stream = Stream([good] * 2000, [good] * 1000 + [bad] * 1000)
    for watch in ("error", "exact"):
        monitor = DriftMonitor("multilabel", drift.ADWIN, "ADWIN", watch=watch)
        alarms = [*monitor.observe(stream.outcomes())]
        assert [alarm.direction for alarm in alarms] == ["worse"]
        assert 1000 < alarms[0].event < 1100
    half = Stream([good] * 2000, [good] * 1000 + [{"a": True, "b": True}] * 1000)
    monitor = DriftMonitor("multilabel", drift.ADWIN, "ADWIN")
    (alarm,) = monitor.observe(half.outcomes())
    assert alarm.direction == "worse"


def test_detectors_of_right_and_wrong_are_for_exact_matches() -> None:
    with pytest.raises(ConfigError, match="only right or wrong") as caught:
        DriftMonitor("multilabel", drift.binary.DDM, "DDM")
    assert 'watch = "exact"' in caught.value.hint
    DriftMonitor("multilabel", drift.binary.DDM, "DDM", watch="exact")
    with pytest.raises(ConfigError, match="several classes at once"):
        DriftMonitor("binary", drift.binary.DDM, "DDM", watch="exact")


def test_metrics_of_ones_own_are_told_of_every_class() -> None:
    stream = Stream(
        [{"a": True}, {"a": False, "b": True}], [None, {"a": True}], [{}, {"a": 0.75, "b": 0.5}]
    )
    multi = metrics.multioutput
    monitor = observed(
        stream,
        [1],
        metrics=["micro_f1", "river.metrics.multioutput:ExactMatch"],
        extra={
            "micro_jaccard": multi.MicroAverage(metrics.Jaccard()),
            "loss": multi.MicroAverage(metrics.LogLoss()),
        },
        allow=[metrics.Jaccard, metrics.LogLoss],
    )
    report = monitor.report()["metrics"]
    assert report["river.metrics.multioutput:ExactMatch"] == 0.0
    assert report["micro_jaccard"] == 0.0
    assert report["loss"] is not None
    assert math.isclose(report["loss"], (-math.log(1e-15) - math.log(0.25) - math.log(0.5)) / 3)


@pytest.mark.parametrize("name", ["river.metrics:Accuracy", "river.metrics:MCC", "accuracy"])
def test_metrics_of_one_label_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"wants one label|there is no 'accuracy'"):
        Prequential("multilabel", [name])


def test_a_condition_to_stop_by() -> None:
    condition = StopCondition.parse("hamming_loss > 0.4 over 4", "multilabel")
    label = {"a": True, "b": False}
    condition.update(Stream([label] * 3, [None] * 3).outcomes())
    assert not condition.met()
    condition.update(Stream([label], [None]).outcomes())
    assert condition.met()


def test_a_prediction_that_is_no_mapping_is_a_fault_of_the_learner() -> None:
    with pytest.raises(Fatal, match="'a', which does not say"):
        hamming_loss({"a": True}, "a")
