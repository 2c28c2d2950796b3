"""``dead-letters``: the events that could not be used, and why."""

from __future__ import annotations

import time
from base64 import b64encode
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import click

from stream_update import assemble
from stream_update.cli.options import configured, json_option, print_json
from stream_update.config import Config
from stream_update.errors import ConfigError
from stream_update.events import Batch, TopicPartition
from stream_update.protocols import Reader
from stream_update.restore import read_range

__all__ = ["commands"]

LONGEST = 400
"""Characters of a value that a person is shown."""


class _Letter(NamedTuple):
    headers: dict[str, str]
    written_ms: int
    key: bytes | None
    value: bytes | None

    def as_dict(self) -> dict[str, Any]:
        numbers = {name: _number(self.headers.get(name)) for name in ("partition", "offset")}
        return {
            **self.headers,
            **numbers,
            "timestamp": _number(self.headers.get("timestamp")),
            **_plain("key", self.key),
            **_plain("value", self.value),
        }

    def lines(self) -> list[str]:
        """For a person; nothing in them moves a terminal's cursor."""
        told = {name: _visible(text) for name, text in self.headers.items()}
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.written_ms / 1000))
        value = "no value" if self.value is None else _cut(self.value)
        return [
            f"{told.get('topic')}[{told.get('partition')}] offset {told.get('offset')}: "
            f"{told.get('reason')}, by the {told.get('by')} of {told.get('lineage')}, {at}",
            f"    {told.get('detail')}",
            f"    {value}",
        ]


@click.command("dead-letters")
@configured
@click.option("--last", type=click.IntRange(min=1), default=10, show_default=True, metavar="N",
              help="Show the newest N.")  # fmt: skip
@click.option("--reason", "reasons", multiple=True, help="Only those with this reason.")
@click.option("--partition", type=int, help="Only those from this partition of the source.")
@click.option("--topic", help="Instead of APP.dead-letters; a backfill has a topic of its own.")
@json_option
def dead_letters(
    config: Config,
    last: int,
    reasons: Sequence[str],
    partition: int | None,
    topic: str | None,
    as_json: bool,
) -> None:
    """The events that could not be used: where they were, why, and what they held.

    The newest are shown last, and below them how many there are of each reason. With --json
    one line for each letter, in bytes what is not UTF-8 as base64.
    """
    name = topic or config.topic("dead-letters")
    with assemble.open_log(config) as log:
        info = log.topics().get(name)
        if info is None:
            raise ConfigError(
                f"{config.log} has no topic {name!r}", hint="nothing has been trained there yet"
            )
        found = _Found(last, frozenset(reasons), partition)
        with log.reader() as reader:
            for number in range(info.partitions):
                found.read(reader, TopicPartition(name, number))
    letters = found.newest()
    if as_json:
        for letter in letters:
            print_json(letter.as_dict())
        return
    for letter in letters:
        for line in letter.lines():
            click.echo(line)
    for reason, count in found.counts.most_common():
        click.echo(f"{count:>8,} {_visible(reason)}")
    if not found.counts:
        click.echo(f"{name} holds none")


class _Found:
    """The newest letters of each partition that were asked for, and how many there are."""

    def __init__(self, last: int, reasons: frozenset[str], partition: int | None) -> None:
        self.counts: Counter[str] = Counter()
        self._last = last
        self._reasons = reasons
        self._partition = partition
        self._held: list[deque[_Letter]] = []

    def read(self, reader: Reader, where: TopicPartition) -> None:
        kept: deque[_Letter] = deque(maxlen=self._last)
        self._held.append(kept)
        first = reader.beginning_offsets([where])[where]
        for batch in read_range(reader, where, first, reader.end_offsets([where])[where]):
            for letter in _letters(batch):
                reason = letter.headers.get("reason", "?")
                if self._reasons and reason not in self._reasons:
                    continue
                if self._partition not in {None, _number(letter.headers.get("partition"))}:
                    continue
                self.counts[reason] += 1
                kept.append(letter)

    def newest(self) -> list[_Letter]:
        """The newest of all, in the order in which they were written."""
        every = [letter for kept in self._held for letter in kept]
        return sorted(every, key=lambda letter: letter.written_ms)[-self._last :]


def _letters(batch: Batch) -> list[_Letter]:
    columns = zip(batch.headers, batch.timestamps, batch.keys, batch.values, strict=True)
    return [
        _Letter(
            {name: (text or b"").decode(errors="replace") for name, text in headers},
            written_ms,
            key,
            value,
        )
        for headers, written_ms, key, value in columns
    ]


def _number(text: str | None) -> int | None:
    try:
        return int(text or "")
    except ValueError:
        return None


def _plain(name: str, raw: bytes | None) -> dict[str, Any]:
    try:
        return {name: None if raw is None else raw.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": b64encode(raw or b"").decode()}


def _cut(raw: bytes) -> str:
    text = _visible(raw[: 4 * LONGEST].decode(errors="backslashreplace"))[:LONGEST]
    return text if len(raw) <= LONGEST else f"{text}... ({len(raw):,} bytes)"


def _visible(text: str) -> str:
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


commands = (dead_letters,)
