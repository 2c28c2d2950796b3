"""What freezing keeps, what it refuses, and what thawing does with a hostile tree."""

from __future__ import annotations

import collections
import contextlib
import copy
import datetime as dt
import enum
import functools
import gc
import importlib
import importlib.resources
import itertools
import math
import operator
import os
import random
import re
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from river import (
    bandit,
    compose,
    drift,
    feature_extraction,
    linear_model,
    naive_bayes,
    optim,
    preprocessing,
    proba,
    sketch,
    stats,
    tree,
    utils,
)

from stream_update.errors import ConfigError, CorruptSnapshot
from stream_update.objects import digest, freeze, thaw
from stream_update.objects.names import frozen


def trip(value: Any, *allow: Any) -> Any:
    """Through the bytes and back; the digest must not change on the way."""
    tree_ = freeze(value, allow=allow)
    thawed = thaw(msgspec.msgpack.decode(msgspec.msgpack.encode(tree_)), allow=allow)
    assert digest(freeze(thawed, allow=allow)) == digest(tree_)
    return thawed


class Point:
    def __init__(self, x: Any, y: Any) -> None:
        self.x = x
        self.y = y

    def halved(self) -> Any:
        return self.x / 2


class Slotted:
    __slots__ = ("_left", "right")
    right: int


class Both(Slotted):
    pass


class Colour(enum.Enum):
    RED = 1
    GREEN = "g"


class Mode(enum.Flag):
    A = 1
    B = 2


class Loose(NamedTuple("Loose", [("first", int)])):  # noqa: SLOT002 -- it wants one
    """A named tuple whose instances have a ``__dict__``."""


class Preset:
    level = 3

    def __init__(self) -> None:
        self.level = 4


class Either:
    def __init__(self, left: bool) -> None:
        self.left = left
        if left:
            self.a = 1
        else:
            self.b = 2


class NotPlain(Exception):
    pass


class Pair(NamedTuple):
    first: Any
    second: Any


def double(x: Any) -> Any:
    return x * 2


# What is kept.


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(2**63),
        2**63 - 1,
        2**63,
        -(2**63) - 1,
        10**400 - 1,
        "",
        "häßlich \x00 \U0001f600",
        b"\x00\xff",
        bytearray(b"abc"),
        0.1,
        -0.0,
        math.inf,
        5e-324,
        complex(1, -0.0),
        range(3, 9, 2),
        [],
        [1, 1.0, True, None, "1", b"1", 2**70],
        [[], [[]], ()],
        (1, (2.0, (True, ("x", ())))),
        {},
        {"b": 1, "a": 2, 3: [4], None: 5, (1, "x"): 6, 1.5: 7, True: 8, 2**80: 9},
        {1, 2, 3},
        {"a", 1, 2.5, None, ("b", 2), frozenset({1, 2})},
        frozenset({"a", ("b", frozenset())}),
        collections.deque([1, 2, 3], maxlen=3),
        collections.deque([[]]),
        collections.Counter({"b": 2, "a": -1}),
        collections.OrderedDict([("z", 1), ("a", [2])]),
        dt.datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=dt.UTC),
        dt.datetime(2024, 10, 27, 2, 30, fold=1),  # noqa: DTZ001 -- with and without a zone
        dt.date(2024, 2, 29),
        dt.time(23, 59, 59, 999999),
        dt.timedelta(days=-1, microseconds=1),
        dt.timezone(dt.timedelta(hours=-3, minutes=-30), "Newfoundland"),
        re.compile(r"(?i)a+b", re.MULTILINE),
        float,
        collections.Counter,
        stats.Mean,
        np.float64(0.1),
        np.float32(0.1),
        np.int8(-3),
        np.bool_(True),
        np.complex64(1 + 2j),
        copy.deepcopy,
        str.lower,
    ],
    # What they look like depends on addresses and on the hash seed.
    ids=map(str, itertools.count()),
)
def test_a_value_comes_back(value: Any) -> None:
    back = trip(value)
    assert type(back) is type(value)
    assert back == value
    assert repr(back) == repr(value)


def test_every_bit_of_a_float_comes_back() -> None:
    bits = [0x7FF8000000000000, 0x7FF8000000000001, 0xFFF8000000000000, 0x8000000000000000, 1]
    values = [struct.unpack("<d", struct.pack("<Q", number))[0] for number in bits]
    back = trip({"list": values, "tuple": tuple(values), "array": np.array(values)})
    for kind in back.values():
        assert [struct.unpack("<Q", struct.pack("<d", value))[0] for value in kind] == bits


def test_the_order_and_the_size_of_containers_come_back() -> None:
    assert list(trip({"z": 1, "a": 2, "m": 3})) == ["z", "a", "m"]
    limited = trip(collections.deque([1, 2], maxlen=2))
    limited.append(3)
    assert list(limited) == [2, 3]
    ordered = trip(collections.OrderedDict(b=1, a=2))
    ordered.move_to_end("b")
    assert list(ordered) == ["a", "b"]
    counter = trip(collections.Counter("aab"))
    counter.update("a")
    assert counter == {"a": 3, "b": 1}


def test_shared_objects_stay_shared_and_cycles_closed() -> None:
    shared: list[Any] = [1]
    shared.append({"self": shared, "again": (shared, shared)})
    point = Point(shared, None)
    point.y = point
    back = trip([point, point, shared], Point)
    assert back[0] is back[1] is back[0].y
    assert back[0].x is back[2] is back[2][1]["self"] is back[2][1]["again"][0]


def test_equal_objects_stay_apart() -> None:
    back = trip([[], [], {}, {}])
    assert back[0] is not back[1]
    assert back[2] is not back[3]


def test_no_depth_is_too_deep_for_what_can_change() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    back = trip(deep)
    for _ in range(100_000):
        (back,) = back
    assert back == []


def test_attributes_and_slots_come_back_as_they_were() -> None:
    both = Both()
    both.right = 1
    both.extra = [2]  # type: ignore[attr-defined]
    back = trip(both, Both)
    assert (back.right, back.extra) == (1, [2])
    assert not hasattr(back, "_left")
    assert vars(back) == {"extra": [2]}


def test_instances_of_one_class_may_differ_in_their_attributes() -> None:
    one, other, third = Point(1, 2), Point(3, 4), Point(5, 6)
    del other.y
    vars(other)["z"] = 7
    vars(third)["only by hand"[:4]] = 8
    back = trip([one, other, third, Preset()], Point, Preset)
    assert [vars(point) for point in back[:3]] == [
        {"x": 1, "y": 2},
        {"x": 3, "z": 7},
        {"x": 5, "y": 6, "only": 8},
    ]
    assert vars(back[3]) == {"level": 4}
    left, right = trip([Either(True), Either(False)], Either)
    assert (vars(left), vars(right)) == ({"a": 1, "left": True}, {"b": 2, "left": False})


def test_a_named_tuple_and_an_enumeration_come_back() -> None:
    back = trip([Pair([1], Colour.RED), Colour.GREEN], Pair, Colour)
    assert back == [Pair([1], Colour.RED), Colour.GREEN]
    assert type(back[0]) is Pair
    assert back[1] is Colour.GREEN


def test_functions_methods_and_partials_come_back() -> None:
    point = Point(10, 4)
    partial = functools.partial(double, [point])
    value = [double, partial, point.halved, operator.itemgetter("a", 1), Point.halved, [].append]
    with pytest.raises(ConfigError, match=r"list\[5\]"):
        freeze(value, allow=(Point, double, Point.halved))
    back = trip([*value[:5], point], Point, double, Point.halved)
    assert back[0] is double
    assert back[1]() == [back[5], back[5]]
    assert back[2]() == 5
    assert back[2].__self__ is back[5]
    assert back[3]({"a": 3, 1: 4}) == (3, 4)
    assert back[4] is Point.halved


def test_a_default_factory_comes_back() -> None:
    nested: Any = collections.defaultdict(functools.partial(collections.defaultdict, float))
    nested["a"]["b"] += 1
    back = trip(nested)
    back["c"]["d"] += 2
    assert back == {"a": {"b": 1.0}, "c": {"d": 2.0}}


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back(order: Any) -> None:
    array = np.arange(12, dtype=">i4").reshape(3, 4).copy(order)
    back, empty, scalar = trip([array, np.zeros((0, 3)), np.array(1.5)])
    np.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype
    assert back.flags.f_contiguous == array.flags.f_contiguous
    assert back.flags.writeable
    assert empty.shape == (0, 3)
    assert scalar.shape == ()


def draws(generator: Any) -> list[float]:
    if isinstance(generator, random.Random):
        return [generator.gauss(0, 1), generator.random(), float(generator.randrange(1000))]
    return [float(generator.normal()) for _ in range(3)]


@pytest.mark.parametrize(
    "generator",
    [
        random.Random(1),
        np.random.RandomState(2),
        np.random.default_rng(3),
        np.random.Generator(np.random.MT19937(4)),
        np.random.Generator(np.random.PCG64DXSM(5)),
    ],
    ids=lambda generator: repr(generator).partition(" ")[0],
)
def test_a_random_generator_goes_on(generator: Any) -> None:
    draws(generator)
    back = trip([generator, generator])
    assert back[0] is back[1]
    assert draws(back[0]) == draws(generator)


def test_extension_types_go_on() -> None:
    detector, quantile = drift.ADWIN(), stats.RollingQuantile(0.5, 7)
    for number in range(200):
        detector.update(number % 7)
        quantile.update(number % 5)
    back = trip([detector, quantile])
    for number in range(400):
        detector.update(number)
        back[0].update(number)
        assert back[0].drift_detected == detector.drift_detected
    assert back[0].estimation == detector.estimation
    assert back[1].get() == quantile.get()


def test_a_vector_keeps_its_order_and_its_default() -> None:
    zeros = optim.initializers.Zeros()
    vector: Any = utils.VectorDict({"b": 1.0, "a": 2.0, ("c", 1): -0.0}, zeros)
    back = trip([vector, zeros])
    assert repr(back[0].to_dict()) == repr(vector.to_dict())
    assert back[0].__reduce__()[1][1] is back[1]
    assert back[0]["new"] == 0.0


# Sets, and what else depends on the process.


def insert(names: list[str]) -> set[str]:
    made: set[str] = set()
    for name in names:
        made.add(name)
    return made


def test_a_small_set_hands_out_its_members_as_before() -> None:
    chance = random.Random(0)
    for size in range(7):
        for _ in range(50):
            names = insert([f"{chance.random()}" for _ in range(size)])
            assert list(trip(names)) == list(names)


def test_sets_with_another_history_have_the_same_digest() -> None:
    names = [f"label {number}" for number in range(12)]
    assert digest(freeze(insert(names))) == digest(freeze(insert(names[::-1])))


DIGEST_OF_SETS = """
from stream_update.objects import digest, freeze
names = [f"label {number}" for number in range(20)]
print(digest(freeze([set(names), frozenset(names), {("a", name): {name} for name in names},
                     {("x", frozenset(names[:5])), None, 1, 2.5}])))
"""


def test_a_digest_does_not_depend_on_the_hash_seed() -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", DIGEST_OF_SETS],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
        )
        for seed in "012"
    ]
    digests = {process.communicate()[0] for process in started}
    assert len(digests) == 1
    assert len(digests.pop().strip()) == 64


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        (0.0, -0.0),
        ([1], (1,)),
        ("a", b"a"),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (np.float64(1), 1.0),
        (np.zeros(2), np.zeros(2, "f4")),
        (collections.deque([1], 1), collections.deque([1], 2)),
    ],
)
def test_what_is_different_has_another_digest(one: object, other: object) -> None:
    assert digest(freeze(one)) != digest(freeze(other))


# What is peculiar about river.


def test_a_pipeline_is_the_same_before_and_after_it_was_asked() -> None:
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    model.steps["StandardScaler"].learn_one({"a": 2.0})
    before = digest(freeze(model))
    model.predict_proba_one({"a": 1.0})
    assert digest(freeze(model)) == before
    assert trip(model).predict_proba_one({"a": 1.0}) == model.predict_proba_one({"a": 1.0})


def test_a_distribution_goes_without_a_generator_that_its_seed_makes_again() -> None:
    gaussian = proba.Gaussian(seed=7)
    assert "random" not in {group["kind"] for group in freeze([gaussian])["groups"]}
    assert trip([gaussian])[0].sample() == gaussian.sample()
    # By now it has moved.
    assert trip([gaussian])[0].sample() == gaussian.sample()


def test_thompson_sampling_goes_on() -> None:
    policy = bandit.ThompsonSampling(reward_obj=proba.Beta(), seed=3)
    arms = list(range(4))

    def pull(one: Any, count: int) -> list[int]:
        pulled = []
        for number in range(count):
            arm = one.pull(arms)
            one.update(arm, number % 3 == 0)
            pulled.append(arm)
        return pulled

    pull(policy, 50)
    back = trip(policy)
    assert pull(back, 50) == pull(policy, 50)
    assert digest(freeze(back)) == digest(freeze(policy))


def test_a_snapshot_leaves_no_trace_on_the_model() -> None:
    # An instance whose `__dict__` was looked at refers to that, and is slower ever after.
    def slow(parts: list[Any]) -> list[Any]:
        return [part for part in parts if len(gc.get_referents(part)) == 2]

    model = tree.HoeffdingTreeClassifier(grace_period=10)
    for number in range(50):
        model.learn_one({"a": float(number), "b": -1.5 * number}, number % 3)
    parts = [part for part in gc.get_objects() if f"{type(part).__module__}".startswith("river")]
    before = len(slow(parts))
    freeze(model)
    assert any(part is model for part in parts)
    assert len(slow(parts)) == before


# What is refused, and how.


def local() -> None:
    """A function that no list has."""


def with_attribute(value: Any) -> Any:
    value.note = 1
    return value


@pytest.mark.parametrize(
    ("value", "where", "why"),
    [
        ({"a": [Point(1, 2)]}, r"dict\['a'\]\[0\]", "Point and is of a class that is not listed"),
        (lambda: 1, "function", "not listed"),
        ([local], r"list\[0\]", "local, which is not listed"),
        (functools.partial(local), r"partial\.func", "not listed"),
        (Point(1, 2).halved, "method", "halved, which is not listed"),
        ([threading.Lock()], r"list\[0\]", "lock"),
        ((number for number in "ab"), "generator", "not listed"),
        ([iter([1])], r"list\[0\]", "list_iterator"),
        ([math], r"list\[0\]", "module"),
        (subprocess.Popen, "type", "subprocess:Popen, which is not listed"),
        (Colour.RED, "Colour", "not listed"),
        (Pair(1, 2), "Pair", "not listed"),
        ({"a": "\ud800"}, r"dict\['a'\]", "lone surrogates"),
        ([10**400], r"list\[0\]", "more than 400 digits"),
        ({object()}, "set", "object"),
        (np.array(["a"]), "ndarray", "no plain number"),
        (np.array([object()]), "ndarray", "no plain number"),
        (np.longdouble(1), "longdouble", "no plain number"),
        (np.random.Generator(np.random.SFC64()), "Generator", "neither MT19937 nor PCG64"),
        (utils.VectorDict({"a": 1.0}).with_mask({"a"}), "VectorDict", "a view"),
        (utils.VectorDict({}, float), "VectorDict", "default factory"),
        (utils.VectorDict({"a": np.float64(1)}), "VectorDict", "type float"),
        (ValueError("x"), "ValueError", "not listed"),
        (with_attribute(functools.partial(double)), "partial", "attributes of its own"),
        (with_attribute(collections.Counter()), "Counter", "attributes of its own"),
        ([sketch.Set(10, 0.1)], r"list\[0\]", "hash"),
        (stats.RollingQuantile(0.5, 20_000_000), "_rolling_quantile", "above 10000000"),
        (feature_extraction.RandomTreesEmbedding(), "RandomTreesEmbedding", "address in memory"),
    ],
    # What they look like depends on addresses and on the hash seed.
    ids=map(str, itertools.count()),
)
def test_what_cannot_be_kept_is_refused(value: object, where: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"{where}.*{why}") as refusal:
        freeze(value)
    assert "allow" in refusal.value.hint


def test_the_way_to_what_cannot_be_kept_is_shown() -> None:
    model = compose.Pipeline(("scale", preprocessing.StandardScaler()), naive_bayes.GaussianNB())
    model.steps["scale"].counts["x"] = Point(1, 2)
    with pytest.raises(ConfigError, match=r"^Pipeline\.steps\['scale'\]\.counts\['x'\] cannot"):
        freeze(model)


def test_tuples_are_not_nested_without_end() -> None:
    deep: Any = ()
    for _ in range(100_000):
        deep = (deep,)
    with pytest.raises(ConfigError, match="64 deep"):
        freeze([deep])


def test_an_attribute_in_the_place_of_a_method_is_refused() -> None:
    point = Point(1, 2)
    vars(point)["halved"] = double
    with pytest.raises(ConfigError, match="'halved', which is a function of the class"):
        freeze(point, allow=(Point, double))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (NotPlain(), "plain Python"),
        (Mode.A | Mode.B, "no single member"),
        (with_attribute(Loose(1)), "attributes of its own"),
    ],
    ids=["exception", "flags", "tuple"],
)
def test_what_is_allowed_but_cannot_be_kept_is_refused(value: object, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        freeze(value, allow=(type(value),))


def test_two_classes_of_one_name_cannot_both_be_allowed() -> None:
    def make() -> type:
        class Twin:
            pass

        return Twin

    with pytest.raises(ConfigError, match="two different things"):
        freeze([], allow=(make(), make()))


def test_only_the_very_class_that_was_allowed_is_kept() -> None:
    impostor = type("Point", (), {"__module__": Point.__module__, "__qualname__": "Point"})
    with pytest.raises(ConfigError, match="not listed"):
        freeze(impostor(), allow=(Point,))


# Trees that nobody here has written. Nothing that they name may run.


class Watch:
    """Notes what an attack would have to do, while it is on."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.on and event.startswith(("open", "os.", "subprocess", "socket", "exec", "compile")):
            self.seen.append(f"{event} {args!r:.80}")


WATCH = Watch()


@contextlib.contextmanager
def nothing_runs() -> Iterator[None]:
    for section in (frozen().classes, frozen().functions, frozen().references):
        for module in section:
            importlib.import_module(module)
    before = dict(vars(linear_model.LogisticRegression)), dict(vars(Point))
    WATCH.seen.clear()
    WATCH.on = True
    try:
        yield
    finally:
        WATCH.on = False
    assert WATCH.seen == []
    assert before == (dict(vars(linear_model.LogisticRegression)), dict(vars(Point)))


def tree_of(*groups: Any, leaves: Any = (), root: Any = ((0,),)) -> Any:
    return {
        "format": 1,
        "leaves": [list(leaf) for leaf in leaves],
        "groups": list(groups),
        "root": [list(value) if isinstance(value, tuple) else value for value in root],
    }


def instance(of: object, **attributes: Any) -> dict[str, Any]:
    return {
        "kind": "object",
        "of": of,
        "attributes": list(attributes),
        "count": 1,
        "columns": [[value] for value in attributes.values()],
    }


def group(kind: object, *columns: Any, count: Any = 1, **head: Any) -> dict[str, Any]:
    return {"kind": kind, "count": count, "columns": list(columns), **head}


def leaf(*parts: Any) -> Any:
    return tree_of(leaves=[parts], root=((-1,),))


LOGISTIC = "river.linear_model.log_reg:LogisticRegression"
QUANTILE = "river._river_rust.stats:RsRollingQuantile"
MEAN = "river.stats.mean:Mean"
TWISTER = bytes(4 * 624)

ATTACKS: dict[str, Any] = {
    # Classes and functions that are not on the list.
    "os.system": leaf("function", "os:system"),
    "getattr": leaf("function", "builtins:getattr"),
    "eval": leaf("function", "builtins:eval"),
    "a prefix": leaf("function", "river.datasets.base:os.getpid"),
    "a dotted name": leaf("function", "copy:deepcopy.__globals__"),
    "a listed module": leaf("function", "copy:copy"),
    "runstring": leaf("function", "numpy.testing._private.utils:runstring"),
    "open_filepath": leaf("function", "river.stream.utils:open_filepath"),
    "a class as function": leaf("function", "builtins:float"),
    "a function as class": leaf("type", "copy:deepcopy"),
    "Popen": leaf("type", "subprocess:Popen"),
    "an unlisted class": tree_of(instance("subprocess:Popen", args="id")),
    "a data set": tree_of(instance("river.datasets.phishing:Phishing")),
    "an unlisted class of river": tree_of(instance("river.stream.cache:Cache")),
    "a reference as class": tree_of(instance("builtins:dict")),
    "an abstract class": tree_of(instance("river.base.classifier:Classifier")),
    "a name that is none": tree_of(instance(None)),
    "a list as name": tree_of(instance(["river"])),
    "a reduce": leaf("reduce", "os:system", ["id"]),
    "a partial of a list": tree_of(group("list", [0], []), leaves=[("partial", [0], 0)]),
    "a partial of text": leaf("partial", "os:system", 1, "id"),
    "a method of another": tree_of(
        group("list", [0], []), leaves=[("method", "river.base.base:Base.clone", [0])]
    ),
    "an unlisted method": tree_of(
        instance(MEAN, n=1, _mean=1.0), leaves=[("method", f"{MEAN}.update", [0])]
    ),
    "a tuple of another length": leaf("record", f"{__name__}:Pair", 1),
    "a class as record": leaf("record", f"{__name__}:Point", 1),
    "a member that is none": leaf("enum", f"{__name__}:Colour", "BLUE"),
    "a class as enumeration": leaf("enum", f"{__name__}:Point", "x"),
    "a class that is not plain": tree_of(instance(f"{__name__}:NotPlain")),
    "a partial with half a keyword": tree_of(
        leaves=[("function", "copy:deepcopy"), ("partial", [-1], 0, "memo")], root=((-2,),)
    ),
    "a partial with a keyword twice": tree_of(
        leaves=[("function", "copy:deepcopy"), ("partial", [-1], 0, "a", 1, "a", 2)], root=((-2,),)
    ),
    "a partial with too few arguments": tree_of(
        leaves=[("function", "copy:deepcopy"), ("partial", [-1], 3, 1)], root=((-2,),)
    ),
    # Attributes that are more than data.
    "class pollution": tree_of(instance(LOGISTIC, __class__="x")),
    "a dict by its name": tree_of(instance(LOGISTIC, __dict__=None)),
    "a dunder": tree_of(instance(LOGISTIC, __reduce__=None)),
    "a deepcopy hook": tree_of(
        instance(LOGISTIC, __deepcopy__=[-1]), leaves=[("type", "builtins:int")]
    ),
    "a method's place": tree_of(instance(LOGISTIC, predict_one=None)),
    "an inherited method's place": tree_of(instance(LOGISTIC, clone=None)),
    "a property": tree_of(instance(LOGISTIC, weights=None)),
    "not a name": tree_of(instance(LOGISTIC, **{"a.b": 1})),
    "not a slot": tree_of(instance("river.neighbors.base:FunctionWrapper", other=1)),
    "attributes without names": tree_of({**instance(LOGISTIC, a=1), "attributes": [1]}),
    "the same attribute twice": tree_of(
        {**instance(LOGISTIC, a=1), "attributes": ["a", "a"], "columns": [[1], [2]]}
    ),
    "too few values": tree_of({**instance(LOGISTIC, a=1), "columns": [[]]}),
    "too few columns": tree_of({**instance(LOGISTIC, a=1), "columns": []}),
    # Numbers that are too large, or no numbers.
    "a giant integer": leaf("int", "9" * 401),
    "a giant integer in hex": leaf("int", "0x" + "f" * 300),
    "an integer in words": leaf("int", "eins"),
    "a wide integer that is no leaf": tree_of(root=(2**70,)),
    "reserve memory": tree_of(group("rust", [b""], [0.5], [2**50], of=QUANTILE)),
    "too much memory": tree_of(group("rust", [b""], [0.5], [2**62], of=QUANTILE)),
    "a Rust state": tree_of(group("rust", [b"\xff" * 40], [0.5], [5], of=QUANTILE)),
    "no Rust state": tree_of(group("rust", [b""], [0.5], [5], of=QUANTILE)),
    "a Rust type made of text": tree_of(group("rust", [b""], ["a"], [5], of=QUANTILE)),
    "a vector as Rust type": tree_of(
        group("rust", [b""], of="river._river_rust.vectordict:VectorDict")
    ),
    "a giant array": tree_of(group("ndarray", ["<f8"], ["C1000000000000"], [b""])),
    "a negative array": tree_of(group("ndarray", ["<f8"], ["C-1,-8"], [bytes(64)])),
    "an array of objects": tree_of(group("ndarray", ["|O"], ["C1"], [bytes(8)])),
    "an array of a wide type": tree_of(group("ndarray", ["<f16"], ["C1"], [bytes(16)])),
    "an array in no order": tree_of(group("ndarray", ["<f8"], ["A1"], [bytes(8)])),
    "a position out of the twister": tree_of(
        group("random-state", ["MT19937"], [TWISTER], [10**6], [0], [0.0])
    ),
    "a twister of another size": tree_of(
        group("random-state", ["MT19937"], [b""], [0], [0], [0.0])
    ),
    "a state for another generator": tree_of(
        group("random-state", ["PCG64"], [bytes(32)], [0], [0], [0.0])
    ),
    "an unknown generator": tree_of(
        group("random-generator", ["os"], [bytes(32)], [0], [0], [0.0])
    ),
    "a generator with a large flag": tree_of(
        group("random-state", ["MT19937"], [TWISTER], [0], [2], [0.0])
    ),
    "half a PCG64": tree_of(group("random-generator", ["PCG64"], [bytes(16)], [0], [0], [0.0])),
    "a wide PCG64": tree_of(group("random-generator", ["PCG64"], [bytes(32)], [2**40], [0], [0.0])),
    "a seed of text": tree_of(instance("river.proba.beta:Beta", seed="x")),
    "a position out of Python's twister": tree_of(
        group("random", [bytes(2496) + b"\xff\xff\xff\x7f"], [None])
    ),
    # References to what is not there, or not yet.
    "out of range": tree_of(root=((0,),)),
    "far out of range": tree_of(group("list", [1], {"refs": [10**9]})),
    "below": tree_of(group("list", [1], [[-1]])),
    "no integer": tree_of(group("list", [1], [["0"]])),
    "a truth value": tree_of(group("list", [1], [[True]]), group("list", [0], [])),
    "two integers": tree_of(group("list", [1], [[0, 0]])),
    "an empty one": tree_of(group("list", [1], [[]])),
    "steps that are none": tree_of(group("list", [1], {"refs": [0.0]})),
    "another dict": tree_of(group("list", [1], {"ref": [0]})),
    "a leaf in itself": leaf("tuple", [-1]),
    "a leaf that comes later": tree_of(leaves=[("tuple", [-2]), ("tuple",)], root=((-1,),)),
    "a factory that comes later": tree_of(
        group("vector", [0], [], [], [[1]], count=1), group("vector", [0], [], [], [[0]], count=1)
    ),
    # Containers that cannot be.
    "a list as key": tree_of(group("dict", [1], [[0]], [1])),
    "the same key twice": tree_of(group("dict", [2], ["a", "a"], [1, 2])),
    "the same member twice": tree_of(group("set", [2], [1, True], [0], [])),
    "a hint to nowhere": tree_of(group("set", [2], [1, 2], [2], [0, 2])),
    "sizes that do not add up": tree_of(group("list", [2], [1])),
    "a negative size": tree_of(group("list", [-1], [])),
    "no sizes": tree_of(group("list", [None], [])),
    "more columns": tree_of(group("list", [0], [], [])),
    "fewer columns": tree_of(group("dict", [0])),
    "more than it can hold": tree_of(group("deque", [2], [1, 2], [1])),
    "a factory that cannot be called": tree_of(group("defaultdict", [0], [], [], [1])),
    "an unhashable frozenset": tree_of(group("list", [0], []), leaves=[("frozenset", [0])]),
    "two arrays of which one is there": tree_of(
        group("ndarray", ["<f8"], ["C1"], [bytes(8)], count=2)
    ),
    "a vector with a key twice": tree_of(group("vector", [2], ["a", "a"], [1.0, 2.0], [None])),
    "a vector of text": tree_of(group("vector", [1], ["a"], ["b"], [None])),
    "a wrong count": tree_of(group("list", [0], [], count=2)),
    "no count": tree_of(group("list", [0], [], count=None)),
    "a count of nothing": tree_of(group("list", [], [], count=0)),
    "a giant count": tree_of({**instance(LOGISTIC), "count": 10**12}),
    "many giant counts": tree_of(*[{**instance(LOGISTIC), "count": 15_000_000}] * 3),
    # Leaves that cannot be.
    "an unknown leaf": leaf("lambda", "1"),
    "a leaf without a kind": leaf(None),
    "a leaf of nothing": leaf(),
    "a date of text": leaf("date", "a", 1, 1),
    "a pattern that is none": leaf("pattern", "(", 0),
    "a pattern that prints": leaf("pattern", "a", int(re.DEBUG)),
    "a number of four bytes in three": leaf("numpy", "<f4", b"abc"),
    "two numbers in one": leaf("numpy", "<f4", b"abcdefgh"),
    "a tuple without end": tree_of(
        leaves=[("tuple",), *(("tuple", [-number]) for number in range(1, 1000))], root=((-1000,),)
    ),
    # The tree itself.
    "no dict": [],
    "nothing": None,
    "no fields": {},
    "another format": {**leaf("tuple"), "format": 2},
    "more fields": {**leaf("tuple"), "code": "print(1)"},
    "groups that are none": {**leaf("tuple"), "groups": None},
    "a group that is none": {**leaf("tuple"), "groups": [None]},
    "a group with more": tree_of(group("list", [0], [], of="os:system")),
    "an unknown group": tree_of(group("module", ["os"])),
    "two roots": tree_of(root=(1, 2)),
    "no root": tree_of(root=()),
    "an object as value": tree_of(group("list", [1], [object()])),
    "a float as value of 64 bits and a tuple": tree_of(group("list", [1], [(1,)])),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_tree_is_refused_and_runs_nothing(name: str) -> None:
    with pytest.raises(CorruptSnapshot), nothing_runs():
        thaw(ATTACKS[name], allow=(Point, Pair, Colour, NotPlain))


def test_the_trees_of_the_attacks_are_well_formed_but_for_the_attack() -> None:
    thaw(tree_of(instance(MEAN, n=1, _mean=0.5)))
    thaw(tree_of(group("list", [1], [[0]])))
    thaw(tree_of(group("set", [2], [1, 2], [2], [1, 0])))
    thaw(leaf("function", "copy:deepcopy"))
    thaw(leaf("int", "9" * 400))
    thaw(tree_of(group("random-state", ["MT19937"], [TWISTER], [624], [0], [0.0])))


def test_a_refusal_says_what_and_where() -> None:
    with pytest.raises(CorruptSnapshot, match=r"group 0: 'os:system', which is not on the list"):
        thaw(tree_of(instance("os:system")))
    with pytest.raises(
        CorruptSnapshot, match=r"group 0 \(river.*LogisticRegression\): 0 values of"
    ):
        thaw(ATTACKS["too few values"])
    with pytest.raises(CorruptSnapshot, match="leaf 0: an integer that is none") as refusal:
        thaw(ATTACKS["a giant integer"])
    assert "allow" in refusal.value.hint


def test_what_was_allowed_before_is_no_longer_without_it() -> None:
    tree_ = freeze(Point(1, 2), allow=(Point,))
    with pytest.raises(CorruptSnapshot, match="Point"):
        thaw(tree_)


def test_limits_hold() -> None:
    with pytest.raises(CorruptSnapshot, match="not between 1 and 10"):
        thaw(freeze([[] for _ in range(20)]), max_nodes=10)
    with pytest.raises(CorruptSnapshot, match="12 objects, more than 10"):
        thaw(freeze([[], [], [], [], [], [], {}, {}, {}, {}, {}]), max_nodes=10)
    with pytest.raises(CorruptSnapshot, match="at most 10"):
        thaw(freeze(list(range(20))), max_nodes=10)
    with pytest.raises(CorruptSnapshot, match="more than 5 bytes"):
        thaw(freeze(["a", "123456"]), max_bytes=5)


class Panicking:
    def __hash__(self) -> int:
        raise self.error  # type: ignore[attr-defined]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError, GeneratorExit])
def test_a_wish_to_stop_is_not_a_corrupt_snapshot(error: type[BaseException]) -> None:
    key = Panicking()
    tree_ = freeze([{1: 2}, key], allow=(Panicking,))
    for part in tree_["groups"]:
        if part["kind"] == "dict":
            part["columns"][1] = tree_["groups"][0]["columns"][1]["refs"] and [[2]]
    Panicking.error = error()  # type: ignore[attr-defined]
    with pytest.raises(error):
        thaw(tree_, allow=(Panicking,))
    Panicking.error = BaseException("a panic")  # type: ignore[attr-defined]
    with pytest.raises(CorruptSnapshot, match="a panic"):
        thaw(tree_, allow=(Panicking,))


def test_the_collector_is_left_as_it_was() -> None:
    thaw(freeze([]))
    assert gc.isenabled()
    with pytest.raises(CorruptSnapshot):
        thaw(None)
    assert gc.isenabled()


# The list.


def test_the_shipped_list_is_that_of_the_installed_river() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "stream_update.objects.allow"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=True,
    ).stdout
    shipped = importlib.resources.files("stream_update").joinpath("data/river_types.json")
    assert printed == shipped.read_bytes()


def test_no_class_on_the_list_runs_code_while_it_is_made_or_forgotten() -> None:
    hooks = ("__new__", "__setattr__", "__delattr__", "__getattribute__", "__del__")
    for module, names in frozen().classes.items():
        for name in names:
            cls: Any = importlib.import_module(module)
            for part in name.split("."):
                cls = getattr(cls, part)
            if issubclass(cls, tuple):
                continue
            own = {hook for base in cls.__mro__[:-1] for hook in hooks if hook in vars(base)}
            assert own == set(), f"{module}:{name}"


def test_nothing_on_the_list_opens_or_imports_anything() -> None:
    names = [name for section in (frozen().classes, frozen().functions) for name in section]
    banned = (
        "river.datasets",
        "river.stream",
        "river.evaluate",
        "os",
        "subprocess",
        "river.compat",
    )
    assert not [name for name in names if name.startswith(banned)]
