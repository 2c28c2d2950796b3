"""What the commands print for people, where it goes to a file or to another program."""

from __future__ import annotations

import pytest

from stream_update.cli.options import print_table


def test_a_table_that_is_piped_is_not_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    cells = [f"{'x' * 50}{number}" for number in range(8)]
    print_table([f"column {number}" for number in range(8)], [cells])
    head, row = capsys.readouterr().out.splitlines()
    assert head.split()[-2:] == ["column", "7"]
    assert row.split() == cells
