"""Agent: the ``terminal`` service: the user's login shell, or a program, on a terminal of its own.

Stream ``terminal.open``: keystrokes in, output out, both raw bytes. The shell's end is the agent's FIN with
``{exitCode, signal}`` after all output; the client's FIN, RESET or loss hangs up. Whatever still runs on the
terminal then is ended; a program that shall outlive it needs a session of its own (setsid, tmux,
systemd-run)."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from doorstep.agent.environment import program_environment, user_shell, working_directory
from doorstep.agent.guard import Guard
from doorstep.agent.pty import Pty
from doorstep.agent.tasks import race
from doorstep.protocol.limits import DATA_CHUNK
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.runtime import ServiceError, Session, Stream, StreamRequest
from doorstep.runtime.params import convert

__all__ = ["TerminalService"]

_TERMINALS = 256
"""Open terminals of one agent; each is a process with its own buffers."""

Cells = Annotated[int, msgspec.Meta(ge=1, le=1000)]
Term = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9+._-]{0,63}$")]
Argument = Annotated[str, msgspec.Meta(max_length=128 * 1024, pattern=r"^[^\0]*$")]
Command = Annotated[list[Argument], msgspec.Meta(min_length=1, max_length=1024)]


class OpenParams(msgspec.Struct, frozen=True, rename="camel"):
    cols: Cells = 80
    rows: Cells = 24
    cwd: str | None = None
    env: dict[str, str] = {}
    command: Command | None = None
    term: Term = "xterm-256color"


class ResizeParams(msgspec.Struct, frozen=True, rename="camel"):
    terminal_id: str
    cols: Cells
    rows: Cells


@dataclass(frozen=True, slots=True)
class _Terminal:
    id: str
    session: Session
    program: str
    pty: Pty

    def describe(self) -> dict[str, Any]:
        columns, rows = self.pty.size
        return {
            "terminalId": self.id,
            "pid": self.pty.pid,
            "shell": self.program,
            "cols": columns,
            "rows": rows,
        }


class TerminalService:
    """The terminals of every session of one agent; a session sees its own only."""

    name = "terminal"

    def __init__(self, timing: Timing = DEFAULT_TIMING, guard: Guard | None = None) -> None:
        self._timing = timing
        self._guard = guard
        self._terminals: dict[str, _Terminal] = {}
        self.calls: Mapping[str, Callable[[Session, dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "resize": self._resize,
            "list": self._list,
        }
        self.streams: Mapping[str, Callable[[StreamRequest], Awaitable[None]]] = {"open": self._open}

    async def _open(self, request: StreamRequest) -> None:
        if len(self._terminals) >= _TERMINALS:
            raise ServiceError("busy", f"{_TERMINALS} terminals are open on this machine; close one")
        params = convert(request.params, OpenParams)
        cwd = working_directory(params.cwd)
        terminal = self._spawn(request.session, params, cwd)
        self._terminals[terminal.id] = terminal
        try:
            described = {
                "terminalId": terminal.id,
                "pid": terminal.pty.pid,
                "shell": terminal.program,
                "cwd": cwd,
            }
            await self._serve(terminal.pty, await request.accept(described))
        finally:
            del self._terminals[terminal.id]
            await terminal.pty.hang_up(self._timing.hangup)

    async def _serve(self, pty: Pty, stream: Stream) -> None:
        ended_first = await race(_carry_output(pty, stream), _carry_input(pty, stream))
        ended = await (pty.close() if ended_first == 0 else pty.hang_up(self._timing.hangup))
        await stream.finish(ended.trailer())

    def _spawn(self, session: Session, params: OpenParams, cwd: str) -> _Terminal:
        env = program_environment(params.env, TERM=params.term, COLORTERM="truecolor")
        program, argv = _program(params.command, cwd, env.get("PATH", os.defpath))
        env.setdefault("SHELL", user_shell())
        try:
            size = (params.cols, params.rows)
            pty = Pty.spawn(program, argv, cwd=cwd, env=env, size=size, guard=self._guard)
        except OSError as error:
            raise ServiceError("internal", f"no terminal: {error.strerror}") from error
        return _Terminal(secrets.token_hex(8), session, program, pty)

    async def _resize(self, session: Session, raw: dict[str, Any]) -> dict[str, Any]:
        params = convert(raw, ResizeParams)
        terminal = self._terminals.get(params.terminal_id)
        if terminal is None or terminal.session is not session:
            raise ServiceError("not-found", "params.terminalId: this session has no such terminal")
        terminal.pty.resize(params.cols, params.rows)
        return {}

    async def _list(self, session: Session, _params: dict[str, Any]) -> dict[str, Any]:
        return {"terminals": [one.describe() for one in self._terminals.values() if one.session is session]}


async def _carry_output(pty: Pty, stream: Stream) -> None:
    while data := await pty.read(DATA_CHUNK):
        await stream.write(data)


async def _carry_input(pty: Pty, stream: Stream) -> None:
    async for data in stream:
        await pty.write(data)


def _program(command: list[str] | None, cwd: str, path: str) -> tuple[str, list[str]]:
    """Return (program, argv): the login shell, its name with a dash as login(1) writes it, or the command."""
    if command is None:
        shell = user_shell()
        return shell, ["-" + Path(shell).name]
    name = command[0] if "/" not in command[0] else str(Path(cwd, command[0]))
    program = shutil.which(name, path=path)
    if program is None:
        raise ServiceError("not-found", f"params.command: no program {command[0][:256]!r}")
    return program, command
