"""``run``, ``score``, ``check`` and ``demo``."""

from __future__ import annotations

import itertools
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import orjson
from msgspec.structs import replace
from rich.console import Console

from stream_update import assemble
from stream_update.cli.options import (
    configured,
    errors,
    given,
    json_option,
    on_signals,
    print_json,
    reload,
)
from stream_update.components import components
from stream_update.config import Config
from stream_update.demo import run_demo
from stream_update.events import TopicPartition
from stream_update.freshness import WhenStale
from stream_update.protocols import Log, Reader
from stream_update.refusals import REASONS
from stream_update.supervisor import Supervisor, end_with
from stream_update.topics import source_topic
from stream_update.view import View, summary_lines

__all__ = ["commands"]


@click.command()
@configured
@click.option("--until-end", is_flag=True, help="Stop at the log's end as it is now.")
@click.option("--max-events", type=click.IntRange(min=1), help="Stop after so many events.")
@click.option("--stop-when", metavar="CONDITION", help='Such as "accuracy < 0.7 over 5000".')
@click.option(
    "--accept-gap",
    is_flag=True,
    help="Go on without events that the log deleted before they were learned; the lineage "
    "says so from then on.",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="Start so many members of the group, and start again what dies; no more of them "
    "learn than there are partitions.",
)
@click.option("--supervised", type=int, hidden=True)
@json_option
def run(
    *,
    config: Config,
    until_end: bool,
    max_events: int | None,
    stop_when: str | None,
    accept_gap: bool,
    processes: int,
    supervised: int | None,
    as_json: bool,
) -> None:
    """Learn from the source topic, as a member of the consumer group."""
    if processes > 1:
        if max_events is not None or stop_when is not None:
            raise click.UsageError("--max-events and --stop-when look at one process only")
        options = [
            *(["--until-end"] if until_end else []),
            *(["--accept-gap"] if accept_gap else []),
        ]
        _say(_run_together(config, processes, options, to_the_end=until_end), as_json)
        return
    live = errors.is_terminal and not as_json
    with assemble.open_log(config) as log:
        trainer: assemble.Trainer
        view = View(
            errors,
            f"{config.app}: learning {config.source.topic}",
            lambda: trainer.report(),  # noqa: PLW0108 - it does not exist yet
            _lag_of(config, log, lambda: trainer),
            live=live,
        )
        trainer = assemble.Trainer(
            config,
            log,
            until_end=until_end,
            max_events=max_events,
            stop_when=stop_when,
            accept_gap=accept_gap,
            reload=reload,
            on_progress=view.progress,
            on_checkpoint=view.checkpoint,
        )
        on_signals(trainer.worker.stop)
        if supervised is not None:
            end_with(supervised, trainer.worker.stop)
        if live:
            logging.getLogger("stream_update").setLevel(logging.WARNING)
        with view:
            report = trainer.run()
    _say(report, as_json)


def _say(report: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(report)
    else:
        for line in summary_lines(report):
            click.echo(line)


def _run_together(
    config: Config, processes: int, options: Sequence[str], *, to_the_end: bool
) -> dict[str, Any]:
    """Supervise so many trainers; the report over all lanes."""
    with assemble.open_log(config) as log:
        # Whatever is wrong is said once, before any of them is started.
        components(config)
        source_topic(config, log)
    context = click.get_current_context()
    level = "info" if context.parent is None else context.parent.params["log_level"]
    path, overrides = given()

    def command(number: int, fd: int) -> list[str]:
        mine = [*overrides, *_static_membership(config, number)]
        return [
            *(sys.executable, "-m", "stream_update", "--log-level", level, "run", "--json"),
            *("--config", path, "--supervised", str(fd), *options),
            *itertools.chain.from_iterable(("--set", override) for override in mine),
        ]

    supervisor = Supervisor(command, processes, to_the_end=to_the_end)
    on_signals(supervisor.stop)
    started = time.monotonic()
    said = supervisor.run()
    with assemble.open_log(config) as log:
        return assemble.report_of_all(
            config,
            log,
            # The report is the last line: a module of the user's may have printed others.
            run_events=sum(orjson.loads(out.splitlines()[-1])["run_events"] for out in said),
            elapsed_s=time.monotonic() - started,
        )


def _static_membership(config: Config, number: int) -> list[str]:
    """Two members of a group cannot have the same name."""
    found = []
    for table, options in (("kafka", config.kafka), *_tables(config.kafka)):
        name = options.get("group_instance_id")
        if name is not None:
            found.append(f"{table}.group_instance_id={name}-{number}")
    return found


def _tables(kafka: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((f"kafka.{key}", value) for key, value in kafka.items() if isinstance(value, Mapping))


def _lag_of(
    config: Config, log: Log, trainer: Callable[[], assemble.Trainer]
) -> Callable[[], int | None]:
    """How many events of this process's lanes are unread; asked at most once a second."""
    reader: Reader | None = None
    known: tuple[float, dict[int, int]] = (0.0, {})

    def lag() -> int | None:
        nonlocal reader, known
        lanes = [slot.lane.next for slot in trainer().worker.slots.values()]
        positions = {p: offset for lane in lanes for p, offset in lane.items()}
        if time.monotonic() - known[0] > 1.0:
            reader = reader or log.reader()
            places = [TopicPartition(config.source.topic, p) for p in positions]
            ends = reader.end_offsets(places) if places else {}
            known = (time.monotonic(), {place.partition: end for place, end in ends.items()})
        if not positions:
            return None
        return sum(max(0, known[1].get(p, offset) - offset) for p, offset in positions.items())

    return lag


@click.command()
@configured
@click.option("--until-end", is_flag=True, help="Stop at the log's end as it is now.")
@click.option("--max-events", type=click.IntRange(min=1), help="Stop after so many events.")
@click.option(
    "--max-age",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="A model is stale when nothing was heard of its trainer for so long.",
)
@click.option(
    "--when-stale",
    type=click.Choice(["warn", "flag", "refuse"]),
    help="Predict and log it, say so in each prediction, or stop predicting until it is fresh.",
)
@json_option
def score(
    config: Config,
    until_end: bool,
    max_events: int | None,
    max_age: float | None,
    when_stale: WhenStale | None,
    as_json: bool,
) -> None:
    """Predict the events of a topic with the newest model, into APP.predictions."""
    given = {"max_age": max_age, "when_stale": when_stale}
    changed = {key: value for key, value in given.items() if value is not None}
    config = replace(config, score=replace(config.score, **changed))
    logger = logging.getLogger("stream_update")
    with assemble.open_log(config) as log:
        process = assemble.ScorerProcess(
            config,
            log,
            until_end=until_end,
            max_events=max_events,
            on_model=lambda model: logger.info(
                "model %s@%d of partition %d, learned up to %s",
                model.manifest.identity.lineage,
                model.manifest.seq,
                model.manifest.partition,
                model.manifest.next,
            ),
        )
        on_signals(process.scorer.stop)
        report = process.run()
    if as_json:
        print_json(report)
        return
    click.echo(
        f"{report['predictions']:,} predictions, {report['dead_letters']:,} dead letters, in "
        f"{report['elapsed_s']:.1f} s; last model learned up to {report['learned_up_to']}"
    )
    if report["stale"]:
        click.echo(f"{report['stale']:,} predictions were made by a stale model")
    for reason, count in sorted(report["refused"].items()):
        click.echo(f"{count:,} refused on the snapshot topic: {reason} ({REASONS[reason]})")


@click.command()
@configured
@click.option("--connect", is_flag=True, help="Also look at the log and its topics.")
@json_option
def check(config: Config, connect: bool, as_json: bool) -> None:
    """Validate a configuration: build everything that it names, consume nothing."""
    parts = components(config)
    facts: dict[str, Any] = {
        "app": config.app,
        "lineage": config.lineage_name,
        "group_id": config.trainer_group,
        "learner": parts.description,
        "fingerprint": parts.fingerprint,
    }
    if connect:
        with assemble.open_log(config) as log:
            info = source_topic(config, log)
            facts |= {"topic": info.name, "topic_id": info.topic_id, "partitions": info.partitions}
    elif config.log.startswith("kafka:"):
        # Its options are looked at, and nobody is connected to.
        with assemble.open_log(config):
            pass
    if as_json:
        print_json(facts)
        return
    for key, value in facts.items():
        click.echo(f"{key:<12} {value}")
    click.echo("the configuration is fine")


@click.command()
@click.option(
    "--dir", "folder", metavar="FOLDER", type=click.Path(path_type=Path, file_okay=False),
    help="Where everything is kept: stream-update-demo, or the next such name that is free.",
)  # fmt: skip
@click.option("--rows", type=click.IntRange(min=100), help="Only the first so many events.")
@json_option
def demo(folder: Path | None, rows: int | None, as_json: bool) -> None:
    """Learn 45,312 real events on the embedded log, and follow the model."""
    if folder is None:
        names = (
            f"stream-update-demo{f'-{number}' if number else ''}" for number in itertools.count()
        )
        folder = next(path for path in map(Path, names) if not path.exists())
    if not as_json:
        logging.getLogger("stream_update").setLevel(logging.WARNING)
    report = run_demo(folder, rows, errors if as_json else Console())
    if as_json:
        print_json(report)


commands = (run, score, check, demo)
