"""``stream-update demo``: a model learns from real events, and a scorer follows it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from rich.console import Console

from stream_update.assemble import Trainer, open_log
from stream_update.config import load
from stream_update.errors import ConfigError, Fatal
from stream_update.events import Outcomes, Record
from stream_update.files import open_rows
from stream_update.plot import Line, chart
from stream_update.slots import Slot
from stream_update.topics import create_topics
from stream_update.view import View, summary_lines

__all__ = ["ELEC2", "run_demo"]

ELEC2 = "elec.csv.gz"
ROLLING = 1000
STEP = 100
COMMAND = (sys.executable, "-m", "stream_update")

CONFIG = """\
# The electricity market of New South Wales: will the price go up? One event each half hour.
app = "elec2"
log = "sqlite:///{log}"
task = "binary"

[source]
topic = "elec2.labelled"
label = "class"
features = "*"

[learner]
use = "river.compose:Pipeline"
steps = [
  {{ use = "river.preprocessing:StandardScaler" }},
  {{ use = "river.linear_model:LogisticRegression", optimizer = {{ use = "river.optim:SGD" }} }},
]

[[monitor]]
use = "drift"
detector = {{ use = "river.drift:ADWIN", delta = 0.002 }}
reaction = "alert"

[checkpoint]
events = 5000
seconds = 5
"""


class Curve:
    """Rolling accuracy of the model and of the no-change baseline, event by event."""

    def __init__(self) -> None:
        self._hits: list[bool] = []
        self._same: list[bool] = []
        self._previous: Any = None

    def tap(self, outcomes: Outcomes) -> None:
        for label, value in zip(outcomes.labels, outcomes.predictions.values, strict=True):
            self._hits.append(label == value)
            self._same.append(label == self._previous)
            self._previous = label

    def lines(self) -> list[Line]:
        return [
            Line("model, last 1,000 events", "#1565c0", _rolling(self._hits)),
            Line("no-change baseline", "#9e9e9e", _rolling(self._same)),
        ]


def _rolling(hits: list[bool]) -> list[tuple[float, float]]:
    window = min(ROLLING, max(1, len(hits) // 4))
    return [
        (float(stop), sum(hits[stop - window : stop]) / window)
        for stop in range(window, len(hits) + 1, STEP)
    ]


def run_demo(folder: Path, rows: int | None, console: Console) -> dict[str, Any]:
    """Fill a log with Elec2, learn it, follow it, draw it; returns the trainer's report.

    Everything stays in ``folder`` to look at: configuration, log, chart.
    """
    if (folder / "demo.db").exists():
        raise ConfigError(
            f"--dir: {folder} holds an earlier demo", hint="delete it, or give another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "demo.toml"
    path.write_text(CONFIG.format(log=(folder / "demo.db").resolve()), encoding="utf-8")
    config = load(path)
    with open_log(config) as log:
        create_topics(config, log)
        count = _fill(config.source.topic, log, rows)
        console.print(f"[bold]1[/] wrote {count:,} events to topic {config.source.topic}")
        console.print("[bold]2[/] a trainer learns them, a scorer process follows its snapshots")
        scorer = subprocess.Popen(  # noqa: S603 - this program, with arguments of its own
            [*COMMAND, "score", "-c", str(path), "--until-end", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            report, curve = _train(config, log, console)
            out, err = scorer.communicate(timeout=300)
        finally:
            scorer.kill()
            scorer.wait()
    if scorer.returncode:
        raise Fatal(f"the scorer ended with {scorer.returncode}: {err.strip()}")
    _show(folder, path, report, json.loads(out), curve, console)
    return report


def _fill(topic: str, log: Any, rows: int | None) -> int:
    with (
        resources.as_file(resources.files("stream_update") / "data" / ELEC2) as data,
        log.appender() as appender,
    ):
        count = 0
        for key, value in open_rows(data):
            appender.append([Record(topic, value, key=key, partition=0)])
            count += 1
            if count == rows:
                break
        appender.flush()
    return count


def _train(config: Any, log: Any, console: Console) -> tuple[dict[str, Any], Curve]:
    curve = Curve()

    def tap(slot: Slot) -> None:
        slot.lane.taps.append(curve.tap)

    trainer: Trainer
    view = View(
        console,
        f"{config.app}: learning",
        lambda: trainer.report(),  # noqa: PLW0108 - it does not exist yet
        lambda: None,
        live=console.is_terminal,
    )
    trainer = Trainer(
        config,
        log,
        until_end=True,
        on_slot=tap,
        on_progress=view.progress,
        on_checkpoint=view.checkpoint,
    )
    with view:
        return trainer.run(), curve


def _show(
    folder: Path,
    config: Path,
    report: Mapping[str, Any],
    scored: Mapping[str, Any],
    curve: Curve,
    console: Console,
) -> None:
    drifts = [alarm["event"] for alarm in report["drifts"]]
    picture = folder / "accuracy.svg"
    picture.write_text(
        chart(
            "Elec2: StandardScaler | LogisticRegression, predicted before it was learned",
            curve.lines(),
            drifts,
            x_label="events",
            mark_name="drift found by ADWIN",
        ),
        encoding="utf-8",
    )
    console.print("[bold]3[/] what was learned")
    for line in summary_lines(report):
        console.print(f"  {line}", highlight=False)
    accuracy = report["metrics"]["accuracy"]
    no_change = report["baselines"]["no_change"]["accuracy"]
    if no_change > accuracy:
        console.print(
            f"  Saying the same as last time is right {no_change:.1%} of the time, this model "
            f"{accuracy:.1%}: an accuracy alone tells little.",
            highlight=False,
        )
    console.print(
        "  drifts at events: " + ", ".join(f"{event:,}" for event in drifts), highlight=False
    )
    versions = ", ".join(f"{name} ({count:,})" for name, count in scored["versions"].items())
    console.print(
        f"[bold]4[/] the scorer made {scored['predictions']:,} predictions, with model versions "
        f"{versions}",
        highlight=False,
    )
    console.print(f"[bold]5[/] the accuracy over time, with the drifts: {picture}", highlight=False)
    console.print(
        "\nWhere to go next:\n"
        f"  stream-update snapshots list -c {config}\n"
        f"  stream-update run -c {config} -s lineage=second --until-end   (learn it all again)\n"
        f'  edit {config}: another learner, or log = "kafka://127.0.0.1:9092"',
        highlight=False,
        soft_wrap=True,
    )
