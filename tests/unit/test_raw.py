"""Records whose value is an array of bytes, with everything else in headers."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_update.codecs import JsonCodec
from stream_update.components import components
from stream_update.config import Config, parse
from stream_update.errors import ConfigError
from stream_update.events import Batch, Block

SOURCE: dict[str, Any] = {
    "topic": "t",
    "format": "raw",
    "raw": {"field": "picture", "shape": [2, 2, 1]},
    "label": "header:label",
    "id": "header:id",
    "time": "header:time",
}
PIXELS = bytes([0, 1, 2, 255])


def config(task: str = "multiclass", **source: Any) -> Config:
    return parse(
        {
            "app": "app",
            "log": "sqlite:///log.db",
            "task": task,
            "source": SOURCE | source,
            "learner": {"use": "river.naive_bayes:GaussianNB"},
        }
    )


def batch(*records: tuple[bytes | None, dict[str, Any]]) -> Batch:
    return Batch(
        "t", 0, range(len(records)), [value for value, _ in records],
        headers=[list(headers.items()) for _, headers in records],
    )  # fmt: skip


def decoded(*records: tuple[bytes | None, dict[str, Any]], **options: Any) -> Block:
    settings = config(**options)
    return JsonCodec(settings.source, settings.task).decode(batch(*records))


def test_bytes_become_the_feature_that_json_would_have() -> None:
    block = decoded(
        (PIXELS, {"label": b"3", "id": b"a", "time": b"1700000000"}),
        (bytes(4), {"label": b"4", "other": b"\xff"}),
    )
    json_config = parse(
        {
            "app": "app", "log": "sqlite:///log.db", "task": "multiclass",
            "source": {"topic": "t", "label": "class", "features": "*"},
            "learner": {"use": "river.naive_bayes:GaussianNB"},
        }
    )  # fmt: skip
    lines = [
        json.dumps({"picture": base64.b64encode(value).decode(), "class": label}).encode()
        for value, label in ((PIXELS, 3), (bytes(4), 4))
    ]
    same = JsonCodec(json_config.source, "multiclass").decode(Batch("t", 0, range(2), lines))
    assert (block.features, block.labels) == (same.features, same.labels)
    assert block.labels == [3, 4]
    assert block.time_of(0) == 1_700_000_000_000
    assert block.time_of(1) is None
    assert not block.dead_letters


@pytest.mark.parametrize(
    ("task", "raw", "label"),
    [
        ("multiclass", b"3", 3),
        ("multiclass", b'"3"', "3"),
        ("multiclass", b"cat", "cat"),
        ("multiclass", "schön".encode(), "schön"),
        ("multiclass", b"true", True),
        ("binary", b"1", True),
        ("binary", b"false", False),
        ("binary", b'"0"', False),
        ("regression", b"-1.5e2", -150.0),
        ("regression", b"7", 7),
    ],
)
def test_labels_are_json_or_texts(task: str, raw: bytes, label: Any) -> None:
    (found,) = decoded((PIXELS, {"label": raw}), task=task).labels
    assert found == label
    assert type(found) is type(label)


@pytest.mark.parametrize(
    ("value", "headers", "reason"),
    [
        (PIXELS[:-1], {"label": b"1"}, "wrong-size"),
        (PIXELS + b"\0", {"label": b"1"}, "wrong-size"),
        (b"", {"label": b"1"}, "empty"),
        (None, {"label": b"1"}, "empty"),
        (PIXELS, {}, "label-missing"),
        (PIXELS, {"label": b"\xff\xfe"}, "not-utf-8"),
        (PIXELS, {"label": b"x" * 2000}, "string-too-long"),
        (PIXELS, {"label": b"[1]"}, "label-type"),
        (PIXELS, {"label": b"9" * 1000}, "label-type"),
        (PIXELS, {"label": b"[" * 1000}, "label-type"),
        (PIXELS, {"label": b"cat"}, "label-type"),
    ],
)
def test_what_becomes_a_dead_letter(value: bytes | None, headers: Any, reason: str) -> None:
    good = (PIXELS, {"label": b"1"})
    block = decoded(good, (value, headers), good, task="binary")
    (letter,) = block.dead_letters
    assert (letter.offset, letter.value) == (1, value)
    assert letter.reason == reason, letter.detail
    assert list(block.offsets) == [0, 2]
    assert block.labels == [True, True]


def test_a_label_that_is_missing_is_a_header() -> None:
    (letter,) = decoded((PIXELS, {"other": b"1"})).dead_letters
    assert letter.detail.startswith('the record has no header "label" (source.label)')


def test_unlabelled_events_are_put_aside() -> None:
    block = decoded(
        (PIXELS, {"label": b"null"}), (PIXELS, {"label": None}), (PIXELS, {"label": b"1"})
    )
    assert (block.unlabelled, block.labels) == (2, [1])
    block = decoded((PIXELS, {}), unlabelled="absent")
    assert (block.unlabelled, block.dead_letters) == (1, [])


def test_scorers_need_no_label() -> None:
    settings = config(key="record")
    block = JsonCodec(settings.source, settings.task).decode_features(
        batch((PIXELS, {"id": b"a"}), (b"x", {}), (bytes(4), {}))
    )
    assert block.ids == ["a", None]
    assert [one["picture"] for one in block.features] == [
        base64.b64encode(value).decode() for value in (PIXELS, bytes(4))
    ]
    assert [letter.reason for letter in block.dead_letters] == ["wrong-size"]


@given(
    st.lists(
        st.tuples(
            st.none() | st.just(PIXELS) | st.binary(max_size=6),
            st.dictionaries(
                st.sampled_from(["label", "id", "time"]),
                st.none() | st.sampled_from([b"1", b"2", b"cat"]) | st.binary(max_size=8),
            ),
        ),
        min_size=1,
        max_size=12,
    ),
    st.data(),
)
def test_cuts_change_nothing(records: Sequence[Any], data: st.DataObject) -> None:
    settings = config(duplicate_window=5)
    at = data.draw(st.integers(0, len(records)))
    whole = JsonCodec(settings.source, settings.task)
    cut = JsonCodec(settings.source, settings.task)
    everything = batch(*records)
    block = whole.decode(everything)
    parts = [
        cut.decode(part)
        for part in (everything.slice(0, at), everything.slice(at, len(records)))
        if len(part)
    ]
    assert [label for part in parts for label in part.labels] == block.labels
    assert [one for part in parts for one in part.features] == block.features
    assert [one for part in parts for one in part.dead_letters] == block.dead_letters
    assert sum(part.duplicates for part in parts) == block.duplicates
    assert cut.schema.dump() == whole.schema.dump()
    counted = len(block.labels) + block.unlabelled + block.duplicates + len(block.dead_letters)
    assert counted == block.count


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ({"raw": None}, r'"raw" needs to know'),
        ({"format": "json"}, r"\[source\] raw: records are JSON"),
        ({"label": "label"}, r"\[source\] label: .*no fields"),
        ({"id": "id"}, r"\[source\] id: .*no fields"),
        ({"origin": "user"}, r"\[source\] origin: .*no fields"),
        ({"features": "*"}, r"\[source\] features: "),
        ({"max_bytes": 3}, r"has 4 bytes, more than max_bytes \(3\)"),
        ({"raw": {"field": "", "shape": [1]}}, r"\[source\] raw"),
        ({"raw": {"field": "a", "shape": [0]}}, r"\[source\] raw"),
        ({"format": "png"}, r"\[source\] format: 'png' is not one of"),
    ],
)
def test_options_that_cannot_work(source: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        components(config(**source))
