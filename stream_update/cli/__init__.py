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

import logging
import os
import sys

import click

import stream_update
from stream_update.cli import events, keys, letters, lineages, running, snapshots, why
from stream_update.cli.options import errors
from stream_update.errors import StreamUpdateError

__all__ = ["command", "main"]


def main() -> None:
    """The command in this process, with its exit codes."""
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


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")


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


for one in (
    *running.commands,
    *lineages.commands,
    *events.commands,
    *snapshots.commands,
    *why.commands,
    *letters.commands,
    *keys.commands,
):
    command.add_command(one)
