"""``snapshots`` and ``journal``."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import click
import orjson

from stream_update import assemble
from stream_update.cli.diff import diff
from stream_update.cli.exchange import export_command, import_command
from stream_update.cli.options import (
    configured,
    json_option,
    lineage_option,
    looked_at,
    print_json,
    print_table,
)
from stream_update.config import Config
from stream_update.errors import ConfigError, LineageMismatch, LogGap
from stream_update.events import TopicPartition
from stream_update.journal import Journal
from stream_update.proof import Verdict, held_snapshots, verify
from stream_update.protocols import Log
from stream_update.restore import read_range
from stream_update.snapshot import Assembler, Manifest, ServingManifest, signed_by

__all__ = ["commands"]


@click.group()
def snapshots() -> None:
    """The snapshots of an application."""


class _Listed(NamedTuple):
    manifest: Manifest
    signed: str
    """By which key, or what is wrong with that."""
    good: bool
    """Whether who has the configured trusted keys takes it."""

    def as_dict(self) -> dict[str, Any]:
        return {**orjson.loads(_manifest_json(self.manifest)), "signed": self.signed}


def _manifests(config: Config, log: Log, *, serving: bool = False) -> list[_Listed]:
    """Every manifest on the snapshot topic, of the configured lineage, oldest first; those of
    what is published for ``serving`` instead.

    Also those that nobody who trusts the configured keys would take: this is where a
    person looks for them.
    """
    topic = config.topic("serving" if serving else "snapshots")
    info = log.topics().get(topic)
    if info is None:
        raise ConfigError(
            f"{config.log} has no topic {topic!r}",
            hint="[snapshot] serving lets trainers publish there"
            if serving
            else "nothing has been trained there yet",
        )
    kind = ServingManifest if serving else Manifest
    trusted = assemble.trusted_keys(config)
    found: list[_Listed] = []
    with log.reader() as reader:
        for partition in range(info.partitions):
            where = TopicPartition(topic, partition)
            assembler = Assembler(
                config.lineage_name, app=config.app, partition=partition, kind=kind
            )
            held: list[_Listed] = []
            first = reader.beginning_offsets([where])[where]
            for batch in read_range(reader, where, first, reader.end_offsets([where])[where]):
                for value, headers in zip(batch.values, batch.headers, strict=True):
                    if value is None or dict(headers).get("kind") != b"manifest":
                        continue
                    seq = assembler.add(value, headers)
                    if seq is not None:
                        signed = signed_by(value, headers, trusted)
                        good = trusted is None or trusted.knows(signed.encode())
                        held.append(_Listed(assembler.manifests[seq][0], signed, good))
            found += sorted(held, key=lambda one: one.manifest.seq)
    return found


serving_option = click.option(
    "--serving", is_flag=True, help="What is published beside them for those who only predict."
)


@snapshots.command("list")
@configured
@lineage_option
@serving_option
@json_option
def snapshots_list(config: Config, serving: bool, as_json: bool) -> None:
    """The snapshots that the log still holds."""
    with assemble.open_log(config) as log:
        config = looked_at(config, log)
        listed = _manifests(config, log, serving=serving)
    if as_json:
        print_json([one.as_dict() for one in listed])
        return
    print_table(
        [
            "lineage",
            "partition",
            "snapshot",
            "learned up to",
            "events",
            "bytes",
            "published",
            "signed",
        ],
        [
            (
                m.identity.lineage,
                m.partition,
                m.seq,
                ", ".join(f"{p}: {offset:,}" for p, offset in m.next.items()),
                f"{m.events:,}",
                f"{m.size:,}",
                time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(m.created_ms / 1000)),
                signed,
            )
            for m, signed, _ in listed
        ],
    )


@snapshots.command("show")
@click.argument("seq", type=int, required=False)
@configured
@lineage_option
@serving_option
@click.option("--partition", type=int, default=0, show_default=True)
def snapshots_show(config: Config, seq: int | None, serving: bool, partition: int) -> None:
    """The manifest of a snapshot, the newest by default, as JSON.

    With trusted keys one that they signed, if there is any; "signed" says by which.
    """
    with assemble.open_log(config) as log:
        config = looked_at(config, log)
        found = _manifests(config, log, serving=serving)
    listed = [one for one in found if one.manifest.partition == partition]
    chosen = [one for one in listed if seq is None or one.manifest.seq == seq]
    chosen = [one for one in chosen if one.good] or chosen
    if not chosen:
        raise ConfigError(
            f"there is no snapshot {'' if seq is None else seq} of lineage {config.lineage_name} "
            f"in partition {partition}",
            hint=f"there are: {', '.join(str(one.manifest.seq) for one in listed) or 'none'}",
        )
    click.echo(orjson.dumps(chosen[-1].as_dict(), option=orjson.OPT_INDENT_2).decode())


def _manifest_json(manifest: Manifest) -> bytes:
    import msgspec  # noqa: PLC0415 - only here

    return msgspec.json.encode(manifest)


for one in (diff, export_command, import_command):
    snapshots.add_command(one)


@snapshots.command("verify")
@click.argument("seq", type=int, required=False)
@configured
@lineage_option
@click.option("--partition", type=int, help="Only this one.")
@json_option
def snapshots_verify(config: Config, seq: int | None, partition: int | None, as_json: bool) -> None:
    """Learn snapshots again from the ones before them, and compare.

    All that the log still holds, or the one with the number SEQ. Exit code 3 if one differs
    or could not be verified.
    """
    verdicts: list[Verdict] = []
    with assemble.open_log(config) as log:
        config = looked_at(config, log)
        info = log.topics().get(config.topic("snapshots"))
        if info is None:
            raise ConfigError(
                f"{config.log} has no topic {config.topic('snapshots')!r}",
                hint="nothing has been trained there yet",
            )
        single = config.lanes == "single"
        every = range(1 if single else info.partitions)
        for number in every if partition is None else [partition]:
            if seq is None and partition is None and not _holds_any(config, log, number):
                continue
            for verdict in verify(config, log, number, seq):
                verdicts.append(verdict)
                if not as_json:
                    click.echo(_verdict_line(verdict))
    good = [verdict for verdict in verdicts if verdict.ok]
    if as_json:
        print_json(
            {"verified": len(good), "snapshots": [verdict.as_dict() for verdict in verdicts]}
        )
    else:
        click.echo(f"{len(good)} of {len(verdicts)} snapshots verified")
    wrong = next((verdict for verdict in verdicts if verdict.ok is False), None)
    if wrong is not None:
        raise LineageMismatch(
            f"snapshot {wrong.manifest.seq} of lineage {config.lineage_name} in partition "
            f"{wrong.manifest.partition} is the first that differs, in {_ranges(wrong)}: "
            f"{wrong.detail}",
            hint="an event of these was changed in the log, the snapshot was not made by this "
            "configuration and code, or somebody forged it",
        )
    if len(good) < len(verdicts):
        raise LogGap(
            f"{len(verdicts) - len(good)} snapshots could not be verified",
            hint="the log no longer holds what they were made of",
        )


def _holds_any(config: Config, log: Log, partition: int) -> bool:
    with log.reader() as reader:
        return bool(held_snapshots(config, reader, partition))


def _verdict_line(verdict: Verdict) -> str:
    word = {True: "verified", False: "DIFFERS", None: "not known"}[verdict.ok]
    manifest = verdict.manifest
    line = f"partition {manifest.partition} snapshot {manifest.seq}: {word}, {_ranges(verdict)}"
    return f"{line}: {verdict.detail}" if verdict.detail else line


def _ranges(verdict: Verdict) -> str:
    return "offsets " + ", ".join(
        f"{start:,} to {end:,} of partition {partition}" for partition, start, end in verdict.ranges
    )


@click.command()
@configured
@lineage_option
@json_option
def journal(config: Config, as_json: bool) -> None:
    """The order in which a lane over several partitions took its events.

    With --json one line for each run: [partition, first offset, number of events].
    """
    topic = config.topic("journal")
    runs: list[tuple[int, int, int]] = []
    with assemble.open_log(config) as log:
        config = looked_at(config, log)
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
            print_json(list(run))
        return
    print_table(["partition", "from offset", "events"], runs)


commands = (snapshots, journal)
