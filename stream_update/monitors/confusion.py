"""river's confusion matrix, made at once from counts instead of event by event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from river import metrics

__all__ = ["Confusion"]


class Confusion(metrics.ConfusionMatrix):
    """What river's metrics read their figures from.

    Rows and columns come in the order in which labels and predictions first came up,
    as they do in river, so sums over classes run in river's order and agree with it to
    the last digit. Except for classes that are strings: river walks a set, whose order
    changes with them from process to process. Here they follow in the order of their
    first appearance, so that a restarted process reports the same digits.
    """

    @classmethod
    def of(cls, pairs: Mapping[tuple[Any, Any], float]) -> Self:
        """From the weight of each pair of label and prediction."""
        made = cls()
        for (label, value), weight in pairs.items():
            if weight:
                made.update(label, value, w=float(weight))  # type: ignore[no-untyped-call]
        made.n_samples = made.total_weight
        return made

    @classmethod
    def of_marginals(
        cls, labels: Mapping[Any, float], values: Mapping[Any, float], hits: float
    ) -> Self:
        """From the weight of each label, of each prediction, and of the right ones.

        Enough for accuracy and kappa; there are no single cells.
        """
        made = cls()
        made.sum_row.update(labels)
        made.sum_col.update(values)
        weight: Any = sum(labels.values())
        made.total_weight = made.n_samples = weight
        made._total_true_positives = hits
        return made

    @property
    def classes(self) -> list[Any]:
        seen: dict[Any, None] = {}
        for column in (self.sum_row, self.sum_col):
            seen.update((name, None) for name, weight in column.items() if weight)
        # The prediction None has no part in any sum, but in the size of river's set.
        ordered = {name for name, weight in self.sum_row.items() if weight and _has_order(name)} | {
            name for name, weight in self.sum_col.items() if weight and _has_order(name)
        }
        return [*ordered, *(name for name in seen if name not in ordered)]


def _has_order(name: Any) -> bool:
    """Whether a set puts it in the same place in every process."""
    return name is None or isinstance(name, int | float)
