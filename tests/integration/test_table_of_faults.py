"""The table of faults names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_tests_that_the_table_of_faults_names_exist() -> None:
    table = (ROOT / "deploy" / "faults.md").read_text(encoding="utf-8")
    tests = {
        f"{path.name}::{name}"
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    named = set(re.findall(r"`(test_\w+\.py::\w+)`", table))
    assert named
    assert not named - tests
    assert re.findall(r"^\| \*\*F(\d+)\*\*", table, re.MULTILINE) == [str(n) for n in range(1, 31)]
