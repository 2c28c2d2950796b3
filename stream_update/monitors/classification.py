"""The bookkeeping behind classification metrics, a block of events at a time.

Every (label, prediction) that comes up gets a small number, its code, and a block
becomes an array of codes: the confusion counts, the window and the fading sums are
then array operations. Counts are integers, and floats are added strictly one event
after the other, so nothing depends on how the events were cut into blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from river import metrics

from stream_update.events import Column, Tree
from stream_update.monitors.fading import Fading, Floats, running_sums
from stream_update.monitors.losses import (
    binary_log_losses,
    chances_of_true,
    cross_entropies,
    extended,
)
from stream_update.monitors.majority import Majority
from stream_update.monitors.tally import LabelTally, Marginals, Mean
from stream_update.monitors.window import Window

__all__ = ["Classification"]

Codes = npt.NDArray[np.intp]
Counts = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

THRESHOLDS: Floats = np.array(metrics.ROCAUC().thresholds)
RANKS = len(THRESHOLDS) + 1
BITS = {bool}
UNRANKED = 255
"""In the window of ranks: the event came without probabilities."""


class _Codes(dict[Any, int]):
    """Numbers its keys in the order in which they first come up."""

    def __missing__(self, key: Any) -> int:
        code = self[key] = len(self)
        return code


class Classification:
    """The counts behind the cumulative, rolling and fading figures and two baselines.

    Memory: a few numbers for each (label, prediction) that came up, and 14 bytes for
    each event of the window.
    """

    def __init__(self, *, binary: bool, window: int, fading: Fading) -> None:
        self._binary = binary
        self._fading = fading
        self._window = window
        self._clear()

    def _clear(self) -> None:
        self.events = 0
        self._pairs = _Codes()
        self._labels = _Codes()
        # The codes of (False, False), (False, True), (True, False) and (True, True), -1 for
        # those that have not come up; empty where labels are more than these.
        self._bits: Codes = np.full(4 if self._binary else 0, -1, dtype=np.intp)
        self._label_of: Codes = np.zeros(0, dtype=np.intp)
        self._right: Flags = np.zeros(0, dtype=bool)
        self._true: Flags = np.zeros(0, dtype=bool)
        self._counts: Counts = np.zeros(0, dtype=np.int64)
        self._ranks: Counts = np.zeros(2 * RANKS, dtype=np.int64)
        self._loss = Mean()
        self._last_label = -1
        self._no_change_hits = 0
        self._majority = Majority()
        self._faded_counts: Floats = np.zeros(0)
        self._faded_ranks: Floats = np.zeros(2 * RANKS)
        self._faded_changes: Floats = np.zeros(2)
        self._faded_loss: Floats = np.zeros(2)
        self._recent_codes = Window(self._window, "<i4")
        self._recent_unchanged = Window(self._window, "u1")
        self._recent_ranks = Window(self._window, "u1")
        self._recent_losses = Window(self._window, "<f8")

    def scores(self, labels: Sequence[Any], probabilities: Sequence[Mapping[Any, float]]) -> Column:
        """What :meth:`absorb` needs of the probabilities, one number for each event:
        the probability of True (binary) or the cross entropy (multiclass).
        """
        if self._binary:
            return chances_of_true(probabilities)
        return cross_entropies(labels, probabilities)

    def absorb(self, labels: Sequence[Any], values: Sequence[Any], scores: Column | None) -> None:
        """Take in a block of at least one event."""
        count = len(labels)
        codes = self._coded(labels, values)
        classes = self._label_of[codes]
        unchanged = np.empty(count, dtype=bool)
        unchanged[0] = classes[0] == self._last_label
        np.equal(classes[1:], classes[:-1], out=unchanged[1:])
        self._last_label = int(classes[-1])

        self._counts += np.bincount(codes, minlength=len(self._counts))
        self._no_change_hits += int(np.count_nonzero(unchanged))
        self._majority.absorb(classes, len(self._labels))
        self._recent_codes.extend(codes)
        self._recent_unchanged.extend(unchanged)
        cells, losses = self._absorb_scores(self._true[classes], scores)
        self._fade(codes, unchanged, cells, losses)
        self.events += count

    def _coded(self, labels: Sequence[Any], values: Sequence[Any]) -> Codes:
        if len(self._bits) and BITS.issuperset(map(type, labels)):
            codes = self._coded_bits(labels, values)
            if codes is not None:
                return codes
        pairs = zip(labels, values, strict=True)
        codes = np.fromiter(map(self._pairs.__getitem__, pairs), np.intp, len(labels))
        if len(self._pairs) > len(self._counts):
            self._learn_codes()
        return codes

    def _coded_bits(self, labels: Sequence[Any], values: Sequence[Any]) -> Codes | None:
        """The codes of pairs of True and False that have all come up before, or None."""
        if not BITS.issuperset(map(type, values)):
            return None
        truths = np.frombuffer(bytes(labels), np.uint8)
        codes: Codes = self._bits[2 * truths + np.frombuffer(bytes(values), np.uint8)]
        return None if codes.min() < 0 else codes

    def _absorb_scores(
        self, truths: Flags, scores: Column | None
    ) -> tuple[Codes | None, Floats | None]:
        """The events' cells in the histogram of ranks (binary only), and their losses."""
        cells: Codes | None = None
        if scores is None:
            self._recent_ranks.extend(np.full(len(truths), UNRANKED))
            self._recent_losses.extend(np.zeros(len(truths)))
            return None, None
        losses = chances = np.array(scores, dtype=np.float64)
        ranks: Codes = np.zeros(len(truths), dtype=np.intp)
        if self._binary:
            ranks = THRESHOLDS.searchsorted(chances)
            ranks[np.isnan(chances)] = 0
            cells = truths * RANKS + ranks
            self._ranks += np.bincount(cells, minlength=len(self._ranks))
            losses = binary_log_losses(truths, chances)
        self._loss = extended(self._loss, losses.tolist())
        self._recent_ranks.extend(ranks)
        self._recent_losses.extend(losses)
        return cells, losses

    def _fade(
        self, codes: Codes, unchanged: Flags, cells: Codes | None, losses: Floats | None
    ) -> None:
        for start, stop, weights, shrink in self._fading.pieces(self.events, len(codes)):
            if shrink != 1.0:
                for sums in self._faded():
                    np.multiply(sums, shrink, out=sums)
            np.add.at(self._faded_counts, codes[start:stop], weights)
            np.add.at(self._faded_changes, unchanged[start:stop].view(np.uint8), weights)
            if cells is not None:
                np.add.at(self._faded_ranks, cells[start:stop], weights)
            if losses is not None:
                added = np.stack((weights, weights * losses[start:stop]))
                self._faded_loss = running_sums(self._faded_loss, added)

    def _faded(self) -> tuple[Floats, Floats, Floats, Floats]:
        return self._faded_counts, self._faded_ranks, self._faded_changes, self._faded_loss

    def _learn_codes(self) -> None:
        """Make room for the pairs that came up for the first time."""
        more = (0, len(self._pairs) - len(self._counts))
        self._counts = np.pad(self._counts, more)
        self._faded_counts = np.pad(self._faded_counts, more)
        self._label_of = np.array([self._labels[label] for label, _ in self._pairs], dtype=np.intp)
        self._right = np.array([bool(label == value) for label, value in self._pairs], dtype=bool)
        self._true = np.array([bool(label) for label in self._labels], dtype=bool)
        if self._binary:
            for bits in range(4):
                self._bits[bits] = self._pairs.get((bits >= 2, bits % 2 == 1), -1)  # noqa: PLR2004

    def cumulative(self) -> LabelTally:
        """Everything since the start."""
        return LabelTally(
            dict(zip(self._pairs, self._counts.tolist(), strict=True)),
            self._no_change_hits,
            self._loss,
            self._ranks.reshape(2, RANKS),
        )

    def rolling(self) -> LabelTally:
        """The last events, at most as many as the window holds."""
        codes, ranks = self._recent_codes.values(), self._recent_ranks.values()
        found, first = np.unique(codes, return_index=True)
        found = found[np.argsort(first)]
        counts = np.bincount(codes, minlength=len(self._counts))[found]
        keys = list(self._pairs)
        scored = ranks != UNRANKED
        cells = self._true[self._label_of[codes]] * RANKS + ranks.astype(np.intp)
        losses = self._recent_losses.values()[scored].tolist()
        return LabelTally(
            {keys[code]: count for code, count in zip(found, counts.tolist(), strict=True)},
            int(self._recent_unchanged.values().sum()),
            extended(Mean(), losses),
            np.bincount(cells[scored], minlength=2 * RANKS).reshape(2, RANKS),
        )

    def fading(self) -> LabelTally:
        """All events, the last with weight one and each before with less."""
        one = self._fading.last_weight(self.events)
        weight, loss = self._faded_loss.tolist()
        return LabelTally(
            dict(zip(self._pairs, (self._faded_counts / one).tolist(), strict=True)),
            float(self._faded_changes[1] / one),
            Mean(weight / one, loss / weight) if weight else Mean(),
            (self._faded_ranks / one).reshape(2, RANKS),
        )

    def baselines(self) -> dict[str, Marginals]:
        """The previous label, and the most frequent one; neither answers the first event."""
        names = list(self._labels)
        counts = dict(zip(names, self._majority.labels.tolist(), strict=True))
        unanswered = {None: min(self.events, 1)}
        previous = dict(counts)
        if self.events:
            previous[names[self._last_label]] -= 1
        predicted = dict(zip(names, self._majority.predicted.tolist(), strict=True))
        return {
            "no_change": Marginals(counts, unanswered | previous, self._no_change_hits),
            "majority": Marginals(counts, unanswered | predicted, self._majority.hits),
        }

    def recent_loss(self) -> float:
        """The fading error rate; 1.0 before the first event."""
        weight = float(self._faded_counts.sum())
        return 1.0 - float(self._faded_counts[self._right].sum()) / weight if weight else 1.0

    def dump(self) -> Tree:
        return {
            "events": self.events,
            "pairs": [[_plain(label), _plain(value)] for label, value in self._pairs],
            "counts": self._counts.tolist(),
            "ranks": self._ranks.tolist(),
            "loss": list(self._loss),
            "last_label": self._last_label,
            "no_change_hits": self._no_change_hits,
            "majority": self._majority.dump(),
            "faded": [sums.tolist() for sums in self._faded()],
            "recent": [window.dump() for window in self._windows()],
        }

    def load(self, tree: Tree) -> None:
        self._clear()
        for label, value in tree["pairs"]:
            self._pairs[label, value]
        self._learn_codes()
        self._counts[:] = tree["counts"]
        self._ranks[:] = tree["ranks"]
        self._loss = Mean(*tree["loss"])
        self._last_label = tree["last_label"]
        self._no_change_hits = tree["no_change_hits"]
        self._majority.load(tree["majority"])
        for sums, values in zip(self._faded(), tree["faded"], strict=True):
            sums[:] = values
        for window, data in zip(self._windows(), tree["recent"], strict=True):
            window.load(data)
        self.events = tree["events"]
        codes = self._recent_codes.values()
        if len(codes) and not 0 <= codes.min() <= codes.max() < len(self._pairs):
            raise ValueError("the window holds events that were never counted")

    def _windows(self) -> tuple[Window, Window, Window, Window]:
        return (
            self._recent_codes,
            self._recent_unchanged,
            self._recent_ranks,
            self._recent_losses,
        )


def _plain(value: Any) -> Any:
    """A learner may answer with numpy's scalars; snapshots hold Python's."""
    return value.item() if isinstance(value, np.generic) else value
