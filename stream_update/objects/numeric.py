"""Arrays of numbers, and generators of random ones."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from stream_update.objects.columns import NO_HEAD, Column, Damaged, Made, Unsupported, only
from stream_update.objects.leaves import dtype_named, name_of_dtype

__all__ = ["Arrays", "Generators", "NumpyGenerators"]


class Arrays:
    """Numeric arrays. Columns: type, layout (``C`` or ``F``) and shape as text, bytes."""

    tag = "ndarray"
    head = NO_HEAD
    turn = 1
    late = False

    def split(self, objects: Sequence[np.ndarray[Any, Any]]) -> list[Column]:
        columns: list[Column] = [[], [], []]
        for one in objects:
            fortran = one.flags.f_contiguous and not one.flags.c_contiguous
            columns[0].append(name_of_dtype(one.dtype))
            columns[1].append(("F" if fortran else "C") + ",".join(map(str, one.shape)))
            columns[2].append(one.tobytes("F" if fortran else "C"))
        return columns

    def make(self, _count: int, columns: list[Column], _made: Made) -> list[Any]:
        names, forms, contents = columns
        only(forms, str)
        only(contents, bytes)
        return list(map(self._make_one, names, forms, contents))

    @staticmethod
    def _make_one(name: object, form: str, content: bytes) -> np.ndarray[Any, Any]:
        dtype = dtype_named(name)
        order, numbers = form[:1], form[1:]
        shape = tuple(map(int, numbers.split(","))) if numbers else ()
        if order not in {"C", "F"} or min(shape, default=0) < 0:
            raise Damaged(f"an array of the form {form!r:.200}")
        if math.prod(shape) * dtype.itemsize != len(content):
            raise Damaged(f"an array of the form {form!r:.200} with {len(content)} bytes")
        flat = np.frombuffer(content, dtype)
        if order == "F":
            return flat.reshape(shape, order="F").copy("F")
        return flat.reshape(shape).copy()

    def fill(self, objects: list[Any], columns: list[Column]) -> None:
        """Nothing is left to do."""


class Generators:
    """``random.Random``. Columns: the 625 words of its state, the number held back."""

    tag = "random"
    head = NO_HEAD
    turn = 1
    late = False

    words = struct.Struct("<625I")

    def split(self, objects: Sequence[random.Random]) -> list[Column]:
        states = [one.getstate() for one in objects]
        return [
            [self.words.pack(*words) for _, words, _ in states],
            [held_back for _, _, held_back in states],
        ]

    def make(self, _count: int, columns: list[Column], _made: Made) -> list[Any]:
        contents, held_back = columns
        only(contents, bytes)
        only(held_back, float, type(None))
        return list(map(self._make_one, contents, held_back))

    def _make_one(self, content: bytes, held_back: float | None) -> random.Random:
        generator = random.Random(0)  # noqa: S311 -- a model's, not a secret's
        generator.setstate((generator.VERSION, self.words.unpack(content), held_back))
        return generator

    def fill(self, objects: list[Any], columns: list[Column]) -> None:
        """Nothing is left to do."""


class NumpyGenerators:
    """``RandomState`` and ``Generator``. Columns: algorithm, state, and three small numbers.

    numpy believes what it is told about positions in its buffers, so everything is
    checked here.
    """

    head = NO_HEAD
    turn = 1
    late = False

    words = 624
    """32-bit words of a Mersenne twister."""
    size = 16
    """Bytes of each of the two large numbers of a PCG64."""

    def __init__(self, tag: str, cls: type) -> None:
        self.tag = tag
        self.cls = cls

    def split(self, objects: Sequence[Any]) -> list[Column]:
        return list(map(list, zip(*map(self._split_one, objects), strict=True)))

    def _split_one(self, one: Any) -> tuple[str, bytes, int, int, float]:
        if isinstance(one, np.random.RandomState):
            state: Any = one.get_state(legacy=False)
        else:
            state = one.bit_generator.state
        algorithm, inner = state["bit_generator"], state["state"]
        if algorithm == "MT19937":
            words = inner["key"].astype("<u4").tobytes()
            return (
                algorithm,
                words,
                inner["pos"],
                state.get("has_gauss", 0),
                state.get("gauss", 0.0),
            )
        if algorithm in {"PCG64", "PCG64DXSM"} and self.cls is np.random.Generator:
            content = b"".join(
                inner[part].to_bytes(self.size, "little") for part in ("state", "inc")
            )
            return algorithm, content, state["uinteger"], state["has_uint32"], 0.0
        raise Unsupported(f"uses {algorithm}, neither MT19937 nor PCG64")

    def make(self, _count: int, columns: list[Column], _made: Made) -> list[Any]:
        for column, cls in zip(columns, (str, bytes, int, int, float), strict=True):
            only(column, cls)
        return list(map(self._make_one, *columns))

    def _make_one(
        self, algorithm: str, content: bytes, number: int, flag: int, gauss: float
    ) -> Any:
        if flag not in {0, 1}:
            raise Damaged(f"a random generator with the flag {flag!r:.200}")
        if algorithm == "MT19937":
            return self._make_twister(content, number, flag, gauss)
        if algorithm not in {"PCG64", "PCG64DXSM"} or self.cls is not np.random.Generator:
            raise Damaged(f"a random generator {algorithm!r:.200}")
        if len(content) != 2 * self.size or not 0 <= number < 1 << 32:
            raise Damaged("a PCG64 whose state is none")
        bits = np.random.PCG64(0) if algorithm == "PCG64" else np.random.PCG64DXSM(0)
        bits.state = {
            "bit_generator": algorithm,
            "state": {
                "state": int.from_bytes(content[: self.size], "little"),
                "inc": int.from_bytes(content[self.size :], "little"),
            },
            "has_uint32": flag,
            "uinteger": number,
        }
        return np.random.Generator(bits)

    def _make_twister(self, content: bytes, position: int, flag: int, gauss: float) -> Any:
        if len(content) != 4 * self.words or not 0 <= position <= self.words:
            raise Damaged("a Mersenne twister whose state is none")
        words = np.frombuffer(content, "<u4").astype(np.uint32)
        state: Any = {"bit_generator": "MT19937", "state": {"key": words, "pos": position}}
        if self.cls is np.random.RandomState:
            made = np.random.RandomState(0)
            made.set_state({**state, "has_gauss": flag, "gauss": gauss})
            return made
        bits = np.random.MT19937(0)
        bits.state = state
        return np.random.Generator(bits)

    def fill(self, objects: list[Any], columns: list[Column]) -> None:
        """Nothing is left to do."""
