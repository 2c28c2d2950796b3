"""Softmax regression."""

from __future__ import annotations

import collections
import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from stream_update.events import Predictions
from stream_update.learners.compiled import kernels as k
from stream_update.learners.compiled.family import Family
from stream_update.learners.compiled.optimizers import fill_optimizer, kept_names, read_optimizer
from stream_update.learners.compiled.rows import Floats, Numbers, Rows

__all__ = ["Softmax"]

STEPS, FILLED, SHARE = 0, 1, 2
"""What there is of each class."""


class _Said(NamedTuple):
    shares: Floats
    known: Numbers


class Softmax(Family):
    """``SoftmaxRegression``; its weights are by class and slot."""

    def _names(self) -> list[Any]:
        """The first class has been there from the first event on."""
        for label, weights in self._last.weights.items():
            return kept_names(self._last.optimizers[label]) or list(weights)
        return []

    def _begin(self) -> None:
        self._labels: dict[Any, int] = {}
        self._weights = np.zeros((0, len(self._table), k.RANK + 1))
        self._classes = np.zeros((0, SHARE + 1))

    def _widen(self, count: int) -> None:
        super()._widen(count)
        missing = len(self._table) - self._weights.shape[1]
        if missing > 0:
            self._weights = np.pad(self._weights, ((0, 0), (0, missing), (0, 0)))

    def _read(self, names: Sequence[Any]) -> None:
        last = self._last
        places = {name: place for place, name in enumerate(names)}
        self._numbers[k.INTERCEPT] = len(last.weights)
        self._number(list(last.weights))
        for label, weights in last.weights.items():
            own, one = self._weights[self._labels[label]], self._classes[self._labels[label]]
            one[STEPS] = read_optimizer(
                last.optimizers[label], names, own[: len(names), 1 : k.RANK]
            )
            one[FILLED] = len(weights)
            for name in kept_names(last.optimizers[label]):
                own[places[name], k.RANK] = -1.0
            for rank, (name, weight) in enumerate(weights.items(), 1):
                own[places[name], [0, k.RANK]] = weight, rank

    def _fill(self, names: Sequence[Any]) -> None:
        last = self._last
        last.weights.clear()
        last.optimizers.clear()
        for label, number in self._labels.items():
            own = self._weights[number, : len(names)]
            ranks = own[:, k.RANK]
            ranked = np.flatnonzero(ranks > 0.0)[np.argsort(ranks[ranks > 0.0])].tolist()
            last.weights[label] = collections.defaultdict(
                float, ((names[place], float(own[place, 0])) for place in ranked)
            )
            met = np.flatnonzero(ranks).tolist()
            optimizer = copy.deepcopy(last.optimizer)
            fill_optimizer(
                optimizer,
                [names[place] for place in met],
                own[met, 1 : k.RANK],
                int(self._classes[number, STEPS]),
            )
            last.optimizers[label] = optimizer

    def _targets(self, labels: Sequence[Any]) -> Floats:
        try:
            return np.array([self._labels[label] for label in labels], float)
        except KeyError:
            self._number(labels)
        return np.array([self._labels[label] for label in labels], float)

    def _number(self, labels: Sequence[Any]) -> None:
        """Give classes that are new the next numbers."""
        for label in labels:
            self._labels.setdefault(label, len(self._labels))
        missing = len(self._labels) - len(self._weights)
        self._weights = np.pad(self._weights, ((0, missing), (0, 0), (0, 0)))
        self._classes = np.pad(self._classes, ((0, missing), (0, 0)))
        share = self._last.loss.class_weight
        self._classes[:, SHARE] = [share.get(label, 1.0) for label in self._labels]

    def _met_more(self) -> bool:
        return super()._met_more() or len(self._labels) > int(self._numbers[k.INTERCEPT])

    def _forget(self, mark: Any) -> None:
        super()._forget(mark)
        known = int(self._numbers[k.INTERCEPT])
        while len(self._labels) > known:
            self._labels.popitem()
        self._weights = self._weights[:known].copy()
        self._classes = self._classes[:known].copy()

    def _room(self, count: int) -> _Said:
        return _Said(np.empty((count, len(self._labels))), np.zeros(count, np.int64))

    def _loop(self, rows: Rows, targets: Floats, mode: int, said: _Said) -> None:
        k.softmax(
            *rows, targets, mode, self._table, self._numbers, self._plan.kinds,
            self._plan.options, said.shares, self._progress, self._weights, self._classes,
            said.known,
        )  # fmt: skip

    def _answers(self, said: _Said, count: int) -> Predictions:
        labels = list(self._labels)
        shares: list[Mapping[Any, float]] = [
            dict(zip(labels[:known], row, strict=False))
            for row, known in zip(said.shares[:count].tolist(), said.known.tolist(), strict=False)
        ]
        return Predictions(
            [max(one, key=one.__getitem__) if one else None for one in shares], shares
        )
