"""Features besides user and item: a column for each, and what each contributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from stream_update.errors import CorruptSnapshot
from stream_update.events import Features, Tree
from stream_update.learners.recommender.ids import Whole
from stream_update.learners.recommender.rows import Optimizer, Rows
from stream_update.learners.torch.columns import Columns
from stream_update.learners.torch.scaling import Scaler

__all__ = ["Sides", "Traits"]


class Sides:
    """A linear layer whose inputs come as features come: a row of weights for each column.

    Numbers are standardised by all that was learned of them, texts are categories; a new
    column begins at 0, and what is missing is the mean.
    """

    def __init__(self, width: int, optimizer: Optimizer, limit: int) -> None:
        self._columns = Columns(limit=limit)
        self._scaler = Scaler()
        self.rows = Rows(width, optimizer)

    @property
    def names(self) -> list[str]:
        return self._columns.names

    def __len__(self) -> int:
        return len(self.rows)

    def learn(self, features: Sequence[Features]) -> None:
        """Admit the columns of these events, and take in their numbers."""
        self._columns.admit(features)
        self.rows.admit(len(self._columns))
        self._scaler.learn(self._columns.read(features).numbers)

    def matrix(self, features: Sequence[Features]) -> Any:
        """Events as float32 of shape (events, columns)."""
        table = self._columns.read(features)
        whole = self._columns.matrix(table, self._scaler.scale(table.numbers))
        return torch.from_numpy(whole).to(torch.float32, copy=True)

    def dump(self) -> Tree:
        return {"columns": self._columns.dump(), "scaler": self._scaler.dump()}

    def load(self, tree: Tree) -> None:
        """Take back what :meth:`dump` gave, for the rows as they are by now."""
        self._columns.load(tree["columns"])
        self._scaler.load(tree["scaler"], len(self._columns.numbers))
        if len(self.rows) != len(self._columns):
            raise CorruptSnapshot(
                f"{len(self.rows)} rows of weights for {len(self._columns)} columns"
            )


class Traits(Sides):
    """Features of items, which are remembered as each item had them last."""

    def __init__(self, width: int, optimizer: Optimizer, limit: int) -> None:
        super().__init__(width, optimizer, limit)
        self._known = torch.zeros(1, 0)

    def admit(self, items: int, fresh: Sequence[int]) -> None:
        """Have room for the rows of so many items, and nothing in the ``fresh`` ones."""
        rows, columns = self._known.shape
        if rows <= items or columns < len(self):
            larger = torch.zeros(rows if rows > items else max(items + 1, 2 * rows), len(self))
            larger[:rows, :columns] = self._known
            self._known = larger
        self._known[fresh] = 0.0

    def known(self, items: Whole) -> Any:
        """What was noted of these items, as wide as there are columns."""
        found = self._known[torch.from_numpy(items)]
        return functional.pad(found, (0, len(self) - found.shape[1]))

    def of_events(self, features: Sequence[Features], items: Whole) -> Any:
        """What these events say of their items; where one says nothing, what was noted."""
        told = torch.tensor([bool(event) for event in features])[:, None]
        return torch.where(told, self.matrix(features), self.known(items))

    def note(self, features: Sequence[Features], items: Whole) -> None:
        """Remember what these events said; the last one of an item is what stays."""
        last = {item: index for index, item in enumerate(items.tolist()) if features[index]}
        if last:
            noted = self.matrix([features[index] for index in last.values()])
            self._known[list(last)] = noted

    def table(self, items: int) -> Any:
        """All that was noted of so many items."""
        return self._known[: items + 1]

    def load_known(self, known: Any, items: int) -> None:
        """Take back what :meth:`table` gave; raises :class:`CorruptSnapshot`."""
        if known.shape[:1] != (items + 1,) or known.shape[1:] > (len(self),):
            raise CorruptSnapshot(
                f"what is known of {items} items is of shape {tuple(known.shape)}"
            )
        self._known = known.to(torch.float32, copy=True)
