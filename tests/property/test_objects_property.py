"""Freezing and thawing, for whatever Hypothesis can think of."""

from __future__ import annotations

import collections
import contextlib
import copy
import functools
import operator
import struct
from collections.abc import Iterator
from typing import Any

import msgspec
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from river import compose, drift, feature_extraction, linear_model, preprocessing, stats, tree

from stream_update.errors import CorruptSnapshot
from stream_update.objects import digest, freeze, thaw

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**60), 10**60)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8)
)
KEYS = st.recursive(
    SCALARS, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=4
)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.sets(KEYS, max_size=4)
        | st.lists(inner, max_size=4).map(lambda items: collections.deque(items, maxlen=5))
        | st.dictionaries(KEYS, inner, max_size=3).map(collections.OrderedDict)
        | st.dictionaries(KEYS, st.integers(), max_size=3).map(collections.Counter)
        # The same object twice.
        | inner.map(lambda one: [one, {"again": one}])
    )


VALUES = st.recursive(SCALARS, containers, max_leaves=20)


def shown(value: Any, seen: dict[int, int] | None = None) -> str:
    """Everything about a value: types, bits, order, and which objects are the same."""
    seen = {} if seen is None else seen
    if type(value) is float:
        return struct.pack("<d", value).hex()
    if type(value) in {type(None), bool, int, str, bytes}:
        return f"{type(value).__name__} {value!r}"
    if type(value) is tuple:
        return f"({','.join(shown(item, seen) for item in value)})"
    if type(value) is frozenset:
        return f"frozenset({sorted(shown(item, seen) for item in value)})"
    if id(value) in seen:
        return f"object {seen[id(value)]}"
    seen[id(value)] = len(seen)
    if type(value) is set:
        return f"set({sorted(shown(item, seen) for item in value)})"
    items = (
        [f"{shown(key, seen)}:{shown(item, seen)}" for key, item in value.items()]
        if isinstance(value, dict)
        else [shown(item, seen) for item in value]
    )
    return f"{type(value).__name__}{getattr(value, 'maxlen', '')}[{','.join(items)}]"


@given(VALUES)
def test_everything_about_a_value_comes_back(value: Any) -> None:
    tree_ = freeze(value)
    thawed = thaw(msgspec.msgpack.decode(msgspec.msgpack.encode(tree_)))
    assert shown(thawed) == shown(value)
    assert digest(freeze(thawed)) == digest(tree_)


@given(VALUES, VALUES)
def test_a_digest_is_the_same_for_the_same_and_only_for_the_same(one: Any, other: Any) -> None:
    assert (digest(freeze(one)) == digest(freeze(other))) == (shown(one) == shown(other))


@given(st.lists(st.text(max_size=5), unique=True, max_size=6))
def test_a_small_set_keeps_the_order_that_its_history_gave_it(names: list[str]) -> None:
    made: set[str] = set()
    for name in names:
        made.add(name)
    assert list(thaw(freeze(made))) == list(made)


def trained() -> Any:
    model = compose.Pipeline(
        preprocessing.StandardScaler() + feature_extraction.RBFSampler(n_components=3, seed=1),
        tree.HoeffdingAdaptiveTreeClassifier(grace_period=10, delta=0.5, seed=1),
    )
    extra: list[Any] = [
        linear_model.LogisticRegression(),
        drift.ADWIN(),
        stats.RollingQuantile(0.5, 10),
        drift.PageHinkley(),
    ]
    for number in range(60):
        x = {"a": number * 0.1, "b": float(number % 7)}
        model.learn_one(x, number % 2 == 0)
        extra[0].learn_one(x, number % 2 == 0)
        for part in extra[1:]:
            part.update(number % 5)
    return [model, extra, {"a", "b", ("c", 1)}]


TREE = msgspec.msgpack.encode(freeze(trained()))

WORDS = st.sampled_from(
    [
        "",
        "os:system",
        "builtins:eval",
        "copy:deepcopy",
        "river.stream.utils:open_filepath",
        "river.stats.mean:Mean",
        "__class__",
        "__dict__",
        "__reduce__",
        "predict_one",
        "refs",
        "object",
        "rust",
        "vector",
        "dict",
        "partial",
        "method",
    ]
)
INTEGERS = st.integers(-3, 60) | st.integers() | st.integers(10**390, 10**410)
FRAGMENTS = st.recursive(
    SCALARS | WORDS | INTEGERS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)


def places(holder: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to everything inside a tree."""
    steps = holder if isinstance(holder, dict) else range(len(holder))
    for step in steps:
        yield (*way, step)
        if isinstance(holder[step], dict | list):
            yield from places(holder[step], (*way, step))


PLACES = list(places(msgspec.msgpack.decode(TREE)))
CHANGES = st.sampled_from(["replace", "nudge", "take another", "delete", "insert"])


@st.composite
def damaged(draw: st.DrawFn) -> Any:
    """A true tree in which up to three places were changed."""
    found = msgspec.msgpack.decode(TREE)
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(PLACES))
        # The way may lead nowhere after an earlier change.
        with contextlib.suppress(LookupError, TypeError):
            change(draw, functools.reduce(operator.getitem, way, found), last, found)
    return found


def change(draw: st.DrawFn, holder: Any, key: Any, found: Any) -> None:
    old, what = holder[key], draw(CHANGES)
    if what == "nudge" and type(old) is int:
        holder[key] = old + draw(st.integers(-3, 3) | st.sampled_from([2**31, 2**50, -(2**62)]))
    elif what == "nudge" and type(old) is bytes and old:
        at = draw(st.integers(0, len(old) - 1))
        holder[key] = old[:at] + draw(st.binary(max_size=3)) + old[at + 1 :]
    elif what == "take another":
        way = draw(st.sampled_from(PLACES))
        holder[key] = copy.deepcopy(functools.reduce(operator.getitem, way, found))
    elif what == "delete":
        del holder[key]
    elif what == "insert" and isinstance(holder, list):
        holder.insert(key, draw(FRAGMENTS))
    else:
        holder[key] = draw(FRAGMENTS)


@settings(
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(damaged())
def test_a_damaged_tree_thaws_or_is_corrupt_and_nothing_else(found: Any) -> None:
    predict_one = linear_model.LogisticRegression.predict_one
    with contextlib.suppress(CorruptSnapshot):
        thaw(found)
    assert linear_model.LogisticRegression.predict_one is predict_one


@given(FRAGMENTS)
@example({"format": 1, "leaves": [], "groups": [], "root": [None]})
def test_no_fragment_is_more_than_data(found: Any) -> None:
    try:
        value = thaw(found)
    except CorruptSnapshot:
        return
    assert value is None or type(value) in {bool, int, float, str, bytes}
