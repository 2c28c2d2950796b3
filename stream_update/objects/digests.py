"""Whether two trees are of the same state."""

from __future__ import annotations

import hashlib

import msgspec

from stream_update.events import Tree

__all__ = ["digest"]

ENCODER = msgspec.msgpack.Encoder(order="deterministic")


def digest(tree: Tree) -> str:
    """SHA-256 of a tree, in hex.

    Objects in the same state have trees with the same digest: in another process, with
    another ``PYTHONHASHSEED``, and after any number of trips through a tree. Dicts are
    in the same state only if they also have the same order, since models go through
    them in that order.
    """
    groups = [
        {**group, "columns": group["columns"][:2]} if group["kind"] == "set" else group
        for group in tree["groups"]
    ]
    return hashlib.sha256(ENCODER.encode({**tree, "groups": groups})).hexdigest()
