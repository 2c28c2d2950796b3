"""Features that are no numbers: texts, images and sequences, each read by a reader of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from operator import is_
from typing import Any, NamedTuple

import msgspec
import numpy as np

from stream_update import plugins
from stream_update.errors import ConfigError, CorruptSnapshot, LearnerFailed
from stream_update.events import Features, Predictions, Tree
from stream_update.learners.torch.checks import sizes, whole
from stream_update.learners.torch.images import Image
from stream_update.learners.torch.sequences import Numbers
from stream_update.learners.torch.texts import Text

__all__ = ["Fields", "Read", "check_fields", "with_fields"]

KINDS: dict[str, Callable[..., Any]] = {"text": Text, "image": Image, "sequence": Numbers}
SHORT = {"text": "text", "cnn": "image", "gru": "sequence"}
"""Modules of one field, and its kind."""
HEAD = ("numeric", "hidden", "activation", "dropout")
"""Options of the part of a module behind the fields."""
MOST = 64
ITEM = np.dtype(float).itemsize


WATCHED = 1000
"""Events after which a field that has not come is worth a word."""

logger = logging.getLogger(__name__)


def _there(value: Any) -> bool:
    return value is not None


class Read(NamedTuple):
    """Events as their fields have them: for each field in order a value for each event,
    None where it is missing.
    """

    values: list[list[Any]]

    @property
    def present(self) -> Any:
        """Of shape (events, fields)."""
        there = [[value is not None for value in column] for column in self.values]
        return np.array(there, dtype=bool).T


class Fields:
    """The fields of a stream by name, in the order of their names.

    ``table`` has for each a table with ``use`` and the options of its kind. Raises
    :class:`ConfigError` for what no field can be.
    """

    def __init__(self, table: Any, *, standardise: bool = True) -> None:
        if not isinstance(table, Mapping) or len(table) > MOST:
            raise ConfigError(
                "learner.fields: expected a table of at most 64 fields",
                hint='[learner.fields] body = { use = "text" }',
            )
        self.readers = {name: _reader(name, table[name]) for name in sorted(table)}
        self.names = frozenset(self.readers)
        for reader in self._scaled.values():
            reader.start(standardise=standardise)
        self._last: tuple[list[Features], Read] = ([], Read([]))
        self._awaited = set(self.readers)
        self._watched = 0

    def __len__(self) -> int:
        return len(self.readers)

    @property
    def _scaled(self) -> dict[str, Any]:
        return {name: r for name, r in self.readers.items() if not isinstance(r, Text)}

    def read(self, features: Sequence[Features], phase: str = "predict") -> Read:
        """What the fields of these events hold. Nobody may write into it.

        Raises :class:`~stream_update.errors.LearnerFailed` at the first event that has
        something else in a field.
        """
        # A mini-batch is predicted and then learned: the same objects are the same events.
        events, last = self._last
        if len(events) == len(features) and all(map(is_, events, features)):
            return last
        rows = [self._row(index, event, phase) for index, event in enumerate(features)]
        found = Read([[row[place] for row in rows] for place in range(len(self))])
        self._last = (list(features), found)
        return found

    def _row(self, index: int, event: Features, phase: str) -> list[Any]:
        row = []
        for name, reader in self.readers.items():
            value = event.get(name)
            try:
                row.append(None if value is None else reader.read(value))
            except (ValueError, TypeError, OverflowError) as error:
                cause = ValueError(f"field {name!r}: {error}")
                raise LearnerFailed(index, phase, cause, Predictions([])) from error
        return row

    def learn(self, read: Read) -> None:
        """Let what is scaled by what has been seen know these."""
        if self._awaited:
            self._watch(read)
        for reader, values in zip(self.readers.values(), read.values, strict=True):
            if not isinstance(reader, Text):
                reader.learn(values)

    def _watch(self, read: Read) -> None:
        """Say once which fields never came: a name that is misspelt cannot be known ahead."""
        columns = dict(zip(self.readers, read.values, strict=True))
        self._awaited = {name for name in self._awaited if not any(map(_there, columns[name]))}
        self._watched += len(read.values[0])
        if self._awaited and self._watched >= WATCHED:
            logger.warning(
                "none of the %d events that this process has learned so far has the field %s: is "
                "it spelt as in [learner.fields]?",
                self._watched,
                ", ".join(map(repr, sorted(self._awaited))),
            )
            self._awaited.clear()

    def arrays(self, read: Read) -> list[tuple[Any, ...]]:
        """Each field of all events as its encoder takes it."""
        return [
            reader.join(values)
            for reader, values in zip(self.readers.values(), read.values, strict=True)
        ]

    def begin(self, tree: Tree, events: int) -> None:
        """Take what :meth:`dump` gave elsewhere, of the fields that are here too, for what at
        most so many events said.
        """
        for name, reader in self._scaled.items():
            if name in tree and len(tree[name]["mean"]) == ITEM * reader.columns:
                reader.scaler.load(tree[name], reader.columns)
                reader.scaler.discount(events)

    def dump(self) -> Tree:
        return {name: reader.scaler.dump() for name, reader in self._scaled.items()}

    def load(self, tree: Tree) -> None:
        """Take back what :meth:`dump` gave; raises :class:`CorruptSnapshot`."""
        scaled = self._scaled
        if tree.keys() != scaled.keys():
            raise CorruptSnapshot("it has scalers of other fields than it names")
        for name, reader in scaled.items():
            reader.scaler.load(tree[name], reader.columns)
            if tree[name]["mean"] and len(tree[name]["mean"]) != ITEM * reader.columns:
                raise CorruptSnapshot(f"the scaler of {name!r} does not have its columns")
        self._last = ([], Read([]))


def with_fields(module: Any, fields: Mapping[str, Any] | None) -> Any:
    """The table of a module with the fields among its options.

    ``text``, ``cnn`` and ``gru`` are ``fusion`` with one ``field``, whose options stand
    beside those of the module, and no hidden layer unless it is asked for.
    """
    given = {"use": module} if isinstance(module, str) else module
    use = given.get("use") if isinstance(given, Mapping) else None
    if use in SHORT:
        if fields:
            raise ConfigError(
                f"learner.fields: the module {use} has a field of its own",
                hint='use module = "fusion" for several fields',
            )
        if not isinstance(given.get("field"), str):
            raise ConfigError(
                f"learner.module.field: {use} needs the name of a field",
                hint=f'module = {{ use = "{use}", field = "name of the feature" }}',
            )
        options = {k: v for k, v in given.items() if k not in {*HEAD, "use", "field"}}
        head = {k: v for k, v in given.items() if k in HEAD}
        return {
            "use": "fusion",
            "hidden": [],
            **head,
            "fields": {given["field"]: _plain({"use": SHORT[use], **options})},
        }
    if not fields:
        return module
    if use != "fusion":
        raise ConfigError(
            f"learner.fields: the module {use!r} takes numbers only",
            hint='module = "fusion", or { use = "fusion", hidden = [64] }',
        )
    return {**given, "fields": _plain(fields)}


def check_fields(module: Mapping[str, Any]) -> None:
    """Raise :class:`CorruptSnapshot` if a snapshot's module has fields or layers that cannot be."""
    if module["use"] == "fusion":
        try:
            Fields(module.get("fields"))
            whole("numeric", module.get("numeric", 1))
            sizes("hidden", module.get("hidden", []), (0, MOST))
        except ConfigError as error:
            raise CorruptSnapshot(f"its settings cannot be: {error}") from error


def _plain(table: Any) -> Any:
    """As it comes out of a snapshot."""
    return msgspec.json.decode(msgspec.json.encode(table))


def _reader(name: str, table: Any) -> Any:
    where = f"learner.fields.{name}"
    given = {"use": table} if isinstance(table, str) else table
    kind = given.get("use") if isinstance(given, Mapping) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(
            f"{where}: there is no kind of field {kind!r:.100}", hint=f"one of: {', '.join(KINDS)}"
        )
    options = {key: value for key, value in given.items() if key != "use"}
    try:
        return plugins.call(KINDS[kind], kind, options, where, {})
    except ConfigError as error:
        if str(error).startswith(where):
            raise
        raise ConfigError(f"{where}.{error}", hint=error.hint) from error
