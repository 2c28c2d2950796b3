"""Which logs a benchmark runs on: an embedded one, a broker of its own, or one that runs."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests import broker

__all__ = ["add_options", "addresses", "compare_on_each", "times"]

Compare = Callable[[str, int, int, Path], list[dict[str, Any]]]
"""From a log's address, how many events, how many rounds and a folder to the rows of a table."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--log", choices=["sqlite", "kafka", "both"], default="both")
    parser.add_argument("--kafka", metavar="HOST:PORT", help="a broker that runs already")


def addresses(options: argparse.Namespace, folder: Path, opened: ExitStack) -> list[str]:
    """The logs that were asked for; a broker of its own runs until ``opened`` is closed."""
    found = []
    if options.log != "kafka":
        found.append(f"sqlite:///{folder / 'bench.db'}")
    if options.log != "sqlite":
        address = options.kafka or opened.enter_context(broker.Broker()).bootstrap
        found.append(f"kafka://{address}")
    return found


def times(rates: Sequence[float], base: Sequence[float]) -> float:
    """The median of the ratios of each round."""
    return round(statistics.median(a / b for a, b in zip(rates, base, strict=True)), 3)


def compare_on_each(
    description: str | None, compare: Compare, head: str, line: Callable[[dict[str, Any]], str]
) -> None:
    """A benchmark's command: the table of each log that is asked for, and all as JSON."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows = []
    print(head)
    with tempfile.TemporaryDirectory() as name, ExitStack() as opened:
        for log in addresses(options, Path(name), opened):
            for row in compare(log, options.events, options.rounds, Path(name)):
                print(line(row), flush=True)
                rows.append(row)
    if options.json:
        options.json.write_text(json.dumps(rows), encoding="utf-8")
