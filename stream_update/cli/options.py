"""The options that commands share, and how answers are printed."""

from __future__ import annotations

import functools
import logging
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
import orjson
from rich.console import Console
from rich.table import Table

from stream_update import assemble
from stream_update.config import Config, load
from stream_update.protocols import Log

__all__ = [
    "configured",
    "errors",
    "given",
    "json_option",
    "lineage_option",
    "looked_at",
    "on_signals",
    "print_json",
    "print_table",
    "reload",
]

UNCUT = 10_000
"""Columns; more than any row of ours has."""

R = TypeVar("R")

RELOAD = "stream_update.reload"
GIVEN = "stream_update.given"
LINEAGE = "stream_update.lineage"

errors = Console(stderr=True)


def configured(function: Callable[..., R]) -> Callable[..., R]:
    """``-c FILE`` and ``-s key=value`` become the argument ``config``."""

    @click.option(
        "-c", "--config", "path", default="app.toml", show_default=True, metavar="FILE",
        help="The application's configuration.",
    )  # fmt: skip
    @click.option(
        "-s", "--set", "overrides", multiple=True, metavar="KEY=VALUE",
        help="Override a key, such as checkpoint.events=500.",
    )  # fmt: skip
    @functools.wraps(function)
    def wrapper(path: str, overrides: Sequence[str], **options: Any) -> R:
        # Modules beside the file or in the working directory can be named in it.
        for folder in (str(Path(path).resolve().parent), str(Path.cwd())):
            if folder not in sys.path:
                sys.path.append(folder)
        meta = click.get_current_context().meta
        meta[GIVEN], meta[RELOAD] = (path, overrides), functools.partial(load, path, overrides)
        return function(config=load(path, overrides), **options)

    return wrapper


def reload() -> Config:
    """The configuration of this command as its files are by now."""
    config: Config = click.get_current_context().meta[RELOAD]()
    return config


def given() -> tuple[str, Sequence[str]]:
    """The file and the overrides that this command was given."""
    found: tuple[str, Sequence[str]] = click.get_current_context().meta[GIVEN]
    return found


def _remember_lineage(context: click.Context, _: click.Parameter, value: str | None) -> None:
    context.meta[LINEAGE] = value


lineage_option = click.option(
    "--lineage", metavar="NAME", expose_value=False, callback=_remember_lineage,
    help="This one, and not the one that is live by now.",
)  # fmt: skip


def looked_at(config: Config, log: Log) -> Config:
    """The configuration with the lineage that a command looks at: the named one, or else the
    one that stands for the configured one since the last promotion.
    """
    name = click.get_current_context().meta.get(LINEAGE)
    if name is None:
        return assemble.live(config, log)
    return msgspec.structs.replace(config, lineage=name, group_id=config.trainer_group)


json_option = click.option("--json", "as_json", is_flag=True, help="For machines: JSON.")


def print_json(value: Any) -> None:
    sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS) + b"\n")
    sys.stdout.buffer.flush()


def on_signals(stop: Callable[[], None]) -> None:
    def handle(number: int, _frame: object) -> None:
        logging.getLogger("stream_update").info("%s: draining", signal.Signals(number).name)
        stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console = Console()
    if not console.is_terminal:
        # What is piped to another program is not to be cut to a terminal's width.
        console = Console(width=UNCUT)
    console.print(table)
