"""The command line: parse, call, and turn errors into exit codes. Nothing else.

====  ======================================================================
0     done, or drained after SIGTERM or SIGINT
1     an error that restarting does not cure by itself
2     the configuration or the command is wrong; nothing was consumed
3     a snapshot, lineage or log does not fit and a person has to decide
4     the log did not answer in time
5     there is no model yet
17    nobody can tell whether a checkpoint was committed: start again
====  ======================================================================
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import stream_update
from stream_update import assemble
from stream_update.config import Config, load
from stream_update.demo import ELEC2, run_demo
from stream_update.errors import ConfigError, StreamUpdateError
from stream_update.events import Record, TopicPartition
from stream_update.files import open_rows
from stream_update.protocols import Log, Reader
from stream_update.restore import Journal, read_range
from stream_update.snapshot import Assembler, Manifest
from stream_update.view import View, summary_lines

__all__ = ["command", "main"]

P = ParamSpec("P")
R = TypeVar("R")
Decorator = Callable[[Callable[P, R]], Callable[P, R]]

errors = Console(stderr=True)


def main() -> None:
    """The entry point of ``stream-update``."""
    _pin_hash_seed()
    try:
        command(prog_name="stream-update", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except click.Abort:
        sys.exit(1)
    except StreamUpdateError as error:
        errors.print(f"[bold red]error:[/] {_escaped(str(error))}", highlight=False, soft_wrap=True)
        if error.hint:
            errors.print(f"  [dim]{_escaped(error.hint)}[/]", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of the output has gone, which is no error of this command.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _pin_hash_seed() -> None:
    """A set of names has an order that depends on this seed, and some models walk one:
    with another seed in each process, a restored model would go another way.
    """
    if "PYTHONHASHSEED" not in os.environ:
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        os.execve(  # noqa: S606 - this program again
            sys.executable, [sys.executable, "-m", "stream_update", *sys.argv[1:]], environment
        )


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")


# -- options that many commands share


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
        return function(config=load(path, overrides), **options)

    return wrapper


json_option = click.option("--json", "as_json", is_flag=True, help="For machines: JSON.")


def _print_json(value: Any) -> None:
    sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS) + b"\n")
    sys.stdout.buffer.flush()


def _on_signals(stop: Callable[[], None]) -> None:
    def handle(number: int, _frame: object) -> None:
        logging.getLogger("stream_update").info("%s: draining", signal.Signals(number).name)
        stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(stream_update.__version__, prog_name="stream-update")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What goes to standard error.",
)
def command(log_level: str) -> None:
    """Models that keep learning from an event log, in production.

    Exit codes: 0 done; 1 error; 2 wrong configuration or command; 3 a snapshot or the log
    does not fit and a person has to decide; 4 the log did not answer; 5 no model yet;
    17 start again (whether the last checkpoint is in the log is found out then).
    """
    logging.basicConfig(
        stream=sys.stderr,
        level=log_level.upper(),
        format="%(asctime)s %(levelname)s %(message)s",
        force=True,
    )


# -- learning and scoring


@command.command()
@configured
@click.option("--until-end", is_flag=True, help="Stop at the log's end as it is now.")
@click.option("--max-events", type=click.IntRange(min=1), help="Stop after so many events.")
@click.option("--stop-when", metavar="CONDITION", help='Such as "accuracy < 0.7 over 5000".')
@json_option
def run(
    config: Config,
    until_end: bool,
    max_events: int | None,
    stop_when: str | None,
    as_json: bool,
) -> None:
    """Learn from the source topic, as a member of the consumer group."""
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
            on_progress=view.progress,
            on_checkpoint=view.checkpoint,
        )
        _on_signals(trainer.worker.stop)
        if live:
            logging.getLogger("stream_update").setLevel(logging.WARNING)
        with view:
            report = trainer.run()
    if as_json:
        _print_json(report)
    else:
        for line in summary_lines(report):
            click.echo(line)


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


@command.command()
@configured
@click.option("--until-end", is_flag=True, help="Stop at the log's end as it is now.")
@click.option("--max-events", type=click.IntRange(min=1), help="Stop after so many events.")
@json_option
def score(config: Config, until_end: bool, max_events: int | None, as_json: bool) -> None:
    """Predict the events of a topic with the newest model, into APP.predictions."""
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
        _on_signals(process.scorer.stop)
        report = process.run()
    if as_json:
        _print_json(report)
        return
    click.echo(
        f"{report['predictions']:,} predictions, {report['dead_letters']:,} dead letters, in "
        f"{report['elapsed_s']:.1f} s; last model learned up to {report['learned_up_to']}"
    )


# -- filling topics


@command.command()
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
    with assemble.open_log(config) as log:
        assemble.create_topics(config, log)
        if target not in log.topics():
            raise ConfigError(f"--topic: there is no topic {target!r}", hint="create it first")
        if file == "elec2":
            with resources.as_file(resources.files("stream_update") / "data" / ELEC2) as data:
                count, elapsed = _produce(log, str(data), target, key, rate, limit, as_json)
        else:
            count, elapsed = _produce(log, file, target, key, rate, limit, as_json)
    if as_json:
        _print_json({"topic": target, "events": count, "elapsed_s": round(elapsed, 3)})
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


# -- topics, snapshots, journal


@command.group()
def topics() -> None:
    """The topics of an application."""


@topics.command("create")
@configured
def topics_create(config: Config) -> None:
    """Create those that do not exist."""
    with assemble.open_log(config) as log:
        created = assemble.create_topics(config, log)
    for name in created:
        click.echo(f"created {name}")
    if not created:
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
        _print_json(rows)
        return
    _print_table(
        ["topic", "partitions", "offsets"],
        [(r["topic"], r["partitions"], f"{r['begin']:,} to {r['end']:,}") for r in rows],
    )


@command.group()
def snapshots() -> None:
    """The snapshots of an application."""


def _manifests(config: Config, log: Log) -> list[Manifest]:
    """Every manifest on the snapshot topic, of the configured lineage, oldest first."""
    topic = config.topic("snapshots")
    info = log.topics().get(topic)
    if info is None:
        raise ConfigError(
            f"{config.log} has no topic {topic!r}", hint="nothing has been trained there yet"
        )
    found: list[Manifest] = []
    with log.reader() as reader:
        for partition in range(info.partitions):
            where = TopicPartition(topic, partition)
            assembler = Assembler(config.lineage_name)
            first = reader.beginning_offsets([where])[where]
            for batch in read_range(reader, where, first, reader.end_offsets([where])[where]):
                for value, headers in zip(batch.values, batch.headers, strict=True):
                    if dict(headers).get("kind") == b"manifest":
                        assembler.add(value, headers)
            found += [assembler.manifests[seq][0] for seq in sorted(assembler.manifests)]
    return found


@snapshots.command("list")
@configured
@json_option
def snapshots_list(config: Config, as_json: bool) -> None:
    """The snapshots that the log still holds."""
    with assemble.open_log(config) as log:
        manifests = _manifests(config, log)
    if as_json:
        _print_json([orjson.loads(_manifest_json(manifest)) for manifest in manifests])
        return
    _print_table(
        ["lineage", "partition", "snapshot", "learned up to", "events", "bytes", "published"],
        [
            (
                m.identity.lineage,
                m.partition,
                m.seq,
                ", ".join(f"{p}: {offset:,}" for p, offset in m.next.items()),
                f"{m.events:,}",
                f"{m.size:,}",
                time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(m.created_ms / 1000)),
            )
            for m in manifests
        ],
    )


@snapshots.command("show")
@click.argument("seq", type=int, required=False)
@configured
@click.option("--partition", type=int, default=0, show_default=True)
def snapshots_show(config: Config, seq: int | None, partition: int) -> None:
    """The manifest of a snapshot, the newest by default, as JSON."""
    with assemble.open_log(config) as log:
        manifests = [m for m in _manifests(config, log) if m.partition == partition]
    chosen = [m for m in manifests if seq is None or m.seq == seq]
    if not chosen:
        raise ConfigError(
            f"there is no snapshot {'' if seq is None else seq} of lineage {config.lineage_name} "
            f"in partition {partition}",
            hint=f"there are: {', '.join(str(m.seq) for m in manifests) or 'none'}",
        )
    click.echo(
        orjson.dumps(orjson.loads(_manifest_json(chosen[-1])), option=orjson.OPT_INDENT_2).decode()
    )


def _manifest_json(manifest: Manifest) -> bytes:
    import msgspec  # noqa: PLC0415 - only here

    return msgspec.json.encode(manifest)


@command.command()
@configured
@json_option
def journal(config: Config, as_json: bool) -> None:
    """The order in which a lane over several partitions took its events.

    With --json one line for each run: [partition, first offset, number of events].
    """
    topic = config.topic("journal")
    runs: list[tuple[int, int, int]] = []
    with assemble.open_log(config) as log:
        if topic not in log.topics():
            raise ConfigError(
                f"{config.log} has no topic {topic!r}", hint='only lanes = "single" has a journal'
            )
        with log.reader() as reader:
            entries = Journal(reader, topic, config.lineage_name, 0, 0)
            while entries.offset < entries.end():
                runs += [run for entry in entries.read(1.0) for run in entry.runs]
    if as_json:
        for run in runs:
            _print_json(list(run))
        return
    _print_table(["partition", "from offset", "events"], runs)


def _print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console = Console()
    # A table that is piped to another program is not to be cut to a terminal's width.
    console.print(table, soft_wrap=not console.is_terminal)


# -- checking, and showing


@command.command()
@configured
@click.option("--connect", is_flag=True, help="Also look at the log and its topics.")
@json_option
def check(config: Config, connect: bool, as_json: bool) -> None:
    """Validate a configuration: build everything that it names, consume nothing."""
    parts = assemble.components(config)
    facts: dict[str, Any] = {
        "app": config.app,
        "lineage": config.lineage_name,
        "group_id": config.trainer_group,
        "learner": parts.description,
        "fingerprint": parts.fingerprint,
    }
    if connect:
        with assemble.open_log(config) as log:
            info = assemble.source_topic(config, log)
            facts |= {"topic": info.name, "topic_id": info.topic_id, "partitions": info.partitions}
    if as_json:
        _print_json(facts)
        return
    for key, value in facts.items():
        click.echo(f"{key:<12} {value}")
    click.echo("the configuration is fine")


@command.command()
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
        _print_json(report)
