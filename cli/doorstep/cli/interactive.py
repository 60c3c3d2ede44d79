"""CLI: ``doorstep connect`` - an interactive terminal on the machine."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from doorstep.cli.common import Roads, connected, roads_options, run, state_dir_option

if TYPE_CHECKING:
    from doorstep.client import Terminal

__all__ = ["connect"]

_END_OF_INPUT = b"\x04"
_EXIT_LEFT = 0


@click.command()
@click.argument("name")
@click.argument("command", nargs=-1)
@click.option("--cwd", help="Directory to start in.")
@click.option("--quiet", "-q", is_flag=True, help="Do not show connection states.")
@roads_options
@state_dir_option
def connect(
    name: str, command: tuple[str, ...], cwd: str | None, quiet: bool, state_dir: Path, roads: Roads
) -> int:
    """Open a terminal on the machine NAME, with your login shell or COMMAND.

    Type "~." at the start of a line to leave. The exit code is that of the shell.
    """
    return run(_connect(name, command, cwd, quiet, state_dir, roads))


async def _connect(
    name: str, command: Sequence[str], cwd: str | None, quiet: bool, state_dir: Path, roads: Roads
) -> int:
    from doorstep.cli.terminal_mode import window_size

    async with connected(name, state_dir, quiet=quiet, roads=roads) as agent:
        cols, rows = window_size()
        term = os.environ.get("TERM", "xterm-256color")
        async with agent.terminal(cols, rows, cwd=cwd, command=command or None, term=term) as terminal:
            return await _converse(terminal)


async def _converse(terminal: Terminal) -> int:
    """Carry keys and output until the program ends or the user leaves."""
    from doorstep.cli.terminal_mode import in_foreground, raw

    interactive = in_foreground(sys.stdin.fileno())
    with ExitStack() as stack:
        if interactive:
            stack.enter_context(raw(sys.stdin.fileno()))
            stack.enter_context(_Resizing(terminal))
        showing = asyncio.create_task(_show(terminal), name="doorstep-connect-output")
        typing = asyncio.create_task(_type(terminal, escape=interactive), name="doorstep-connect-input")
        try:
            await asyncio.wait({showing, typing}, return_when=asyncio.FIRST_COMPLETED)
            if typing.done() and not typing.cancelled() and typing.exception() is None and typing.result():
                return _EXIT_LEFT
            return await showing
        finally:
            for task in (showing, typing):
                task.cancel()
            await asyncio.gather(showing, typing, return_exceptions=True)


async def _show(terminal: Terminal) -> int:
    from doorstep.cli.standard_streams import write_output

    async for data in terminal:
        await write_output(sys.stdout.fileno(), data)
    return terminal.exit_code


async def _type(terminal: Terminal, *, escape: bool) -> bool:
    """Send the input; True when the user typed the escape, False at its end."""
    from doorstep.cli.standard_streams import read_input
    from doorstep.cli.terminal_mode import EscapeFilter

    keys = EscapeFilter()
    last = b"\n"
    async for data in read_input():
        out, leave = keys.feed(data) if escape else (data, False)
        if out:
            await terminal.write(out)
        if leave:
            return True
        last = data
    await terminal.write(_END_OF_INPUT if last.endswith(b"\n") else b"\n" + _END_OF_INPUT)
    return False


class _Resizing:
    """Tells the terminal every new window size, one call at a time, always the newest."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._changed = asyncio.Event()

    def __enter__(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGWINCH, self._changed.set)
        self._task = asyncio.create_task(self._follow(), name="doorstep-connect-resize")

    def __exit__(self, *exc: object) -> None:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGWINCH)
        self._task.cancel()

    async def _follow(self) -> None:
        from doorstep.cli.terminal_mode import window_size
        from doorstep.protocol.errors import DoorstepError

        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._terminal.resize(*window_size())
            except DoorstepError:
                return  # the terminal is ending; its reader says how
