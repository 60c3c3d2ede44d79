"""A program does not outlive its agent, not even one that is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from doorstep.agent.exec import ExecService
from doorstep.agent.guard import Guard
from doorstep.agent.process import Child, session_members
from doorstep.agent.sessions import members_of
from doorstep.agent.terminal import TerminalService
from doorstep.protocol.lanes import Lane

from .support import DEADLINE, connected, until

pytestmark = pytest.mark.asyncio

AGENT = """
import asyncio, os, sys
from doorstep.agent.exec import ExecService
from doorstep.agent.guard import Guard
from doorstep.agent.terminal import TerminalService
from doorstep.protocol.lanes import Lane
from doorstep.protocol.timing import Timing
from doorstep.testing.pair import session_pair

async def main():
    guard, timing = Guard(0.2), Timing()
    services = ExecService(timing, guard), TerminalService(timing, guard)
    async with session_pair(*services, timing=timing) as pair:
        for service, method, params in (
            ("exec", "run", {"command": sys.argv[1]}),
            ("terminal", "open", {"command": ["/bin/sh", "-c", sys.argv[1]]}),
        ):
            stream = await pair.client.open(service, method, params, lane=Lane.TERMINAL_IO)
            await stream.read()
            print(stream.result["pid"], flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@asynccontextmanager
async def agent(command: str) -> AsyncGenerator[tuple[asyncio.subprocess.Process, list[int]], None]:
    """Yield a process with the agent's services, and the sessions of the programs it has started."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", AGENT, command, env=environment, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(DEADLINE):
            yield process, [int(await process.stdout.readline()) for _ in range(2)]
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def started(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, start_new_session=True)


@pytest.mark.parametrize(
    "command",
    [
        "sleep 1000 & nohup sleep 1001 2>&1 & echo up; sleep 1002",
        "trap '' TERM HUP; (trap '' TERM HUP; sleep 1000) & echo up; kill -STOP $$",
    ],
)
async def test_a_killed_agent_leaves_no_program(command: str) -> None:
    async with agent(command) as (process, sessions):
        assert all(session_members(session) for session in sessions)
        process.kill()
        await process.wait()
        await until(lambda: not members_of(sessions))


async def test_what_was_forgotten_lives_on() -> None:
    """A background job of a shell that has ended by itself, as after a log-out."""
    guard = Guard(0.1)
    programs = [started("sleep", "1000"), started("sleep", "1000")]
    try:
        for program in programs:
            guard.watch(program.pid)
        guard.forget(programs[0].pid)
        guard.close()
        guard.close()
        assert programs[1].wait(DEADLINE) in (-signal.SIGHUP, -signal.SIGTERM)
        assert programs[0].poll() is None
    finally:
        guard.close()
        for program in programs:
            program.kill()
            program.wait()


async def test_it_is_there_from_the_first_program_on_and_ends_with_the_agent() -> None:
    guard = Guard(0.1)
    async with connected(ExecService(guard=guard), TerminalService(guard=guard)) as client:
        assert guard._process is None
        stream = await client.open("exec", "run", {"command": "true"}, lane=Lane.TERMINAL_IO)
        while await stream.read():
            pass
        assert guard._process is not None
        assert guard._process.poll() is None
    guard.close()
    assert guard._process.returncode == 0


async def test_one_that_does_not_end_is_killed(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("doorstep.agent.guard._SPARE", 0.1)
    guard = Guard(0.1)
    program = started("sleep", "60")
    try:
        guard.watch(program.pid)
        assert guard._process is not None
        os.kill(guard._process.pid, signal.SIGSTOP)
        await asyncio.to_thread(guard.close)
        assert guard._process.returncode == -signal.SIGKILL
        assert "is killed" in caplog.text
    finally:
        program.kill()
        program.wait()


async def test_without_it_programs_are_started_all_the_same(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    guard = Guard(0.1)
    program = started("true")
    program.returncode = 0
    child = Child(program.pid, guard)
    await child.wait()
    assert child.reap().code == 0
    guard.close()
    assert "was not started" in caplog.text
