"""``agent.terminal()`` against the agent's real terminal service."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import pytest

from doorstep.client import Agent, TerminalEnded
from doorstep.protocol.errors import DeadlineExceeded

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]

pytestmark = pytest.mark.asyncio

SH = ["/bin/sh"]
QUIET = {"PS1": "$ "}


async def test_type_expect_resize_exit(agent: Agent) -> None:
    async with agent.terminal(100, 30, command=SH, env=QUIET) as terminal:
        await terminal.expect(r"\$ ")
        await terminal.write("stty size\n")
        assert (await terminal.expect(r"(\d+) (\d+)\r\n")).groups() == ("30", "100")
        await terminal.resize(90, 20)
        await terminal.write("stty size\n")
        assert (await terminal.expect(r"(\d+) (\d+)\r\n")).groups() == ("20", "90")
        await terminal.write("exit 6\n")
        assert await terminal.wait() == 6


async def test_what_expect_leaves_is_read_next(agent: Agent) -> None:
    async with agent.terminal(command=["printf", "oneTWOthree"]) as terminal:
        await terminal.expect("TWO")
        assert await terminal.read() == b"three"
        assert await terminal.read() == b""
        assert terminal.exit_code == 0


async def test_iteration_ends_with_the_program(agent: Agent) -> None:
    async with agent.terminal(command=["printf", "bye"]) as terminal:
        assert b"".join([data async for data in terminal]) == b"bye"


async def test_expect_has_a_deadline(agent: Agent) -> None:
    async with agent.terminal(command=["cat"]) as terminal:
        with pytest.raises(DeadlineExceeded):
            await terminal.expect("never", timeout=0.1)


async def test_expect_says_when_the_program_ended(agent: Agent) -> None:
    async with agent.terminal(command=["printf", "only this"]) as terminal:
        with pytest.raises(TerminalEnded) as caught:
            await terminal.expect("never")
    assert caught.value.output == b"only this"


async def test_expect_looks_at_a_bounded_tail(agent: Agent) -> None:
    async with agent.terminal(
        command=["sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x; echo END"]
    ) as terminal:
        found = await terminal.expect(r"x{1000}END")
        assert found.start() < 64 * 1024


async def test_a_signal_that_ends_it_is_an_exit_code(agent: Agent) -> None:
    async with agent.terminal(command=["sh", "-c", "kill -KILL $$"]) as terminal:
        assert await terminal.wait() == 137


async def test_closing_hangs_up(agent: Agent, eventually: Eventually) -> None:
    terminal = await agent.terminal(command=["sleep", "60"])
    pid = terminal.pid
    await terminal.close()
    await terminal.close()
    await eventually(lambda: not _alive(pid))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
