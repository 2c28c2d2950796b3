"""Files of rows for ``stream-update produce``: CSV, TSV and JSON lines, also gzipped."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import orjson

from stream_update.errors import ConfigError

__all__ = ["RowFile", "open_rows"]

NUMBER = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
is_number = re.compile(NUMBER).fullmatch
LOOSE_NUMBER = re.compile(
    r"\+?(?P<sign>-?)(?:(?P<whole>0|[1-9][0-9]*)(?:(?P<point>\.)(?P<part>[0-9]*))?"
    r"|\.(?P<only>[0-9]+))(?P<power>[eE][+-]?[0-9]+)?"
)
CONSTANTS = {
    "true": "true",
    "True": "true",
    "false": "false",
    "False": "false",
    "nan": "NaN",
    "NaN": "NaN",
    "inf": "Infinity",
    "Infinity": "Infinity",
    "-inf": "-Infinity",
    "-Infinity": "-Infinity",
}
DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*DELIMITERS, ".jsonl", ".ndjson")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Row = tuple[bytes | None, bytes]


def open_rows(path: str | Path, *, key: str | None = None) -> RowFile:
    """The rows of a file; ``key`` names the field whose value is the record's key.

    The kind follows from the name: ``.csv``, ``.tsv``, ``.jsonl`` or ``.ndjson``, each
    also with ``.gz``; ``-`` is JSON lines from standard input. Raises
    :class:`ConfigError` for a file that is not there or of no known kind, and for a
    header in which a column has no name or stands twice.
    """
    name = str(path)
    if name == "-":
        return RowFile(_lines(sys.stdin.buffer, name, key), None, 0)
    suffix, zipped = _kind(Path(path))
    with ExitStack() as opened:
        try:
            raw = opened.enter_context(Path(path).open("rb"))
            total = Path(path).stat().st_size
        except OSError as error:
            raise ConfigError(f"{name} cannot be read: {error.strerror}") from None
        stream: Any = opened.enter_context(gzip.GzipFile(fileobj=raw)) if zipped else raw
        if suffix in DELIMITERS:
            stream = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
            opened.enter_context(stream)
            rows = _Table(stream, DELIMITERS[suffix], name, key).rows()
        else:
            rows = _lines(stream, name, key)
        return RowFile(rows, raw, total, opened.pop_all().close)


class RowFile:
    """Iterates over (key, value) of each row, both bytes; key is None without ``key``.

    A cell that is a number in JSON is copied digit by digit, an empty cell is a missing
    field, and ``NaN`` and ``Infinity`` are written as they are, so that whoever reads the
    topic sees them and can say so. JSON lines are passed on as they are, without blank
    ones. Raises :class:`ConfigError`, with the line, where a file cannot be read on.
    """

    def __init__(
        self,
        rows: Iterator[Row],
        raw: IO[bytes] | None,
        total: int,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self._rows = rows
        self._raw = raw
        self._total = total
        self._close = close

    def __iter__(self) -> Iterator[Row]:
        try:
            yield from self._rows
        finally:
            self.close()

    def close(self) -> None:
        """Close the file; reading to the end, or to an error, does it too."""
        self._close()

    def progress(self) -> tuple[int, int]:
        """Bytes of the file read so far, and its size; 0 of 0 where nobody knows it."""
        if self._raw is None or not self._total:
            return 0, 0
        return (self._total if self._raw.closed else self._raw.tell()), self._total


def _kind(path: Path) -> tuple[str, bool]:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    zipped = suffixes[-1:] == [".gz"]
    if zipped:
        suffixes.pop()
    if not suffixes or suffixes[-1] not in SUFFIXES:
        raise ConfigError(
            f"{path}: unknown kind of file",
            hint=f"accepted: {', '.join(SUFFIXES)}, each also with .gz; - for JSON lines "
            "from standard input",
        )
    return suffixes[-1], zipped


@contextmanager
def _reading(name: str, line: Callable[[], int]) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{name}, after line {line()}: not UTF-8 text ({error.reason})",
            hint="convert the file to UTF-8",
        ) from None
    except csv.Error as error:
        raise ConfigError(f"{name}, line {line()}: {error}") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ConfigError(
            f"{name}, after line {line()}: {error}", hint="the file is incomplete or damaged"
        ) from None


def _lines(stream: IO[bytes], name: str, key: str | None) -> Iterator[Row]:
    number = 0
    with _reading(name, lambda: number):
        for line in stream:
            number += 1
            value = line.rstrip(b"\r\n")
            if number == 1:
                value = value.removeprefix(BYTE_ORDER_MARK)
            if value and not value.isspace():
                yield (
                    (None if key is None else _key_of(value, key, f"{name}, line {number}")),
                    value,
                )


def _key_of(value: bytes, key: str, where: str) -> bytes | None:
    try:
        record = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None  # whoever reads the topic says what is wrong with it
    if not isinstance(record, dict) or key not in record:
        raise ConfigError(f"{where}: there is no field {key!r}")
    found = record[key]
    if found is None or isinstance(found, str):
        return found if found is None else found.encode()
    return orjson.dumps(found)


class _Table:
    """Rows of cells under a header, as JSON objects."""

    def __init__(self, text: IO[str], delimiter: str, name: str, key: str | None) -> None:
        # Strict: a quote that is never closed is an error, and not one long cell.
        self._cells = csv.reader(text, delimiter=delimiter, strict=True)
        self._name = name
        with self._reading():
            self._columns = self._header()
        if key is not None and key not in self._columns:
            raise ConfigError(
                f"{name}: there is no column {key!r}", hint=f"there are: {', '.join(self._columns)}"
            )
        self._key = None if key is None else self._columns.index(key)

    def rows(self) -> Iterator[Row]:
        columns, key = len(self._columns), self._key
        names = [json.dumps(name, ensure_ascii=False) for name in self._columns]
        # Most files have nothing but numbers: the whole row is looked at in one go.
        numbers = re.compile(rf"{NUMBER}(?:,{NUMBER}){{{columns - 1}}}").fullmatch
        template = "{" + ",".join(f"{name.replace('%', '%%')}:%s" for name in names) + "}"
        with self._reading():
            for cells in self._cells:
                if len(cells) != columns:
                    if not cells:
                        continue
                    raise ConfigError(
                        f"{self._name}, line {self._cells.line_num}: {len(cells)} cells, but the "
                        f"header has {columns}"
                    )
                if numbers(",".join(cells)):
                    value = template % tuple(cells)
                else:
                    value = _object(names, cells)
                yield (None if key is None else cells[key].encode() or None), value.encode()

    def _header(self) -> list[str]:
        names = next(self._cells, None)
        if not names:
            raise ConfigError(
                f"{self._name}: there is no header row", hint="the first line names the columns"
            )
        for position, name in enumerate(names):
            if not name or name in names[:position]:
                problem = f"column {name!r} stands twice" if name else "a column has no name"
                raise ConfigError(f"{self._name}, header, column {position + 1}: {problem}")
        return names

    def _reading(self) -> Any:
        return _reading(self._name, lambda: self._cells.line_num)


def _object(names: Sequence[str], cells: Sequence[str]) -> str:
    parts = [
        f"{name}:{cell if is_number(cell) else _json(cell)}"
        for name, cell in zip(names, cells, strict=True)
        if cell
    ]
    return f"{{{','.join(parts)}}}"


@lru_cache(maxsize=10_000)
def _json(cell: str) -> str:
    """A cell that is no number as JSON writes numbers."""
    constant = CONSTANTS.get(cell)
    if constant is not None:
        return constant
    loose = LOOSE_NUMBER.fullmatch(cell)
    if loose is None:
        return json.dumps(cell, ensure_ascii=False)
    whole, part = loose["whole"] or "0", loose["only"] or loose["part"] or "0"
    pointed = loose["point"] or loose["only"]
    return f"{loose['sign']}{whole}{f'.{part}' if pointed else ''}{loose['power'] or ''}"
