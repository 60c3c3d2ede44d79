"""CLI: ``doorstep ls`` - your machines and which of them are there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from doorstep.cli.common import credentials, run, state_dir_option, timing

if TYPE_CHECKING:
    from doorstep.client import AgentInfo

__all__ = ["ls"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
@state_dir_option
def ls(as_json: bool, state_dir: Path) -> None:
    """List your machines: name, state, platform, last seen."""
    from doorstep import client

    rows = run(client.agents(credentials=credentials(state_dir), timing=timing()))
    click.echo(json.dumps([row.to_json() for row in rows], indent=2) if as_json else _table(rows))


def _table(rows: Sequence[AgentInfo]) -> str:
    if not rows:
        return 'no machines yet; run "doorstep up" or "doorstep agent" on one'
    cells = [("NAME", "STATE", "PLATFORM", "LAST SEEN")]
    cells += [(row.name, _state(row), row.platform or "-", _ago(row)) for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


def _state(row: AgentInfo) -> str:
    return "online" if row.online else "offline"


def _ago(row: AgentInfo) -> str:
    if row.online:
        return "now"
    if row.last_seen is None:
        return "never"
    seconds = int((datetime.now(UTC) - row.last_seen).total_seconds())
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit} ago"
    return f"{max(seconds, 0)} s ago"
