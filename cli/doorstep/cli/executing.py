"""CLI: ``doorstep exec`` - run a program on the machine; bytes in, bytes out, its exit code is ours."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from doorstep.cli.common import Roads, connected, roads_options, run, state_dir_option

if TYPE_CHECKING:
    from doorstep.client import Command

__all__ = ["execute"]

EXIT_TIMED_OUT = 124
"""As timeout(1) says it."""


@click.command("exec", context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--cwd", help="Directory to run in.")
@click.option(
    "--env", "-e", "variables", multiple=True, metavar="KEY=VALUE", help="Set a variable; repeatable."
)
@click.option(
    "--timeout", type=click.FloatRange(min=0.001), metavar="SECONDS", help="Kill it after this time."
)
@click.option("--no-stdin", "-n", is_flag=True, help="Give it an empty standard input.")
@click.option("--quiet", "-q", is_flag=True, help="Do not show connection states.")
@roads_options
@state_dir_option
def execute(
    name: str,
    command: tuple[str, ...],
    cwd: str | None,
    variables: tuple[str, ...],
    timeout: float | None,
    no_stdin: bool,
    quiet: bool,
    state_dir: Path,
    roads: Roads,
) -> int:
    """Run COMMAND on the machine NAME, without a shell; put "--" before it.

    Standard input, output and error are carried as bytes. The exit code is the command's; 128 + n when
    signal n ended it; 124 at the --timeout.
    """
    env = _environment(variables)
    return run(_execute(name, command, cwd, env, timeout, no_stdin, quiet, state_dir, roads))


def _environment(variables: Sequence[str]) -> dict[str, str]:
    pairs = [variable.partition("=") for variable in variables]
    for key, equals, _ in pairs:
        if not key or not equals:
            raise click.BadParameter("must be KEY=VALUE", param_hint="--env")
    return {key: value for key, _, value in pairs}


async def _execute(
    name: str,
    command: Sequence[str],
    cwd: str | None,
    env: dict[str, str],
    timeout: float | None,
    no_stdin: bool,
    quiet: bool,
    state_dir: Path,
    roads: Roads,
) -> int:
    async with (
        connected(name, state_dir, quiet=quiet, roads=roads) as agent,
        agent.commands.start(command, cwd=cwd, env=env, timeout=timeout) as running,
    ):
        feeding = asyncio.create_task(_feed(running, no_stdin), name="doorstep-exec-stdin")
        try:
            return await _follow(running)
        finally:
            feeding.cancel()
            with suppress(asyncio.CancelledError):
                await feeding


async def _feed(running: Command, no_stdin: bool) -> None:
    from doorstep.cli.standard_streams import read_input
    from doorstep.protocol.errors import PeerError, SessionClosed

    with suppress(PeerError, SessionClosed):  # a command may end without reading its input
        await running.feed(b"" if no_stdin else read_input())


async def _follow(running: Command) -> int:
    from doorstep.cli.standard_streams import write_output

    fds = {"stdout": sys.stdout.fileno(), "stderr": sys.stderr.fileno()}
    async for output in running:
        await write_output(fds[output.channel], output.data)
    result = await running.wait()
    return EXIT_TIMED_OUT if result.timed_out else result.exit_code
