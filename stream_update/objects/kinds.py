"""Objects that change: how each kind is split into columns, made empty, and filled again.

All objects of a kind (for instances: of one class with the same attributes) are kept
together, column by column. That makes most of the work a loop in C, and the bytes
compress well. Making comes before filling, so that shared objects and cycles are no
special case; what has to be known to make an object is a plain value, never another
object.
"""

from __future__ import annotations

import collections
import itertools
import math
import operator
import random
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from stream_update.errors import CorruptSnapshot
from stream_update.objects import leaves
from stream_update.objects.leaves import Unsupported
from stream_update.objects.names import Names, name_of, plain, shadows, slots_of
from stream_update.objects.quirks import OUTLAWS, quirk_of

__all__ = ["Kind", "kind_of", "sort_out"]

Column = list[Any]

Head = Mapping[str, Any]

Made = Callable[[Column], Column]
"""Looks up references among the objects that are made already."""

MAX_SIZE_ARGUMENT = 10_000_000
"""Largest integer that an extension type is made with: it may reserve memory for so many."""

consume: Callable[[Iterable[object]], object] = collections.deque(maxlen=0).extend
"""Run an iterator to its end."""


class Kind(Protocol):
    """One kind of object that changes."""

    tag: str
    head: Head
    """What a group of this kind has beside its tag, its count and its columns."""
    turn: int
    """Kinds are filled in this order: a key must be complete before a dict hashes it."""
    late: bool
    """Whether other objects have to exist for making these."""

    def make(self, count: int, columns: list[Column], made: Made) -> list[Any]:
        """Empty objects; the columns may hold references and are not to be trusted."""
        ...

    def fill(self, objects: list[Any], columns: list[Column]) -> None:
        """Put the content in; references are objects by now."""
        ...


def chunks(sizes: Column, *columns: Column) -> Iterable[tuple[list[Any], ...]]:
    """Cut columns into consecutive parts of the given sizes."""
    if set(map(type, sizes)) - {int} or min(sizes, default=0) < 0:
        raise CorruptSnapshot("the sizes are no sizes")
    if any(len(column) != sum(sizes) for column in columns):
        raise CorruptSnapshot("the sizes do not add up to the number of items")
    ends = list(itertools.accumulate(sizes))
    return (
        tuple(column[end - size : end] for column in columns)
        for size, end in zip(sizes, ends, strict=True)
    )


def only(column: Column, *types: type) -> Column:
    """The column itself, if it holds nothing but values of exactly these types."""
    if not set(map(type, column)).issubset(types):
        raise CorruptSnapshot(f"expected nothing but {', '.join(cls.__name__ for cls in types)}")
    return column


class Splitting(Kind, Protocol):
    """A kind that needs to know nothing but the objects."""

    def split(self, objects: Sequence[Any]) -> list[Column]:
        """The content of the objects. Raises :class:`Unsupported`."""
        ...


class Sequences:
    """Lists and deques. Columns: sizes, items, and for deques the largest sizes."""

    head: Head = {}
    turn = 1
    late = False

    def __init__(self, cls: type) -> None:
        self.tag = cls.__name__
        self.cls = cls

    def split(self, objects: Sequence[Any]) -> list[Column]:
        columns = [list(map(len, objects)), list(itertools.chain.from_iterable(objects))]
        if self.cls is collections.deque:
            columns.append([one.maxlen for one in objects])
        return columns

    def make(self, count: int, columns: list[Column], made: Made) -> list[Any]:
        if self.cls is collections.deque:
            return [collections.deque(maxlen=size) for size in only(columns[2], int, type(None))]
        return [self.cls() for _ in range(count)]

    def fill(self, objects: list[Any], columns: list[Column]) -> None:
        for one, (items,) in zip(objects, chunks(columns[0], columns[1]), strict=True):
            one.extend(items)
            if len(one) != len(items):
                raise CorruptSnapshot(f"a {self.tag} has more items than it can hold")


class Sets:
    """Sets. Columns: sizes and members, these in canonical order; sizes and ranks of hints.

    The order in which a set hands out its members is no part of its value: it depends
    on ``PYTHONHASHSEED`` and on history. Some of river's models let their arithmetic
    depend on it all the same (``HoeffdingAdaptiveTreeClassifier`` and text labels,
    ``compose.Select``). So a set whose order is not that of a fresh one with the same
    members takes its order along as a hint. Under the same ``PYTHONHASHSEED`` it comes
    back; under another one no order means anything. Hints are no part of the digest.
    """

    tag = "set"
    head: Head = {}
    turn = 2
    late = False

    few = 6
    """Up to so many members, all orders of insertion are tried: one of them was the true one."""
    tries = 1_000
    """So many orders are tried for a larger set, ..."""
    patience = 20_000
    """... and so many for all of them: the order of most sets is of no use to anybody."""

    def split(self, objects: Sequence[set[Any]]) -> list[Column]:
        columns: list[Column] = [list(map(len, objects)), [], [], []]
        for one in objects:
            members = leaves.canonical(one)
            columns[1].extend(members)
            order = list(one)
            if list(set(members)) == order:
                columns[2].append(0)
            else:
                ranks = {member: rank for rank, member in enumerate(members)}
                columns[2].append(len(order))
                columns[3].extend(ranks[member] for member in order)
        return columns

    def make(self, count: int, columns: list[Column], made: Made) -> list[Any]:
        return [set() for _ in range(count)]

    def fill(self, objects: list[Any], columns: list[Column]) -> None:
        known: dict[tuple[Any, ...], Column] = {}
        patience = itertools.repeat(None, self.patience)
        hints = chunks(columns[2], only(columns[3], int))
        for one, (members,), (ranks,) in zip(
            objects, chunks(columns[0], columns[1]), hints, strict=True
        ):
            if ranks:
                if sorted(ranks) != list(range(len(members))):
                    raise CorruptSnapshot("a set has an order of other members")
                order = tuple(members[rank] for rank in ranks)
                if order not in known:
                    known[order] = self._insertion(order, patience)
                members = known[order]
            one.update(members)
            if len(one) != len(members):
                raise CorruptSnapshot("a set has the same member twice")

    def _insertion(self, order: tuple[Any, ...], patience: Iterator[None]) -> Column:
        """Members in an order of insertion that makes a set which hands them out in ``order``.

        If none is found: ``order`` itself.
        """
        wanted = list(order)
        if len(wanted) <= self.few:
            for permuted, _ in zip(itertools.permutations(wanted), patience, strict=False):
                if _agreement(list(permuted), wanted) == len(wanted):
                    return list(permuted)
            return wanted
        chance = random.Random(0)  # noqa: S311
        best, score = wanted, _agreement(wanted, wanted)
        for _ in zip(range(self.tries), patience, strict=False):
            if score == len(wanted):
                break
            candidate = best.copy()
            member = candidate.pop(chance.randrange(len(wanted)))
            candidate.insert(chance.randrange(len(wanted)), member)
            if (found := _agreement(candidate, wanted)) >= score:
                best, score = candidate, found
        return best if score == len(wanted) else wanted


def _agreement(insertion: Column, wanted: Column) -> int:
    """How many members a set made in this order hands out where they are wanted."""
    return sum(map(operator.is_, set(insertion), wanted))


class Mappings:
    """Dicts and their kin. Columns: sizes, keys, values, and where there are, factories."""

    head: Head = {}
    turn = 3
    late = False

    def __init__(self, cls: type[dict[Any, Any]]) -> None:
        self.tag = cls.__name__
        self.cls = cls
        # A Counter's update adds, an OrderedDict's keeps the order that dict.update breaks.
        self.add: Callable[..., None] = cls.update if self._own_update() else dict.update

    def _own_update(self) -> bool:
        return self.cls is collections.OrderedDict

    def split(self, objects: Sequence[Any]) -> list[Column]:
        columns = [
            list(map(len, objects)),
            list(itertools.chain.from_iterable(objects)),
            list(itertools.chain.from_iterable(map(self.cls.values, objects))),
        ]
        if self.cls is collections.defaultdict:
            columns.append([one.default_factory for one in objects])
        if self.cls is collections.Counter and any(map(vars, objects)):
            raise Unsupported("has attributes of its own")
        return columns

    def make(self, count: int, columns: list[Column], made: Made) -> list[Any]:
        return [self.cls() for _ in range(count)]

    def fill(self, objects: list[Any], columns: list[Column]) -> None:
        sizes, keys, values = columns[:3]
        add = self.add
        for one, (some_keys, some_values) in zip(objects, chunks(sizes, keys, values), strict=True):
            add(one, zip(some_keys, some_values, strict=True))
            if len(one) != len(some_keys):
                raise CorruptSnapshot(f"a {self.tag} has the same key twice")
        if self.cls is collections.defaultdict:
            for one, factory in zip(objects, columns[3], strict=True):
                one.default_factory = factory


class ByteArrays:
    """Columns: bytes."""

    tag = "bytearray"
    head: Head = {}
    turn = 1
    late = False

    def split(self, objects: Sequence[bytearray]) -> list[Column]:
        return [list(map(bytes, objects))]

    def make(self, count: int, columns: list[Column], made: Made) -> list[Any]:
        return list(map(bytearray, only(columns[0], bytes)))

    def fill(self, objects: list[Any], columns: list[Column]) -> None:
        pass


class Generators:
    """``random.Random``. Columns: the 625 words of its state, the number held back."""

    tag = "random"
    head: Head = {}
    turn = 1
    late = False
    words = struct.Struct("<625I")

    def split(self, objects: Sequence[random.Random]) -> list[Column]:
        states = [one.getstate() for one in objects]
        return [
            [self.words.pack(*words) for _, words, _ in states],
            [held_back for _, _, held_back in states],
        ]

    def make(self, count: int, columns: list[Column], made: Made) -> list[Any]:
        made = []
        for raw, held_back in zip(
            only(columns[0], bytes), only(columns[1], float, type(None)), strict=True
        ):
            generator = random.Random(0)  # noqa: S311 -- a model's, not a secret's
            generator.setstate((generator.VERSION, self.words.unpack(raw), held_back))
            made.append(generator)
        return made

    def fill(self, objects: list[Any], columns: list[Column]) -> None:
        pass


class NumpyGenerators:
    """``RandomState`` and ``Generator``. Columns: algorithm, state, and four small numbers.

    numpy believes what it is told about positions in its buffers, so everything is
    checked here.
    """

    head: Head = {}
    turn = 1
    late = False
    words = 624

    def __init__(self, tag: str, cls: type) -> None:
        self.tag = tag
        self.cls = cls

    def split(self, objects: Sequence[Any]) -> list[Column]:
        return list(map(list, zip(*map(self._split_one, objects), strict=True)))

    def _split_one(self, one: Any) -> tuple[Any, ...]:
        if isinstance(one, np.random.RandomState):
            state: Any = one.get_state(legacy=False)
        else:
            state = one.bit_generator.state
        inner = state["state"]
        if state["bit_generator"] == "MT19937":
            key = inner["key"].astype("<u4").tobytes()
            return "MT19937", key, inner["pos"], state.get("has_gauss", 0), state.get("gauss", 0.0)
        if state["bit_generator"] in {"PCG64", "PCG64DXSM"} and self.cls is np.random.Generator:
            raw = inner["state"].to_bytes(16, "little") + inner["inc"].to_bytes(16, "little")
            return state["bit_generator"], raw, state["has_uint32"], state["uinteger"], 0.0
        raise Unsupported(f"uses {state['bit_generator']}, not MT19937 or PCG64")

    def make(self, count: int, columns: list[Column], made: Made) -> list[Any]:
        algorithms, raws, firsts, seconds, gausses = columns
        only(algorithms, str)
        only(raws, bytes)
        only(firsts, int)
        only(seconds, int)
        only(gausses, float)
        return list(map(self._make_one, *columns))

    def _make_one(self, algorithm: str, raw: bytes, first: int, second: int, gauss: float) -> Any:
        if algorithm == "MT19937" and len(raw) == 4 * self.words:
            if not 0 <= first <= self.words or second not in {0, 1} or not math.isfinite(gauss):
                raise CorruptSnapshot("a Mersenne twister whose state is none")
            inner = {"key": np.frombuffer(raw, "<u4").astype(np.uint32), "pos": first}
            state = {"bit_generator": algorithm, "state": inner}
            if self.cls is np.random.RandomState:
                made: Any = np.random.RandomState(0)
                made.set_state({**state, "has_gauss": second, "gauss": gauss})
                return made
            bits: Any = np.random.MT19937(0)
        elif algorithm in {"PCG64", "PCG64DXSM"} and len(raw) == 32:
            if first not in {0, 1} or not 0 <= second < 1 << 32:
                raise CorruptSnapshot("a PCG64 whose state is none")
            bits = (np.random.PCG64 if algorithm == "PCG64" else np.random.PCG64DXSM)(0)
            state = {
                "bit_generator": algorithm,
                "state": {
                    "state": int.from_bytes(raw[:16], "little"),
                    "inc": int.from_bytes(raw[16:], "little"),
                },
                "has_uint32": first,
                "uinteger": second,
            }
        else:
            raise CorruptSnapshot(f"there is no random generator {algorithm!r:.200}")
        bits.state = state
        return np.random.Generator(bits)

    def fill(self, objects: list[Any], columns: list[Column]) -> None:
        pass


class Arrays:
    """Numeric arrays. Columns: type, layout (``C`` or ``F``) and shape as text, bytes."""

    tag = "ndarray"
    head: Head = {}
    turn = 1
    late = False

    def split(self, objects: Sequence[np.ndarray[Any, Any]]) -> list[Column]:
        columns: list[Column] = [[], [], []]
        for one in objects:
            order = "F" if one.flags.f_contiguous and not one.flags.c_contiguous else "C"
            columns[0].append(leaves.numeric(one.dtype))
            columns[1].append(order + ",".join(map(str, one.shape)))
            columns[2].append(one.tobytes(order))  # type: ignore[arg-type]
        return columns

    def make(self, count: int, columns: list[Column], made: Made) -> list[Any]:
        made = []
        for name, form, raw in zip(
            columns[0], only(columns[1], str), only(columns[2], bytes), strict=True
        ):
            dtype = leaves.numeric_dtype(name, "an array")
            order, numbers = form[:1], form[1:]
            shape = tuple(int(number) for number in numbers.split(",")) if numbers else ()
            if order not in {"C", "F"} or math.prod(shape) * dtype.itemsize != len(raw):
                raise CorruptSnapshot(f"an array of the form {form!r:.200} has {len(raw)} bytes")
            made.append(np.frombuffer(raw, dtype).reshape(shape, order=order).copy(order))
        return made

    def fill(self, objects: list[Any], columns: list[Column]) -> None:
        pass


class Rust:
    """An extension type of river. Columns: its state as bytes, and what it is made with."""

    tag = "rust"
    turn = 1
    late = False

    def __init__(self, cls: type) -> None:
        self.cls = cls
        self.head = {"of": name_of(cls)}

    def split(self, objects: Sequence[Any]) -> list[Column]:
        states = [one.__getstate__() for one in objects]
        if not hasattr(self.cls, "__getnewargs__"):
            return [states]
        arguments = [one.__getnewargs__() for one in objects]
        for argument in itertools.chain.from_iterable(arguments):
            if type(argument) is int and abs(argument) > MAX_SIZE_ARGUMENT:
                raise Unsupported(f"was made with {argument}, more than {MAX_SIZE_ARGUMENT}")
        return [states, *map(list, zip(*arguments, strict=True))]

    def make(self, count: int, columns: list[Column], made: Made) -> list[Any]:
        states, *arguments = columns
        only(states, bytes)
        for column in arguments:
            if any(
                type(argument) is int and abs(argument) > MAX_SIZE_ARGUMENT
                for argument in only(column, bool, int, float)
            ):
                raise CorruptSnapshot(f"{self.cls.__name__} is made with too large a number")
        made = []
        for state, *given in zip(states, *arguments, strict=True):
            one = self.cls.__new__(self.cls, *given)
            one.__setstate__(state)
            made.append(one)
        return made

    def fill(self, objects: list[Any], columns: list[Column]) -> None:
        pass


class Vectors:
    """river's ``VectorDict``. Columns: sizes, keys, values, factories.

    A factory cannot be given later, so it is None or an object that exists by then.
    """

    tag = "vector"
    head: Head = {}
    turn = 3
    late = True

    def __init__(self, cls: type) -> None:
        self.cls = cls

    def split(self, objects: Sequence[Any]) -> list[Column]:
        parts = [one.__reduce__()[1] for one in objects]
        if any(mask is not None for _, _, mask, _ in parts):
            raise Unsupported("is a view of another vector")
        if any(isinstance(factory, (type, *leaves.CALLABLES)) for _, factory, _, _ in parts):
            raise Unsupported("has a class or a function as its default factory")
        return [
            [len(data) for data, _, _, _ in parts],
            [key for data, _, _, _ in parts for key in data],
            [value for data, _, _, _ in parts for value in data.values()],
            [factory for _, factory, _, _ in parts],
        ]

    def make(self, count: int, columns: list[Column], made: Made) -> list[Any]:
        return [self.cls({}, factory) for factory in made(columns[3])]

    def fill(self, objects: list[Any], columns: list[Column]) -> None:
        for one, (keys, values) in zip(objects, chunks(*columns[:3]), strict=True):
            one.update(dict(zip(keys, values, strict=True)))
            if len(one) != len(keys):
                raise CorruptSnapshot("a vector has the same key twice")


class Instances:
    """Instances of one Python class that have the same attributes. Columns: one for each."""

    tag = "object"
    turn = 0
    late = False

    def __init__(self, cls: type, attributes: tuple[str, ...]) -> None:
        self.cls = cls
        self.attributes = attributes
        self.quirk = quirk_of(cls)
        self.head = {"of": name_of(cls), "attributes": list(attributes)}

    def make(self, count: int, columns: list[Column], made: Made) -> list[Any]:
        if len(columns) != len(self.attributes):
            raise CorruptSnapshot(f"{len(columns)} columns for {len(self.attributes)} attributes")
        return list(map(object.__new__, itertools.repeat(self.cls, count)))

    def fill(self, objects: list[Any], columns: list[Column]) -> None:
        for attribute, column in zip(self.attributes, columns, strict=True):
            if len(column) != len(objects):
                raise CorruptSnapshot(f"{len(column)} values of {attribute!r}")
            consume(map(object.__setattr__, objects, itertools.repeat(attribute), column))
        if self.quirk is not None:
            self.quirk.recreate(objects, self.attributes)


KINDS: dict[type, Splitting] = {
    list: Sequences(list),
    collections.deque: Sequences(collections.deque),
    set: Sets(),
    dict: Mappings(dict),
    collections.OrderedDict: Mappings(collections.OrderedDict),
    collections.Counter: Mappings(collections.Counter),
    collections.defaultdict: Mappings(collections.defaultdict),
    bytearray: ByteArrays(),
    random.Random: Generators(),
    np.random.RandomState: NumpyGenerators("random-state", np.random.RandomState),
    np.random.Generator: NumpyGenerators("random-generator", np.random.Generator),
    np.ndarray: Arrays(),
}

TAGS = {kind.tag: kind for kind in KINDS.values()}

VECTOR = "river._river_rust.vectordict:VectorDict"


def sort_out(
    cls: type, batch: list[Any], names: Names
) -> list[tuple[Kind, list[Any], list[Column]]]:
    """Objects of one class by kind, with their columns. Raises :class:`Unsupported`."""
    if name_of(cls) in OUTLAWS:
        raise Unsupported(OUTLAWS[name_of(cls)])
    kind = KINDS.get(cls)
    if kind is None and names.has_rust(cls):
        kind = Vectors(cls) if name_of(cls) == VECTOR else Rust(cls)
    if kind is not None:
        return [(kind, batch, kind.split(batch))]
    if not names.has_class(cls):
        raise Unsupported("is of a class that is not listed")
    if not plain(cls):
        raise Unsupported("is of a class that is not written in plain Python")
    return _by_shape(cls, batch)


def _by_shape(cls: type, batch: list[Any]) -> list[tuple[Kind, list[Any], list[Column]]]:
    states = _states(cls, batch)
    shapes: dict[tuple[str, ...], tuple[list[Any], list[tuple[Any, ...]]]] = {}
    for one, state in zip(batch, states, strict=True):
        members, rows = shapes.setdefault(tuple(state), ([], []))
        members.append(one)
        rows.append(tuple(state.values()))
    found: list[tuple[Kind, list[Any], list[Column]]] = []
    for attributes, (members, rows) in shapes.items():
        for attribute in attributes:
            if reason := shadows(cls, attribute):
                raise Unsupported(f"has an attribute {attribute!r}, which {reason}")
        columns = list(map(list, zip(*rows, strict=True)))
        found.append((Instances(cls, attributes), members, columns))
    return found


def _states(cls: type, batch: list[Any]) -> list[dict[str, Any]]:
    slots = slots_of(cls)
    if not slots:
        states = [vars(one) for one in batch]
    else:
        states = [
            {name: getattr(one, name) for name in slots if _is_set(one, slots[name])}
            | getattr(one, "__dict__", {})
            for one in batch
        ]
    quirk = quirk_of(cls)
    return states if quirk is None else list(map(quirk.lean, states))


def _is_set(one: Any, slot: Any) -> bool:
    try:
        slot.__get__(one)
    except AttributeError:
        return False
    return True


def kind_of(group: dict[str, Any], names: Names, where: str) -> Kind:
    """The kind of a group in a tree. Raises :class:`CorruptSnapshot`."""
    tag, name = group.get("kind"), group.get("of")
    if type(tag) is str and tag in TAGS:
        return TAGS[tag]
    if tag == Vectors.tag:
        return Vectors(names.find_rust(VECTOR, where))
    if tag == Rust.tag and name != VECTOR:
        return Rust(names.find_rust(name, where))
    if tag != Instances.tag:
        raise CorruptSnapshot(f"{where}: there is no kind {tag!r:.200}")
    cls = names.find_class(name, where)
    attributes = group.get("attributes")
    if not plain(cls):
        raise CorruptSnapshot(f"{where}: {name} is not written in plain Python")
    if type(attributes) is not list or set(map(type, attributes)) - {str}:
        raise CorruptSnapshot(f"{where}: {name} has attributes that are no names")
    if len(set(attributes)) != len(attributes):
        raise CorruptSnapshot(f"{where}: {name} has an attribute twice")
    for attribute in attributes:
        if reason := shadows(cls, attribute):
            raise CorruptSnapshot(f"{where}: {name} has an attribute {attribute!r}, which {reason}")
    return Instances(cls, tuple(attributes))
