"""The careful way through a record: what is wrong with it, said so that a person can act.

Only records that the fast way did not accept come here.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from stream_update.codecs.layout import FEATURES, MISSING, Layout, SourceOptions
from stream_update.codecs.words import shown
from stream_update.errors import BadEvent
from stream_update.events import Features

__all__ = ["Strict"]


class _Duplicate(Exception):
    """A key stands twice in one object."""


class Strict:
    """Parses a record by the letter and checks every limit of ``[source]``."""

    def __init__(self, source: SourceOptions, layout: Layout) -> None:
        self._source = source
        self._layout = layout

    def parse(self, value: bytes | None) -> tuple[Features, dict[str, Any]]:
        """Features and the fields with a meaning; raises :class:`BadEvent`."""
        record = self._object(value)
        source, layout = self._source, self._layout
        features: Any = record
        if layout.nested:
            features = record.get(FEATURES, MISSING)
            if features is MISSING:
                raise BadEvent(
                    "features-missing",
                    f'the record has no object "{FEATURES}"; for records without nesting set '
                    'source.features = "*"',
                )
            if not isinstance(features, dict):
                raise BadEvent(
                    "features-missing", f'"{FEATURES}" is {shown(features)}, not an object'
                )
        keys = len(record) + (len(features) if layout.nested else 0)
        if keys > source.max_keys:
            raise BadEvent(
                "too-many-keys",
                f"the record has {keys} keys, more than {source.max_keys} (source.max_keys)",
            )
        for key in (*record, *features):
            self._check_key(key)
        fields = {name: record.get(name, MISSING) for name in layout.fields}
        own = () if layout.nested else layout.fields
        wanted = {
            key: item
            for key, item in features.items()
            if key not in own and layout.wanted(key) and item is not None
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
        return wanted, fields

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
            raise BadEvent("not-json", "the record begins with a byte order mark")
        try:
            text = value.decode()
        except UnicodeDecodeError as error:
            raise BadEvent("not-utf-8", f"byte {error.start} is not UTF-8") from None
        try:
            found = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        except _Duplicate as error:
            raise BadEvent("duplicate-key", f'the key "{error}" stands twice') from None
        except RecursionError:
            raise BadEvent("too-deep", "the record is nested too deeply") from None
        except ValueError as error:
            raise BadEvent("not-json", f"the record is not JSON: {error}") from None
        if not isinstance(found, dict):
            raise BadEvent("not-an-object", f"the record is {shown(found)}, not a JSON object")
        try:
            text = json.dumps(found, ensure_ascii=False)
            text.encode()
        except UnicodeEncodeError:
            raise BadEvent("not-utf-8", "a text in the record is half a surrogate pair") from None
        except RecursionError:
            raise BadEvent("too-deep", "the record is nested too deeply") from None
        return found

    def _check_key(self, key: str) -> None:
        if len(key) > self._source.max_key_length:
            raise BadEvent(
                "key-too-long",
                f"the key {shown(key)} has {len(key)} characters, more than "
                f"{self._source.max_key_length} (source.max_key_length)",
            )

    def _check_feature(self, key: str, item: Any) -> None:
        source = self._source
        if isinstance(item, bool):
            return
        if isinstance(item, str):
            if len(item) > source.max_string:
                raise BadEvent(
                    "string-too-long",
                    f'feature "{key}" has {len(item)} characters, more than '
                    f"{source.max_string} (source.max_string)",
                )
        elif not isinstance(item, int | float):
            raise BadEvent(
                "feature-type",
                f'feature "{key}" is {shown(item)}; a feature is a number, a text or true/false',
            )
        elif not abs(item) <= source.max_number:
            size = "infinite" if isinstance(item, float) and math.isinf(item) else shown(item)
            raise BadEvent(
                "number-out-of-range",
                f'feature "{key}" is {size}, beyond ±{source.max_number:g} (source.max_number)',
            )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Duplicate(key)
            seen.add(key)
    return found


def _no_constant(name: str) -> NoReturn:
    raise BadEvent("not-a-number", f"the record holds {name}, which is no number in JSON")
