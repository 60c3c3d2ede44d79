"""Client: ``agent.commands`` - run programs on the machine (service ``exec``).

The names follow E2B's Python SDK; exit codes, signals and limits are the remote ones. Whatever ends the call
early (a limit, a cancellation, a lost session) ends the remote process tree too.
"""

from __future__ import annotations

import asyncio
import codecs
import inspect
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from doorstep.client._waiting import Opening, patient
from doorstep.client.errors import CommandFailed
from doorstep.client.records import Output, RecordReader
from doorstep.protocol.errors import DeadlineExceeded, RemoteError, SessionClosed, StreamClosed
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import MIB

if TYPE_CHECKING:
    from doorstep.protocol.timing import Timing
    from doorstep.runtime import Session, Stream

__all__ = ["Command", "CommandResult", "Commands", "OnText", "Stdin"]

OnText = Callable[[str], Awaitable[None] | None]
"""Told each piece of output as text (UTF-8, never cut inside a character); may be ``async``."""
Stdin = bytes | str | AsyncIterable[bytes]

DEFAULT_TIMEOUT = 60.0
"""Seconds a command may run unless told otherwise; ``timeout=None`` sets no limit."""
MAX_OUTPUT = 8 * MIB
"""Bytes of stdout, and of stderr, that a result keeps."""


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended and what it wrote."""

    exit_code: int
    """The exit code; 128 + ``signal`` when a signal ended it, as a shell says it."""
    stdout_bytes: bytes
    stderr_bytes: bytes
    signal: int | None = None
    timed_out: bool = False
    """The agent killed it at the ``timeout`` of the call."""
    truncated: bool = False
    """More was written than ``max_output``; the first ``max_output`` bytes of each are kept."""

    @property
    def stdout(self) -> str:
        """Standard output as text: UTF-8, with U+FFFD for what is none."""
        return self.stdout_bytes.decode(errors="replace")

    @property
    def stderr(self) -> str:
        """Standard error as text: UTF-8, with U+FFFD for what is none."""
        return self.stderr_bytes.decode(errors="replace")

    @property
    def ok(self) -> bool:
        """It ended by itself with exit code 0."""
        return self.exit_code == 0 and not self.timed_out


class Command:
    """A running command. Its output is read by :meth:`wait` or by iterating, one reader at a time; a command
    whose output nobody reads waits, as behind any full pipe."""

    def __init__(self, session: Session, stream: Stream, timing: Timing, timeout: float | None) -> None:
        self._session = session
        self._stream = stream
        self._timing = timing
        self._timeout = timeout
        self._began = session.time_with_a_wire()
        self._records = RecordReader()
        self._unread: deque[Output] = deque()

    @property
    def pid(self) -> int:
        """The process id on the machine."""
        return int(self._stream.result["pid"])

    async def send_stdin(self, data: bytes | str) -> None:
        """Write to standard input; waits while the command does not read."""
        await self._stream.write(data.encode() if isinstance(data, str) else data)

    async def close_stdin(self) -> None:
        """End standard input: the command sees end of file. Nothing, when it has ended."""
        with suppress(RemoteError, StreamClosed):
            await self._stream.finish()

    async def signal(self, name: str) -> None:
        """Send a signal by name, such as ``"INT"``, to the command's process group."""
        await self._session.call("exec.signal", {"pid": self.pid, "signal": name})

    async def kill(self) -> None:
        """Kill the process tree now; a :meth:`wait` under way returns with ``signal`` 9."""
        await self.signal("KILL")

    async def close(self) -> None:
        """Be done with the command: if it still runs, the agent ends its process tree. Idempotent."""
        await self._stream.reset("cancelled", "the client is done with the command")

    async def __aiter__(self) -> AsyncIterator[Output]:
        """Yield output in the order the agent read it, until the command ended."""
        while (output := await self._next()) is not None:
            yield output

    async def wait(
        self,
        *,
        on_stdout: OnText | None = None,
        on_stderr: OnText | None = None,
        max_output: int = MAX_OUTPUT,
        check: bool = False,
    ) -> CommandResult:
        """Read all output and return how the command ended.

        Raises :class:`CommandFailed` with ``check``, :class:`DeadlineExceeded` when the agent is in touch and
        neither ends the command at its ``timeout`` nor sends anything for ``Timing.give_up`` after it (it is
        then given up), :class:`SessionClosed` when the session has ended.
        """
        sinks = {"stdout": _Sink(on_stdout, max_output), "stderr": _Sink(on_stderr, max_output)}
        try:
            while (output := await self._next(self._backstop())) is not None:
                await sinks[output.channel].take(output.data)
        except DeadlineExceeded:
            await self.close()
            raise
        for sink in sinks.values():
            await sink.end()
        result = _result(self._stream.trailer or {}, sinks["stdout"], sinks["stderr"])
        if check and not result.ok:
            raise CommandFailed(result)
        return result

    async def feed(self, stdin: Stdin) -> None:
        """Write all of ``stdin``, then end it."""
        if isinstance(stdin, bytes | str):
            await self.send_stdin(stdin)
        else:
            async for piece in stdin:
                await self.send_stdin(piece)
        await self.close_stdin()

    async def _next(self, backstop: float | None = None) -> Output | None:
        """The next output; None at the end. Raises :class:`DeadlineExceeded` after ``backstop`` seconds."""
        while not self._unread:
            reading = self._stream.read()
            chunk = await (
                reading if backstop is None else patient(self._session, "exec.run", backstop, reading)
            )
            if not chunk:
                self._records.end()
                await self.close()
                return None
            self._unread.extend(self._records.feed(chunk))
        return self._unread.popleft()

    def _backstop(self) -> float | None:
        """The agent ends the command at its limit; this is for an agent that lives and does not. Time without
        a wire does not count, nor does what is still on its way."""
        if self._timeout is None:
            return None
        gone = self._session.time_with_a_wire() - self._began
        return max(self._timeout - gone, 0) + self._timing.give_up


class Commands:
    """Run programs on the machine."""

    def __init__(self, session: Session, timing: Timing) -> None:
        self._session = session
        self._timing = timing

    async def run(
        self,
        cmd: str | Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: Stdin | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        on_stdout: OnText | None = None,
        on_stderr: OnText | None = None,
        max_output: int = MAX_OUTPUT,
        check: bool = False,
    ) -> CommandResult:
        """Run a command to its end. A ``str`` is a line for ``/bin/sh``, a sequence is an argument list.

        ``timeout`` is in seconds, kept by the agent whether or not the session has a wire: the result then
        says ``timed_out``. A cancelled call kills the remote process tree. Raises as :meth:`Command.wait`,
        and :class:`RemoteError` when it cannot start.
        """
        command = await self._start(cmd, cwd, env, timeout, merge_stderr=False)
        try:
            async with asyncio.TaskGroup() as tasks:
                feeding = tasks.create_task(_feed(command, stdin), name="doorstep-exec-stdin")
                result = await command.wait(
                    on_stdout=on_stdout, on_stderr=on_stderr, max_output=max_output, check=check
                )
                feeding.cancel()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            await command.close()
        return result

    def start(
        self,
        cmd: str | Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        merge_stderr: bool = False,
    ) -> Opening[Command]:
        """Start a command; its handle comes by ``await`` or ``async with`` (which ends it on the way out)."""
        return Opening(lambda: self._start(cmd, cwd, env, timeout, merge_stderr=merge_stderr))

    async def _start(
        self,
        cmd: str | Sequence[str],
        cwd: str | None,
        env: Mapping[str, str] | None,
        timeout: float | None,
        *,
        merge_stderr: bool,
    ) -> Command:
        params: dict[str, Any] = {"command": cmd if isinstance(cmd, str) else list(cmd)}
        if cwd is not None:
            params["cwd"] = cwd
        if env is not None:
            params["env"] = dict(env)
        if timeout is not None:
            params["timeoutMs"] = max(1, round(timeout * 1000))
        if merge_stderr:
            params["mergeStderr"] = True
        stream = await self._session.open(
            "exec", "run", params, lane=Lane.TERMINAL_IO, timeout=self._timing.call
        )
        return Command(self._session, stream, self._timing, timeout)


class _Sink:
    """One output channel: keeps the first bytes, tells the callback all of them as text."""

    def __init__(self, callback: OnText | None, most: int) -> None:
        self._callback = callback
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._most = most
        self.kept = bytearray()
        self.truncated = False

    async def take(self, data: bytes, *, final: bool = False) -> None:
        room = self._most - len(self.kept)
        self.kept += data[:room]
        self.truncated = self.truncated or len(data) > room
        if self._callback is not None and (text := self._decoder.decode(data, final)):
            told = self._callback(text)
            if inspect.isawaitable(told):
                await told

    async def end(self) -> None:
        await self.take(b"", final=True)


async def _feed(command: Command, stdin: Stdin | None) -> None:
    """Write the input; a command that ends without reading all of it is no error."""
    with suppress(SessionClosed, RemoteError, StreamClosed):
        await command.feed(b"" if stdin is None else stdin)


def _result(trailer: Mapping[str, Any], stdout: _Sink, stderr: _Sink) -> CommandResult:
    signal: int | None = trailer.get("signal")
    code: int | None = trailer.get("exitCode")
    return CommandResult(
        exit_code=code if code is not None else 128 + (signal or 0),
        stdout_bytes=bytes(stdout.kept),
        stderr_bytes=bytes(stderr.kept),
        signal=signal,
        timed_out=bool(trailer.get("timedOut", False)),
        truncated=stdout.truncated or stderr.truncated,
    )
