"""The URL of a file, and the options in it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from stream_update.errors import ConfigError

__all__ = ["Address", "parse"]

SCHEME = "sqlite:///"
EXAMPLE = (
    '"sqlite:///weather.db" (relative to the working directory) or "sqlite:////data/weather.db"'
)
OPTIONS = ("session_timeout_ms", "max_poll_interval_ms")
SHORTEST_MS = 100


class Address(NamedTuple):
    """Where the file is, and how patient a group is with its members.

    ``session_timeout_ms``: a member that gave no sign of life for so long has lost its
    partitions. ``max_poll_interval_ms``: a member that has not polled for so long gives
    no more signs of life. Both mean what Kafka's options of these names mean.
    """

    path: Path
    session_timeout_ms: int = 10_000
    max_poll_interval_ms: int = 300_000


def parse(url: str) -> Address:
    """``sqlite:///path?option=value`` as an :class:`Address`; raises :class:`ConfigError`."""
    if not url.startswith(SCHEME):
        raise ConfigError(f"log: {url!r} is no address of an embedded log", hint=EXAMPLE)
    path, _, query = url.removeprefix(SCHEME).partition("?")
    if not path or path.endswith("/") or path == ":memory:":
        raise ConfigError(f"log: {url!r} does not name a file", hint=EXAMPLE)
    options = {}
    for pair in filter(None, query.split("&")):
        name, _, text = pair.partition("=")
        if name not in OPTIONS:
            raise ConfigError(
                f"log: {url!r} has an unknown option {name!r}",
                hint=f"the options are {' and '.join(OPTIONS)}",
            )
        if not text.isdecimal() or int(text) < SHORTEST_MS:
            raise ConfigError(
                f"log: {name} in {url!r} is {text!r}",
                hint=f"a number of milliseconds, at least {SHORTEST_MS}",
            )
        options[name] = int(text)
    return Address(Path(path).absolute(), **options)
