"""CLI: ``doorstep known`` - whose keys are pinned here, and what to do when one has changed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from doorstep.cli.common import printable, state_dir_option

if TYPE_CHECKING:
    from doorstep.client.known import KnownAgent

__all__ = ["known"]

_same_state_dir = click.option(
    "--state-dir", type=click.Path(file_okay=False, path_type=Path), help="As of “doorstep known”."
)


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
@click.option("--own", is_flag=True, help="Show the keys of this machine: its agent's and its client's.")
@state_dir_option
@click.pass_context
def known(context: click.Context, as_json: bool, own: bool, state_dir: Path) -> None:
    """List the machines whose keys are known here, with the fingerprints.

    A machine's key is noted at the first contact. One that has changed is refused: either its agent was set
    up anew, or somebody stands between you and it.
    """
    context.obj = state_dir
    if context.invoked_subcommand is not None:
        return
    if own:
        click.echo(_own(state_dir))
        return
    import msgspec

    from doorstep.client.known import KnownAgents

    pins = KnownAgents(state_dir).all()
    click.echo(msgspec.json.format(msgspec.json.encode(pins), indent=2) if as_json else _table(pins))


@known.command()
@click.argument("name")
@_same_state_dir
@click.pass_obj
def forget(chosen: Path, name: str, state_dir: Path | None) -> None:
    """Forget the key of NAME; the next contact is the first again."""
    from doorstep.client.known import KnownAgents

    for pin in KnownAgents(state_dir or chosen).forget(name):
        click.echo(printable(f"forgot {pin.name}: {pin.fingerprint}"))


@known.command()
@click.argument("name")
@_same_state_dir
@click.pass_obj
def accept(chosen: Path, name: str, state_dir: Path | None) -> None:
    """Accept the changed key of NAME that was refused last. Compare the fingerprints before."""
    from doorstep.client.known import KnownAgents

    for pin in KnownAgents(state_dir or chosen).accept(name):
        click.echo(printable(f"{pin.name} is known by its new key: {pin.fingerprint}"))


def _table(pins: Sequence[KnownAgent]) -> str:
    if not pins:
        return "no machine is known yet; its key is noted when you first connect to it"
    cells = [("NAME", "KEY", "SINCE")]
    for pin in pins:
        cells.append((pin.name, pin.fingerprint, f"{datetime.fromtimestamp(pin.since, UTC):%Y-%m-%d}"))
        if pin.refused_fingerprint is not None:
            cells.append(("", pin.refused_fingerprint, f"refused; “doorstep known accept {pin.name}”"))
    widths = [max(len(line[column]) for line in cells) for column in range(3)]
    return printable("\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells))


def _own(state_dir: Path) -> str:
    from doorstep.transport.keys import AGENT_KEY, CLIENT_KEY, load_key

    there = [
        (name.removesuffix(".key"), name) for name in (AGENT_KEY, CLIENT_KEY) if (state_dir / name).exists()
    ]
    lines = [f"{whose}: {load_key(state_dir, name).public.fingerprint}" for whose, name in there]
    return "\n".join(lines) or "no key was made here yet; “doorstep agent” and “doorstep connect” make theirs"
