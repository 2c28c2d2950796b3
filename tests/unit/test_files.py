"""Rows of files become the bytes of events."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest

from stream_update.errors import ConfigError
from stream_update.files import open_rows
from tests.programs import ELEC2


def rows(path: Path, key: str | None = None) -> list[tuple[bytes | None, bytes]]:
    return list(open_rows(path, key=key))


def test_elec2_keeps_every_digit() -> None:
    with gzip.open(ELEC2, "rt", newline="") as file:
        expected = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    found = [json.loads(value) for _, value in open_rows(ELEC2)]
    assert len(found) == 45_312
    assert found == expected


def test_cells(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('a,b,c,d,e,f,g\n1,.5,+5,007,,True,"say ""hi"""\n5.,NaN,-inf,x,1e3,false,0.0\n')
    assert [value for _, value in rows(path)] == [
        b'{"a":1,"b":0.5,"c":5,"d":"007","f":true,"g":"say \\"hi\\""}',
        b'{"a":5.0,"b":NaN,"c":-Infinity,"d":"x","e":1e3,"f":false,"g":0.0}',
    ]


@pytest.mark.parametrize("suffix", [".tsv", ".tsv.gz", ".csv", ".csv.gz"])
def test_kinds_keys_and_byte_order_marks(tmp_path: Path, suffix: str) -> None:
    text = "user,x\nann,1\nbob,2\n"
    if suffix.startswith(".tsv"):
        text = text.replace(",", "\t")
    data = b"\xef\xbb\xbf" + text.encode()
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
    assert rows(path, "user") == [
        (b"ann", b'{"user":"ann","x":1}'),
        (b"bob", b'{"user":"bob","x":2}'),
    ]


def test_json_lines_are_passed_on_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1.10,  "u": "x"}\n\nnot json\n{"u": 5}')
    assert rows(path) == [
        (None, b'{"a": 1.10,  "u": "x"}'),
        (None, b"not json"),
        (None, b'{"u": 5}'),
    ]
    assert [key for key, _ in rows(path, "u")] == [b"x", None, b"5"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.xlsx", "x", ("unknown kind", ".csv")),
        ("a.csv", "", ("no header row",)),
        ("a.csv", "a,a\n1,2\n", ("column 2", "twice")),
        ("a.csv", "a,\n1,2\n", ("column 2", "no name")),
        ("a.csv", "a,b\n1,2\n1\n", ("line 3", "1 cells", "2")),
        ("a.csv", "a,b\n1,2,3\n", ("line 2", "3 cells")),
    ],
)
def test_errors_say_where(tmp_path: Path, name: str, text: str, words: tuple[str, ...]) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        rows(path)
    message = f"{caught.value} {caught.value.hint}"
    assert all(word in message for word in (*words, name))


def test_missing_file_and_column(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        rows(tmp_path / "none.csv")
    path = tmp_path / "a.csv"
    path.write_text("a\n1\n")
    with pytest.raises(ConfigError, match="no column 'u'"):
        rows(path, "u")
