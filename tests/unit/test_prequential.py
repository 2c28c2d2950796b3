from __future__ import annotations

import csv
import gzip
import importlib.resources
import json
import math
import random
from typing import Any

import pytest
from river import linear_model, preprocessing

from stream_update.errors import ConfigError, Fatal, LineageMismatch
from stream_update.monitors import Prequential, StopCondition, UserMetric, pooled
from stream_update.protocols import Monitor
from tests.streams import (
    Stream,
    bare_baselines,
    bare_kappa_t,
    bare_metrics,
    metrics,
    through_bytes,
)


def coin_flips(count: int, right: float = 0.8, *, seed: int = 1) -> Stream:
    """Binary labels that a learner gets right at this rate."""
    rng = random.Random(seed)
    labels = [rng.random() < 0.4 for _ in range(count)]
    values = [label == (rng.random() < right) for label in labels]
    chances = [0.75 if value else 0.25 for value in values]
    return Stream(labels, values, [{True: p, False: 1 - p} for p in chances])


def reported(task: str, stream: Stream, **options: Any) -> dict[str, Any]:
    monitor = Prequential(task, **options)
    for outcomes in stream.blocks(range(0, len(stream.labels), 500)):
        monitor.observe(outcomes)
    return monitor.report()


@pytest.fixture(scope="module")
def elec2() -> Stream:
    """4,000 events of Elec2, predicted by a scaled logistic regression that learns."""
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    data = importlib.resources.files("stream_update").joinpath("data/elec.csv.gz").read_bytes()
    labels, values, probabilities = [], [], []
    rows = csv.DictReader(gzip.decompress(data).decode().splitlines()[:4001])
    for row in rows:
        label = row.pop("class") == "1"
        event = {name: float(value) for name, value in row.items()}
        labels.append(label)
        values.append(model.predict_one(event))
        probabilities.append(model.predict_proba_one(event))
        model.learn_one(event, label)
    return Stream(labels, values, probabilities)


class TestElec2:
    def test_figures_are_those_of_river(self, elec2: Stream) -> None:
        report = reported("binary", elec2)

        assert report["events"] == 4000
        assert report["metrics"] == bare_metrics("binary", elec2) | {
            "kappa_t": bare_kappa_t(elec2.labels, elec2.values)
        }
        assert report["baselines"] == bare_baselines("binary", elec2.labels)

    def test_rolling_figures_are_those_of_river_over_the_window(self, elec2: Stream) -> None:
        report = reported("binary", elec2, window=700)

        del report["rolling"]["kappa_t"]
        assert report["rolling"] == bare_metrics("binary", elec2.last(700))

    def test_a_learner_worse_than_no_change_has_a_negative_temporal_kappa(
        self, elec2: Stream
    ) -> None:
        report = reported("binary", elec2)

        assert report["metrics"]["accuracy"] < report["baselines"]["no_change"]["accuracy"]
        assert report["metrics"]["kappa_t"] < 0 < report["metrics"]["kappa"]


def test_it_is_a_monitor_that_need_not_see_single_events() -> None:
    monitor = Prequential("binary")

    assert isinstance(monitor, Monitor)
    assert (monitor.name, monitor.reactive) == ("metrics", False)
    assert monitor.observe(coin_flips(3).outcomes()) == ()


def test_names_and_their_order_are_those_of_the_task() -> None:
    assert list(reported("binary", coin_flips(5))["metrics"]) == [
        "accuracy",
        "precision",
        "recall",
        "f1",
        "roc_auc",
        "log_loss",
        "kappa",
        "kappa_t",
    ]
    assert list(reported("regression", Stream([1.0], [2.0]))["metrics"]) == [
        "mae",
        "rmse",
        "mse",
        "r2",
    ]


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_before_the_first_event_the_report_is_plain_json(task: str) -> None:
    report = Prequential(task).report()

    assert report["events"] == 0
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_a_model_without_an_answer_is_wrong() -> None:
    stream = Stream([True, False, True], [None, None, True], [{}, {}, {True: 0.9}])

    report = reported("binary", stream)

    assert report["metrics"]["accuracy"] == pytest.approx(1 / 3)
    assert report["metrics"] | {"kappa_t": None} == bare_metrics("binary", stream) | {
        "kappa_t": None
    }


def test_without_probabilities_what_needs_them_is_none() -> None:
    report = reported("binary", coin_flips(600)._replace(probabilities=None))

    for part in ("metrics", "rolling", "fading"):
        assert report[part]["log_loss"] is None
        assert report[part]["roc_auc"] is None
        assert report[part]["accuracy"] > 0.7


def test_a_learner_may_get_probabilities_later() -> None:
    stream = coin_flips(1200)
    monitor = Prequential("binary")
    for outcomes in stream._replace(probabilities=None).blocks([100, 400]):
        if outcomes.offsets[0] < 4000:
            monitor.observe(outcomes)
    monitor.observe(stream.outcomes(400))

    figures = monitor.report()["metrics"]

    with_probabilities = bare_metrics("binary", stream.last(800))
    assert figures["log_loss"] == with_probabilities["log_loss"]
    assert figures["roc_auc"] == with_probabilities["roc_auc"]
    assert figures["accuracy"] == bare_metrics("binary", stream)["accuracy"]


def test_what_is_not_finite_is_none() -> None:
    stream = Stream([1.0, 2.0, 3.0], [1.0, 1e200, math.nan])

    report = reported("regression", stream, metrics=["mae", "rmse", "mse", "r2", "smape"])

    assert report["metrics"] == dict.fromkeys(["mae", "rmse", "mse", "r2", "smape"])
    assert report["fading"]["mse"] is None
    json.dumps(report, allow_nan=False)


def test_a_diverged_regression_ranks_behind_any_other() -> None:
    monitor = Prequential("regression")
    before = monitor.recent_loss()
    monitor.observe(Stream([1.0], [math.inf]).outcomes())

    assert math.isfinite(before)
    assert monitor.recent_loss() == before > 1e300


def test_a_prediction_that_is_no_number_is_fatal() -> None:
    monitor = Prequential("regression")
    monitor.observe(Stream([1.0], [None]).outcomes())

    with pytest.raises(Fatal, match="predicted None") as caught:
        monitor.report()
    assert "regression" in caught.value.hint


def test_recent_loss_follows_the_last_events() -> None:
    monitor = Prequential("binary", fading=0.99)
    assert monitor.recent_loss() == 1.0

    monitor.observe(Stream([True] * 1000, [False] * 1000).outcomes())
    assert monitor.recent_loss() == pytest.approx(1.0)
    monitor.observe(Stream([True] * 1000, [True] * 1000).outcomes())
    assert monitor.recent_loss() == pytest.approx(0.0, abs=1e-4)


def test_fading_forgets_and_cumulative_does_not() -> None:
    wrong_then_right = Stream([True] * 6000, [False] * 3000 + [True] * 3000)

    report = reported("binary", wrong_then_right, window=100)

    assert report["metrics"]["accuracy"] == 0.5
    assert report["fading"]["accuracy"] == pytest.approx(1 - 0.999**3000, abs=0.01)
    assert report["rolling"]["accuracy"] == 1.0


def test_fading_keeps_its_digits_over_many_periods() -> None:
    report = reported("binary", coin_flips(20_000), fading=0.9)

    assert 0 <= report["fading"]["accuracy"] <= 1
    assert math.isfinite(report["fading"]["log_loss"])


class TestNames:
    @pytest.mark.parametrize(
        ("task", "name"),
        [("binary", "mae"), ("regression", "accuracy"), ("multiclass", "roc_auc")],
    )
    def test_an_unknown_metric_lists_the_accepted_ones(self, task: str, name: str) -> None:
        with pytest.raises(ConfigError, match=name) as caught:
            Prequential(task, [name])
        assert ("kappa_t" in caught.value.hint) == (task != "regression")

    @pytest.mark.parametrize(
        "options",
        [{"task": "ranking"}, {"window": 0}, {"fading": 0.0}, {"fading": 1.5}],
    )
    def test_options_that_cannot_work_are_refused(self, options: dict[str, Any]) -> None:
        with pytest.raises(ConfigError):
            Prequential(**{"task": "binary", **options})

    def test_a_river_metric_by_its_dotted_name_shares_the_counts(self) -> None:
        stream = coin_flips(300)

        report = reported("binary", stream, metrics=["river.metrics:MCC"], window=50)

        metric, rolling = metrics.MCC(), metrics.MCC()
        for index, (label, value) in enumerate(zip(stream.labels, stream.values, strict=True)):
            metric.update(label, value)
            if index >= 250:
                rolling.update(label, value)
        assert report["metrics"] == {"river.metrics:MCC": metric.get()}
        assert report["rolling"] == {"river.metrics:MCC": rolling.get()}

    def test_a_river_metric_with_a_state_of_its_own_sees_every_event(self) -> None:
        stream = coin_flips(300)
        name = "river.metrics:RollingROCAUC"

        report = reported("binary", stream, metrics=[name])

        metric = metrics.RollingROCAUC()
        for label, answer in zip(stream.labels, stream.probabilities or (), strict=True):
            metric.update(label, answer)
        assert report["metrics"] == {name: metric.get()}
        assert report["rolling"] == {}

    @pytest.mark.parametrize(
        "name",
        [
            "river.metrics:FBeta",
            "river.metrics:ClassificationReport",
            "river.stats:Quantiles",
            "math:pi",
        ],
    )
    def test_what_gives_no_figure_is_refused(self, name: str) -> None:
        with pytest.raises(ConfigError):
            Prequential("binary", [name])


class Cost:
    """Money lost: a missed True costs ten, a false one costs one."""

    def __init__(self) -> None:
        self.total = 0

    def update(self, y_true: bool, y_pred: bool) -> None:
        self.total += 10 * (y_true and not y_pred) + (y_pred and not y_true)

    def get(self) -> int:
        return self.total


class Confidence:
    """The mean probability of the label."""

    uses = "probability"

    def __init__(self) -> None:
        self.values: list[float] = []

    def update(self, y_true: bool, y_pred: dict[bool, float]) -> None:
        self.values.append(y_pred[y_true])

    def get(self) -> float:
        return sum(self.values) / len(self.values)


NO_INPUT: Any = "x"


class TestExtraMetrics:
    def test_they_see_every_event_in_order(self) -> None:
        stream = coin_flips(700)

        report = reported("binary", stream, extra={"cost": Cost(), "confidence": Confidence()})

        expected = Cost()
        for label, value in zip(stream.labels, stream.values, strict=True):
            expected.update(label, value)
        assert report["metrics"]["cost"] == expected.total > 0
        assert 0.5 < report["metrics"]["confidence"] < 0.75
        assert "cost" not in report["rolling"]

    def test_river_metrics_say_themselves_what_they_use(self) -> None:
        report = reported("binary", coin_flips(50), extra={"brier": metrics.LogLoss()})

        assert report["metrics"]["brier"] == report["metrics"]["log_loss"]

    def test_what_a_metric_uses_can_be_said(self) -> None:
        extra = {"confidence": UserMetric(Confidence(), "label")}

        with pytest.raises(TypeError):
            reported("binary", coin_flips(5), extra=extra)

    def test_they_are_part_of_the_state(self) -> None:
        stream = coin_flips(100)
        monitor = Prequential("binary", extra={"cost": Cost()})
        monitor.observe(stream.outcomes(0, 60))
        tree = through_bytes(monitor.dump())

        restored = Prequential("binary", extra={"cost": Cost()})
        restored.load(tree)
        restored.observe(stream.outcomes(60))

        monitor.observe(stream.outcomes(60))
        assert restored.report() == monitor.report()

    def test_there_is_none_before_the_first_event(self) -> None:
        report = Prequential("binary", extra={"confidence": Confidence()}).report()

        assert report["metrics"]["confidence"] is None

    def test_over_lanes_they_are_means_weighted_by_events(self) -> None:
        monitors = [Prequential("binary", extra={"confidence": Confidence()}) for _ in range(3)]
        monitors[0].observe(coin_flips(100, right=1.0).outcomes())
        monitors[1].observe(coin_flips(300, right=0.0).outcomes())

        report = pooled(monitors)

        assert report["metrics"]["confidence"] == pytest.approx((0.75 + 3 * 0.25) / 4)

    def test_probabilities_have_to_be_there(self) -> None:
        stream = coin_flips(5)._replace(probabilities=None)

        with pytest.raises(ConfigError, match="confidence"):
            reported("binary", stream, extra={"confidence": Confidence()})

    @pytest.mark.parametrize(
        "extra", [{"accuracy": Cost()}, {"cost": 3}, {"cost": UserMetric(Cost(), NO_INPUT)}]
    )
    def test_what_is_no_metric_or_taken_is_refused(self, extra: dict[str, Any]) -> None:
        with pytest.raises(ConfigError):
            Prequential("binary", extra=extra)


class TestState:
    def test_it_is_small(self) -> None:
        monitor = Prequential("binary", window=1000)
        for outcomes in coin_flips(20_000).blocks(range(0, 20_000, 500)):
            monitor.observe(outcomes)

        recent = monitor.dump()["statistics"].pop("recent")

        assert sum(map(len, recent)) == 14 * 1000

    def test_other_options_do_not_read_it(self) -> None:
        tree = Prequential("binary", window=1000).dump()

        with pytest.raises(LineageMismatch, match=r"1000.*500"):
            Prequential("binary", window=500).load(tree)

    def test_loading_forgets_what_was_seen(self) -> None:
        monitor = Prequential("multiclass")
        empty = through_bytes(monitor.dump())
        monitor.observe(Stream(["a", "b"], ["b", "b"], [{}, {}]).outcomes())

        monitor.load(empty)

        assert monitor.dump() == Prequential("multiclass").dump()

    def test_a_window_of_events_that_were_never_counted_is_refused(self) -> None:
        monitor = Prequential("binary")
        monitor.observe(coin_flips(10).outcomes())
        tree = monitor.dump()
        tree["statistics"]["recent"][0] = b"\x09\x00\x00\x00" * 10

        with pytest.raises(ValueError, match="never counted"):
            monitor.load(tree)


class TestPooled:
    def test_of_one_monitor_it_is_its_report(self) -> None:
        monitor = Prequential("binary", extra={"cost": Cost()})
        monitor.observe(coin_flips(3000).outcomes())

        assert pooled([monitor]) == monitor.report()

    def test_losses_are_weighted_by_events(self) -> None:
        monitors = [Prequential("binary"), Prequential("binary"), Prequential("binary")]
        monitors[0].observe(coin_flips(300, seed=1).outcomes())
        monitors[1].observe(coin_flips(100, seed=2).outcomes())

        report = pooled(monitors)

        first, second = (monitor.report()["metrics"]["log_loss"] for monitor in monitors[:2])
        assert report["events"] == 400
        assert report["metrics"]["log_loss"] == pytest.approx((3 * first + second) / 4)
        one, two = coin_flips(300, seed=1), coin_flips(100, seed=2)
        together = Stream(
            [*one.labels, *two.labels],
            [*one.values, *two.values],
            [*(one.probabilities or ()), *(two.probabilities or ())],
        )
        assert report["metrics"]["roc_auc"] == bare_metrics("binary", together)["roc_auc"]

    def test_fading_gives_the_last_event_of_each_lane_weight_one(self) -> None:
        long, short = Prequential("binary", fading=0.9), Prequential("binary", fading=0.9)
        long.observe(Stream([True] * 5000, [True] * 5000).outcomes())
        short.observe(Stream([True] * 100, [False] * 100).outcomes())

        assert pooled([long, short])["fading"]["accuracy"] == pytest.approx(0.5, abs=1e-3)


class TestStopCondition:
    def test_it_waits_for_a_full_window(self) -> None:
        condition = StopCondition.parse("accuracy < 0.7 over 500", "binary")
        wrong = Stream([True] * 500, [False] * 500)

        condition.update(wrong.outcomes(0, 499))
        assert not condition.met()
        condition.update(wrong.outcomes(499))
        assert condition.met()

    def test_it_looks_at_the_last_events_only(self) -> None:
        condition = StopCondition.parse("accuracy >= 1 over 100", "binary")
        condition.update(Stream([True] * 300, [False] * 300).outcomes())
        condition.update(Stream([True] * 99, [True] * 99).outcomes())
        assert not condition.met()

        condition.update(Stream([True], [True]).outcomes())
        assert condition.met()

    @pytest.mark.parametrize("name", sorted(Prequential("binary").formulas))
    def test_it_takes_every_metric(self, name: str) -> None:
        above = StopCondition.parse(f"{name} > -1e3 over 50", "binary")
        below = StopCondition.parse(f"{name} < -1e3 over 50", "binary")
        for condition in (above, below):
            condition.update(coin_flips(60).outcomes())

        assert above.met()
        assert not below.met()

    def test_it_is_not_met_by_a_figure_that_does_not_exist(self) -> None:
        condition = StopCondition.parse("log_loss < 10 over 5", "binary")
        condition.update(coin_flips(10)._replace(probabilities=None).outcomes())

        assert not condition.met()

    def test_it_says_what_it_was_told(self) -> None:
        assert str(StopCondition.parse("mae>=2.5 over 1_000", "regression")) == (
            "mae >= 2.5 over 1000"
        )

    @pytest.mark.parametrize(
        "text",
        [
            "accuracy",
            "accuracy < over 5",
            "accuracy = 0.7 over 5",
            "accuracy < 0.7",
            "accuracy < 0.7 over 0",
            "accuracy < 1.2.3 over 5",
            "mae < 0.7 over 5",
            "river.metrics:LogLoss < 0.7 over 5",
        ],
    )
    def test_what_cannot_be_read_is_refused_with_a_hint(self, text: str) -> None:
        with pytest.raises(ConfigError):
            StopCondition.parse(text, "binary")
