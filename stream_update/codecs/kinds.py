"""The types of the values of a record, with the limits of ``[source]``, as msgspec checks them."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from stream_update.codecs.layout import SourceOptions

__all__ = ["COLON", "REFUSED", "Kinds"]

INT64 = 2**63 - 1
COLON = ord(":")
REFUSED = (msgspec.MsgspecError, UnicodeDecodeError)
"""What decoding raises for a record that is of other types, or no JSON."""


class Kinds:
    """``number``, ``integer`` and ``truth`` are those of features; ``wide`` is a whole number
    with a meaning of its own (a label, an id), which may be larger.
    """

    def __init__(self, source: SourceOptions) -> None:
        self.limit = min(source.max_number, sys.float_info.max)
        whole = int(min(self.limit, INT64))
        self.number: Any = Annotated[float, Meta(ge=-self.limit, le=self.limit)]
        self.integer: Any = Annotated[int, Meta(ge=-whole, le=whole)]
        self.wide: Any = Annotated[int, Meta(ge=-INT64, le=INT64)]
        self.text: Any = Annotated[str, Meta(max_length=source.max_string)]
        # True is 1; a type that stands in a union twice is there once.
        self.truth: Any = bool if self.limit >= 1 else self.number
