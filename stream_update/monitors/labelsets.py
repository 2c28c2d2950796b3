"""The bookkeeping behind the figures of several classes at once, a block of events at a time.

A block becomes a matrix with a row for each event and a column for each class, in the order of
first appearance, of what became of that class in that event. Counts are integers, and floats
are added strictly one event after the other, so nothing depends on how the events were cut into
blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from stream_update.events import Tree
from stream_update.monitors.fading import Fading, Floats, running_sums
from stream_update.monitors.losses import extended
from stream_update.monitors.multilabel import SetTally, log_losses, said_classes
from stream_update.monitors.tally import Mean
from stream_update.monitors.window import Window

__all__ = ["LabelSets"]

Flags = npt.NDArray[np.bool_]
Cells = npt.NDArray[np.uint8]
"""0: the class was not known yet; 1 to 4: true negative, false positive, false negative, true
positive."""

KINDS = 4


class LabelSets:
    """The counts behind the cumulative, rolling and fading figures and two baselines.

    Memory: some numbers for each class, and for each event of the window a byte a class.
    """

    def __init__(self, *, window: int, fading: Fading) -> None:
        self._fading = fading
        self._window = window
        self._clear()

    def _clear(self) -> None:
        self.events = 0
        self._index: dict[Any, int] = {}
        self._all = _Sums()
        self._no_change = _Sums()
        self._majority = _Sums()
        self._loss = Mean()
        self._last: Flags = np.zeros(0, dtype=bool)
        self._faded_counts: Floats = np.zeros((KINDS, 0))
        self._faded_means: Floats = np.zeros(4)
        self._faded_loss: Floats = np.zeros(2)
        self._recent: Cells = np.zeros((0, 0), dtype=np.uint8)
        self._recent_scored = Window(self._window, "u1")
        self._recent_losses = Window(self._window, "<f8")

    def scores(
        self,
        labels: Sequence[Mapping[Any, bool]],
        probabilities: Sequence[Mapping[Any, float]],
    ) -> list[float]:
        """What :meth:`absorb` needs of the probabilities: the log loss of each event."""
        return log_losses(labels, probabilities)

    def absorb(
        self,
        labels: Sequence[Mapping[Any, bool]],
        values: Sequence[Any],
        scores: Sequence[float] | npt.NDArray[np.floating[Any]] | None,
    ) -> None:
        """Take in a block of at least one event."""
        asked, truth, said = self._matrices(labels, list(map(said_classes, values)))
        cells = _cells(asked | said, truth, said)
        self._widen()
        self._absorb_baselines(asked, truth)
        shares = _shares(cells)
        self._all.add(cells, shares)
        self._recent = np.concatenate((self._recent, cells))[-self._window :]
        self._recent_scored.extend(np.full(len(labels), scores is not None))
        losses: Floats | None = None
        if scores is not None:
            losses = np.array(scores, dtype=np.float64)
            self._loss = extended(self._loss, losses.tolist())
        self._recent_losses.extend(np.zeros(len(labels)) if losses is None else losses)
        self._fade(cells, shares, losses)
        self.events += len(labels)

    def _matrices(
        self, labels: Sequence[Mapping[Any, bool]], values: Sequence[Mapping[Any, bool]]
    ) -> tuple[Flags, Flags, Flags]:
        """Of which classes an event speaks, which apply, and which were said to."""
        index = self._index
        keys = [tuple(label) for label in labels]
        for named, rows in groupby(range(len(keys)), keys.__getitem__):
            for name in named:
                index.setdefault(name, len(index))
            for row in rows:
                for name, applies in values[row].items():
                    if applies:
                        index.setdefault(name, len(index))
        shape = len(labels), len(index)
        asked, truth, said = (np.zeros(shape, dtype=bool) for _ in range(3))
        for named, rows in groupby(range(len(keys)), keys.__getitem__):
            block = list(rows)
            columns = [index[name] for name in named]
            where = np.ix_(block, columns)
            asked[where] = True
            truth[where] = [list(labels[row].values()) for row in block]
        marks = [
            (row, index[name])
            for row, value in enumerate(values)
            for name, applies in value.items()
            if applies
        ]
        if marks:
            said[tuple(np.array(marks).T)] = True
        return asked, truth, said

    def _widen(self) -> None:
        """Make room for the classes that came up for the first time."""
        more = len(self._index) - len(self._last)
        if more:
            self._last = np.pad(self._last, (0, more))
            self._faded_counts = np.pad(self._faded_counts, ((0, 0), (0, more)))
            self._recent = np.pad(self._recent, ((0, 0), (0, more)))
            for sums in (self._all, self._no_change, self._majority):
                sums.counts = np.pad(sums.counts, ((0, 0), (0, more)))

    def _absorb_baselines(self, asked: Flags, truth: Flags) -> None:
        """The classes of the event before, and those that applied to more than half so far."""
        previous = np.concatenate((self._last[np.newaxis], truth[:-1]))
        counts = self._majority.counts
        applied = counts[2:].sum(axis=0) + np.cumsum(truth, axis=0) - truth
        known = counts.sum(axis=0) + np.cumsum(asked, axis=0) - asked
        for sums, said in ((self._no_change, previous), (self._majority, 2 * applied > known)):
            cells = _cells(asked, truth, said)
            sums.add(cells, _shares(cells))
        self._last = truth[-1]

    def _fade(self, cells: Cells, shares: Floats, losses: Floats | None) -> None:
        for start, stop, weights, shrink in self._fading.pieces(self.events, len(cells)):
            if shrink != 1.0:
                for sums in self._faded():
                    np.multiply(sums, shrink, out=sums)
            rows, columns = np.nonzero(cells[start:stop])
            kinds = cells[start:stop][rows, columns] - 1
            np.add.at(self._faded_counts, (kinds, columns), weights[rows])
            whole = np.concatenate((np.ones((1, stop - start)), shares[start:stop].T))
            self._faded_means = running_sums(self._faded_means, weights * whole)
            if losses is not None:
                pairs = np.stack((weights, weights * losses[start:stop]))
                self._faded_loss = running_sums(self._faded_loss, pairs)

    def _faded(self) -> tuple[Floats, Floats, Floats]:
        return self._faded_counts, self._faded_means, self._faded_loss

    def cumulative(self) -> SetTally:
        """Everything since the start."""
        return self._all.tally(list(self._index), self._loss)

    def rolling(self) -> SetTally:
        """The last events, at most as many as the window holds."""
        sums = _Sums(self._recent.shape[1])
        sums.add(self._recent, _shares(self._recent))
        scored = self._recent_scored.values().astype(bool)
        losses = self._recent_losses.values()[scored].tolist()
        return sums.tally(list(self._index), extended(Mean(), losses))

    def fading(self) -> SetTally:
        """All events, the last with weight one and each before with less."""
        one = self._fading.last_weight(self.events)
        weight, *sums = self._faded_means.tolist()
        exact, hamming, jaccard = (
            Mean(weight / one, total / weight) if weight else Mean() for total in sums
        )
        scored, loss = self._faded_loss.tolist()
        return SetTally(
            _by_name(list(self._index), self._faded_counts / one),
            exact,
            hamming,
            jaccard,
            Mean(scored / one, loss / scored) if scored else Mean(),
        )

    def baselines(self) -> dict[str, SetTally]:
        """The classes of the event before, and for each class what was so more often."""
        names = list(self._index)
        return {
            "no_change": self._no_change.tally(names, Mean()),
            "majority": self._majority.tally(names, Mean()),
        }

    def recent_loss(self) -> float:
        """The fading Hamming loss; 1.0 before the first event."""
        weight, _, hamming, _ = self._faded_means.tolist()
        return hamming / weight if weight else 1.0

    def dump(self) -> Tree:
        return {
            "events": self.events,
            "classes": list(self._index),
            "sums": [sums.dump() for sums in (self._all, self._no_change, self._majority)],
            "loss": list(self._loss),
            "last": self._last.tolist(),
            "faded": [sums.tolist() for sums in self._faded()],
            "recent": self._recent.tobytes(),
            "recent_losses": [self._recent_scored.dump(), self._recent_losses.dump()],
        }

    def load(self, tree: Tree) -> None:
        self._clear()
        self._index = {name: number for number, name in enumerate(tree["classes"])}
        width = len(self._index)
        self._widen()
        for sums, found in zip(
            (self._all, self._no_change, self._majority), tree["sums"], strict=True
        ):
            sums.load(found)
        self._loss = Mean(*tree["loss"])
        self._last[:] = tree["last"]
        for faded, values in zip(self._faded(), tree["faded"], strict=True):
            faded[:] = values
        rows = min(tree["events"], self._window)
        recent = np.frombuffer(tree["recent"], dtype=np.uint8).reshape(rows, width)
        if recent.max(initial=0) > KINDS:
            raise ValueError("the window holds events of no kind")
        self._recent = recent
        for window, data in zip(
            (self._recent_scored, self._recent_losses), tree["recent_losses"], strict=True
        ):
            window.load(data)
        self.events = tree["events"]


class _Sums:
    """What became of each class, and the means over events."""

    def __init__(self, classes: int = 0) -> None:
        self.counts: npt.NDArray[np.int64] = np.zeros((KINDS, classes), dtype=np.int64)
        self._means = Mean(), Mean(), Mean()

    def add(self, cells: Cells, shares: Floats) -> None:
        kinds = range(1, KINDS + 1)
        self.counts += np.array([np.count_nonzero(cells == kind, axis=0) for kind in kinds])
        one, two, three = self._means
        exact, hamming, jaccard = shares.T.tolist()
        self._means = extended(one, exact), extended(two, hamming), extended(three, jaccard)

    def tally(self, names: Sequence[Any], loss: Mean) -> SetTally:
        return SetTally(_by_name(names, self.counts), *self._means, loss)

    def dump(self) -> Tree:
        return {"counts": self.counts.tolist(), "means": [list(mean) for mean in self._means]}

    def load(self, tree: Tree) -> None:
        self.counts[:] = tree["counts"]
        one, two, three = (Mean(*mean) for mean in tree["means"])
        self._means = one, two, three


def _cells(known: Flags, truth: Flags, said: Flags) -> Cells:
    cells: Cells = (1 + said + 2 * truth.astype(np.uint8)).astype(np.uint8)
    return np.where(known, cells, np.uint8(0))


def _shares(cells: Cells) -> Floats:
    """For each event: all classes right, the share of wrong ones, the Jaccard index."""
    known = np.count_nonzero(cells, axis=1)
    wrong = np.count_nonzero((cells == 2) | (cells == 3), axis=1)  # noqa: PLR2004
    right = np.count_nonzero(cells == KINDS, axis=1)
    made: Floats = np.stack(
        (wrong == 0, wrong / np.maximum(known, 1), right / np.maximum(right + wrong, 1)), axis=1
    )
    return made


def _by_name(names: Sequence[Any], counts: npt.NDArray[Any]) -> dict[Any, Any]:
    return {
        name: tuple(column)
        for name, column in zip(names, counts.T.tolist(), strict=True)
        if any(column)
    }
