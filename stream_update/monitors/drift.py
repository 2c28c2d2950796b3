"""Drift detection: the monitor that says when the learner's errors change.

A detector of river watches one number for each outcome. When it fires there is one
alarm, and a fresh detector takes its place: one drift is one alarm. What the learner is
told depends on the reaction:

=========  ============================================================================
``alert``  nothing; the alarm is published
``reset``  ``"reset"``: start afresh
``swap``   ``"warning"`` when a change begins to show, then ``"swap"`` when it is certain
=========  ============================================================================

The learner is told of drifts only if things got worse, but every alarm is published.
"""

from __future__ import annotations

import datetime as dt
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import compress
from math import isfinite
from operator import ne
from typing import Any

import numpy as np
from river import base, drift

from stream_update.errors import ConfigError, Fatal
from stream_update.events import Alarm, Outcomes, Tree
from stream_update.monitors.figures import TASKS, figure
from stream_update.monitors.losses import (
    binary_log_losses,
    chances_of_true,
    cross_entropies,
    differences,
)
from stream_update.monitors.multilabel import hamming_loss, log_losses
from stream_update.monitors.sentinel import Sentinel

__all__ = ["DriftMonitor", "alarm_record"]

REACTIONS = ("alert", "reset", "swap")
WATCHES = ("error", "exact", "loss")
KEPT_ALARMS = 1000
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

EARLIER: tuple[tuple[type, str, float], ...] = (
    (drift.ADWIN, "delta", 10.0),
    (drift.KSWIN, "alpha", 10.0),
    (drift.PageHinkley, "threshold", 0.5),
    (drift.binary.FHDDM, "confidence_level", 100.0),
)
"""How detectors that do not warn are made to fire earlier, to warn of themselves: the
option and its factor. Ten times ADWIN's delta is what the adaptive random forest uses
(Gomes et al., "Adaptive random forests for evolving data stream classification", 2017)."""


class DriftMonitor:
    """Watches a learner's errors with a drift detector.

    ``make_detector`` builds a fresh detector, ``detector_name`` is what alarms call it.
    ``watch`` is ``"error"`` (wrong or right; for regression the absolute error, for several
    classes at once the Hamming loss of the event), ``"exact"`` (whether any of several classes
    was wrong) or ``"loss"`` (log loss; not for regression). ``make_warning`` builds the detector
    that warns before a swap; without it the detector's own warnings are used, or else a copy
    of it that fires earlier (:data:`EARLIER`). ``allow`` lists classes of one's own that
    snapshots may hold inside of a detector.

    An error that is not finite is not shown to the detector: it could not be forgotten.
    """

    name = "drift"

    def __init__(
        self,
        task: str,
        make_detector: Callable[[], Any],
        detector_name: str,
        *,
        reaction: str = "alert",
        make_warning: Callable[[], Any] | None = None,
        watch: str = "error",
        allow: Iterable[Callable[..., Any]] = (),
    ) -> None:
        _check("task", task, tuple(TASKS))
        _check("reaction", reaction, REACTIONS)
        _check("watch", watch, WATCHES)
        if task == "regression" and watch == "loss":
            raise ConfigError(
                "drift: there is no log loss to watch for task 'regression'",
                hint='take watch = "error", the absolute error',
            )
        if task != "multilabel" and watch == "exact":
            raise ConfigError(
                f"drift: watch = 'exact' is for several classes at once, not for task {task!r}",
                hint='take watch = "error"',
            )
        if make_warning is not None and reaction != "swap":
            raise ConfigError(
                f"drift: reaction {reaction!r} has no use for a warning",
                hint='drop the warning detector, or take reaction = "swap"',
            )
        self.reactive = reaction != "alert"
        self._task = task
        self._watch = watch
        self._reaction = reaction
        self._detector_name = detector_name
        self._sentinel = Sentinel(make_detector, detector_name, allow=allow)
        self._warner: Sentinel | None = None
        if reaction == "swap":
            make_warning = make_warning or _warning_of(make_detector)
            if make_warning is not None:
                self._warner = Sentinel(make_warning, f"warning of {detector_name}", allow=allow)
        for sentinel in (self._sentinel, self._warner):
            if sentinel is not None:
                self._check_input(sentinel.detector)
        self._events = 0
        self._drifts = 0
        self._warned = False
        self._alarms: deque[dict[str, Any]] = deque(maxlen=KEPT_ALARMS)

    def _check_input(self, detector: Any) -> None:
        binary = isinstance(detector, base.BinaryDriftDetector | base.BinaryDriftAndWarningDetector)
        shares = self._task == "regression" or (self._task, self._watch) == ("multilabel", "error")
        if binary and (shares or self._watch == "loss"):
            raise ConfigError(
                f"drift: {type(detector).__name__} takes only right or wrong, not "
                f"watch = {self._watch!r} of task {self._task!r}",
                hint="take river.drift:ADWIN, KSWIN or PageHinkley"
                + (', or watch = "exact"' if self._task == "multilabel" else ""),
            )

    def observe(self, outcomes: Outcomes) -> Sequence[Alarm]:
        """Show a block of outcomes to the detector; see the module for the alarms."""
        values, positions = self._values(outcomes)
        if self._reaction == "swap":
            alarms = self._observe_with_warnings(outcomes, values, positions)
        else:
            alarms = []
            start, stop = 0, len(values)
            while (at := self._sentinel.watch(values, start)) < stop:
                alarms.append(self._drift(outcomes, positions[at]))
                start = at + 1
        self._events += len(outcomes.labels)
        return alarms

    def _values(self, outcomes: Outcomes) -> tuple[Sequence[float], Sequence[int]]:
        """What is watched, and to which positions of the block it belongs."""
        labels, (values, probabilities) = outcomes.labels, outcomes.predictions
        everywhere = range(len(labels))
        watched: list[float]
        if self._watch == "loss":
            if probabilities is None:
                raise Fatal(
                    "drift: the learner gives no probabilities, so there is no log loss to watch",
                    hint='take watch = "error", or a learner with predict_proba_one',
                )
            if self._task == "binary":
                chances = np.array(chances_of_true(probabilities), dtype=np.float64)
                watched = binary_log_losses(labels, chances).tolist()
            elif self._task == "multilabel":
                watched = log_losses(labels, probabilities)
            else:
                watched = cross_entropies(labels, probabilities)
        elif self._task == "regression":
            watched = list(map(abs, differences(labels, values)))
        elif self._task == "multilabel":
            watched = list(map(hamming_loss, labels, values))
            return (list(map(bool, watched)) if self._watch == "exact" else watched), everywhere
        else:
            return list(map(ne, labels, values)), everywhere
        if all(map(isfinite, watched)):
            return watched, everywhere
        finite = list(map(isfinite, watched))
        return list(compress(watched, finite)), list(compress(everywhere, finite))

    def _observe_with_warnings(
        self, outcomes: Outcomes, values: Sequence[float], positions: Sequence[int]
    ) -> list[Alarm]:
        alarms = []
        for value, position in zip(values, positions, strict=True):
            drifted = self._sentinel.fires(value)
            if drifted:
                alarms.append(self._drift(outcomes, position))
            if self._warner is None:
                warned = bool(getattr(self._sentinel.detector, "warning_detected", False))
                if warned and not self._warned:
                    alarms.append(self._warning(outcomes, position, self._sentinel))
                self._warned = warned
            elif not drifted and self._warner.fires(value):
                warning = self._warning(outcomes, position, self._warner)
                if warning.direction == "worse":
                    alarms.append(warning)
                self._warner.rearm()
        return alarms

    def _drift(self, outcomes: Outcomes, position: int) -> Alarm:
        alarm = self._alarm("drift", outcomes, position, self._sentinel)
        if self.reactive and alarm.direction == "worse":
            alarm = alarm._replace(signal=self._reaction)
        self._drifts += 1
        self._alarms.append(alarm_record(alarm))
        self._sentinel.rearm()
        if self._warner is not None:
            self._warner.rearm()
        return alarm

    def _warning(self, outcomes: Outcomes, position: int, sentinel: Sentinel) -> Alarm:
        alarm = self._alarm("warning", outcomes, position, sentinel)
        return alarm._replace(signal="warning")

    def _alarm(self, kind: str, outcomes: Outcomes, position: int, sentinel: Sentinel) -> Alarm:
        before, after = sentinel.change()
        return Alarm(
            kind=kind,
            monitor=self.name,
            detector=self._detector_name,
            partition=outcomes.partition,
            offset=outcomes.offsets[position],
            event_time=outcomes.time_of(position),
            event=self._events + position,
            before=before,
            after=after,
            magnitude=after - before,
            direction="worse" if after > before else "better",
        )

    @property
    def detectors(self) -> dict[str, Any]:
        """The detector, and as ``warning`` the one that warns if it is another."""
        warner = {} if self._warner is None else {"warning": self._warner.detector}
        return {"detector": self._sentinel.detector, **warner}

    def alarms(self) -> list[dict[str, Any]]:
        """The last published alarms, at most 1,000, as :func:`alarm_record` writes them."""
        return list(self._alarms)

    def report(self) -> dict[str, Any]:
        """``drifts``: how many there were; ``last``: the last alarm's record, or None."""
        return {"drifts": self._drifts, "last": self._alarms[-1] if self._alarms else None}

    def dump(self) -> Tree:
        return {
            "events": self._events,
            "drifts": self._drifts,
            "warned": self._warned,
            "sentinel": self._sentinel.dump(),
            "warner": None if self._warner is None else self._warner.dump(),
            "alarms": list(self._alarms),
        }

    def load(self, tree: Tree) -> None:
        self._sentinel.load(tree["sentinel"])
        if self._warner is not None:
            self._warner.load(tree["warner"])
        self._events = tree["events"]
        self._drifts = tree["drifts"]
        self._warned = tree["warned"]
        self._alarms = deque(tree["alarms"], maxlen=KEPT_ALARMS)


def alarm_record(alarm: Alarm) -> dict[str, Any]:
    """An alarm for the drift topic: plain values, and the event time in words and in ms.

    A mean that is not finite is None, and so is a time that no calendar has.
    """
    record = alarm._asdict()
    record["event_time"] = None
    record["event_time_ms"] = alarm.event_time
    if alarm.event_time is not None:
        try:
            moment = EPOCH + dt.timedelta(milliseconds=alarm.event_time)
        except OverflowError:
            pass
        else:
            record["event_time"] = moment.isoformat(timespec="milliseconds")
    for name in ("before", "after", "magnitude"):
        record[name] = figure(record[name])
    return record


def _warning_of(make: Callable[[], Any]) -> Callable[[], Any] | None:
    """A maker of detectors like those of ``make`` that fire earlier, if there is one."""
    detector = make()
    for kind, option, factor in EARLIER:
        if isinstance(detector, kind):
            value = getattr(detector, option)
            # Levels of significance stay below one half, or everything is significant.
            earlier = min(value * factor, max(value, 0.5)) if factor > 1 else value * factor
            return lambda: make().clone({option: earlier})
    return None


def _check(option: str, value: str, accepted: Sequence[str]) -> None:
    if value not in accepted:
        raise ConfigError(
            f"drift: there is no {option} {value!r}",
            hint=f"accepted values: {', '.join(accepted)}",
        )
