"""``snapshots export`` and ``snapshots import``."""

from __future__ import annotations

from pathlib import Path

import click

from stream_update import assemble
from stream_update.cli.options import configured, json_option, lineage_option, looked_at, print_json
from stream_update.config import Config
from stream_update.errors import ConfigError
from stream_update.exchange import import_snapshot, write_snapshot
from stream_update.proof.held import held_records

__all__ = ["export_command", "import_command"]


@click.command("export")
@click.argument("seq", type=int, required=False)
@click.option(
    "-o", "--output", "file", required=True, metavar="FILE", help="Must not exist.",
    type=click.Path(path_type=Path, dir_okay=False),
)  # fmt: skip
@configured
@lineage_option
@click.option("--partition", type=int, default=0, show_default=True)
@json_option
def export_command(
    config: Config, seq: int | None, file: Path, partition: int, as_json: bool
) -> None:
    """Write snapshot SEQ, the newest by default, to one file.

    It has the very bytes that were signed, so "snapshots import" can check the signature.
    """
    with assemble.open_log(config) as log:
        config = looked_at(config, log)
        if config.topic("snapshots") not in log.topics():
            raise ConfigError(
                f"{config.log} has no topic {config.topic('snapshots')!r}",
                hint="nothing has been trained there yet",
            )
        with log.reader() as reader:
            held = held_records(config, reader, partition)
    chosen = [one for one in held if seq is None or one.snapshot.manifest.seq == seq]
    if not chosen:
        raise ConfigError(
            f"there is no snapshot {'' if seq is None else seq} of lineage {config.lineage_name} "
            f"in partition {partition}",
            hint=f"there are: {', '.join(str(h.snapshot.manifest.seq) for h in held) or 'none'}",
        )
    manifest = chosen[-1].snapshot.manifest
    size = write_snapshot(file, chosen[-1])
    if as_json:
        print_json({"file": str(file), "bytes": size, "lineage": config.lineage_name,
                    "partition": partition, "snapshot": manifest.seq,
                    "sha256": chosen[-1].snapshot.sha256})  # fmt: skip
    else:
        click.echo(
            f"snapshot {manifest.seq} of lineage {config.lineage_name}, {manifest.events:,} "
            f"events, to {file} ({size:,} bytes)"
        )


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@configured
@lineage_option
@click.option("--dry-run", is_flag=True, help="Check everything, publish nothing.")
@json_option
def import_command(config: Config, file: Path, dry_run: bool, as_json: bool) -> None:
    """Publish the snapshot in FILE as the newest of its lineage, if that is safe.

    For a snapshot topic that lost its records. Stop the trainers before. Refused is what is
    damaged, not signed by a trusted key, of another app, lineage, configuration or topic, not
    newer than what the topic holds, or past what the group has committed: it would lose or
    repeat events. Exit code 3 then, or 1 for a damaged file.
    """
    with assemble.open_log(config) as log:
        config = looked_at(config, log)
        done = import_snapshot(config, log, file, dry_run=dry_run)
    if as_json:
        print_json({"lineage": config.lineage_name, "partition": done.manifest.partition,
                    "snapshot": done.manifest.seq, "published": done.published,
                    "dry_run": dry_run, "notes": done.notes})  # fmt: skip
        return
    for note in done.notes:
        click.echo(note)
    if done.published:
        click.echo(f"published snapshot {done.manifest.seq}")
    else:
        click.echo("nothing was published")
