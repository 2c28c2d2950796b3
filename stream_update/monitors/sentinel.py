"""One drift detector, and what it has seen since it was last armed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, compress, count, islice
from typing import Any, NamedTuple

from river import drift
from river._river_rust.drift import AdaptiveWindowing

from stream_update import objects
from stream_update.errors import ConfigError, CorruptSnapshot, Fatal
from stream_update.events import Tree

__all__ = ["Change", "Sentinel"]

RECENT = 100
"""How many values stand for the time after a change, where the detector does not say."""


class Change(NamedTuple):
    """The mean of the watched value before and after a change."""

    before: float
    after: float


class Sentinel:
    """A detector that is replaced by a fresh one whenever it has fired.

    ``make`` builds a detector: an object with ``update(value)`` and ``drift_detected``.
    ``label`` names it in messages. The detector must behave the same in every run, so
    one that takes a seed must have been given one.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        label: str,
        *,
        allow: Iterable[Callable[..., Any]] = (),
    ) -> None:
        self._make = make
        self._label = label
        self._allow = tuple(allow)
        self.rearm()
        detector = self.detector
        # It fires when its mean falls: it has to count what is right, whatever its text says.
        self._counts_right = isinstance(detector, drift.binary.FHDDM)
        if not (hasattr(detector, "update") and hasattr(detector, "drift_detected")):
            raise ConfigError(
                f"drift: {label} makes a {type(detector).__name__}, which is no drift detector",
                hint="a detector has update(value) and drift_detected, as those of river.drift do",
            )
        if getattr(detector, "seed", 0) is None:
            raise ConfigError(
                f"drift: {label} draws random numbers and has no seed",
                hint="give it a seed: a restarted process has to find the same drifts",
            )

    def rearm(self) -> None:
        """Start afresh: what was seen so far belongs to the past."""
        self.detector: Any = self._make()
        self._count = 0
        self._total: float = 0
        self._recent: deque[float] = deque(maxlen=RECENT)

    def watch(self, values: Sequence[float], start: int) -> int:
        """Show the values from ``start`` on to the detector, until it fires.

        Returns the position at which it did, or ``len(values)``. Raises
        :class:`~stream_update.errors.Fatal` if the detector raises.
        """
        try:
            position = self._first(values, start)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of river's Rust part is no Exception
            raise self._broken(error) from error
        seen = values[start : position + 1]
        self._count += len(seen)
        self._total = deque(accumulate(seen, initial=self._total), maxlen=1)[0]
        self._recent.extend(seen[-RECENT:])
        return position

    def _first(self, values: Sequence[float], start: int) -> int:
        detector, stop = self.detector, len(values)
        window = getattr(detector, "_helper", None)
        if type(detector) is drift.ADWIN and isinstance(window, AdaptiveWindowing):
            # All that ADWIN.update() adds is to start afresh after a detection, as we do.
            fired = compress(count(start), map(window.update, islice(values, start, None)))
            return next(fired, stop)
        update = detector.update
        for position in range(start, stop):
            value = values[position]
            update(not value if self._counts_right else value)
            if detector.drift_detected:
                return position
        return stop

    def fires(self, value: float) -> bool:
        """Show one value to the detector, as :meth:`watch` does with many."""
        try:
            self.detector.update(not value if self._counts_right else value)
            fired = bool(self.detector.drift_detected)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            raise self._broken(error) from error
        self._count += 1
        self._total += value
        self._recent.append(value)
        return fired

    def _broken(self, error: BaseException) -> Fatal:
        return Fatal(
            f"{self._label} raised {type(error).__name__}: {error}",
            hint="take another detector, or other options for it",
        )

    def change(self) -> Change:
        """What changed, as of now.

        ADWIN says where it cut: after is the mean of the window it kept, before that of all
        it dropped. Otherwise after is the mean of the last values, 100 or half of those seen
        since the detector was armed, if that is less; before is the mean of the others.
        """
        total: float
        if isinstance(self.detector, drift.ADWIN):
            width, total = int(self.detector.width), self.detector.total
        else:
            width = max(1, min(len(self._recent), self._count // 2))
            total = _sum(islice(self._recent, len(self._recent) - width, None))
        after = total / width if width else 0.0
        if self._count <= width:
            return Change(after, after)
        return Change((self._total - total) / (self._count - width), after)

    def dump(self) -> Tree:
        return {
            "detector": objects.freeze(self.detector, allow=self._allowed()),
            "count": self._count,
            "total": self._total,
            "recent": list(self._recent),
        }

    def load(self, tree: Tree) -> None:
        detector = objects.thaw(tree["detector"], allow=self._allowed())
        if type(detector) is not type(self.detector):
            raise CorruptSnapshot(
                f"the snapshot has a {type(detector).__name__} where the configuration has "
                f"{self._label}",
                hint="restore the configuration, or rebuild by replay under a new lineage",
            )
        self.detector = detector
        self._count = tree["count"]
        self._total = tree["total"]
        self._recent = deque(tree["recent"], maxlen=RECENT)

    def _allowed(self) -> tuple[Callable[..., Any], ...]:
        return (type(self._make()), *self._allow)


def _sum(values: Iterable[float]) -> float:
    """Strictly one after the other: since Python 3.12 ``sum()`` corrects its rounding."""
    return deque(accumulate(values, initial=0.0), maxlen=1)[0]
