"""``keys``: for signed snapshots."""

from __future__ import annotations

import base64
import os
import secrets
from pathlib import Path

import click

from stream_update.errors import ConfigError
from stream_update.signing import SigningKey

__all__ = ["commands"]


@click.group()
def keys() -> None:
    """Keys that sign snapshots (needs the extra "security")."""


@keys.command("generate")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def keys_generate(file: Path) -> None:
    """Write a new private key to FILE, which must not exist."""
    private = secrets.token_bytes(32)
    key = SigningKey(private)
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigError(
            f"{file} exists", hint="a key is never written over: choose another name"
        ) from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}") from error
    with os.fdopen(handle, "wb") as opened:
        opened.write(base64.b64encode(private) + b"\n")
    _show(file, key)


@keys.command("show")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def keys_show(file: Path) -> None:
    """The public key that belongs to the private one in FILE, and where it goes."""
    _show(file, SigningKey.load(f"file:{file}"))


def _show(file: Path, key: SigningKey) -> None:
    public = base64.b64encode(key.public).decode()
    click.echo(f"key id {key.key_id}, public key {public}")
    click.echo("the trainer signs with it:")
    click.echo(f'  [snapshot]\n  signing_key = "file:{file}"\n  trusted_keys = ["{public}"]')
    click.echo("and a scorer takes only what it signed:")
    click.echo(f'  ModelSubscriber(..., trusted_keys=["{public}"])')


commands = (keys,)
