"""What is taken, what is not, and what is said about it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stream_update.codecs import JsonCodec, dead_letter_record, json_record, prediction_record
from stream_update.config import Source
from stream_update.events import Batch, DeadLetter

FLAT = {"topic": "t", "features": "*"}


def batch(*values: bytes | None, keys: Sequence[bytes | None] = ()) -> Batch:
    count = len(values)
    return Batch(
        "t",
        3,
        [100 + 2 * row for row in range(count)],
        list(values),
        list(keys) or [None] * count,
        [1_700_000_000_000 + row for row in range(count)],
        [(("h", b"1"),)] * count,
    )


def reasons(*values: bytes | None, task: str = "binary", **options: Any) -> list[str]:
    codec = JsonCodec(Source(**{**FLAT, **options}), task)
    return [letter.reason for letter in codec.decode(batch(*values)).dead_letters]


def test_a_record_that_was_nothing_can_be_written_as_a_dead_letter() -> None:
    """A record without value and key is none that can be written."""
    letter = DeadLetter(0, 7, "empty", "the record has no value", None, None, None)
    record = dead_letter_record(letter, "app.dead-letters", "labelled", "app")
    assert (record.key, record.value) == (None, b"")
    assert dict(record.headers)["value"] == b"null"
    for other in (letter._replace(key=b"k"), letter._replace(value=b"")):
        record = dead_letter_record(other, "app.dead-letters", "labelled", "app")
        assert (record.key, record.value) == (other.key, other.value)
        assert "value" not in dict(record.headers)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b"not json", "not-json"),
        (b'{"a": 1, "label": 1} x', "not-json"),
        (b"\xef\xbb\xbf{}", "not-json"),
        (b'{"a": "\xff", "label": 1}', "not-utf-8"),
        (b'{"a": "\\ud800", "label": 1}', "not-utf-8"),
        (b"[1]", "not-an-object"),
        (b'{"a": NaN, "label": 1}', "not-a-number"),
        (b'{"a": -Infinity, "label": 1}', "not-a-number"),
        (b'{"a": 1e999, "label": 1}', "number-out-of-range"),
        (b'{"a": 1e308, "label": 1}', "number-out-of-range"),
        (b'{"a": 1' + b"0" * 400 + b', "label": 1}', "number-out-of-range"),
        (b'{"a": [1], "label": 1}', "feature-type"),
        (b'{"a": {"b": 1}, "label": 1}', "feature-type"),
        (b'{"a": 1}', "label-missing"),
        (b'{"a": 1, "label": "True"}', "label-type"),
        (b'{"a": 1, "label": 2}', "label-type"),
        (b'{"a": 1, "label": [1]}', "label-type"),
        (b'{"a": 1, "label": 1, "label": 0}', "duplicate-key"),
        (b'{"a": "x:y", "a": "\\u003a", "label": 0}', "duplicate-key"),
        (b'{"label": 1}', "no-features"),
        (b'{"a": null, "label": 1}', "no-features"),
        (b'{"a": "' + b"x" * 2000 + b'", "label": 1}', "string-too-long"),
        (b'{"' + b"k" * 200 + b'": 1, "label": 1}', "key-too-long"),
        (b'{"a": 1, "label": 1' + b" " * 70_000 + b"}", "too-large"),
        (b'{"a":' * 3000 + b"1" + b"}" * 3000, "too-deep"),
        (json.dumps({f"f{i}": 1 for i in range(600)} | {"label": 1}).encode(), "too-many-keys"),
    ],
)
def test_what_becomes_a_dead_letter(value: bytes | None, reason: str) -> None:
    good = b'{"a": 1.5, "label": 0}'
    block = JsonCodec(Source(topic="t", features="*"), "binary").decode(batch(good, value, good))
    assert [letter.reason for letter in block.dead_letters] == [reason]
    letter = block.dead_letters[0]
    assert (letter.partition, letter.offset, letter.value) == (3, 102, value)
    assert len(letter.detail) > 15
    assert list(block.offsets) == [100, 104]
    assert block.features == [{"a": 1.5}, {"a": 1.5}]


def test_details_name_field_value_limit_and_key() -> None:
    codec = JsonCodec(Source(topic="t", features="*", max_number=10), "binary")
    detail = codec.decode(batch(b'{"price": 11, "label": 1}')).dead_letters[0].detail
    assert all(word in detail for word in ("price", "11", "10", "source.max_number"))


@pytest.mark.parametrize(
    ("raw", "label"), [("0", False), ("true", True), ('"1"', True), ("1.0", True), ("false", False)]
)
def test_binary_labels(raw: str, label: bool) -> None:
    codec = JsonCodec(Source(topic="t", features="*"), "binary")
    assert codec.decode(batch(f'{{"a": 1, "label": {raw}}}'.encode())).labels == [label]


@pytest.mark.parametrize(
    ("mode", "counts"), [("null", (1, 1)), ("absent", (2, 0)), ("reject", (0, 2))]
)
def test_unlabelled_events(mode: str, counts: tuple[int, int]) -> None:
    codec = JsonCodec(Source(topic="t", features="*", unlabelled=mode), "binary")  # type: ignore[arg-type]
    read = batch(b'{"a": 1, "label": null}', b'{"a": 1}', b'{"a": 1, "label": 1}')
    block = codec.decode(read)
    assert (block.unlabelled, len(block.dead_letters)) == counts
    assert block.labels == [True]
    others = block.without_labels
    assert (others.offsets if others else []) == list(read.offsets[: counts[0]])
    if others is not None:
        assert others.features == [{"a": 1}] * counts[0]
        letter = others.letter_of(0, "learner-failed", "broke")
        assert (letter.offset, letter.value) == (read.offsets[0], b'{"a": 1, "label": null}')


def test_one_type_of_class_for_the_stream_and_its_state() -> None:
    source = Source(topic="t", features="*", max_classes=2)
    codec = JsonCodec(source, "multiclass")
    assert codec.decode(batch(b'{"a": 1, "label": "x"}')).labels == ["x"]
    restored = JsonCodec(source, "multiclass")
    restored.schema.load(codec.schema.dump())
    block = restored.decode(
        batch(*(f'{{"a": 1, "label": {raw}}}'.encode() for raw in ("1", '"y"', '"z"', '"x"')))
    )
    assert block.labels == ["y", "x"]
    assert [letter.reason for letter in block.dead_letters] == ["label-type", "too-many-classes"]


def test_null_features_are_missing_and_types_are_kept() -> None:
    codec = JsonCodec(Source(topic="t", features="*"), "regression")
    block = codec.decode(batch(b'{"a": null, "b": 3, "c": 3.0, "d": true, "e": "s", "label": 2}'))
    assert block.features == [{"b": 3, "c": 3.0, "d": True, "e": "s"}]
    assert [type(v) for v in block.features[0].values()] == [int, float, bool, str]
    assert block.labels == [2]


def test_nested_layout_and_fields() -> None:
    source = Source(topic="t", id="id", time="at", key="user", label="y")
    codec = JsonCodec(source, "binary")
    value = b'{"id": "e7", "at": "2026-10-01T00:00:00Z", "user": 9, "features": {"a": 1.5}, "y": 1}'
    plain = b'{"id":8,"at":1759276800,"user":9,"features":{"a":1,"b":2},"y":0}'
    block = codec.decode(batch(value, plain))
    assert block.features == [{"a": 1.5}, {"a": 1, "b": 2}]
    assert [block.time_of(0), block.time_of(1)] == [1_790_812_800_000, 1_759_276_800_000]
    scored = codec.decode_features(batch(value, plain, b'{"y": 1}'))
    assert scored.ids == ["e7", 8]
    assert scored.keys == [b"9", b"9"]
    assert [letter.reason for letter in scored.dead_letters] == ["features-missing"]
    assert scored.next_offset == 105


def test_globs_and_ignored_fields() -> None:
    source = Source(topic="t", features=["price", "lag_*"])
    block = JsonCodec(source, "binary").decode(
        batch(b'{"price": 1, "lag_1": 2, "other": {"deep": []}, "label": 1}')
    )
    assert block.features == [{"price": 1, "lag_1": 2}]
    assert reasons(b'{"other": 1, "label": 1}', features=["lag_*"]) == ["no-features"]


numbers = st.integers(-(10**12), 10**12) | st.floats(-1e12, 1e12)
values = numbers | st.booleans() | st.text(max_size=20) | st.none()


@given(st.dictionaries(st.text(max_size=10), values, max_size=6), st.sampled_from([0, 1, None]))
def test_takes_what_json_takes(features: dict[str, Any], label: int | None) -> None:
    features.pop("label", None)
    value = json.dumps({**features, "label": label}).encode()
    block = JsonCodec(Source(topic="t", features="*"), "binary").decode(batch(value))
    expected = {k: v for k, v in json.loads(value).items() if v is not None and k != "label"}
    if not expected:
        assert len(block.dead_letters) == 1
    elif label is None:
        assert block.unlabelled == 1
    else:
        assert block.features == [expected]
        assert list(map(repr, block.features[0].values())) == list(map(repr, expected.values()))


lists = st.lists(numbers | st.sampled_from([2e12, 10**25, -(10**13), True, None, "1"]), max_size=6)


@given(st.lists(st.dictionaries(st.sampled_from("abci"), values | lists), min_size=1, max_size=4))
def test_lists_of_numbers_are_taken_together_as_they_are_alone(rows: list[dict[str, Any]]) -> None:
    for layout in ("*", None):
        source = Source(topic="t", features=layout, id="i", max_list=4)
        raw = [
            json.dumps({**({"features": row} if layout is None else row), "label": 1}).encode()
            for row in rows
        ]
        together = JsonCodec(source, "binary").decode(batch(*raw))
        alone = [JsonCodec(source, "binary").decode(batch(value)) for value in raw]
        features = [event for block in alone for event in block.features]
        assert repr(together.features) == repr(features)
        letters = [letter for block in alone for letter in block.dead_letters]
        assert [x.detail for x in together.dead_letters] == [x.detail for x in letters]
        for event in features:
            for item in event.values():
                if isinstance(item, list):
                    assert len(item) <= 4
                    assert all(type(x) in {int, float} and abs(x) <= 1e12 for x in item)


def test_who_sends_a_list_where_none_is_allowed_is_told_what_allows_it() -> None:
    codec = JsonCodec(Source(topic="t", features="*"), "binary")
    (letter,) = codec.decode(batch(b'{"a": [1, 2], "label": 1}')).dead_letters
    assert letter.reason == "feature-type"
    assert letter.detail.endswith("true/false (source.max_list allows lists of numbers)")


def test_what_a_list_cannot_be() -> None:
    good = b'{"a": [1, 2.5, -3], "label": 1}'
    block = JsonCodec(Source(topic="t", features="*", max_list=3), "binary").decode(
        batch(good, good, b'{"a": [], "label": 1}')
    )
    assert block.features == [{"a": [1, 2.5, -3]}, {"a": [1, 2.5, -3]}, {"a": []}]
    for value, reason in [
        (b'{"a": [1, 2, 3, 4], "label": 1}', "list-too-long"),
        (b'{"a": [1, 1e13], "label": 1}', "number-out-of-range"),
        (b'{"a": [1, NaN], "label": 1}', "not-a-number"),
        (b'{"a": [true], "label": 1}', "feature-type"),
        (b'{"a": [null], "label": 1}', "feature-type"),
        (b'{"a": ["x"], "label": 1}', "feature-type"),
        (b'{"a": [[1]], "label": 1}', "feature-type"),
        (b'{"a": [1], "label": [1]}', "label-type"),
    ]:
        assert reasons(value, max_list=3) == [reason]
        assert reasons(good, value, good, max_list=3) == [reason]
    assert reasons(good) == ["feature-type"]


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=8))
@example([b'{"a":1,"label":1}', b"{", b"\xff", b'{"a":1,"label":null}', b"null", b"{}"])
def test_every_record_is_accounted_for(raw: list[bytes]) -> None:
    for features in ("*", None, ["a*"]):
        codec = JsonCodec(Source(topic="t", features=features), "multiclass")
        block = codec.decode(batch(*raw))
        assert len(block.features) == len(block.labels) == len(block.offsets)
        accounted = len(block.features) + block.unlabelled + len(block.dead_letters)
        assert accounted == block.count == len(raw)


@given(st.lists(st.sets(st.sampled_from("abcdefgh"), min_size=1), min_size=1, max_size=12))
@example([{"a", "b"}, {"c"}, {"d"}, {"a", "c"}, {"b", "e"}])
def test_a_lane_sees_only_so_many_feature_names(rows: list[set[str]]) -> None:
    source = Source(topic="t", features="*", max_names=3)
    values = [json.dumps({**dict.fromkeys(sorted(row), 1), "label": 1}).encode() for row in rows]
    known: set[str] = set()
    expected = []
    for row in rows:
        fits = len(known | row) <= 3
        known |= row if fits else set()
        expected.append(fits)
    whole = JsonCodec(source, "binary").decode(batch(*values))
    assert [x.keys() for x in whole.features] == [
        row for row, fits in zip(rows, expected, strict=True) if fits
    ]
    assert {letter.reason for letter in whole.dead_letters} <= {"too-many-names"}
    codec = JsonCodec(source, "binary")
    one_by_one: list[Any] = []
    for value in values:
        one_by_one += codec.decode(batch(value)).features
        tree = codec.names.dump()
        codec = JsonCodec(source, "binary")
        codec.names.load(tree)
        codec.schema.load({"type": None, "classes": []})
    assert one_by_one == whole.features


def test_names_of_refused_events_are_not_admitted() -> None:
    codec = JsonCodec(Source(topic="t", features="*", max_names=1), "binary")
    refused = codec.decode(batch(b'{"a": 1, "label": "no"}', b'{"b": 1e300, "label": 1}'))
    assert len(refused.dead_letters) == 2
    assert codec.decode(batch(b'{"c": 1, "label": 1}')).features == [{"c": 1}]


def test_output_records() -> None:
    letter = DeadLetter(1, 7, "why", "because", b"k", b"\xffraw", 5)
    record = dead_letter_record(letter, "dead", "t", "l")
    assert (record.value, record.key) == (b"\xffraw", b"k")
    assert dict(record.headers)["offset"] == b"7"
    with pytest.raises(ValueError, match="nan"):
        json_record("m", {"a": [float("nan")]})
    made = prediction_record(
        "p",
        id="x",
        key=None,
        source_topic="t",
        partition=0,
        offset=3,
        prediction=True,
        probabilities={True: 0.75, False: 0.25},
        lineage="l",
        version="4",
        learned_up_to={0: 10},
    )
    assert json.loads(made.value or b"") == {
        "id": "x",
        "topic": "t",
        "partition": 0,
        "offset": 3,
        "prediction": True,
        "probabilities": {"true": 0.75, "false": 0.25},
        "model": {"lineage": "l", "version": "4", "learned_up_to": {"0": 10}},
    }
