"""Agent: the ``exec`` service: a program without a terminal, its stdin, stdout and stderr kept apart.

Stream ``exec.run``: the client's bytes are stdin (FIN = end of file); the agent's are records of one channel
byte (1 stdout, 2 stderr), a varint length, the bytes; its FIN carries ``{exitCode, signal, timedOut}``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from typing import Annotated, Any

import msgspec

from doorstep.agent.descriptor import Descriptor
from doorstep.agent.environment import program_environment, working_directory
from doorstep.agent.guard import Guard
from doorstep.agent.process import Child
from doorstep.agent.tasks import forever, race, together
from doorstep.agent.terminal import Argument, Command
from doorstep.protocol.limits import KIB
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.runtime import ServiceError, Session, Stream, StreamRequest
from doorstep.runtime.params import convert

__all__ = ["STDERR", "STDOUT", "ExecService"]

STDOUT = 1
STDERR = 2
_RECORD = 64 * KIB
_PROGRAMS = 256
"""Programs of one agent at once; each is a process with its own buffers."""
_LINGER = 0.5
"""After the program's exit a helper it started (``>(tee log)``) gets this long for its next words; a
background job that keeps the pipes open in silence does not keep the stream open."""
_SIGNALS = {
    name: signal.Signals["SIG" + name] for name in ("HUP", "INT", "QUIT", "KILL", "USR1", "USR2", "TERM")
}


class RunParams(msgspec.Struct, frozen=True, rename="camel"):
    command: Argument | Command
    cwd: str | None = None
    env: dict[str, str] = {}
    timeout_ms: Annotated[int, msgspec.Meta(ge=1, le=7 * 86_400_000)] | None = None
    merge_stderr: bool = False


class SignalParams(msgspec.Struct, frozen=True, rename="camel"):
    pid: int
    signal: str


class ExecService:
    """The programs of every session of one agent; a session signals its own only."""

    name = "exec"

    def __init__(self, timing: Timing = DEFAULT_TIMING, guard: Guard | None = None) -> None:
        self._timing = timing
        self._guard = guard
        self._running: dict[tuple[Session, int], _Program] = {}
        self.calls: Mapping[str, Callable[[Session, dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "signal": self._signal
        }
        self.streams: Mapping[str, Callable[[StreamRequest], Awaitable[None]]] = {"run": self._run}

    async def _run(self, request: StreamRequest) -> None:
        if len(self._running) >= _PROGRAMS:
            raise ServiceError("busy", f"{_PROGRAMS} programs run for clients of this machine; end one")
        program = _Program(convert(request.params, RunParams), self._timing.hangup, self._guard)
        key = (request.session, program.pid)
        self._running[key] = program
        try:
            stream = await request.accept({"pid": program.pid})
            await stream.finish(await program.serve(stream))
        finally:
            del self._running[key]
            await program.end()

    async def _signal(self, session: Session, raw: dict[str, Any]) -> dict[str, Any]:
        params = convert(raw, SignalParams)
        number = _SIGNALS.get(params.signal.removeprefix("SIG"))
        if number is None:
            raise ServiceError("invalid", f"params.signal: must be one of {', '.join(_SIGNALS)}")
        program = self._running.get((session, params.pid))
        if program is None:
            raise ServiceError("not-found", "params.pid: this session runs no such program")
        program.child.signal_group(number)
        return {}


class _Program:
    """Owns the process and our ends of its pipes until :meth:`end` has returned."""

    def __init__(self, params: RunParams, grace: float, guard: Guard | None) -> None:
        self._timeout = None if params.timeout_ms is None else params.timeout_ms / 1000
        self._grace = grace
        self._timed_out = False
        pid, self._stdin, self._outputs = _start(params)
        self.child = Child(pid, guard)

    @property
    def pid(self) -> int:
        return self.child.pid

    async def serve(self, stream: Stream) -> dict[str, object]:
        """Carry everything until the program has ended; return the trailer. Raises what the stream raises."""
        await race(self._carry_outputs(stream), self._carry_input(stream), self._watch_time())
        return {**self.child.reap().trailer(), "timedOut": self._timed_out}

    async def end(self) -> None:
        """End every process of the program's session that is left; close the pipes. Idempotent."""
        self._stdin.close()
        for output in self._outputs.values():
            output.close()
        await self.child.end(signal.SIGTERM, self._grace)

    async def _carry_outputs(self, stream: Stream) -> None:
        await together(
            *(self._carry_output(stream, channel, output) for channel, output in self._outputs.items())
        )
        await self.child.wait()

    async def _carry_output(self, stream: Stream, channel: int, output: Descriptor) -> None:
        while data := await output.read_until(self.child.exited, _LINGER, _RECORD):
            await stream.write(_record_head(channel, len(data)) + data)  # two writes never interleave

    async def _carry_input(self, stream: Stream) -> None:
        async for data in stream:
            await self._feed(data)
        self._stdin.close()
        await forever()  # the end of stdin is not the end of the program

    async def _feed(self, data: bytes) -> None:
        try:
            await self._stdin.write(data)
        except BrokenPipeError:
            self._stdin.close()  # as with any pipe: what is not read is dropped

    async def _watch_time(self) -> None:
        if self._timeout is None:
            await forever()
        await asyncio.sleep(self._timeout)
        self._timed_out = True
        await self.child.end_session(signal.SIGTERM, self._grace)
        await forever()  # the outputs end by themselves now, after what is still in the pipes


def _start(params: RunParams) -> tuple[int, Descriptor, dict[int, Descriptor]]:
    cwd = working_directory(params.cwd)
    env = program_environment(params.env)
    argv = ["/bin/sh", "-c", params.command] if isinstance(params.command, str) else params.command
    with ExitStack() as theirs, ExitStack() as ours:
        stdin, our_stdin = _pipe(theirs, ours, ours_writes=True)
        stdout, our_stdout = _pipe(theirs, ours, ours_writes=False)
        outputs = {STDOUT: our_stdout}
        stderr = subprocess.STDOUT
        if not params.merge_stderr:
            stderr, outputs[STDERR] = _pipe(theirs, ours, ours_writes=False)
        try:
            popen = subprocess.Popen(
                argv, cwd=cwd, env=env, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True
            )
        except OSError as error:
            raise _not_started(argv[0], error) from error
        popen.returncode = 0  # from here the child is Child's to wait for, not subprocess's
        ours.pop_all()
        return popen.pid, Descriptor(our_stdin), {channel: Descriptor(fd) for channel, fd in outputs.items()}


def _pipe(theirs: ExitStack, ours: ExitStack, *, ours_writes: bool) -> tuple[int, int]:
    read, write = os.pipe()
    their_end, our_end = (read, write) if ours_writes else (write, read)
    theirs.callback(os.close, their_end)
    ours.callback(os.close, our_end)
    return their_end, our_end


def _not_started(program: str, error: OSError) -> ServiceError:
    if isinstance(error, FileNotFoundError):
        return ServiceError("not-found", f"params.command: no program {program[:256]!r}")
    if isinstance(error, PermissionError):
        return ServiceError("permission", f"params.command: {program[:256]!r} may not be run")
    return ServiceError("invalid", f"params.command: {error.strerror}")


def _record_head(channel: int, length: int) -> bytes:
    head = bytearray([channel])
    while length >= 0x80:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head)
