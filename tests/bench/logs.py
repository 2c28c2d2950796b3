"""Which logs a benchmark runs on: an embedded one, a broker of its own, or one that runs."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

from tests import broker

__all__ = ["add_options", "addresses"]


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
