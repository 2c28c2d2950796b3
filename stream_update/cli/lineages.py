"""``backfill`` and ``promote``."""

from __future__ import annotations

import logging
import time
from typing import Self

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from stream_update import assemble
from stream_update.backfill import backfill as begin
from stream_update.backfill import estimate, planned
from stream_update.cli.options import configured, errors, json_option, on_signals, print_json
from stream_update.config import Config
from stream_update.control import Stretch
from stream_update.promotion import promote as hand_over
from stream_update.protocols import Log
from stream_update.view import summary_lines
from stream_update.worker import Worker

__all__ = ["commands"]

logger = logging.getLogger(__name__)


@click.command()
@configured
@click.option("--as", "name", required=True, metavar="LINEAGE", help="The name of its lineage.")
@click.option("--from", "since", default="", metavar="TIME", help="From the beginning by default.")
@click.option(
    "--to", "until", default="", metavar="TIME", help="To the end, as it is at the start."
)
@click.option("--dry-run", is_flag=True, help="Say how many events it is, and how long it takes.")
@json_option
def backfill(
    config: Config, name: str, since: str, until: str, dry_run: bool, as_json: bool
) -> None:
    """Learn the past again, under a lineage of its own.

    TIME is a date or a time such as 2026-10-01 or 2026-10-01T12:30:00+02:00; with "--to committed"
    it is where the live trainers are, whether they run or not. The live trainers and
    those who read their topics see nothing of it: what it says goes to APP.LINEAGE.metrics,
    APP.LINEAGE.drift and APP.LINEAGE.dead-letters. Started several times, the processes
    share the partitions; started again, it goes on where it was. When it is done,
    stream-update promote lets the live trainers go on with it.
    """
    group = config.trainer_group
    config = assemble.backfill_config(config, name)
    with assemble.open_log(config) as log:
        stretch = planned(config, log, since, until, record=not dry_run, live_group=group)
        if dry_run:
            _say_estimate(config, log, stretch, as_json)
            return
        live = errors.is_terminal and not as_json
        with _Bar(config, log, stretch, live=live) as bar:
            trainer = begin(
                config, log, stretch, on_progress=bar.progress, on_checkpoint=bar.checkpoint
            )
            on_signals(trainer.worker.stop)
            if live:
                logging.getLogger("stream_update").setLevel(logging.WARNING)
            report = trainer.run()
        left = _left(config, log, stretch)
    if as_json:
        print_json({**report, "events_left": left})
        return
    for line in summary_lines(report):
        click.echo(line)
    if left:
        click.echo(f"{left:,} events are left: the same command goes on")
    else:
        click.echo(f"complete; to go on with it: stream-update promote {name}")


def _say_estimate(config: Config, log: Log, stretch: Stretch, as_json: bool) -> None:
    found = estimate(config, log, stretch)
    if as_json:
        print_json({**found._asdict(), "start": stretch.start, "ends": stretch.ends})
        return
    for partition, start in stretch.start.items():
        click.echo(
            f"{config.source.topic}[{partition}]: offsets {start:,} to {stretch.ends[partition]:,}"
        )
    click.echo(
        f"{found.events:,} events at most; {found.sample:,} of them tried, at "
        f"{found.events_per_s:,.0f} a second: about {_duration(found.seconds)} in one process"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _left(config: Config, log: Log, stretch: Stretch) -> int:
    """How many events nobody has learned yet, as far as it has been committed."""
    return stretch.left(log.committed(config.trainer_group, config.source.topic))


class _Bar:
    """The progress of all processes of a backfill: a bar, or a line for each checkpoint."""

    def __init__(self, config: Config, log: Log, stretch: Stretch, *, live: bool) -> None:
        self._config = config
        self._log = log
        self._stretch = stretch
        self._total = stretch.events
        self._done = self._total - _left(config, log, stretch)
        self._began = (time.monotonic(), self._done)
        self._asked_at = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} events, {task.fields[rate]}"),
            TimeRemainingColumn(),
            console=errors,
            disable=not live,
        )
        self._task = self._bar.add_task(
            config.lineage_name, total=self._total, completed=self._done, rate=""
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def progress(self, _: Worker) -> None:
        """After each poll."""
        if not self._bar.disable and time.monotonic() - self._asked_at > 1.0:
            self._measure()
            self._bar.update(self._task, completed=self._done, rate=f"{self._rate():,.0f} a second")

    def checkpoint(self, _: Worker) -> None:
        """After each checkpoint."""
        if self._bar.disable:
            self._measure()
            rate = self._rate()
            left = (self._total - self._done) / rate if rate else 0.0
            logger.info(
                "%s: %d of %d events, %.0f a second, %s to go",
                self._config.lineage_name,
                self._done,
                self._total,
                rate,
                _duration(left),
            )

    def _measure(self) -> None:
        self._asked_at = time.monotonic()
        self._done = self._total - _left(self._config, self._log, self._stretch)

    def _rate(self) -> float:
        return (self._done - self._began[1]) / max(time.monotonic() - self._began[0], 1e-9)


@click.command()
@click.argument("lineage")
@configured
@click.option(
    "--wait", "wait_s", type=click.FloatRange(min=0), default=60.0, show_default=True,
    help="Seconds to wait for what stands in the way.",
)  # fmt: skip
@json_option
def promote(config: Config, lineage: str, wait_s: float, as_json: bool) -> None:
    """Let the live trainers and the scorers go on with LINEAGE.

    The configuration is the one that made it. Live trainers whose own does not fit read theirs
    again; if that does not fit either, they go on as before until they are started
    anew. To go back, promote the former lineage.
    """
    with assemble.open_log(config) as log:
        done = hand_over(config, log, lineage, wait_s=wait_s, say=logger.info)
    pointer = done.pointer
    if as_json:
        print_json(
            {
                "lineage": pointer.lineage,
                "previous": pointer.previous,
                "learned": pointer.learned,
                "adopted": done.adopted,
            }
        )
        return
    click.echo(f"{pointer.name}: {pointer.lineage} is live now, in place of {pointer.previous}")
    for partition, offset in pointer.learned.items():
        at = done.adopted.get(partition)
        state = "no live trainer has taken it over yet" if at is None else f"live at {at:,}"
        click.echo(f"partition {partition}: learned up to {offset:,}; {state}")


commands = (backfill, promote)
