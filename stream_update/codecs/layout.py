"""Which field of a record is the label, the id, the time, the key, and which are features."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, NamedTuple, Protocol

from stream_update.errors import ConfigError
from stream_update.events import Features

__all__ = ["FEATURES", "MISSING", "Layout", "Place", "RawOptions", "Rows", "SourceOptions"]

MISSING: Final = object()
"""Stands for a field that a record does not have; ``None`` is a field that is null."""

FEATURES: Final = "features"
"""The field that holds the features of a record in the nested layout."""


class RawOptions(Protocol):
    """What the bytes of a record are, where they are no JSON."""

    @property
    def field(self) -> str: ...
    @property
    def shape(self) -> Sequence[int]: ...


class SourceOptions(Protocol):
    """The options of ``[source]`` that decoding depends on."""

    @property
    def topic(self) -> str: ...
    @property
    def format(self) -> str: ...
    @property
    def raw(self) -> RawOptions | None: ...
    @property
    def label(self) -> str: ...
    @property
    def features(self) -> str | Sequence[str] | None: ...
    @property
    def id(self) -> str | None: ...
    @property
    def time(self) -> str | None: ...
    @property
    def key(self) -> str | None: ...
    @property
    def origin(self) -> str | None: ...
    @property
    def max_share(self) -> float: ...
    @property
    def share_window(self) -> int: ...
    @property
    def unlabelled(self) -> str: ...
    @property
    def duplicate_window(self) -> int: ...
    @property
    def classes(self) -> Sequence[Any] | None: ...
    @property
    def max_number(self) -> float: ...
    @property
    def max_bytes(self) -> int: ...
    @property
    def max_keys(self) -> int: ...
    @property
    def max_features(self) -> int: ...
    @property
    def max_names(self) -> int: ...
    @property
    def max_key_length(self) -> int: ...
    @property
    def max_string(self) -> int: ...
    @property
    def max_list(self) -> int: ...
    @property
    def max_classes(self) -> int: ...


class Rows(NamedTuple):
    """Decoded records as columns.

    ``fields`` maps each field with a meaning of its own (label, id, time, key, origin) to
    its raw values, :data:`MISSING` where a record does not have it. ``names`` are those
    of all features.
    """

    features: Sequence[Features]
    fields: dict[str, list[Any]]
    names: AbstractSet[str]


class Place(NamedTuple):
    """Where a value is: in a field, in a header, or (both None) in the record's metadata."""

    field: str | None = None
    header: str | None = None


class Layout:
    """The meaning of the fields of a record.

    Nested layout (``features`` is None): the features are the object under the key
    ``features`` and everything else stands beside it. Flat layout: the features are
    those keys of the record that match ``features``, without label, id, time, key and
    origin.

    ``fields`` are the distinct names of the fields with a meaning of their own.
    """

    def __init__(self, source: SourceOptions) -> None:
        self.label = source.label
        self.id = _place(source.id)
        self.time = _place(source.time, record=True)
        self.key = _place(source.key, record=True)
        self.origin = _place(source.origin, record=True)
        self.nested = source.features is None
        self.patterns = _patterns(source.features)
        self.wanted = _matcher(self.patterns)
        places = (self.id.field, self.time.field, self.key.field, self.origin.field)
        self.fields = tuple(dict.fromkeys([self.label, *(name for name in places if name)]))
        if self.nested and FEATURES in self.fields:
            raise ConfigError(
                f'source: the field "{FEATURES}" holds the features and can have no other meaning',
                hint='name another field, or set source.features = "*" for records without nesting',
            )

    def describe_features(self) -> str:
        """What a record must have, for messages."""
        if self.nested:
            return f'a feature in the object "{FEATURES}"'
        return "a field that matches source.features = " + " or ".join(
            f'"{pattern}"' for pattern in self.patterns
        )


def _place(option: str | None, *, record: bool = False) -> Place:
    if option is None or (record and option == "record"):
        return Place()
    if option.startswith("header:"):
        return Place(header=option.removeprefix("header:"))
    return Place(field=option)


def _patterns(features: str | Sequence[str] | None) -> tuple[str, ...]:
    if features is None:
        return ("*",)
    return (features,) if isinstance(features, str) else tuple(features)


def _matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    if "*" in patterns:
        return _everything
    if not any(set(pattern) & set("*?[") for pattern in patterns):
        return frozenset(patterns).__contains__
    regex = re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns))
    return lambda key: regex.match(key) is not None


def _everything(_key: str) -> bool:
    return True
