"""Which kind an object is of, and which kind a group in a tree is of.

All objects of a kind (for instances: of one class with the same attributes) are kept
together, column by column. That makes most of the work a loop in C, and the bytes
compress well.
"""

from __future__ import annotations

import collections
import random
from typing import Any

import numpy as np

from stream_update.objects.columns import Column, Damaged, Kind, SplittingKind, Unsupported
from stream_update.objects.containers import ByteArrays, Mappings, Sequences, Sets
from stream_update.objects.instances import Instances, Rust, Vectors
from stream_update.objects.names import Names, name_of, plain, shadows
from stream_update.objects.numeric import Arrays, Generators, NumpyGenerators
from stream_update.objects.quirks import OUTLAWS

__all__ = ["kind_of", "sort_out"]

BUILT_IN: dict[type, SplittingKind] = {
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

TAGS: dict[object, Kind] = {kind.tag: kind for kind in BUILT_IN.values()}

VECTOR = "river._river_rust.vectordict:VectorDict"


def sort_out(
    cls: type, batch: list[Any], names: Names
) -> list[tuple[Kind, list[Any], list[Column]]]:
    """Objects of one class, by kind, with their columns. Raises :class:`Unsupported`."""
    if name_of(cls) in OUTLAWS:
        raise Unsupported(OUTLAWS[name_of(cls)])
    kind = BUILT_IN.get(cls)
    if kind is None and names.has_rust(cls):
        kind = Vectors(cls) if name_of(cls) == VECTOR else Rust(cls)
    if kind is not None:
        return [(kind, batch, kind.split(batch))]
    if not names.has_class(cls):
        raise Unsupported("is of a class that is not listed")
    if not plain(cls):
        raise Unsupported("is of a class that is not written in plain Python")
    return list(Instances.sort_out(cls, batch))


def kind_of(group: dict[str, Any], names: Names) -> Kind:
    """The kind of a group in a tree. Raises :class:`Damaged`."""
    tag, name = group.get("kind"), group.get("of")
    if type(tag) is not str:
        raise Damaged("a group of no kind")
    if tag in TAGS:
        return TAGS[tag]
    if tag == Vectors.tag:
        return Vectors(names.find_rust(VECTOR))
    if tag == Rust.tag and name != VECTOR:
        return Rust(names.find_rust(name))
    if tag != Instances.tag:
        raise Damaged(f"a group of the kind {tag!r:.200}")
    cls = names.find_class(name)
    if not plain(cls):
        raise Damaged(f"instances of {name}, which is not written in plain Python")
    attributes = group.get("attributes")
    if type(attributes) is not list or set(map(type, attributes)) - {str}:
        raise Damaged(f"instances of {name} with attributes that have no names")
    if len(set(attributes)) != len(attributes):
        raise Damaged(f"instances of {name} with an attribute twice")
    for attribute in attributes:
        if reason := shadows(cls, attribute):
            raise Damaged(f"instances of {name} with an attribute {attribute!r}, which {reason}")
    return Instances(cls, tuple(attributes))
