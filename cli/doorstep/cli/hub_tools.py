"""CLI: ``doorstep hub backup``, ``restore`` and ``keys``: what one does to a hub's files."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from doorstep.cli.common import state_dir_option
from doorstep.cli.hub_options import key_options

if TYPE_CHECKING:
    from doorstep.hub.config import GivenKeys

__all__ = ["backup", "keys", "restore"]


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@state_dir_option
def backup(file: Path, state_dir: Path) -> None:
    """Copy the hub's accounts, agents and keys to a new FILE. The hub may run meanwhile.

    Who has the file can act as any of the hub's users: keep it as safe as the hub.
    """
    from doorstep.hub.backup import BackupError, back_up

    try:
        back_up(_hub_files(state_dir), file.absolute())
    except BackupError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{file}: {file.stat().st_size} bytes")


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@state_dir_option
def restore(file: Path, state_dir: Path) -> None:
    """Make a hub from the backup in FILE, where there is none yet."""
    from doorstep.cli.local_hub import only_one
    from doorstep.hub.backup import BackupError
    from doorstep.hub.backup import restore as restore_hub

    directory = _hub_files(state_dir)
    with only_one(directory.parent):
        try:
            restore_hub(file, directory)
        except BackupError as error:
            raise click.ClickException(str(error)) from error
    click.echo(f"restored; start it with: doorstep hub --state-dir {directory.parent}")


@click.command()
@key_options
@state_dir_option
def keys(keys: GivenKeys, state_dir: Path) -> None:
    """Print the hub's API keys and JWT secret, for a shell to read. They are secret."""
    from doorstep.hub.keys import KeysError, load_keys, private_directory

    try:
        loaded = load_keys(private_directory(_hub_files(state_dir)), keys)
    except KeysError as error:
        raise click.UsageError(str(error)) from error
    click.echo(f"ANON_KEY={shlex.quote(loaded.anon_key)}")
    click.echo(f"SERVICE_ROLE_KEY={shlex.quote(loaded.service_key)}")
    click.echo(f"JWT_SECRET={shlex.quote(loaded.jwt_secret)}")


def _hub_files(state_dir: Path) -> Path:
    """Where the hub's files are; ``--state-dir`` may stand before or after the command's name."""
    context = click.get_current_context()
    named = ParameterSource.COMMANDLINE
    before = context.parent
    if context.get_parameter_source("state_dir") is not named and before is not None:
        state_dir = before.params.get("state_dir", state_dir)
    return state_dir.absolute() / "hub"
