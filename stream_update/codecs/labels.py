"""What a label may be: one type for the whole stream, and no more classes than allowed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stream_update.codecs.labelsets import check_set, known_sets
from stream_update.codecs.layout import MISSING, SourceOptions
from stream_update.codecs.words import kind_of, shown
from stream_update.errors import BadEvent, ConfigError
from stream_update.events import Tree

__all__ = ["LabelSchema"]

_BINARY = {0: False, 1: True, "0": False, "1": True}
_UNLABELLED: dict[str, dict[Any, None]] = {
    "null": {None: None},
    "absent": {None: None, MISSING: None},
    "reject": {},
}
_TYPES: dict[str, type] = {"bool": bool, "int": int, "str": str}
_LARGEST_CLASS = 2**63 - 1


class LabelSchema:
    """Turns raw labels into the labels a learner sees, or rejects them.

    * ``binary``: 0/1, true/false, 0.0/1.0, "0"/"1" become a bool.
    * ``multiclass``: a text, a whole number (1.0 is 1) or a bool; the first valid label
      decides which for the whole stream, and new classes are admitted up to
      ``max_classes``. With ``classes`` only those are.
    * ``multilabel``: a list of classes as above, none of them twice, or an object of class
      to true or false. It becomes a mapping that says of every class admitted so far
      whether it applies: one that the event does not name does not. An empty list is a label.
    * ``regression``: a number within ``max_number``, as it is.

    What has been admitted is part of a lane's state (:meth:`dump`, :meth:`load`):
    the same events must be accepted again when a lane is restored.
    """

    def __init__(self, task: str, source: SourceOptions) -> None:
        if task not in ("binary", "multiclass", "multilabel", "regression"):
            raise ConfigError(
                f'task = "{task}" is not known',
                hint="use binary, multiclass, multilabel or regression",
            )
        self.task = task
        self._name = source.label
        self._place = f'field "{source.label}"'
        if source.format == "raw":
            self._place = f'header "{source.label.removeprefix("header:")}"'
        self._limit = source.max_number
        self._max_string = source.max_string
        self._max_classes = source.max_classes
        self._unlabelled: dict[Any, None] = _UNLABELLED[source.unlabelled]
        self._closed = bool(source.classes)
        self._verb = "has" if task == "multilabel" else "is"
        self._classes: list[Any] = []
        self._type: type | None = None
        # What a raw label stands for; 1, 1.0 and true are one key.
        self._table: dict[Any, Any] = {}
        self._nothing: dict[Any, bool] = {}
        self._types: set[type] = set()
        if source.classes:
            self._declare(source.classes)
        self._know()

    @property
    def classes(self) -> list[Any]:
        """The classes admitted so far, in the order in which they were."""
        return list(self._classes)

    def known(self, raw: Sequence[Any]) -> list[Any] | None:
        """All labels at once, None for an unlabelled event.

        Returns None (for all) if any of them has to be judged by :meth:`admit`.
        """
        if self.task == "multilabel":
            return known_sets(raw, self._unlabelled, self._nothing, self._types)
        if self.task != "binary" and not self._types.issuperset(map(type, raw)):
            return None
        if self.task == "regression":
            return self._known_numbers(raw)
        try:
            return [self._table[label] for label in raw]
        except (KeyError, TypeError):  # TypeError: an object
            return None

    def _known_numbers(self, raw: Sequence[Any]) -> list[Any] | None:
        labels = [None if label is None or label is MISSING else label for label in raw]
        numbers = [label for label in labels if label is not None]
        if numbers and not (max(numbers) <= self._limit and min(numbers) >= -self._limit):
            return None
        return labels

    def admit(self, raw: Any) -> Any:
        """One label; None if the event is unlabelled. Raises :class:`BadEvent`."""
        if raw is None or raw is MISSING:
            if raw in self._unlabelled:
                return None
            if raw is MISSING:
                raise BadEvent(
                    "label-missing",
                    f"the record has no {self._place} (source.label); "
                    + (
                        "an unlabelled event has to say so with a null, "
                        'or set source.unlabelled = "absent"'
                        if self._unlabelled
                        else 'source.unlabelled = "reject" asks every event for a label'
                    ),
                )
            raise BadEvent(
                "label-null",
                f'label "{self._name}" is null, and source.unlabelled = "reject"',
            )
        if self.task == "binary":
            return self._binary(raw)
        if self.task == "regression":
            return self._number(raw)
        if self.task == "multilabel":
            return self._set(raw)
        return self._class(raw)

    def dump(self) -> Tree:
        """The admitted type and classes, as a tree of plain values."""
        kind = None if self._type is None else self._type.__name__
        return {"type": kind, "classes": self.classes}

    def load(self, tree: Tree) -> None:
        """Replace what has been admitted by what :meth:`dump` returned."""
        self._type = None if tree["type"] is None else _TYPES[tree["type"]]
        self._classes = list(tree["classes"])
        self._know()

    def _know(self) -> None:
        """What :meth:`known` goes by."""
        classes = _BINARY if self.task == "binary" else {label: label for label in self._classes}
        self._table = {**self._unlabelled, **classes}
        self._nothing = dict.fromkeys(self._classes, False)
        self._types = set() if self.task == "multilabel" else set(map(type, self._unlabelled))
        if self.task == "regression" or self._type is int:
            self._types |= {int, float}
        elif self._type is not None:
            self._types.add(self._type)

    def _declare(self, classes: Sequence[Any]) -> None:
        if self.task not in ("multiclass", "multilabel"):
            raise ConfigError(
                f'source.classes has no meaning with task = "{self.task}"',
                hint='leave it out, or set task = "multiclass" or "multilabel"',
            )
        kinds = set(map(type, classes))
        if len(kinds) != 1 or not kinds <= set(_TYPES.values()):
            raise ConfigError(
                f"source.classes has to be all text, all whole numbers or all true/false, "
                f"not {list(classes)!r}",
                hint='a learner takes 1 and true for the same class, and 1 and "1" for two',
            )
        self._type = kinds.pop()
        self._classes = list(dict.fromkeys(classes))

    def _binary(self, raw: Any) -> bool:
        label = _BINARY.get(raw) if isinstance(raw, int | float | str) else None
        if label is None:
            raise BadEvent(
                "label-type",
                f'label "{self._name}" is {shown(raw)}; task = "binary" takes 0/1, true/false '
                'or "0"/"1", and task = "multiclass" any text',
            )
        return label

    def _number(self, raw: Any) -> int | float:
        if type(raw) is not int and type(raw) is not float:
            raise BadEvent(
                "label-type",
                f'label "{self._name}" is {shown(raw)}; task = "regression" takes a number',
            )
        if not -self._limit <= raw <= self._limit:
            raise BadEvent(
                "label-out-of-range",
                f'label "{self._name}" is {shown(raw)}, beyond ±{self._limit:g} '
                "(source.max_number)",
            )
        return raw

    def _set(self, raw: Any) -> dict[Any, bool]:
        """None of its classes is admitted if one of them is refused."""
        named: dict[Any, bool] = {}
        new: list[Any] = []
        for one, applies in check_set(raw, self._name):
            name = self._checked(one, more=len(new))
            if new and type(name) is not type(new[0]):
                raise BadEvent(
                    "label-type",
                    f'label "{self._name}" has {shown(one)}, {kind_of(one)}, beside '
                    f"{kind_of(new[0])}: a learner must not see two types of class",
                )
            if name in named:
                raise BadEvent(
                    "label-duplicate", f'label "{self._name}" has the class {shown(one)} twice'
                )
            named[name] = applies
            if name not in self._nothing:
                new.append(name)
        if new:
            self._type = type(new[0])
            self._classes += new
            self._know()
        return self._nothing | named

    def _class(self, raw: Any) -> Any:
        name = self._checked(raw)
        if name not in self._table:
            self._type = type(name)
            self._classes.append(name)
            self._know()
        return name

    def _checked(self, raw: Any, more: int = 0) -> Any:
        """The class that this stands for; ``more`` are to be admitted before it."""
        if type(raw) is float and raw.is_integer():
            raw = int(raw)
        self._check_class(raw)
        if raw in self._table:
            return raw
        if self._closed:
            raise BadEvent(
                "label-unknown-class",
                f'label "{self._name}" {self._verb} {shown(raw)}, which is not one of the '
                f"{len(self._classes)} classes of source.classes",
            )
        if len(self._classes) + more >= self._max_classes:
            raise BadEvent(
                "too-many-classes",
                f'label "{self._name}" {self._verb} {shown(raw)}, a new class, and the stream has '
                f"{self._max_classes} already (source.max_classes)",
            )
        return raw

    def _check_class(self, raw: Any) -> None:
        if type(raw) not in _TYPES.values():
            raise BadEvent(
                "label-type",
                f'label "{self._name}" {self._verb} {shown(raw)}; task = "{self.task}" takes '
                f"{'classes that are ' if self.task == 'multilabel' else ''}"
                "a text, a whole number or true/false",
            )
        if self._type is not None and type(raw) is not self._type:
            raise BadEvent(
                "label-type",
                f'label "{self._name}" {self._verb} {shown(raw)}, {kind_of(raw)}, but '
                + ("source.classes" if self._closed else "the first label of the stream")
                + f" was {kind_of(self._classes[0])}: "
                "a learner must not see two types of class",
            )
        if type(raw) is str and len(raw) > self._max_string:
            raise BadEvent(
                "string-too-long",
                f'label "{self._name}" has {len(raw)} characters, more than {self._max_string} '
                "(source.max_string)",
            )
        if type(raw) is int and abs(raw) > _LARGEST_CLASS:
            raise BadEvent(
                "label-out-of-range",
                f'label "{self._name}" {self._verb} {shown(raw)}; a class is a whole number of '
                "64 bits",
            )
