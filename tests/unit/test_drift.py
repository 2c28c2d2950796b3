from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from stream_update.errors import ConfigError, CorruptSnapshot, Fatal
from stream_update.events import Alarm
from stream_update.monitors import DriftMonitor, alarm_record
from stream_update.protocols import Monitor
from tests.streams import Stream, drift, through_bytes

Make = Callable[[], Any]

DETECTORS: dict[str, Make] = {
    "ADWIN": drift.ADWIN,
    "KSWIN": lambda: drift.KSWIN(seed=7, alpha=1e-4),
    "PageHinkley": drift.PageHinkley,
    "DummyDriftDetector": lambda: drift.DummyDriftDetector(t_0=700, seed=7),
    "NoDrift": drift.NoDrift,
    "DDM": drift.binary.DDM,
    "EDDM": lambda: drift.binary.EDDM(alpha=0.8, beta=0.7),
    "FHDDM": drift.binary.FHDDM,
    "HDDM_A": drift.binary.HDDMA,
    "HDDM_W": drift.binary.HDDMW,
}
WITHOUT_DRIFTS = {"NoDrift"}
ANY_VALUE = ("ADWIN", "KSWIN", "PageHinkley", "DummyDriftDetector", "NoDrift")


def errors(*phases: tuple[int, float], seed: int = 5) -> Stream:
    """Binary outcomes: so many events at such a rate of errors, one phase after another."""
    rng = random.Random(seed)
    wrong = [rng.random() < rate for count, rate in phases for _ in range(count)]
    return Stream([True] * len(wrong), [not error for error in wrong])


def bare_drifts(make: Make, values: list[Any], *, right: bool = False) -> list[int]:
    """Where a detector fires in the plain loop; river's start afresh by themselves."""
    detector, found = make(), []
    for index, value in enumerate(values):
        detector.update(not value if right else value)
        if detector.drift_detected:
            found.append(index)
            detector = make()
    return found


def observed(monitor: DriftMonitor, stream: Stream, size: int = 500) -> list[Alarm]:
    alarms: list[Alarm] = []
    for outcomes in stream.blocks(range(0, len(stream.labels), size)):
        alarms.extend(monitor.observe(outcomes))
    return alarms


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_fires_where_it_does_in_a_plain_loop(name: str) -> None:
    stream = errors((2000, 0.1), (2000, 0.5), (2000, 0.1), (2000, 0.7))
    wrong = [label != value for label, value in zip(stream.labels, stream.values, strict=True)]
    expected = bare_drifts(DETECTORS[name], wrong, right=name == "FHDDM")

    alarms = observed(DriftMonitor("binary", DETECTORS[name], name), stream)

    assert [alarm.event for alarm in alarms] == expected
    assert [alarm.offset for alarm in alarms] == [10 * event for event in expected]
    assert {(a.kind, a.monitor, a.detector, a.signal) for a in alarms} <= {
        ("drift", "drift", name, "")
    }
    assert bool(alarms) == (name not in WITHOUT_DRIFTS)


@pytest.mark.parametrize(
    "name", ["ADWIN", "KSWIN", "PageHinkley", "DDM", "FHDDM", "HDDM_A", "HDDM_W"]
)
def test_rearming_loses_nothing_against_a_detector_that_starts_afresh_by_itself(name: str) -> None:
    stream = errors((2000, 0.1), (2000, 0.6))
    detector, expected = DETECTORS[name](), []
    for index, (label, value) in enumerate(zip(stream.labels, stream.values, strict=True)):
        detector.update((label == value) if name == "FHDDM" else (label != value))
        if detector.drift_detected:
            expected.append(index)

    alarms = observed(DriftMonitor("binary", DETECTORS[name], name), stream)

    assert [alarm.event for alarm in alarms] == expected


@pytest.mark.parametrize("name", ["ADWIN", "PageHinkley", "DDM", "FHDDM", "HDDM_A", "HDDM_W"])
def test_a_rise_of_errors_is_one_alarm_that_says_worse(name: str) -> None:
    stream = errors((3000, 0.1), (1000, 0.6), seed=8)
    monitor = DriftMonitor("binary", DETECTORS[name], name)

    alarms = [alarm for alarm in observed(monitor, stream) if alarm.event >= 3000]

    assert len(alarms) == 1
    assert alarms[0].event < 3200
    assert alarms[0].direction == "worse"
    assert alarms[0].magnitude == alarms[0].after - alarms[0].before > 0.04
    assert alarms[0].before == pytest.approx(0.1, abs=0.05)
    assert alarms[0].event_time == alarms[0].event * 1000


def test_a_fall_of_errors_says_better() -> None:
    alarms = observed(DriftMonitor("binary", drift.ADWIN, "ADWIN"), errors((2000, 0.6), (500, 0.1)))

    assert [alarm.direction for alarm in alarms] == ["better"]
    assert alarms[0].magnitude < 0


def test_adwin_says_exactly_what_it_dropped_and_what_it_kept() -> None:
    stream = errors((1000, 0.1), (500, 0.6))
    wrong = [label != value for label, value in zip(stream.labels, stream.values, strict=True)]
    (alarm,) = observed(DriftMonitor("binary", drift.ADWIN, "ADWIN"), stream)

    detector = drift.ADWIN()
    for error in wrong[: alarm.event + 1]:
        detector.update(error)
    seen, width = alarm.event + 1, int(detector.width)

    assert detector.drift_detected
    assert alarm.after == sum(wrong[seen - width : seen]) / width
    assert alarm.before == sum(wrong[: seen - width]) / (seen - width)


def test_other_detectors_compare_the_last_hundred_with_all_before() -> None:
    stream = errors((1000, 0.1), (500, 0.6))
    wrong = [label != value for label, value in zip(stream.labels, stream.values, strict=True)]
    alarm = observed(DriftMonitor("binary", drift.PageHinkley, "PageHinkley"), stream)[0]

    seen = alarm.event + 1
    assert alarm.after == sum(wrong[seen - 100 : seen]) / 100
    assert alarm.before == sum(wrong[: seen - 100]) / (seen - 100)


def test_soon_after_arming_they_compare_two_halves() -> None:
    def make() -> Any:
        return drift.DummyDriftDetector(t_0=20, seed=1)

    stream = Stream([True] * 20, [True] * 10 + [False] * 10)
    (alarm,) = observed(DriftMonitor("binary", make, "dummy"), stream)

    assert (alarm.before, alarm.after) == (0.0, 1.0)


class TestWatch:
    @pytest.mark.parametrize("name", ANY_VALUE)
    def test_regression_watches_the_absolute_error(self, name: str) -> None:
        rng = random.Random(3)
        labels = [rng.gauss(10, 2) for _ in range(2000)]
        values = [
            label + rng.gauss(0, 1 if index < 1000 else 6) for index, label in enumerate(labels)
        ]
        distances = [abs(y - p) for y, p in zip(labels, values, strict=True)]

        alarms = observed(DriftMonitor("regression", DETECTORS[name], name), Stream(labels, values))

        assert [a.event for a in alarms] == bare_drifts(DETECTORS[name], distances)
        assert bool(alarms) == (name not in WITHOUT_DRIFTS)

    @pytest.mark.parametrize("task", ["binary", "multiclass"])
    def test_loss_watches_the_log_loss(self, task: str) -> None:
        chances = [0.9] * 500 + [0.2] * 200
        stream = Stream([True] * 700, [True] * 700, [{True: p, False: 1 - p} for p in chances])

        alarms = observed(DriftMonitor(task, drift.ADWIN, "ADWIN", watch="loss"), stream)

        assert len(alarms) == 1
        assert alarms[0].direction == "worse"
        assert 500 <= alarms[0].event < 560
        assert alarms[0].before == pytest.approx(0.105, abs=0.02)

    def test_multiclass_watches_whether_the_label_was_found(self) -> None:
        stream = Stream(["a"] * 1000, ["a"] * 500 + [None] * 500)

        (alarm,) = observed(DriftMonitor("multiclass", drift.ADWIN, "ADWIN"), stream)

        assert alarm.direction == "worse"

    def test_an_error_that_is_not_finite_is_not_shown(self) -> None:
        clean = Stream([0.0] * 1000, [1.0] * 500 + [9.0] * 500)
        values = list(clean.values)
        for index in (100, 300, 700):
            values[index] = float("nan")
        broken = Stream(clean.labels, values)
        kept = [index for index in range(1000) if index not in {100, 300, 700}]
        expected = bare_drifts(drift.ADWIN, [values[index] for index in kept])

        alarms = observed(DriftMonitor("regression", drift.ADWIN, "ADWIN"), broken, size=64)

        assert [alarm.event for alarm in alarms] == [kept[index] for index in expected] != []

    def test_loss_needs_probabilities(self) -> None:
        monitor = DriftMonitor("binary", drift.ADWIN, "ADWIN", watch="loss")

        with pytest.raises(Fatal, match="no probabilities"):
            monitor.observe(errors((3, 0.5)).outcomes())


class TestReactions:
    def test_alert_is_not_reactive_and_the_others_are(self) -> None:
        reactive = {
            reaction: DriftMonitor("binary", drift.ADWIN, "ADWIN", reaction=reaction).reactive
            for reaction in ("alert", "reset", "swap")
        }

        assert reactive == {"alert": False, "reset": True, "swap": True}
        assert isinstance(DriftMonitor("binary", drift.ADWIN, "ADWIN"), Monitor)

    def test_reset_is_told_to_the_learner_when_it_got_worse(self) -> None:
        monitor = DriftMonitor("binary", drift.ADWIN, "ADWIN", reaction="reset")

        alarms = observed(monitor, errors((1000, 0.1), (1000, 0.6), (1000, 0.1)), size=1)

        assert [(alarm.direction, alarm.signal) for alarm in alarms] == [
            ("worse", "reset"),
            ("better", ""),
        ]

    @pytest.mark.parametrize("name", ["ADWIN", "KSWIN", "PageHinkley", "FHDDM", "DDM", "HDDM_A"])
    def test_swap_is_announced_by_a_warning(self, name: str) -> None:
        monitor = DriftMonitor("binary", DETECTORS[name], name, reaction="swap")

        alarms = observed(monitor, errors((2000, 0.1), (600, 0.35), (2000, 0.7), seed=2), size=1)

        signals = [alarm.signal for alarm in alarms if alarm.event >= 2000 and alarm.signal]
        assert signals[0] == "warning"
        assert "swap" in signals
        assert {alarm.signal for alarm in alarms if alarm.kind == "warning"} == {"warning"}

    def test_warnings_are_signals_only(self) -> None:
        monitor = DriftMonitor("binary", drift.ADWIN, "ADWIN", reaction="swap")
        alarms = observed(monitor, errors((2000, 0.1), (2000, 0.16), (500, 0.4)), size=1)

        published = [alarm for alarm in alarms if alarm.kind != "warning"]
        assert len(published) < len(alarms)
        assert monitor.report()["drifts"] == len(published)
        assert [record["kind"] for record in monitor.alarms()] == ["drift"] * len(published)

    def test_a_warning_zone_is_one_warning(self) -> None:
        wrong = [True, False] * 100 + [True] * 60
        stream = Stream([True] * len(wrong), [not error for error in wrong])
        monitor = DriftMonitor("binary", drift.binary.DDM, "DDM", reaction="swap")
        detector, zones, before = drift.binary.DDM(), 0, False
        for error in wrong:
            detector.update(error)
            zones += detector.warning_detected and not before
            before = detector.warning_detected

        alarms = observed(monitor, stream, size=7)

        assert sum(alarm.kind == "warning" for alarm in alarms) == zones == 1

    def test_the_warning_can_be_another_detector(self) -> None:
        monitor = DriftMonitor(
            "binary",
            drift.NoDrift,
            "NoDrift",
            reaction="swap",
            make_warning=lambda: drift.ADWIN(delta=0.1),
        )

        alarms = observed(monitor, errors((1000, 0.1), (1000, 0.6), (1000, 0.1)), size=1)

        assert {alarm.signal for alarm in alarms} == {"warning"}
        assert {alarm.direction for alarm in alarms} == {"worse"}


class Panic(BaseException):
    """As the panics of river's Rust part: no Exception."""


class Breaking:
    """A detector that gives up at the third value."""

    drift_detected = False

    def __init__(self) -> None:
        self.seen = 0

    def update(self, value: float) -> None:
        self.seen += 1
        if self.seen == 3:
            raise Panic("index out of range")


@pytest.mark.parametrize("reaction", ["alert", "reset", "swap"])
def test_a_detector_that_raises_is_fatal(reaction: str) -> None:
    monitor = DriftMonitor("binary", Breaking, "breaking", reaction=reaction)

    with pytest.raises(Fatal, match="breaking raised Panic: index out of range"):
        observed(monitor, errors((5, 0.5)), size=2)


class TestOptions:
    @pytest.mark.parametrize("name", ["DDM", "EDDM", "FHDDM", "HDDM_A", "HDDM_W"])
    @pytest.mark.parametrize(("task", "watch"), [("regression", "error"), ("binary", "loss")])
    def test_binary_detectors_take_right_or_wrong_only(
        self, name: str, task: str, watch: str
    ) -> None:
        with pytest.raises(ConfigError, match="only right or wrong") as caught:
            DriftMonitor(task, DETECTORS[name], name, watch=watch)
        assert "ADWIN" in caught.value.hint

    @pytest.mark.parametrize(
        "options",
        [
            {"task": "ranking"},
            {"reaction": "panic"},
            {"watch": "label"},
            {"task": "regression", "watch": "loss"},
            {"make_detector": dict},
            {"make_detector": drift.KSWIN},
            {"make_warning": drift.ADWIN},
        ],
    )
    def test_what_cannot_work_is_refused(self, options: dict[str, Any]) -> None:
        given = {"task": "binary", "make_detector": drift.ADWIN, "detector_name": "it", **options}

        with pytest.raises(ConfigError) as caught:
            DriftMonitor(**given)
        assert caught.value.hint


class TestState:
    @pytest.mark.parametrize("name", DETECTORS)
    @pytest.mark.parametrize("reaction", ["alert", "swap"])
    def test_a_restored_monitor_goes_on_as_if_nothing_had_happened(
        self, name: str, reaction: str
    ) -> None:
        stream = errors((1500, 0.1), (700, 0.5), (500, 0.1))
        monitor = DriftMonitor("binary", DETECTORS[name], name, reaction=reaction)
        expected = observed(monitor, stream)

        alarms: list[Alarm] = []
        restored = DriftMonitor("binary", DETECTORS[name], name, reaction=reaction)
        for outcomes in stream.blocks(range(0, 2700, 331)):
            alarms.extend(restored.observe(outcomes))
            tree = through_bytes(restored.dump())
            restored = DriftMonitor("binary", DETECTORS[name], name, reaction=reaction)
            restored.load(tree)

        assert alarms == expected
        assert restored.report() == monitor.report()
        assert restored.alarms() == monitor.alarms()

    def test_another_detector_does_not_read_it(self) -> None:
        tree = DriftMonitor("binary", drift.ADWIN, "ADWIN").dump()

        with pytest.raises(CorruptSnapshot, match=r"ADWIN where .* PageHinkley"):
            DriftMonitor("binary", drift.PageHinkley, "PageHinkley").load(tree)

    def test_alarms_are_kept_up_to_a_thousand(self) -> None:
        monitor = DriftMonitor("binary", lambda: drift.DummyDriftDetector(t_0=1, seed=1), "often")
        observed(monitor, errors((1200, 0.5)))

        assert monitor.report()["drifts"] == 1200
        assert [record["event"] for record in monitor.alarms()] == list(range(200, 1200))
        assert monitor.report()["last"] == monitor.alarms()[-1]


def test_without_drifts_the_report_says_so() -> None:
    assert DriftMonitor("binary", drift.ADWIN, "ADWIN").report() == {"drifts": 0, "last": None}


ALARM = Alarm(
    kind="drift",
    monitor="drift",
    detector="ADWIN",
    partition=3,
    offset=1234,
    event_time=1_700_000_000_123,
    event=99,
    before=0.1,
    after=0.5,
    magnitude=0.4,
    direction="worse",
    signal="reset",
)


def test_a_record_is_plain_json_with_the_time_in_words() -> None:
    record = alarm_record(ALARM)

    assert (
        json.loads(json.dumps(record, allow_nan=False))
        == record
        == {
            "kind": "drift",
            "monitor": "drift",
            "detector": "ADWIN",
            "partition": 3,
            "offset": 1234,
            "event_time": "2023-11-14T22:13:20.123+00:00",
            "event_time_ms": 1_700_000_000_123,
            "event": 99,
            "before": 0.1,
            "after": 0.5,
            "magnitude": 0.4,
            "direction": "worse",
            "signal": "reset",
        }
    )


@pytest.mark.parametrize("time", [None, 10**17, -(10**17), 10**30])
def test_a_time_that_no_calendar_has_is_none(time: int | None) -> None:
    record = alarm_record(ALARM._replace(event_time=time, before=float("inf")))

    assert record["event_time"] is None
    assert record["event_time_ms"] == time
    assert record["before"] is None
