"""Whether two trees are of the same state."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from stream_update.events import Tree

__all__ = ["FIELDS", "digest", "without_orders"]

ENCODER = msgspec.msgpack.Encoder(order="deterministic")
FIELDS = {"format", "leaves", "groups", "root"}
"""What a tree is known by."""


def digest(tree: Tree) -> str:
    """SHA-256 of a tree, in hex.

    Objects in the same state have trees with the same digest: in another process, with
    another ``PYTHONHASHSEED``, and after any number of trips through a tree. Dicts are
    in the same state only if they also have the same order, since models go through
    them in that order.
    """
    return hashlib.sha256(ENCODER.encode(without_orders(tree))).hexdigest()


def without_orders(state: Any) -> Any:
    """A state, of which any part may be a tree, as if every set had the order of a fresh one.

    The same object if nothing in it has to be changed.
    """
    if type(state) is dict:
        if state.keys() == FIELDS and type(state["groups"]) is list:
            groups = [_without_orders(group) for group in state["groups"]]
            return _changed(state, {"groups": groups} if groups != state["groups"] else {})
        parts = {key: (value, without_orders(value)) for key, value in state.items()}
        return _changed(state, {key: new for key, (old, new) in parts.items() if new is not old})
    if type(state) is list and not {dict, list}.isdisjoint(map(type, state)):
        items = [without_orders(item) for item in state]
        return state if all(new is old for new, old in zip(items, state, strict=True)) else items
    return state


def _changed(state: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
    return {**state, **parts} if parts else state


def _without_orders(group: Any) -> Any:
    """See :class:`~stream_update.objects.containers.Sets`."""
    if type(group) is not dict or group.get("kind") != "set":
        return group
    columns = group.get("columns")
    if type(columns) is not list or len(columns) != 4 or type(columns[2]) is not list:  # noqa: PLR2004
        return group
    sizes, members, hint_sizes, _ = columns
    return {**group, "columns": [sizes, members, [0] * len(hint_sizes), []]}
