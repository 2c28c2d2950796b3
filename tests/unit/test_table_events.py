"""Events as a table are the events, and records come to the same whichever way they are read."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stream_update.codecs import JsonCodec, reading, tables
from stream_update.codecs.fast import Fast
from stream_update.codecs.layout import Layout, Rows
from stream_update.codecs.tables import Tables
from stream_update.config import Source
from stream_update.events import Batch, Block, Table

ROWS = [{"a": 1, "b": 2.5}, {"a": True, "b": -3}, {"a": 0.0, "b": 4}]
TABLE = Table(["a", "b"], [1, 2.5, True, -3, 0.0, 4])


def test_a_table_is_read_as_a_list_of_events_would_be() -> None:
    assert len(TABLE) == 3
    assert list(TABLE) == ROWS
    assert repr([*TABLE]) == repr(ROWS)
    assert [TABLE[place] for place in range(-3, 3)] == ROWS * 2
    assert TABLE == ROWS
    for other in (ROWS[:2], [*ROWS[:2], {"a": 0.0}], 1):
        assert other != TABLE
    assert repr(TABLE[1:2]) == "Table(('a', 'b'), [True, -3])"
    with pytest.raises(IndexError):
        TABLE[3]


@given(st.slices(3))
def test_a_part_of_a_table_is_a_table(part: slice) -> None:
    assert isinstance(TABLE[part], Table)
    assert TABLE[part] == ROWS[part]


def test_events_of_a_table_by_their_places() -> None:
    assert TABLE.only([2, 0]) == [ROWS[2], ROWS[0]]
    assert TABLE.only([]) == []


@pytest.mark.parametrize(("names", "values"), [([], []), (["a", "b"], [1, 2, 3])])
def test_a_table_has_all_values_of_each_event(names: list[str], values: list[Any]) -> None:
    with pytest.raises(ValueError, match="values for each event"):
        Table(names, values)


def batch(values: Sequence[bytes | None], first: int = 0) -> Batch:
    offsets = range(first, first + len(values))
    return Batch("t", 0, offsets, values, timestamps=[7 * offset for offset in offsets])


def told(blocks: Sequence[Block]) -> str:
    """All that blocks say, with the types of numbers and the order of names."""
    found: list[Any] = []
    for block in blocks:
        found += [
            (offset, list(event.items()), label, block.time_of(place))
            for place, (offset, event, label) in enumerate(
                zip(block.offsets, block.features, block.labels, strict=True)
            )
        ]
        found += block.dead_letters
        if block.without_labels is not None:
            others = block.without_labels
            found += zip(others.offsets, map(list, map(dict.items, others.features)), strict=True)
    return repr((sorted(found, key=repr), sum(block.duplicates for block in blocks)))


def state(codec: JsonCodec) -> str:
    parts = (codec.schema, codec.names, codec.duplicates)
    return repr([part.dump() for part in parts if part is not None])


def decoded(
    source: Source, task: str, values: Sequence[bytes | None], cuts: Sequence[int], *, table: bool
) -> tuple[str, str, list[Block]]:
    codec = JsonCodec(source, task, tables=table)
    ends = sorted({*cuts, len(values)} - {0})
    starts = [0, *ends[:-1]]
    blocks = [
        codec.decode(batch(values[start:stop], start))
        for start, stop in zip(starts, ends, strict=True)
    ]
    return told(blocks), state(codec), blocks


SOURCES: dict[str, Callable[..., Source]] = {
    "flat": lambda **more: Source(topic="t", features="*", **more),
    "fields": lambda **more: Source(topic="t", features="*", id="id", time="ts", **more),
    "listed": lambda **more: Source(topic="t", features=["a", "bb", "id"], id="id", **more),
    "pattern": lambda **more: Source(topic="t", features=["a*", "?b"], time="ts", **more),
    "nested": lambda **more: Source(topic="t", id="id", time="ts", **more),
    "small": lambda **more: Source(
        topic="t", features="*", id="id", max_number=0.5, max_keys=5, max_bytes=70, **more
    ),
}
NAMES = ["a", "ba", "aa", "bb", "id", "ts", "features"]
STRANGE = [*NAMES, "café", "x:y", 'q"', ""]
plain = st.one_of(st.integers(0, 1), st.floats(-0.5, 0.5), st.booleans())
number = st.one_of(
    st.integers(-3, 3),
    st.floats(-1e12, 1e12),
    st.booleans(),
    st.sampled_from([2**63, -(2**63) + 1, 10**12, 10**12 + 1, 1e12, 1e13, 1e300, 5e-324, -0.0]),
)
anything = st.one_of(
    number, st.none(), st.sampled_from(["", ":", "x:y", '":', "\\", "2026-01-01T00:00:00"]),
    st.lists(st.integers(0, 3), max_size=2),
)  # fmt: skip


def written(record: dict[str, Any], colon: str = ":") -> bytes:
    return json.dumps(record, separators=(",", colon), ensure_ascii=False).encode()


@st.composite
def streams(draw: st.DrawFn) -> tuple[str, Source, list[bytes | None]]:
    """Records of which most are alike, as a producer writes them, and others among them."""
    kind = draw(st.sampled_from(list(SOURCES)))
    more: dict[str, Any] = {"unlabelled": draw(st.sampled_from(["null", "absent", "reject"]))}
    if kind in {"fields", "listed", "nested", "small"}:
        more["duplicate_window"] = draw(st.sampled_from([0, 3]))
    source = SOURCES[kind](**more)
    names = draw(st.sampled_from([NAMES, NAMES, STRANGE]))
    keys = draw(st.lists(st.sampled_from(names), min_size=1, max_size=5, unique=True))
    keys.insert(draw(st.integers(0, len(keys))), "label")
    identity = st.sampled_from(["u1", "u2", "u:3", ":u", 4, 2**62])
    time = st.sampled_from([1_700_000_000, "2026-01-01T00:00:00Z", 1.5])
    values: list[bytes | None] = []
    for _ in range(draw(st.integers(1, 12))):
        here = list(keys)
        odd = draw(st.one_of(st.none(), st.none(), st.integers(0, 9)))
        if odd == 0:
            here = draw(st.permutations(here))
        elif odd == 1:
            here.remove(draw(st.sampled_from(here)))
        elif odd == 2:
            here = [*dict.fromkeys([*here, draw(st.sampled_from(STRANGE))])]
        record: dict[str, Any] = {name: draw(number if odd == 8 else plain) for name in here}
        record |= {"id": draw(identity)} if "id" in here else {}
        record |= {"ts": draw(time)} if "ts" in here else {}
        record |= {"label": draw(st.sampled_from([0, 1, True, 1.0]))} if "label" in here else {}
        if odd == 3 and here:
            record[draw(st.sampled_from(here))] = draw(anything)
        if kind == "nested" and odd != 4:
            inner = {n: v for n, v in record.items() if n not in {"id", "ts", "label"}}
            place = draw(st.integers(0, 2)) if odd == 0 else 1
            rest = [(n, v) for n, v in record.items() if n in {"id", "ts", "label"}]
            rest.insert(place, ("features", inner))
            record = dict(rest)
        raw = written(record, " :" if odd == 9 else ":")
        if odd == 5:
            raw = raw.replace(b"{", b'{"a": 1, ', 1)
        elif odd == 6:
            raw = raw.replace(b"a", b"\\u0061")
        elif odd == 7:
            raw = draw(st.sampled_from([raw[:-1], b"", b"null", raw + b"}", b"\xff", raw * 2]))
        values.append(None if odd == 7 and draw(st.booleans()) else raw)
    return kind, source, values


@given(
    streams(),
    st.lists(st.integers(0, 12), max_size=3),
    st.sampled_from(["binary", "multiclass", "regression"]),
    st.sampled_from([(6, 10), (0, 10), (0, 1)]),
    st.sampled_from([(128, 512, 10_000), (3, 8, 6)]),
)
def test_every_way_and_every_cut_say_the_same(
    stream: tuple[str, Source, list[bytes | None]],
    cuts: list[int],
    task: str,
    rest: tuple[int, int],
    at_once: tuple[int, int, int],
) -> None:
    _, source, values = stream
    cuts = [cut for cut in cuts if cut < len(values)]
    alone = decoded(source, task, values, range(1, len(values)), table=False)
    together, many, steady = at_once
    with (
        mock.patch.multiple(tables, REST=rest[0], MOST=rest[1], STEADY=steady),
        mock.patch.multiple(reading, TOGETHER=together, MANY=many),
    ):
        # Each stream twice, so that what it looks like has been seen.
        for again in (values, values * 3):
            expected = decoded(source, task, again, (), table=False)[:2]
            for ends in ((), cuts, [(cut + len(values)) % len(again) for cut in cuts]):
                assert decoded(source, task, again, ends, table=True)[:2] == expected
        assert decoded(source, task, values, cuts, table=True)[:2] == alone[:2]


def lines(count: int, **more: Any) -> list[bytes]:
    return [json.dumps({"b": i, "a": i / 7, **more, "label": i % 2}).encode() for i in range(count)]


def blocks_of(source: Source, *parts: Sequence[bytes | None], task: str = "binary") -> list[Block]:
    codec = JsonCodec(source, task, tables=True)
    with mock.patch.multiple(tables, REST=0, MOST=1):
        return [codec.decode(batch(part)) for part in parts]


def taken(reader: Tables, values: Sequence[bytes | None]) -> Rows | None:
    """What it reads when it does not rest."""
    with mock.patch.object(reader, "_rest", 0):
        return reader.read(values)


FLAT = Source(topic="t", features="*")


@pytest.mark.parametrize(
    ("source", "event"),
    [
        (FLAT, {"a": 1, "b": 2.5, "c": True, "label": 1}),
        (FLAT, {"label": 1, "kind": 3, "a": 1e12, "x": -0.0}),
        (
            Source(topic="t", features="*", id="id", time="ts"),
            {"id": "u:1", "a": 1, "ts": "2026-01-01T00:00:00", "b": 2, "label": 0},
        ),
        (Source(topic="t", features=["a"]), {"b": "other: text", "a": 1, "c": None, "label": 1}),
        (Source(topic="t", features=["n_*"]), {"n_1": 1, "other": 1, "n_2": 2, "label": 1}),
        (
            Source(topic="t", id="a"),
            {"z": "x:y", "features": {"a": 1, "features": 2, "z": 0.5}, "a": 7, "label": True},
        ),
        (FLAT, {"naïve": 1, "日本": 2, "label": 1}),
    ],
)
def test_records_that_are_alike_become_a_table(source: Source, event: dict[str, Any]) -> None:
    values = [json.dumps(event, ensure_ascii=False).encode()] * 5
    plain = JsonCodec(source, "binary").decode(batch(values))
    for block in blocks_of(source, values, values)[1:]:
        assert told([block]) == told([plain])
        assert isinstance(block.features, Table)


GOOD = b'{"ba":1,"ab":2.5,"id":"u","label":1}'
ODD = {
    "other order": b'{"ab":2.5,"ba":1,"id":"u","label":1}',
    "space behind keys, other order": b'{"ab" :2.5,"ba" :1,"id" :"u","label" :1}',
    "space behind keys": b'{"ba" :1,"ab" :2.5,"id" :"u","label" :1}',
    "space behind a key, a colon": b'{"ba" :1,"ab":2.5,"id":"u:v","label":1}',
    "a key twice": b'{"ba":1,"ab":3,"ab":2.5,"id":"u","label":1}',
    "a key twice, once with space": b'{"ba":1,"ab" :3,"ab":2.5,"id":"u","label":1}',
    "a field twice": b'{"ba":1,"ab":2.5,"id":"x:y","id":"u","label":1}',
    "a field twice and a colon": b'{"ba":1,"ab":2.5,"id":"x:y","id":"u:v","label":1}',
    "a text like a key": b'{"ab" :2.5,"ba":1,"id":":","label":1}',
    "a text that begins with a colon": b'{"ba":1,"ab":2.5,"id":":u","label":1}',
    "an escaped key": b'{"b\\u0061":1,"ab":2.5,"id":"u","label":1}',
    "escaped keys, other order": b'{"\\u0061b":2.5,"b\\u0061":1,"id":"u","label":1}',
    "an escaped colon": b'{"ba":1,"ab":2.5,"id":"\\u003a","label":1}',
    "a null": b'{"ba":null,"ab":2.5,"id":"u","label":1}',
    "a text": b'{"ba":"1","ab":2.5,"id":"u","label":1}',
    "a list": b'{"ba":[1],"ab":2.5,"id":"u","label":1}',
    "too large": b'{"ba":1e13,"ab":2.5,"id":"u","label":1}',
    "too large a whole number": b'{"ba":10000000000000,"ab":2.5,"id":"u","label":1}',
    "one more": b'{"ba":1,"ab":2.5,"id":"u","label":1,"c":1}',
    "one less": b'{"ba":1,"id":"u","label":1}',
    "no id": b'{"ba":1,"ab":2.5,"label":1}',
    "not JSON": b'{"ba":1,"ab":2.5,"id":"u","label":1',
    "two records": GOOD + GOOD,
    "bytes that are no text": b'{"ba":1,"ab":2.5,"id":"\xff","label":1}',
    "nothing": b"",
    "too long a text": b'{"ba":1,"ab":2.5,"id":"' + b"u" * 2000 + b'","label":1}',
    "too many bytes": GOOD + b" " * 70_000,
    "no value": None,
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_what_is_no_row_of_the_table_is_read_in_the_other_ways(odd: bytes | None) -> None:
    source = Source(topic="t", features="*", id="id")
    layout = Layout(source)
    reader = Tables(source, layout)
    assert taken(reader, [GOOD]) is None
    reader.see([GOOD, GOOD])
    assert taken(reader, [GOOD, GOOD, GOOD]) is not None
    for values in ([odd], [GOOD, odd, GOOD]):
        assert taken(reader, values) is None
        codec = JsonCodec(source, "binary")
        _, block = blocks_of(source, [GOOD] * 5, values * 2)
        codec.decode(batch([GOOD] * 5))
        assert told([block]) == told([codec.decode(batch(values * 2))])


def test_a_colon_in_a_text_is_none_behind_a_key() -> None:
    source = Source(topic="t", features="*", id="id")
    reader, fast = Tables(source, Layout(source)), Fast(source, Layout(source))
    assert taken(reader, [b"{"]) is None
    reader.see([GOOD])
    values = [GOOD, GOOD.replace(b'"u"', b'"a:b::"'), GOOD.replace(b"1", b" -1.5e3")]
    rows, plain = taken(reader, values), fast.read(values)
    assert rows is not None
    assert plain is not None
    assert repr([*rows.features]) == repr(plain.features)
    assert (rows.fields, rows.names) == (plain.fields, plain.names)


@given(
    st.lists(st.text("ab \u00e9", max_size=4), min_size=2, max_size=6, unique=True),
    st.randoms(use_true_random=False),
)
@example(["a", "ba", "", "aba"], random.Random(1))
@example([" ", "  ", "a ", "b a"], random.Random(1))
def test_no_other_order_is_taken_for_the_one_that_was_seen(
    names: list[str], chance: random.Random
) -> None:
    others = [names[::-1], [names[1], names[0], *names[2:]]]
    others += [chance.sample(names, len(names)) for _ in range(3)]
    source = Source(topic="t", features="*")
    reader = Tables(source, Layout(source))

    def record(keys: Sequence[str], colon: str = ":") -> bytes:
        event = {**dict.fromkeys(keys, 1), "label": 1}
        return json.dumps(event, separators=(",", colon), ensure_ascii=False).encode()

    seen = record(names)
    assert taken(reader, [b"{"]) is None
    reader.see([seen])
    for other in others:
        for colon in (":", " :", "  :", ": "):
            rows = taken(reader, [seen, record(other, colon), seen])
            assert (rows is not None) == (other == names and colon in {":", ": "})


def test_no_text_is_taken_for_a_key() -> None:
    source = Source(topic="t", features="*", id="q")
    reader = Tables(source, Layout(source))
    assert taken(reader, [b"{"]) is None
    reader.see([b'{"q":"u","p ":1,"r":2,"label":1}'])
    # Before the second colon that has a quote before it is the end of "p ", and no key.
    odd = b'{"q": ":z","r":2,"p " :1,"label":1}'
    assert taken(reader, [odd]) is None
    rows = taken(reader, [b'{"q": "z:","p ":1,"r":2,"label":1}'])
    assert rows is not None
    assert list(rows.features[0]) == ["p ", "r"]


def test_no_space_behind_keys_makes_them_others() -> None:
    source = Source(topic="t", features="*", label="lqp")
    reader = Tables(source, Layout(source))
    assert taken(reader, [b"{"]) is None
    reader.see([b'{"qqp":1,"pqp":2,"lqp":1}'])
    # Four bytes before each colon stand the letters that tell the keys apart.
    assert taken(reader, [b'{"pqp" :2,"qqp"  :1,"lqp":1}']) is None
    assert taken(reader, [b'{"qqp":1,"pqp":2,"lqp":1}']) is not None


@pytest.mark.parametrize("mode", ["null", "absent", "reject"])
@pytest.mark.parametrize("label", [{}, {"label": None}])
def test_a_stream_without_labels(mode: str, label: dict[str, Any]) -> None:
    source = Source(topic="t", features="*", id="id", unlabelled=mode)  # type: ignore[arg-type]
    values = [json.dumps({"a": i, "b": 2.5, **label}).encode() for i in range(9)]
    last = blocks_of(source, lines(9), values, values)[-1]
    codec = JsonCodec(source, "binary")
    codec.decode(batch(lines(9)))
    assert told([last]) == told([codec.decode(batch(values))])


def test_a_stream_that_changes_is_followed() -> None:
    late = [json.dumps({"c": 1, "b": i, "label": 1}).encode() for i in range(20)]
    blocks = blocks_of(FLAT, lines(20), lines(20), late, late, lines(20), lines(20))
    for block, table in zip(blocks, [None, True, None, True, False, True], strict=True):
        assert len(block.features) == 20
        assert table is None or isinstance(block.features, Table) == table


def test_good_events_around_a_bad_one_are_a_table_too() -> None:
    values = [*lines(17), b"{", *lines(23)]
    _, block = blocks_of(FLAT, lines(40), values)
    assert isinstance(block.features, Table)
    assert told([block]) == told([JsonCodec(FLAT, "binary").decode(batch(values))])


def test_a_table_without_the_events_that_are_left_out_is_one() -> None:
    source = Source(topic="t", features="*", id="id", duplicate_window=10)
    values = [
        json.dumps({"id": i % 7, "a": i, "label": None if i % 3 == 1 else 1}).encode()
        for i in range(20)
    ]
    other = [value.replace(b'"id": ', b'"id": 9') for value in values]
    _, block = blocks_of(source, values, other)
    assert isinstance(block.features, Table)
    assert block.without_labels is not None
    assert block.duplicates > 0
    assert told([block]) == told([JsonCodec(source, "binary").decode(batch(other))])


def test_streams_that_are_not_made_for_it_are_let_alone() -> None:
    values = [json.dumps({"a": 1, ("b", "c")[i % 2]: i, "label": 1}).encode() for i in range(2000)]
    reader = Tables(FLAT, Layout(FLAT))
    with mock.patch.object(tables, "_shape", wraps=tables._shape) as made:
        for start in range(0, 2000, 2):
            if reader.read(values[start : start + 2]) is None:
                assert taken(reader, [b"{"]) is None
    reader.see(values[start : start + 2])
    assert made.call_count <= 8


def test_names_that_take_much_to_tell_apart_are_left_to_the_other_ways() -> None:
    source = Source(topic="t", features="*")
    for count, table in ((60, True), (100, False)):
        event = {"a" * length: 1 for length in range(1, count)} | {"label": 1}
        reader = Tables(source, Layout(source))
        values = [json.dumps(event).encode()] * 3
        assert taken(reader, values) is None
        reader.see(values)
        assert (taken(reader, values) is not None) == table


def test_more_records_are_read_at_once_where_bad_ones_are_rare() -> None:
    codec = JsonCodec(FLAT, "binary", tables=True)
    found: list[Any] = []
    asked = mock.patch.object(
        Tables, "read", autospec=True, side_effect=lambda _, values: found.append(len(values))
    )
    values = lines(1000)
    for _ in range(12):
        codec.decode(batch(values))
    for between, expected in ((values, [512, 488]), ([b"{", b"{"], [128] * 7 + [104])):
        codec.decode(batch(between))
        found.clear()
        with asked:
            codec.decode(batch(values))
        assert found == expected


def test_several_labels_of_an_event_come_without_tables() -> None:
    values = [b'{"a": 1, "label": ["x"]}'] * 4
    for block in blocks_of(FLAT, values, values, task="multilabel"):
        assert not isinstance(block.features, Table)
