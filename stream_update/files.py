"""Files of rows for ``stream-update produce``: CSV, TSV and JSON lines, also gzipped."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from stream_update.errors import ConfigError

__all__ = ["RowFile", "open_rows"]

NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
LOOSE_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
CONSTANTS = {"true": "true", "True": "true", "false": "false", "False": "false"}
NOT_FINITE = {
    "nan": "NaN",
    "NaN": "NaN",
    "inf": "Infinity",
    "Infinity": "Infinity",
    "-inf": "-Infinity",
    "-Infinity": "-Infinity",
}
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")


def open_rows(path: str | Path, *, key: str | None = None) -> RowFile:
    """The rows of a file; ``key`` names the field whose value is the record's key.

    Raises :class:`ConfigError` for a file that is not there or of no known kind.
    """
    return RowFile(path, key)


class RowFile:
    """Iterates over (key, value) of each row, both bytes; key is None without ``key``.

    A cell that is a number in JSON is copied digit by digit; an empty cell is a missing
    field; ``NaN`` and ``Infinity`` are written as they are, so that whoever reads the
    topic sees them and can say so. JSON lines are passed on as they are.
    """

    def __init__(self, path: str | Path, key: str | None) -> None:
        self._name = str(path)
        self._key = key
        self._raw: IO[bytes]
        if self._name == "-":
            self._raw, self._total, suffix, zipped = sys.stdin.buffer, 0, ".jsonl", False
        else:
            path = Path(path)
            suffixes = path.suffixes
            zipped = bool(suffixes) and suffixes[-1] == ".gz"
            suffix = (suffixes[-2:-1] if zipped else suffixes[-1:] or [""])[0:1][0]
            if suffix not in SUFFIXES:
                raise ConfigError(
                    f"{path}: unknown kind of file",
                    hint=f"accepted: {', '.join(SUFFIXES)}, each also with .gz; - for JSON lines "
                    "from standard input",
                )
            try:
                self._raw = path.open("rb")
                self._total = path.stat().st_size
            except OSError as error:
                raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
        self._stream: Any = gzip.GzipFile(fileobj=self._raw) if zipped else self._raw
        self._rows = (
            self._lines()
            if suffix in {".jsonl", ".ndjson"}
            else self._cells("\t" if suffix == ".tsv" else ",")
        )

    def __iter__(self) -> Iterator[tuple[bytes | None, bytes]]:
        try:
            yield from self._rows
        except UnicodeDecodeError as error:
            raise ConfigError(f"{self._name} is not UTF-8 text: {error}") from None
        except (csv.Error, EOFError, gzip.BadGzipFile) as error:
            raise ConfigError(f"{self._name} cannot be read to its end: {error}") from None
        finally:
            self.close()

    def close(self) -> None:
        """Close the file; reading to the end, or to an error, does it too."""
        self._stream.close()
        if self._raw is not sys.stdin.buffer:
            self._raw.close()

    def progress(self) -> tuple[int, int]:
        """Bytes of the file read so far, and its size, which is 0 for standard input."""
        return (self._raw.tell() if not self._raw.closed else self._total, self._total)

    def _lines(self) -> Iterator[tuple[bytes | None, bytes]]:
        for number, line in enumerate(self._stream, 1):
            value = line.strip()
            if not value:
                continue
            yield (self._key_of_line(value, number) if self._key else None), value

    def _key_of_line(self, value: bytes, number: int) -> bytes | None:
        try:
            record = json.loads(value)
        except ValueError:
            return None
        if not isinstance(record, dict) or self._key not in record:
            raise ConfigError(f"{self._name}, line {number}: there is no field {self._key!r}")
        found = record[self._key]
        return (found if isinstance(found, str) else json.dumps(found)).encode()

    def _cells(self, delimiter: str) -> Iterator[tuple[bytes | None, bytes]]:
        # Closing the text closes what it reads.
        self._stream = io.TextIOWrapper(self._stream, encoding="utf-8-sig", newline="")
        rows = csv.reader(self._stream, delimiter=delimiter)
        names = next(rows, None)
        if not names:
            raise ConfigError(f"{self._name}: there is no header row")
        for position, name in enumerate(names):
            if not name or name in names[:position]:
                problem = f"column {name!r} stands twice" if name else "a column has no name"
                raise ConfigError(f"{self._name}, header, column {position + 1}: {problem}")
        if self._key is not None and self._key not in names:
            raise ConfigError(
                f"{self._name}: there is no column {self._key!r}",
                hint=f"there are: {', '.join(names)}",
            )
        column = names.index(self._key) if self._key is not None else -1
        prefixes = [f"{json.dumps(name, ensure_ascii=False)}:" for name in names]
        for row in rows:
            if len(row) != len(prefixes):
                if not row:
                    continue
                raise ConfigError(
                    f"{self._name}, line {rows.line_num}: {len(row)} cells, but the header has "
                    f"{len(prefixes)}"
                )
            cells = [
                prefix + (cell if NUMBER.fullmatch(cell) else _json(cell))
                for prefix, cell in zip(prefixes, row, strict=True)
                if cell
            ]
            key = row[column].encode() if column >= 0 else None
            yield key, f"{{{','.join(cells)}}}".encode()


def _json(cell: str) -> str:
    constant = CONSTANTS.get(cell) or NOT_FINITE.get(cell)
    if constant is not None:
        return constant
    if LOOSE_NUMBER.fullmatch(cell):
        return repr(float(cell))
    return json.dumps(cell, ensure_ascii=False)
