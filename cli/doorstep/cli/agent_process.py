"""CLI: the agent as a process of its own: started, watched, started again after a crash, ended with us.

An end that a new start would only repeat (no login, a setting it refuses) is final.

Its standard input is a pipe that it reads only to see our end; it tells what happens in JSON lines on its
standard output. Secrets reach it by files in the state directory, never by its command line.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from doorstep.protocol.errors import NotSignedIn, UsageError
from doorstep.protocol.timing import Timing

__all__ = ["AgentProcess", "OnAgentEvent"]

OnAgentEvent = Callable[[dict[str, Any]], None]
_LINE_BYTES = 64 * 1024
_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds before each start after a crash; a run of ``_STEADY`` seconds starts the list anew."""
_STEADY = 60.0
_FINAL = frozenset({UsageError.exit_code, NotSignedIn.exit_code})
"""Exit codes after which the next start would end the same way; its message is on our standard error."""


class AgentProcess:
    """Keeps one agent process running until :meth:`stop`."""

    def __init__(self, arguments: Sequence[str], timing: Timing, on_event: OnAgentEvent) -> None:
        self._command = (sys.executable, "-m", "doorstep.cli.main", "agent", *arguments)
        self._timing = timing
        self._on_event = on_event
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False

    async def run(self) -> None:
        """Start the agent, again after every crash; return after :meth:`stop` or a final end.

        Cancelling kills it.
        """
        loop = asyncio.get_running_loop()
        crashes = 0
        while not self._stopping:
            started = loop.time()
            code = await self._run_once()
            if self._stopping:
                return
            if code in _FINAL:
                self._on_event({"event": "agent-ended", "exitCode": code})
                return
            crashes = 1 if loop.time() - started > _STEADY else crashes + 1
            pause = _PAUSES[min(crashes, len(_PAUSES)) - 1]
            self._on_event({"event": "agent-crashed", "exitCode": code, "restartIn": pause})
            await asyncio.sleep(pause)

    async def stop(self) -> None:
        """End the agent in good order; by force after ``Timing.shutdown`` + ``hangup``. Idempotent."""
        self._stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._timing.shutdown + self._timing.hangup):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()

    async def _run_once(self) -> int:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=_LINE_BYTES,
        )
        self._process = process
        try:
            assert process.stdout is not None
            await self._follow(process.stdout)
            return await process.wait()
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            if process.stdin is not None:
                process.stdin.close()

    async def _follow(self, lines: asyncio.StreamReader) -> None:
        while line := await _line(lines):
            try:
                self._on_event(msgspec.json.decode(line, type=dict[str, Any]))
            except msgspec.MsgspecError:
                continue  # a stray print of some library


async def _line(lines: asyncio.StreamReader) -> bytes:
    while True:
        try:
            return await lines.readline()
        except ValueError:
            continue  # longer than any event of ours: readline has dropped it
