"""Labels of several classes: what is taken, what it becomes, and what is said of the others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stream_update.codecs import JsonCodec, prediction_record
from stream_update.codecs.fast import Fast
from stream_update.codecs.layout import Layout
from stream_update.config import Source
from stream_update.errors import ConfigError
from stream_update.events import Batch, Block

SOURCES: dict[str, dict[str, Any]] = {
    "flat": {"features": "*"},
    "nested": {"features": None},
    "flat with ids": {"features": "*", "id": "i"},
    "lists": {"features": "*", "max_list": 3},
}


def batch(*labels: Any, **fields: Any) -> Batch:
    return raw_batch(*(json.dumps({"a": 1.5, **fields, "label": one}).encode() for one in labels))


def raw_batch(*values: bytes) -> Batch:
    count = len(values)
    return Batch("t", 0, list(range(count)), list(values), [None] * count, [0] * count)


def decoded(*labels: Any, **options: Any) -> Block:
    source = Source(**{"topic": "t", "features": "*", **options})
    return JsonCodec(source, "multilabel").decode(batch(*labels))


def test_a_label_says_of_every_class_so_far_whether_it_applies() -> None:
    block = decoded(["a"], [], ["c", "b"], {"a": False, "b": True}, {"d": False}, {}, None, ["d"])
    no = dict.fromkeys("acb", False)
    assert [list(label.items()) for label in block.labels] == [
        list(label.items())
        for label in (
            {"a": True},
            {"a": False},
            {"a": False, "c": True, "b": True},
            {**no, "b": True},
            {**no, "d": False},
            {**no, "d": False},
            {**no, "d": True},
        )
    ]
    assert block.unlabelled == 1


@pytest.mark.parametrize(
    ("labels", "kind"),
    [([[1], [2.0], [1, 2]], int), ([[True], [False, True]], bool), ([["1"], ["2"]], str)],
)
def test_classes_are_of_one_type(labels: list[Any], kind: type) -> None:
    block = decoded(*labels, *labels)
    assert not block.dead_letters
    assert {type(name) for label in block.labels for name in label} == {kind}
    assert {type(on) for label in block.labels for on in label.values()} == {bool}


@pytest.mark.parametrize(
    ("label", "reason", "detail"),
    [
        ("a", "label-type", '"a"; task = "multilabel" takes a list of classes'),
        (1, "label-type", "takes a list of classes"),
        (True, "label-type", "takes a list of classes"),
        (["a", "a"], "label-duplicate", 'has the class "a" twice'),
        (["new", "new"], "label-duplicate", 'has the class "new" twice'),
        (["a", 1], "label-type", "but the first label of the stream was a text"),
        (["a", None], "label-type", "takes classes that are a text"),
        (["a", ["b"]], "label-type", "has a list"),
        ([1.5], "label-type", "has 1.5"),
        ({"a": 1}, "label-type", 'says 1 of the class "a"'),
        ({"a": None}, "label-type", 'says null of the class "a"'),
        (["x" * 2000], "string-too-long", "more than 1024"),
        (["b", "c", "d"], "too-many-classes", "has 3 already"),
    ],
)
def test_what_becomes_a_dead_letter(label: Any, reason: str, detail: str) -> None:
    block = decoded(["a"], label, [], max_classes=3)
    (letter,) = block.dead_letters
    assert letter.reason == reason
    assert detail in letter.detail
    # Nothing of what was refused has been admitted.
    assert block.labels == [{"a": True}, {"a": False}]


def test_a_first_label_of_two_types_is_refused() -> None:
    for label in (["a", 1], [1, "a"], [1, True], [True, 1]):
        assert [x.reason for x in decoded(label).dead_letters] == ["label-type"]


def test_declared_classes_are_known_from_the_beginning_and_no_others() -> None:
    block = decoded([], ["b"], ["z"], classes=["a", "b"])
    assert block.labels == [{"a": False, "b": False}, {"a": False, "b": True}]
    assert [x.reason for x in block.dead_letters] == ["label-unknown-class"]
    with pytest.raises(ConfigError, match="no meaning"):
        JsonCodec(Source(topic="t", classes=["a"]), "regression")


def test_a_class_twice_in_an_object_is_no_json_that_we_take() -> None:
    codec = JsonCodec(Source(topic="t", features="*"), "multilabel")
    values = [b'{"a":1,"label":{"x":true}}', b'{"a":1,"label":{"x":true,"x":false}}']
    block = codec.decode(raw_batch(*values))
    assert [x.reason for x in block.dead_letters] == ["duplicate-key"]


def test_what_a_label_may_be_a_feature_may_not() -> None:
    tried: list[dict[str, Any]] = [{"f": ["a"]}, {"f": {"x": True}}, {"f": []}]
    for fields in tried:
        codec = JsonCodec(Source(topic="t", features="*"), "multilabel")
        block = codec.decode(batch(["u"], ["u"], **fields))
        assert [x.reason for x in block.dead_letters] == ["feature-type"] * 2
    codec = JsonCodec(Source(topic="t", features="*", max_list=2), "multilabel")
    block = codec.decode(batch(["u"], ["u"], f=[1, 2.5]))
    assert block.features == [{"a": 1.5, "f": [1, 2.5]}] * 2
    block = codec.decode(batch(["u"], ["u"], f=[True]))
    assert [x.reason for x in block.dead_letters] == ["feature-type"] * 2


classes = st.sampled_from(["a", "b:c", "d", 'q"', "1"]) | st.integers(0, 3) | st.booleans()
labels = (
    st.lists(st.sampled_from(["a", "b:c", "d", 'q"']), max_size=4, unique=True)
    | st.lists(classes | st.none() | st.floats(0, 2), max_size=4)
    | st.dictionaries(st.sampled_from(["a", "b:c", "e"]), st.booleans() | st.none(), max_size=3)
    | st.sampled_from([None, "a", 1, 1.5, True])
)
others = labels | st.lists(st.integers(-(10**13), 10**13), max_size=4) | st.integers(0, 9)


@given(
    st.lists(st.tuples(labels, others), min_size=1, max_size=9),
    st.sampled_from(list(SOURCES)),
    st.lists(st.integers(1, 8), max_size=4),
)
@example([(["a"], 1), (["a", "a"], 1), (["b:c"], 1), ([], 1)], "flat", [2])
@example([([1], 1), ([1.0], 1), ([True], 1), ([2, 1], 1)], "nested", [1])
def test_together_in_pieces_and_alone_labels_are_the_same(
    rows: list[tuple[Any, Any]], layout: str, cuts: list[int]
) -> None:
    source = Source(**{"topic": "t", **SOURCES[layout]})
    values = []
    for number, (label, other) in enumerate(rows):
        features = {"x": number, "f": other}
        record = {"features": features} if layout == "nested" else features
        values.append(json.dumps({**record, "label": label, "i": number}).encode())

    def run(cuts: list[int]) -> tuple[str, Any]:
        codec = JsonCodec(source, "multilabel")
        seen: list[Any] = []
        for start, stop in zip([0, *cuts], [*cuts, len(values)], strict=True):
            if start == stop:
                continue
            block = codec.decode(raw_batch(*values[start:stop]))
            seen += zip(block.features, block.labels, strict=True)
            seen += [letter.detail for letter in block.dead_letters]
        return repr(sorted(seen, key=repr)), codec.schema.dump()

    whole = run([])
    assert run(list(range(1, len(values)))) == whole
    assert run(sorted({cut for cut in cuts if cut < len(values)})) == whole


@given(st.lists(st.lists(st.sampled_from("abcdef"), unique=True), min_size=1, max_size=12))
def test_a_list_and_an_object_say_the_same(rows: list[list[str]]) -> None:
    as_lists = decoded(*rows)
    as_objects = decoded(*(dict.fromkeys(row, True) for row in rows))
    assert as_lists.labels == as_objects.labels
    # And what has been read can be written, and read again.
    for row, label in zip(rows, as_lists.labels, strict=True):
        assert {name for name, applies in label.items() if applies} == set(row)
    again = decoded(*as_lists.labels)
    assert again.labels == as_lists.labels


@given(st.lists(st.lists(st.integers(0, 5), unique=True), min_size=1, max_size=12))
def test_the_state_of_the_schema_is_what_the_next_labels_depend_on(rows: list[list[int]]) -> None:
    source = Source(topic="t", features="*")
    whole, first, second = (JsonCodec(source, "multilabel") for _ in range(3))
    expected = whole.decode(batch(*rows)).labels
    cut = len(rows) // 2
    found = list(first.decode(batch(*rows[:cut])).labels) if cut else []
    second.schema.load(first.schema.dump())
    found += second.decode(batch(*rows[cut:])).labels
    assert found == expected
    assert [list(label) for label in found] == [list(label) for label in expected]


def test_a_prediction_is_written_as_the_classes_that_apply() -> None:
    record = prediction_record(
        "p", id=1, key=None, source_topic="t", partition=0, offset=0,
        prediction={"a": True, "b": False, "c": True},
        probabilities={"a": 0.75, "b": 0.25, "c": 1.0},
        lineage="l", version="1", learned_up_to={0: 1},
    )  # fmt: skip
    assert record.value is not None
    written = json.loads(record.value)
    assert written["prediction"] == ["a", "c"]
    assert written["probabilities"] == {"a": 0.75, "b": 0.25, "c": 1.0}


@pytest.mark.parametrize("layout", list(SOURCES))
def test_valid_labels_are_read_many_at_once(layout: str) -> None:
    source = Source(**{"topic": "t", **SOURCES[layout]})
    fast = Fast(source, Layout(source), sets=True)
    record = {"features": {"a": 1.5}} if layout == "nested" else {"a": 1.5}
    labels = [["a", "b:c"], [], {"a": True, "b:c": False}, [3, 1], [True], None]
    rows = fast.read([json.dumps({**record, "label": label}).encode() for label in labels])
    assert rows is not None
    assert rows.fields["label"] == labels
