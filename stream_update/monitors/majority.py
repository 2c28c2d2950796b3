"""The majority baseline: always the label that was most frequent so far."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Majority"]


FEW = 8
"""Up to so many labels, counting all of them at every event is faster than a loop."""


class Majority:
    """What ``river.dummy.PriorClassifier`` would have predicted, and how often it was right.

    Labels are numbered in the order of their first appearance, and of equally frequent
    ones the first is predicted. Before the first label there is no prediction.
    """

    def __init__(self) -> None:
        self.labels = np.zeros(0, dtype=np.int64)
        self.predicted = np.zeros(0, dtype=np.int64)
        self.hits = 0
        self._leader = -1

    def absorb(self, labels: npt.NDArray[np.intp], known: int) -> None:
        """Take in the labels of a block; ``known`` is how many different ones there are."""
        if known > len(self.labels):
            more = (0, known - len(self.labels))
            self.labels = np.pad(self.labels, more)
            self.predicted = np.pad(self.predicted, more)
        if self._lead() > len(labels):
            counts = np.bincount(labels, minlength=known)
            self.labels += counts
            self.predicted[self._leader] += len(labels)
            self.hits += int(counts[self._leader])
        elif known <= FEW:
            self._absorb_together(labels)
        else:
            self._absorb_one_by_one(labels.tolist())

    def _lead(self) -> int:
        """How far the leader is ahead: it leads through any block shorter than this."""
        if self._leader < 0:
            return 0
        second = np.delete(self.labels, self._leader).max(initial=0)
        return int(self.labels[self._leader] - second)

    def _absorb_together(self, labels: npt.NDArray[np.intp]) -> None:
        """The counts before each event as columns, one for each label."""
        counts = np.empty((len(self.labels), len(labels) + 1), dtype=np.int64)
        counts[:, 0] = self.labels
        leaders = np.zeros(len(labels) + 1, dtype=np.intp)
        highest = counts[0]
        for label, column in enumerate(counts):
            column[1:] = labels == label
            np.add.accumulate(column, out=column)
            if label:
                leaders[column > highest] = label
                highest = np.maximum(column, highest)
        before, first = leaders[:-1], int(not self.labels.any())
        self.labels = counts[:, -1].copy()
        self.predicted += np.bincount(before[first:], minlength=len(counts))
        self.hits += int(np.count_nonzero(before[first:] == labels[first:]))
        self._leader = int(leaders[-1])

    def _absorb_one_by_one(self, labels: list[int]) -> None:
        counts, predicted = self.labels.tolist(), self.predicted.tolist()
        leader, hits = self._leader, self.hits
        highest = counts[leader] if leader >= 0 else 0
        for label in labels:
            if leader >= 0:
                predicted[leader] += 1
                if leader == label:
                    hits += 1
            count = counts[label] + 1
            counts[label] = count
            if count > highest or (count == highest and label < leader):
                leader, highest = label, count
        self.labels[:], self.predicted[:] = counts, predicted
        self._leader, self.hits = leader, hits

    def dump(self) -> dict[str, Any]:
        return {
            "labels": self.labels.tolist(),
            "predicted": self.predicted.tolist(),
            "hits": self.hits,
        }

    def load(self, tree: dict[str, Any]) -> None:
        self.labels = np.array(tree["labels"], dtype=np.int64)
        self.predicted = np.array(tree["predicted"], dtype=np.int64)
        if len(self.labels) != len(self.predicted):
            raise ValueError("the majority baseline's columns differ in length")
        self.hits = tree["hits"]
        self._leader = int(self.labels.argmax()) if len(self.labels) else -1
