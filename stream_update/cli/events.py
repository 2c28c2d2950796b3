"""``produce`` and ``topics``."""

from __future__ import annotations

import time
from importlib import resources

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from stream_update import assemble
from stream_update.cli.options import (
    configured,
    errors,
    json_option,
    print_json,
    print_table,
)
from stream_update.config import Config
from stream_update.demo import ELEC2
from stream_update.errors import ConfigError
from stream_update.events import Record, TopicPartition
from stream_update.files import open_rows
from stream_update.protocols import Log
from stream_update.topics import create_topics, grow_topics

__all__ = ["commands"]


@click.command()
@click.argument("file")
@configured
@click.option("--topic", help="Instead of the source topic.")
@click.option("--key", "key", help="The field whose value is the record's key.")
@click.option("--rate", type=float, help="At most so many events a second.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many rows.")
@json_option
def produce(
    config: Config,
    file: str,
    topic: str | None,
    key: str | None,
    rate: float | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Write the rows of FILE to the source topic.

    CSV, TSV or JSON lines, each also .gz; "-" is JSON lines from standard input, "elec2"
    the 45,312 events of the Australian electricity market that come with this package.
    """
    target = topic or config.source.topic
    if config.source.format == "raw" and target == config.source.topic:
        raise ConfigError(
            f"rows cannot be written to {target}: [source] format is raw, and no rows are",
            hint="produce such records with a client of Kafka, or stream_update.events.Record "
            "and Log.appender(), the label in a header; deploy/torch.md has an example",
        )
    with assemble.open_log(config) as log:
        create_topics(config, log)
        if target not in log.topics():
            raise ConfigError(f"--topic: there is no topic {target!r}", hint="create it first")
        if file == "elec2":
            with resources.as_file(resources.files("stream_update") / "data" / ELEC2) as data:
                count, elapsed = _produce(log, str(data), target, key, rate, limit, as_json)
        else:
            count, elapsed = _produce(log, file, target, key, rate, limit, as_json)
    if as_json:
        print_json({"topic": target, "events": count, "elapsed_s": round(elapsed, 3)})
    else:
        click.echo(f"{count:,} events to {target} in {elapsed:.1f} s")


def _produce(
    log: Log,
    file: str,
    topic: str,
    key: str | None,
    rate: float | None,
    limit: int | None,
    quiet: bool,
) -> tuple[int, float]:
    started = time.monotonic()
    count = 0
    rows = open_rows(file, key=key)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]:,} events"),
        TimeRemainingColumn(),
        console=errors,
        disable=quiet or not errors.is_terminal,
        transient=True,
    )
    with log.appender() as appender, bar:
        task = bar.add_task(topic, total=1.0, count=0)
        for row_key, value in rows:
            appender.append([Record(topic, value, key=row_key)])
            count += 1
            if count % 500 == 0:
                done, total = rows.progress()
                bar.update(task, completed=done / total if total else 0.0, count=count)
            if count == limit:
                break
            if rate is not None and count / rate > time.monotonic() - started:
                appender.flush()
                time.sleep(max(0.0, count / rate - (time.monotonic() - started)))
        appender.flush()
    return count, time.monotonic() - started


@click.group()
def topics() -> None:
    """The topics of an application."""


@topics.command("create")
@configured
def topics_create(config: Config) -> None:
    """Create those that do not exist, and add the partitions that [source] asks for."""
    with assemble.open_log(config) as log:
        created = create_topics(config, log)
        grown = grow_topics(config, log)
    for name in created:
        click.echo(f"created {name}")
    for name in grown:
        click.echo(f"added partitions to {name}")
    if not created and not grown:
        click.echo("every topic exists already")


@topics.command("list")
@configured
@json_option
def topics_list(config: Config, as_json: bool) -> None:
    """Every topic of the log, with its partitions and how many records it has."""
    rows = []
    with assemble.open_log(config) as log, log.reader() as reader:
        for name, info in sorted(log.topics().items()):
            places = [TopicPartition(name, p) for p in range(info.partitions)]
            first, end = reader.beginning_offsets(places), reader.end_offsets(places)
            rows.append(
                {
                    "topic": name,
                    "topic_id": info.topic_id,
                    "partitions": info.partitions,
                    "begin": sum(first.values()),
                    "end": sum(end.values()),
                }
            )
    if as_json:
        print_json(rows)
        return
    print_table(
        ["topic", "partitions", "offsets"],
        [(r["topic"], r["partitions"], f"{r['begin']:,} to {r['end']:,}") for r in rows],
    )


commands = (produce, topics)
