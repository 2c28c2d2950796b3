"""``snapshots diff``."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import click

from stream_update import assemble
from stream_update.cli.options import configured, json_option, lineage_option, looked_at, print_json
from stream_update.comparing import Change, Compared, Comparison, compare
from stream_update.config import Config
from stream_update.errors import ConfigError, LineageMismatch
from stream_update.proof.held import held_snapshots
from stream_update.proof.replay import Replay
from stream_update.snapshot import Snapshot, check_identity

__all__ = ["diff"]

LONGEST = 60
LAST_KEY = re.compile(r"^(.*)\[[^\]]*\]$")


@click.command("diff")
@click.argument("first", metavar="A", type=int)
@click.argument("second", metavar="B", type=int)
@configured
@lineage_option
@click.option("--partition", type=int, default=0, show_default=True)
@click.option(
    "--limit", type=click.IntRange(min=1), default=10, show_default=True,
    help="Of values that belong together, such as weights, at most so many.",
)  # fmt: skip
@json_option
def diff(
    config: Config, first: int, second: int, partition: int, limit: int, as_json: bool
) -> None:
    """What changed from snapshot A to snapshot B: events, model, figures, detectors."""
    with assemble.open_log(config) as log, log.reader() as reader:
        config = looked_at(config, log)
        held = {s.manifest.seq: s for s in held_snapshots(config, reader, partition)}
        for seq in (first, second):
            if seq not in held:
                raise ConfigError(
                    f"there is no snapshot {seq} of lineage {config.lineage_name} in partition "
                    f"{partition}",
                    hint=f"there are: {', '.join(map(str, held)) or 'none'}",
                )
        replay = Replay(config, log, reader)
        a, b = held[first], held[second]
        unreadable = _unreadable(replay, a, b)
        found = compare(
            a,
            b,
            None if unreadable else lambda s: replay.lane(s, s.manifest.positions, s.manifest).lane,
        )
    if as_json:
        print_json({"lineage": config.lineage_name, "partition": partition, "first": first,
                    "second": second, "unreadable": unreadable, **found.as_dict()})  # fmt: skip
        return
    click.echo(f"lineage {config.lineage_name}, partition {partition}: {first} -> {second}")
    for line in _lines(found, unreadable, limit):
        click.echo(line)


def _unreadable(replay: Replay, *snapshots: Snapshot) -> str:
    """Why the states cannot be thawed with this configuration; empty if they can."""
    try:
        for snapshot in snapshots:
            check_identity(snapshot.manifest, replay.identity)
    except LineageMismatch as error:
        return str(error)
    return ""


def _lines(found: Comparison, unreadable: str, limit: int) -> Iterator[str]:
    yield "manifest"
    for name, (old, new) in found.facts.items():
        if name != "seq":
            yield _line(Change(name, *(_fact(name, value) for value in (old, new))))
    for text in found.configuration:
        yield f"  {text}"
    if found.same_state:
        yield "the states are the same"
        return
    if unreadable:
        yield f"the states differ, and this configuration cannot read them: {unreadable}"
        return
    for name, section in found.sections.items():
        if section.changes:
            yield f"{name}: {len(section.changes):,} of {section.values:,} values changed"
            yield from _section(section, limit)
    if not any(section.changes for section in found.sections.values()):
        yield "the states differ only where there are no words for it"


def _section(section: Compared, limit: int) -> Iterator[str]:
    for _, together in groupby(section.changes, key=_family):
        changes = list(together)
        if len(changes) > limit:
            changes.sort(key=_size, reverse=True)
        for change in changes[:limit]:
            yield _line(change)
        if len(changes) > limit:
            yield f"    and {len(changes) - limit:,} more like these"


def _family(change: Change) -> str:
    """The weights of one model belong together: all that differ only in the last key."""
    found = LAST_KEY.match(change.name)
    return found[1] if found else change.name


def _size(change: Change) -> float:
    return float("inf") if change.moved is None else abs(change.moved)


def _line(change: Change) -> str:
    if change.missing == "old":
        return f"  {change.name}  new: {_shown(change.new)}"
    if change.missing == "new":
        return f"  {change.name}  gone, was: {_shown(change.old)}"
    text = f"  {change.name}  {_shown(change.old)} -> {_shown(change.new)}"
    return text if change.moved is None else f"{text}  ({_signed(change.moved)})"


def _shown(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        text = str(value)
        return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _signed(value: float) -> str:
    return f"{value:+,}" if isinstance(value, int) else f"{value:+.3g}"


def _fact(name: str, value: Any) -> Any:
    if name == "next":
        return ", ".join(f"{partition}: {offset:,}" for partition, offset in value.items())
    if name in {"created_ms", "event_time"} and value is not None:
        return dt.datetime.fromtimestamp(value / 1000, dt.UTC).isoformat(timespec="milliseconds")
    if name == "parent":
        return f"{value[:16]}..." if value else "none"
    return value
