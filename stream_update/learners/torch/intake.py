"""What of a stream's events and labels a network is given, and what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from stream_update.errors import LearnerFailed
from stream_update.events import Features, Predictions, Tree
from stream_update.learners.torch.columns import Columns, Table
from stream_update.learners.torch.fields import Fields
from stream_update.learners.torch.fusion import inputs_of
from stream_update.learners.torch.modules import Shape
from stream_update.learners.torch.network import Network
from stream_update.learners.torch.scaling import Scaler
from stream_update.learners.torch.targets import Targets

__all__ = ["Intake"]


class Intake:
    """Columns with their scales, fields and targets, which grow and move with the stream."""

    def __init__(
        self, columns: Columns, scaler: Scaler, fields: Fields, targets: Targets, device: Any
    ) -> None:
        self.columns = columns
        self.scaler = scaler
        self.fields = fields
        self.targets = targets
        self._device = device
        self._seen: tuple[Any, Any] = (None, None)

    def __len__(self) -> int:
        """How many columns and fields there are to learn from."""
        return len(self.columns) + len(self.fields)

    @property
    def shape(self) -> Shape:
        """That of a module for what is known so far."""
        return Shape(
            len(self.columns), self.targets.outputs, self.columns.names, self.targets.classes
        )

    def admit(
        self, network: Network | None, features: Sequence[Features], labels: Sequence[Any]
    ) -> None:
        """Take in the columns and classes that these events bring, where the network can grow.

        Raises :class:`~stream_update.errors.LearnerFailed` at an event of a class that it can
        have no output for.
        """
        if network is None or network.first is not None:
            self.columns.admit(features)
        if network is None or network.last is not None:
            self.targets.admit(labels)
        elif (index := self.targets.unknown(labels)) is not None:
            cause = ValueError(
                f"class {self.targets.missing(labels[index])!r} is new and the module has no "
                "output for it: name its last layer, [learner] last, or all classes, "
                "[source] classes"
            )
            raise LearnerFailed(index, "learn", cause, Predictions([]))

    def learn(self, features: Sequence[Features]) -> Any:
        """Let the scales know of these events, and give the tensor of them."""
        table = self.columns.read(features)
        self.scaler.learn(table.numbers)
        self.fields.learn(self.fields.read(features, "learn"))
        return self._with_fields(features, self._scaled(table))

    def tensor(self, features: Sequence[Features]) -> Any:
        """What the module takes: the numbers alone if there are no fields."""
        return self._with_fields(features, self._scaled(self.columns.read(features)))

    def answers(self, labels: Sequence[Any]) -> Any:
        """What the module should have said, as the loss wants it; the targets' scale learns it."""
        self.targets.observe(labels)
        return self.targets.tensor(labels, self._device)

    def _with_fields(self, features: Sequence[Features], numbers: Any) -> Any:
        if not len(self.fields):
            return numbers
        return inputs_of(self.fields, self.fields.read(features), numbers)

    def _scaled(self, table: Table) -> Any:
        whole = self.columns.matrix(table, self.scaler.scale(table.numbers))
        if whole is not self._seen[0]:
            # Copied into memory of torch's own: how that is aligned decides on the last bits.
            self._seen = whole, torch.from_numpy(whole).to(self._device, torch.float32)
        return self._seen[1]

    def dump(self) -> Tree:
        return {
            "columns": self.columns.dump(),
            "classes": self.targets.classes,
            "scaler": self.scaler.dump(),
            "fields": self.fields.dump(),
        }

    def load(self, tree: Tree) -> None:
        """Take back what :meth:`dump` gave, but for the classes.

        Raises :class:`~stream_update.errors.CorruptSnapshot`.
        """
        self.columns.load(tree["columns"])
        self.scaler.load(tree["scaler"], len(self.columns.numbers))
        self.fields.load(tree["fields"])
