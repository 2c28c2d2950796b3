"""The careful way through a record: what is wrong with it, said so that a person can act.

Only records that the fast way did not accept come here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from typing import Any

from stream_update.codecs.layout import FEATURES, MISSING, Layout, Rows, SourceOptions
from stream_update.codecs.words import shown
from stream_update.errors import BadEvent
from stream_update.events import Features

__all__ = ["Strict"]

MAX_DEPTH = 64
"""Deeper records are refused here, and not by the interpreter: how deep that can go depends
on its version and on who calls, and a record must not be valid for one and not for another."""

LONGEST_WHOLE = 400
"""More digits than any float has; Python's own limit can be changed from outside."""


class Strict:
    """Parses a record by the letter and checks every limit of ``[source]``."""

    def __init__(self, source: SourceOptions, layout: Layout) -> None:
        self._source = source
        self._layout = layout

    def read(self, value: bytes | None) -> Rows:
        """The event in one record; raises :class:`BadEvent` if there is none."""
        record = self._object(value)
        features = self._features(record)
        fields = {name: [record.get(name, MISSING)] for name in self._layout.fields}
        return Rows([features], fields, features.keys())

    def _object(self, value: bytes | None) -> dict[str, Any]:
        if not value:
            raise BadEvent("empty", "the record has no value")
        if len(value) > self._source.max_bytes:
            raise BadEvent(
                "too-large",
                f"the record has {len(value)} bytes, more than {self._source.max_bytes} "
                "(source.max_bytes)",
            )
        if value.startswith(b"\xef\xbb\xbf"):
            raise BadEvent(
                "not-json", "the record begins with a byte order mark; write UTF-8 without one"
            )
        try:
            text = value.decode()
        except UnicodeDecodeError as error:
            raise BadEvent("not-utf-8", f"byte {error.start} is not UTF-8") from None
        found = _parsed(text)
        if not isinstance(found, dict):
            raise BadEvent("not-an-object", f"the record is {shown(found)}, not a JSON object")
        _check_values(found, escapes="\\u" in text)
        return found

    def _features(self, record: dict[str, Any]) -> Features:
        source, layout = self._source, self._layout
        fields = set(layout.fields)
        features = record
        keys = len(record)
        if layout.nested:
            features = _inner(record)
            fields = set()
            keys += len(features)
            self._check_keys(record.keys() - {FEATURES, *layout.fields})
        if keys > source.max_keys:
            raise BadEvent(
                "too-many-keys",
                f"the record has {keys} keys, more than {source.max_keys} (source.max_keys)",
            )
        self._check_keys(features.keys() - fields)
        wanted = {
            key: item
            for key, item in features.items()
            if item is not None and key not in fields and layout.wanted(key)
        }
        if len(wanted) > source.max_features:
            raise BadEvent(
                "too-many-features",
                f"the event has {len(wanted)} features, more than {source.max_features} "
                "(source.max_features)",
            )
        for key, item in wanted.items():
            self._check_feature(key, item)
        if not wanted:
            raise BadEvent("no-features", f"the record does not have {layout.describe_features()}")
        return wanted

    def _check_keys(self, keys: Collection[str]) -> None:
        if max(map(len, keys), default=0) > self._source.max_key_length:
            longest = max(keys, key=lambda key: (len(key), key))
            raise BadEvent(
                "key-too-long",
                f"the key {shown(longest)} has {len(longest)} characters, more than "
                f"{self._source.max_key_length} (source.max_key_length)",
            )

    def _check_feature(self, key: str, item: Any) -> None:
        source = self._source
        if isinstance(item, str):
            if len(item) > source.max_string:
                raise BadEvent(
                    "string-too-long",
                    f"feature {shown(key)} has {len(item)} characters, more than "
                    f"{source.max_string} (source.max_string)",
                )
        elif isinstance(item, list) and source.max_list:
            self._check_list(key, item)
        elif not isinstance(item, int | float):
            raise BadEvent(
                "feature-type",
                f"feature {shown(key)} is {shown(item)}; a feature is a number, a text or "
                f"true/false{self._lists(item)}",
            )
        elif not -source.max_number <= item <= source.max_number:
            raise BadEvent(
                "number-out-of-range",
                f"feature {shown(key)} is {shown(item)}, beyond ±{source.max_number:g} "
                "(source.max_number)",
            )

    def _lists(self, item: Any) -> str:
        if self._source.max_list:
            return ", or a list of numbers"
        return " (source.max_list allows lists of numbers)" if isinstance(item, list) else ""

    def _check_list(self, key: str, items: list[Any]) -> None:
        source = self._source
        if len(items) > source.max_list:
            raise BadEvent(
                "list-too-long",
                f"feature {shown(key)} has {len(items)} numbers, more than {source.max_list} "
                "(source.max_list)",
            )
        for item in items:
            if type(item) is not int and type(item) is not float:
                raise BadEvent(
                    "feature-type",
                    f"feature {shown(key)} has {shown(item)} in its list, which is no number",
                )
            if not -source.max_number <= item <= source.max_number:
                raise BadEvent(
                    "number-out-of-range",
                    f"feature {shown(key)} has {shown(item)} in its list, beyond "
                    f"±{source.max_number:g} (source.max_number)",
                )


class _Duplicate(Exception):
    """A key stands twice in one object."""


class _NotANumber(float):
    """NaN, Infinity or -Infinity as a record has it."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Duplicate(shown(key))
            seen.add(key)
    return found


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) <= LONGEST_WHOLE else float(digits)


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_NotANumber, parse_int=_whole)


def _parsed(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except _Duplicate as error:
        raise BadEvent("duplicate-key", f"the key {error} stands twice in one object") from None
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError as error:
        raise BadEvent("not-json", f"the record is not JSON: {error}") from None


def _check_values(record: dict[str, Any], *, escapes: bool) -> None:
    """Refuse, wherever it stands, what Python's parser takes and JSON or we do not."""
    level: list[tuple[str, Any]] = list(record.items())
    depth = 1
    while level:
        if depth > MAX_DEPTH:
            raise _too_deep()
        deeper: list[tuple[str, Any]] = []
        for name, value in level:
            if isinstance(value, float):
                if not math.isfinite(value):
                    raise _not_finite(name, value)
            elif isinstance(value, dict):
                deeper += value.items()
            elif isinstance(value, list):
                deeper += [(name, item) for item in value]
        level = deeper
        depth += 1
    if escapes:
        try:
            json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise BadEvent(
                "not-utf-8", "a text in the record is one half of a surrogate pair"
            ) from None


def _not_finite(name: str, value: float) -> BadEvent:
    if isinstance(value, _NotANumber):
        return BadEvent(
            "not-a-number",
            f"field {shown(name)} is {shown(float(value))}, which is no number in JSON; "
            "leave the field out, or write null",
        )
    return BadEvent(
        "number-out-of-range",
        f"field {shown(name)} is a number beyond the range of floats (about ±1.8e308)",
    )


def _too_deep() -> BadEvent:
    return BadEvent("too-deep", f"the record is nested more than {MAX_DEPTH} levels deep")


def _inner(record: dict[str, Any]) -> Features:
    features = record.get(FEATURES, MISSING)
    if features is MISSING:
        raise BadEvent(
            "features-missing",
            f'the record has no object "{FEATURES}"; for records without nesting set '
            'source.features = "*"',
        )
    if not isinstance(features, dict):
        raise BadEvent("features-missing", f'"{FEATURES}" is {shown(features)}, not an object')
    return features
