"""Prequential evaluation: every event is predicted first and learned afterwards.

The figures are those that river's metrics give when they are updated event by event,
to the last digit, always beside two baselines that learn nothing: a stream whose labels
come in runs makes the previous label a strong prediction, and accuracy alone hides it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np

from stream_update import objects
from stream_update.errors import ConfigError, LineageMismatch
from stream_update.events import Alarm, Column, Outcomes, Tree
from stream_update.monitors import figures
from stream_update.monitors.classification import Classification
from stream_update.monitors.fading import Fading
from stream_update.monitors.labelsets import LabelSets
from stream_update.monitors.multilabel import as_river, by_class, check_metric
from stream_update.monitors.regression import OTHER_LOSSES, Regression
from stream_update.monitors.tally import Mean

__all__ = ["Prequential", "UserMetric", "pooled"]

PENDING = 500
"""Small blocks are gathered up to this many events: arrays pay off from there on."""

Uses = Literal["label", "probability"]


class Metric(Protocol):
    """A metric of one's own; river's are like this."""

    def update(self, y_true: Any, y_pred: Any) -> object: ...

    def get(self) -> Any: ...


class UserMetric(NamedTuple):
    """A metric that sees every event itself, and what it wants to be updated with:
    the predicted label or number, or the mapping of label to probability.
    """

    metric: Metric
    uses: Uses = "label"


class Prequential:
    """The metrics monitor: cumulative, rolling and fading figures beside two baselines.

    ``metrics`` are names from :data:`stream_update.monitors.figures.TASKS` or
    ``module:attribute`` of a river metric; None takes the task's defaults. ``window`` is
    the number of events behind the rolling figures, ``fading`` the factor by which an
    event weighs less than its successor. ``extra`` adds metric objects by name; those see
    every event and are reported cumulatively only. Which input such an object wants it
    says by :class:`UserMetric`, by an attribute ``uses``, or as river's do; ``allow`` lists
    the classes of one's own that snapshots may hold inside of such objects.

    A learner that has no answer (None) is wrong; for several classes at once it is one that
    says that none applies. Figures that need probabilities are None for a learner without them.
    """

    name = "metrics"
    reactive = False

    def __init__(
        self,
        task: str,
        metrics: Sequence[str] | None = None,
        *,
        window: int = 1000,
        fading: float = 0.999,
        extra: Mapping[str, Any] | None = None,
        allow: Iterable[Callable[..., Any]] = (),
    ) -> None:
        if task not in figures.TASKS:
            raise ConfigError(
                f"task: there is no {task!r}",
                hint=f"accepted values: {', '.join(figures.TASKS)}",
            )
        if window < 1:
            raise ConfigError(f"metrics: expected a window of 1 event or more, got {window!r}")
        self.task = task
        self.window = window
        self.fading = fading
        self._allow = tuple(allow)
        self.formulas: dict[str, figures.Formula] = {}
        self.extra: dict[str, UserMetric] = {}
        for name in figures.DEFAULTS[task] if metrics is None else metrics:
            formula = figures.formula(task, name)
            if formula is not None:
                self.formulas[name] = formula
            else:
                self.extra[name] = _user_metric(name, figures.build(name))
        for name, metric in (extra or {}).items():
            if name in self.formulas or name in self.extra:
                raise ConfigError(f"metrics: there are two metrics called {name!r}")
            self.extra[name] = _user_metric(name, metric)
        if task == "multilabel":
            for name, given in self.extra.items():
                check_metric(name, given.metric)
        weights = Fading(fading)
        self._statistics: Classification | LabelSets | Regression
        self._score: Callable[..., Column] | None = None
        if task == "regression":
            others = [name for name in OTHER_LOSSES if name in self.formulas]
            self._statistics = Regression(window=window, fading=weights, others=others)
        elif task == "multilabel":
            self._statistics = LabelSets(window=window, fading=weights)
            if "log_loss" in self.formulas:
                self._score = self._statistics.scores
        else:
            binary = task == "binary"
            self._statistics = Classification(binary=binary, window=window, fading=weights)
            if not {"log_loss", "roc_auc"}.isdisjoint(self.formulas):
                self._score = self._statistics.scores
        self._labels: list[Any] = []
        self._values: list[Any] = []
        self._scores: list[float] | None = None

    def observe(self, outcomes: Outcomes) -> Sequence[Alarm]:
        """Take in outcomes; there is never an alarm."""
        labels, (values, probabilities) = outcomes.labels, outcomes.predictions
        if self.extra:
            self._update_extra(outcomes)
        scores = None
        if self._score is not None and probabilities is not None:
            scores = self._score(labels, probabilities)
        if self._labels and (scores is None) != (self._scores is None):
            self._absorb()
        if not self._labels and len(labels) >= PENDING:
            self._statistics.absorb(labels, values, scores)
            return ()
        if not self._labels:
            self._scores = None if scores is None else []
        self._labels.extend(labels)
        self._values.extend(values)
        if self._scores is not None and scores is not None:
            self._scores.extend(scores.tolist() if isinstance(scores, np.ndarray) else scores)
        if len(self._labels) >= PENDING:
            self._absorb()
        return ()

    def _absorb(self) -> None:
        if self._labels:
            self._statistics.absorb(self._labels, self._values, self._scores)
            self._labels, self._values, self._scores = [], [], None

    def _update_extra(self, outcomes: Outcomes) -> None:
        values, probabilities = outcomes.predictions
        for name, (metric, uses) in self.extra.items():
            answers: Sequence[Any] = values
            if uses == "probability":
                if probabilities is None:
                    raise ConfigError(
                        f"metrics: {name!r} uses probabilities, and the learner gives none",
                        hint="take a learner with predict_proba_one, or another metric",
                    )
                answers = probabilities
            if self.task == "multilabel":
                pairs = zip(outcomes.labels, answers, strict=True)
                answers = [as_river(label, answer, uses) for label, answer in pairs]
            for label, answer in zip(outcomes.labels, answers, strict=True):
                metric.update(label, answer)

    @property
    def events(self) -> int:
        """How many outcomes were observed."""
        return self._statistics.events + len(self._labels)

    def report(self) -> dict[str, Any]:
        """The figures by name: ``events``, ``metrics``, ``rolling``, ``fading`` and
        ``baselines``, and of the task ``multilabel`` the counts of ``classes``. What is no
        finite number is None.
        """
        return pooled([self])

    def statistics(self) -> Classification | LabelSets | Regression:
        """What the figures are computed from, up to the last outcome."""
        self._absorb()
        return self._statistics

    def rolling_value(self, name: str) -> float | None:
        """One figure over the last ``window`` events."""
        return figures.figure(self.formulas[name](self.statistics().rolling()))

    def recent_loss(self) -> float:
        """The fading error rate, Hamming loss or mean absolute error, to weigh lanes by.
        Before the first event it is 1.0, or the largest float for regression.
        """
        return self.statistics().recent_loss()

    def dump(self) -> Tree:
        return {
            "task": self.task,
            "window": self.window,
            "fading": self.fading,
            "statistics": self.statistics().dump(),
            "extra": {
                name: objects.freeze(metric, allow=(type(metric), *self._allow))
                for name, (metric, _) in self.extra.items()
            },
        }

    def load(self, tree: Tree) -> None:
        """Take back what :meth:`dump` gave. Raises
        :class:`~stream_update.errors.LineageMismatch` if the options were others.
        """
        theirs = tree["task"], tree["window"], tree["fading"], sorted(tree["extra"])
        ours = self.task, self.window, self.fading, sorted(self.extra)
        if theirs != ours:
            raise LineageMismatch(
                f"the snapshot's metrics were kept with (task, window, fading, extra) = {theirs}, "
                f"the configuration says {ours}",
                hint="restore the options, or rebuild by replay under a new lineage",
            )
        self._labels, self._values, self._scores = [], [], None
        self._statistics.load(tree["statistics"])
        self.extra = {
            name: UserMetric(
                objects.thaw(tree["extra"][name], allow=(type(metric), *self._allow)), uses
            )
            for name, (metric, uses) in self.extra.items()
        }


def pooled(monitors: Sequence[Prequential]) -> dict[str, Any]:
    """One report over lanes whose monitors have the same options; of one, its own report.

    Counts and histograms are added, so what follows from them is exact. Log loss and
    errors are means weighted by events, R2 comes from pooled sums of squares. Rolling
    figures are over all windows together, fading ones give the last event of each lane
    weight one, and extra metrics are means weighted by events.
    """
    parts = [monitor.statistics() for monitor in monitors]
    formulas = monitors[0].formulas
    baseline = {
        name: figures.TASKS[monitors[0].task][name] for name in figures.BASELINE[monitors[0].task]
    }
    baselines = [part.baselines() for part in parts]
    cumulative: list[Any] = [part.cumulative() for part in parts]
    classes = {"classes": by_class(cumulative)} if monitors[0].task == "multilabel" else {}
    return {
        "events": sum(part.events for part in parts),
        "metrics": figures.pooled(cumulative, formulas) | _pooled_extra(monitors),
        "rolling": figures.pooled([part.rolling() for part in parts], formulas),
        "fading": figures.pooled([part.fading() for part in parts], formulas),
        "baselines": {
            name: figures.pooled([tallies[name] for tallies in baselines], baseline)
            for name in baselines[0]
        },
        **classes,
    }


def _pooled_extra(monitors: Sequence[Prequential]) -> dict[str, float | None]:
    """None before the first event: a metric of one's own may divide by its count."""
    found: dict[str, float | None] = {}
    for name in monitors[0].extra:
        means = []
        for monitor in monitors:
            if monitor.events:
                value = figures.figure(monitor.extra[name].metric.get())
                means.append(Mean(monitor.events, math.nan if value is None else value))
        found[name] = figures.figure(Mean.pooled(means).value) if means else None
    return found


def _user_metric(name: str, given: Any) -> UserMetric:
    """With the input that it wants: as it was said, or as the object says of itself."""
    metric = given
    uses: Any = getattr(given, "uses", None)
    if isinstance(given, UserMetric):
        metric = given.metric
    elif uses is None:
        uses = "label" if getattr(given, "requires_labels", True) else "probability"
    if uses not in get_args(Uses):
        raise ConfigError(
            f"metrics: {name!r} uses {uses!r}", hint=f"accepted values: {', '.join(get_args(Uses))}"
        )
    if not (hasattr(metric, "update") and hasattr(metric, "get")):
        raise ConfigError(
            f"metrics: {name!r} is a {type(metric).__name__}, which is no metric",
            hint="a metric has update(y_true, y_pred) and get()",
        )
    return UserMetric(metric, uses)
