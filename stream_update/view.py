"""What a person sees while a trainer runs: a live table, or plain lines."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from stream_update.worker import Worker

__all__ = ["View", "summary_lines"]

logger = logging.getLogger(__name__)

EVERY_S = 0.25


class View:
    """Shows the progress of a worker.

    On a terminal a table that is redrawn four times a second at most; elsewhere one log
    line for each checkpoint. ``report`` gives the figures of the whole process,
    ``lag`` how many events are still to be read.
    """

    def __init__(
        self,
        console: Console,
        title: str,
        report: Callable[[], Mapping[str, Any]],
        lag: Callable[[], int | None],
        *,
        live: bool,
    ) -> None:
        self._console = console
        self._title = title
        self._report = report
        self._lag = lag
        self._live = Live(console=console, auto_refresh=False, transient=True) if live else None
        self._drawn_at = 0.0
        self._rate_from = (time.monotonic(), 0)
        self._rate = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def progress(self, worker: Worker) -> None:
        """After each poll."""
        now = time.monotonic()
        if self._live is None or now - self._drawn_at < EVERY_S:
            return
        self._drawn_at = now
        self._measure(now, worker.events)
        self._live.update(self._table(worker), refresh=True)

    def checkpoint(self, worker: Worker) -> None:
        """After each checkpoint."""
        if self._live is not None:
            return
        self._measure(time.monotonic(), worker.events)
        report = self._report()
        figure, value = _headline(report)
        baselines = ", ".join(
            f"{name} {values[figure]:.4f}"
            for name, values in report["baselines"].items()
            if values.get(figure) is not None
        )
        logger.info(
            "checkpoint: %d events, %d dead letters, %s %s (%s), %d drifts, snapshot %s",
            report["events"],
            report["dead_letters"],
            figure,
            "-" if value is None else f"{value:.4f}",
            baselines,
            len(report["drifts"]),
            ",".join(str(lane["snapshot"]) for lane in report["lanes"]),
        )

    def _measure(self, now: float, events: int) -> None:
        since, before = self._rate_from
        if now - since >= 1.0 or not self._rate:
            self._rate = (events - before) / max(now - since, 1e-6)
            self._rate_from = (now, events)

    def _table(self, worker: Worker) -> Table:
        report = self._report()
        table = Table(title=self._title, show_header=False, title_justify="left")
        table.add_column(style="bold")
        table.add_column(justify="right")
        table.add_column(style="dim")
        if worker.standing_by:
            table.add_row("standing by", "", "another member has the lane")
            return table
        lag = self._lag()
        table.add_row("events", f"{report['events']:,}", f"{self._rate:,.0f} a second")
        table.add_row("lag", "-" if lag is None else f"{lag:,}", "events not yet read")
        figure, value = _headline(report)
        rolling = report["rolling"].get(figure)
        table.add_row(
            figure,
            "-" if value is None else f"{value:.4f}",
            "" if rolling is None else f"recently {rolling:.4f}",
        )
        for name, values in report["baselines"].items():
            if values.get(figure) is not None:
                table.add_row(f"  {name.replace('_', '-')}", f"{values[figure]:.4f}", "baseline")
        table.add_row("dead letters", f"{report['dead_letters']:,}", "")
        drifts = report["drifts"]
        last = f"last at event {drifts[-1]['event']:,}" if drifts else ""
        table.add_row("drifts", str(len(drifts)), last)
        newest = max((s.snapshot_created_ms or 0 for s in worker.slots.values()), default=0)
        table.add_row(
            "snapshots",
            f"{report['snapshots']:,}",
            f"last {time.time() - newest / 1000:.0f} s ago" if newest else "",
        )
        return table


def _headline(report: Mapping[str, Any]) -> tuple[str, float | None]:
    """The figure that a glance should fall on."""
    metrics = report["metrics"]
    for name in ("accuracy", "exact_match", "mae"):
        if name in metrics:
            return name, metrics[name]
    return next(iter(metrics.items()), ("metric", None))


def summary_lines(report: Mapping[str, Any]) -> list[str]:
    """The end of a run, for people."""
    counted = ("learned", "dead_letters", "unlabelled", "duplicates")
    waiting = report["events"] - sum(report[name] for name in counted)
    lines = [
        f"{report['events']:,} events: {report['learned']:,} learned, "
        f"{report['dead_letters']:,} dead letters, {report['unlabelled']:,} unlabelled"
        + (f", {report['duplicates']:,} duplicates" if report["duplicates"] else "")
        + (f", {waiting:,} waiting for a full batch" if waiting > 0 else ""),
    ]
    for name, value in report["metrics"].items():
        if value is None:
            continue
        baselines = ", ".join(
            f"{baseline.replace('_', '-')} {values[name]:.4f}"
            for baseline, values in report["baselines"].items()
            if values.get(name) is not None
        )
        lines.append(
            f"  {name:<20} {value:.4f}{f'   (baselines: {baselines})' if baselines else ''}"
        )
    lines.append(
        f"{len(report['drifts'])} drifts, {report['snapshots']} snapshots, "
        f"{report['run_events']:,} events in {report['elapsed_s']:.1f} s "
        f"({report['events_per_s']:,.0f} a second)"
    )
    return lines
