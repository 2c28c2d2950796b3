"""Runs the command line as real processes, and the bare loop they are compared with."""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from river import metrics

import stream_update
from tests import warm
from tests.warm import Started

ELEC2 = Path(stream_update.__file__).parent / "data" / "elec.csv.gz"

PIPELINE = """
use = "river.compose:Pipeline"
steps = [
  { use = "river.preprocessing:StandardScaler" },
  { use = "river.linear_model:LogisticRegression", l2 = 0.0, optimizer = { use = "river.optim:SGD", lr = 0.01 } },
]
"""  # noqa: E501


def configure(
    folder: Path,
    log: str,
    app: str,
    *,
    learner: str = PIPELINE,
    partitions: int = 1,
    extra: str = "",
    top: str = "",
    label: str = "class",
    checkpoint: int = 1000,
    task: str = "binary",
    source: str = "",
) -> Path:
    """Write an application's TOML; Kafka groups get short timeouts."""
    kafka = (
        "[kafka.consumer]\nsession_timeout_ms = 6000\nheartbeat_interval_ms = 1000\n"
        if log.startswith("kafka")
        else ""
    )
    path = folder / f"{app}.toml"
    path.write_text(
        f"""
app = "{app}"
log = "{log}"
task = "{task}"
{top}
[source]
topic = "{app}.labelled"
partitions = {partitions}
label = "{label}"
features = "*"
{source}
[learner]
{learner}
[[monitor]]
use = "drift"
detector = {{ use = "river.drift:ADWIN", delta = 0.002 }}
reaction = "alert"
[checkpoint]
events = {checkpoint}
seconds = 5
{kafka}
{extra}
""",
        encoding="utf-8",
    )
    return path


def start(*arguments: str | Path, cwd: Path) -> Started:
    """Start ``stream-update`` with these arguments."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("STREAM_UPDATE_")}
    return warm.start([*map(str, arguments)], cwd, {**environment, "PYTHONHASHSEED": "0"})


def call(*arguments: str | Path, cwd: Path, code: int = 0) -> tuple[str, str]:
    """Run to the end, check the exit code, return standard output and error."""
    process = start(*arguments, cwd=cwd)
    out, err = process.communicate(timeout=110)
    assert process.returncode == code, f"{arguments}: {process.returncode}\n{out}\n{err}"
    return out, err


def report_of(process: Started) -> dict[str, Any]:
    """The JSON report of a trainer that ends by itself."""
    out, err = process.communicate(timeout=110)
    assert process.returncode == 0, err
    report: dict[str, Any] = json.loads(out.splitlines()[-1])
    return report


def elec2(rows: int) -> list[dict[str, Any]]:
    """The first rows of Elec2 as events."""
    with gzip.open(ELEC2, "rt", newline="") as file:
        reader = csv.DictReader(file)
        return [
            {k: int(v) if k == "class" else float(v) for k, v in row.items()}
            for row, _ in zip(reader, range(rows), strict=False)
        ]


def write_jsonl(path: Path, events: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    return path


METRICS: dict[str, dict[str, Callable[[], Any]]] = {
    "binary": {
        "accuracy": metrics.Accuracy,
        "f1": metrics.F1,
        "kappa": metrics.CohenKappa,
        "log_loss": metrics.LogLoss,
        "roc_auc": metrics.ROCAUC,
    },
    "multiclass": {
        "accuracy": metrics.Accuracy,
        "macro_f1": metrics.MacroF1,
        "kappa": metrics.CohenKappa,
        "weighted_recall": metrics.WeightedRecall,
    },
    "regression": {
        "mae": metrics.MAE,
        "rmse": metrics.RMSE,
        "r2": metrics.R2,
    },
}


def bare_loop(
    make: Callable[[], Any],
    events: Iterable[Mapping[str, Any]],
    label: str = "class",
    task: str = "binary",
) -> dict[str, float]:
    """River's documented loop over the same events."""
    model = make()
    figures = {name: make_metric() for name, make_metric in METRICS[task].items()}
    for event in events:
        x = {k: v for k, v in event.items() if k != label}
        y = bool(event[label]) if task == "binary" else event[label]
        predicted = model.predict_one(x)
        probabilities = model.predict_proba_one(x) if task == "binary" else None
        for name, metric in figures.items():
            metric.update(y, probabilities if name in {"log_loss", "roc_auc"} else predicted)
        model.learn_one(x, y)
    return {name: float(metric.get()) for name, metric in figures.items()}
