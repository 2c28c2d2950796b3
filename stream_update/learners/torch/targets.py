"""What a network's outputs mean for each task: loss, labels as targets, outputs as answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from stream_update import plugins
from stream_update.answers import applying
from stream_update.errors import ConfigError
from stream_update.events import Predictions, Tree
from stream_update.learners.torch.columns import Floats
from stream_update.learners.torch.scaling import LARGEST, Scaler

__all__ = ["Targets"]

LOSSES: dict[str, dict[str, Callable[[Any, Any], Any]]] = {
    "binary": {"log": functional.binary_cross_entropy_with_logits},
    "multiclass": {"log": functional.cross_entropy, "hinge": functional.multi_margin_loss},
    "multilabel": {"log": functional.binary_cross_entropy_with_logits},
    "regression": {
        "squared": functional.mse_loss,
        "absolute": functional.l1_loss,
        "huber": functional.huber_loss,
    },
}
"""By task and name; the first of each is the default."""


class Targets:
    """The classes of a stream in the order in which they came, and the loss.

    * ``binary``: one output, the logit of True.
    * ``multiclass``: an output for each class, logits of a softmax.
    * ``multilabel``: an output for each class, the logit that it applies. The loss is the mean
      over events and classes. A label is a mapping of class to bool, or a list of those that
      apply; a class that it does not name does not. While there is no class at all there is
      one output, which learns that the first one, whatever it will be, has not applied.
    * ``regression``: one output, the number.

    ``loss`` is a name of :data:`LOSSES` or ``"module:attribute"``, a function of outputs
    and targets. With ``standardise`` the network learns numbers as they are apart from the
    mean of all that were learned, in standard deviations.
    """

    def __init__(
        self,
        task: str,
        loss: str | None,
        classes: Sequence[Any] = (),
        *,
        standardise: bool = False,
    ) -> None:
        if task not in LOSSES:
            raise ConfigError(f"task: {task!r} is none", hint=f"one of: {', '.join(LOSSES)}")
        self._task = task
        names = LOSSES[task]
        self.name = loss or next(iter(names))
        if ":" in self.name:
            self.loss: Callable[[Any, Any], Any] = plugins.resolve(self.name, "learner.loss")
        elif self.name in names:
            self.loss = names[self.name]
        else:
            raise ConfigError(
                f"learner.loss: there is no {self.name!r} for the task {task!r}",
                hint=f'one of: {", ".join(names)}, or a function of yours: "my_models:loss"',
            )
        self._index: dict[Any, int] = {}
        self._scaler = Scaler() if standardise else None
        self._know(classes)

    @property
    def classes(self) -> list[Any]:
        """In the order of the outputs."""
        return list(self._index)

    @property
    def outputs(self) -> int:
        """How many a network needs; at least one."""
        return max(1, len(self._index))

    def admit(self, labels: Sequence[Any]) -> None:
        """Take in the new classes of labels, in their order."""
        if self._task == "multiclass" and not self._index.keys() >= set(labels):
            self._know(labels)
        elif self._task == "multilabel":
            for label in labels:
                if not self._index.keys() >= label.keys():
                    self._know(label)

    def _know(self, classes: Iterable[Any]) -> None:
        if self._task in {"multiclass", "multilabel"}:
            for name in classes:
                self._index.setdefault(name, len(self._index))

    def limit(self, outputs: int) -> None:
        """Forget the classes beyond so many outputs."""
        self._index = dict(list(self._index.items())[:outputs])

    def unknown(self, labels: Sequence[Any]) -> int | None:
        """The position of the first label with a class that is none, None if all are."""
        if self._task == "multiclass":
            return next((i for i, label in enumerate(labels) if label not in self._index), None)
        if self._task == "multilabel":
            new = ({name for name in label if label[name]} - self._index.keys() for label in labels)
            return next((i for i, names in enumerate(new) if names), None)
        return None

    def missing(self, label: Any) -> Any:
        """The class of an :meth:`unknown` label that is none."""
        if self._task != "multilabel":
            return label
        return next(name for name, on in label.items() if on and name not in self._index)

    def observe(self, labels: Sequence[Any]) -> None:
        """Let mean and deviation know of labels that are about to be learned."""
        if self._scaler is not None:
            self._scaler.learn(_column(labels))

    def tensor(self, labels: Sequence[Any], device: Any) -> Any:
        """The labels as the loss wants them, shaped as the outputs are."""
        if self._task == "multiclass":
            return torch.tensor(list(map(self._index.__getitem__, labels)), device=device)
        if self._task == "multilabel":
            rows = [self._row(label) for label in labels]
            return torch.tensor(rows, dtype=torch.float32, device=device)
        if self._scaler is not None:
            given = _column(labels)
            # One that is too large makes a loss that is not finite, and is not the mean.
            known = np.abs(given) <= LARGEST
            labels = np.where(known, self._scaler.scale(given), np.inf)[:, 0].tolist()
        return torch.tensor(labels, dtype=torch.float32, device=device).unsqueeze(1)

    def _row(self, label: Any) -> list[bool]:
        if isinstance(label, list):
            label = dict.fromkeys(label, True)
        elif not isinstance(label, Mapping):
            raise ConfigError(
                f"learner.start.source: {label!r:.200} is no list of classes, and no object of "
                "class to true or false"
            )
        return [label.get(name, False) for name in self._index] or [False]

    def answers(self, outputs: Any) -> Predictions:
        """Predictions from outputs of shape (events, outputs)."""
        if self._task == "regression":
            numbers = outputs.squeeze(1).tolist()
            if self._scaler is not None:
                numbers = self._scaler.back(_column(numbers))[:, 0].tolist()
            return Predictions(numbers)
        made: list[Mapping[Any, float]]
        if self._task == "binary":
            chances = torch.sigmoid(outputs.squeeze(1)).tolist()
            made = [{False: 1.0 - chance, True: chance} for chance in chances]
            return Predictions([chance > 0.5 for chance in chances], made)  # noqa: PLR2004
        classes = self.classes
        if self._task == "multilabel":
            rows = torch.sigmoid(outputs)[:, : len(classes)].tolist()
            made = [dict(zip(classes, row, strict=True)) for row in rows]
            return Predictions(list(map(applying, made)), made)
        made = [
            dict(zip(classes, row, strict=True)) for row in torch.softmax(outputs, dim=1).tolist()
        ]
        return Predictions([classes[i] for i in outputs.argmax(dim=1).tolist()], made)

    def dump(self) -> Tree:
        """Mean and deviation of the labels; only where they are standardised."""
        return None if self._scaler is None else self._scaler.dump()

    def load(self, tree: Tree) -> None:
        if self._scaler is not None:
            self._scaler.load(tree, 1)

    def ignorance(self, count: int) -> Predictions:
        """The answers of who has learned nothing."""
        if self._task == "regression":
            return Predictions([0.0] * count)
        if self._task == "multilabel":
            return Predictions([{} for _ in range(count)], [{} for _ in range(count)])
        return Predictions([None] * count, [{} for _ in range(count)])


def _column(numbers: Sequence[Any]) -> Floats:
    return np.array(numbers, dtype=np.float64).reshape(-1, 1)
