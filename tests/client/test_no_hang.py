"""No call hangs: not on a silent link, not on an agent that lives and does nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from doorstep.client import Agent
from doorstep.protocol.errors import DeadlineExceeded, SessionClosed
from doorstep.protocol.timing import Timing
from doorstep.runtime import StreamRequest
from doorstep.runtime.services import CallHandler
from doorstep.testing.pair import session_pair

pytestmark = pytest.mark.asyncio

SHORT = Timing(ping=0.05, silence=0.3, give_up=0.3, keep=0.3, call=0.3, ice=2)
"""The session waits for another wire, and none comes."""
LIVELY = Timing(ping=0.05, give_up=2, call=0.2)


class Idle:
    """Accepts everything and does nothing with it."""

    def __init__(self, name: str, *methods: str) -> None:
        self.name = name
        self.calls: dict[str, CallHandler] = {}
        self.streams = dict.fromkeys(methods, self._idle)

    async def _idle(self, request: StreamRequest) -> None:
        await request.accept({"pid": 1, "terminalId": "t", "size": 10, "mtimeMs": 0, "mode": 0o644}, 1024)
        await asyncio.get_running_loop().create_future()


async def _chunks() -> AsyncIterator[bytes]:
    yield b"x" * 100_000


SERVICES = (Idle("exec", "run"), Idle("files", "read", "write"), Idle("terminal", "open"))
Call = Callable[[Agent], Awaitable[object]]
CALLS: dict[str, Call] = {
    "run": lambda agent: agent.commands.run("true", timeout=None),
    "read": lambda agent: agent.files.read("a"),
    "write": lambda agent: agent.files.write("a", _chunks()),
}


@pytest.mark.parametrize("name", list(CALLS))
async def test_a_silent_link_ends_every_call(name: str) -> None:
    async with session_pair(*SERVICES, timing=SHORT) as pair, asyncio.timeout(10):
        call = asyncio.ensure_future(CALLS[name](Agent(pair.client, timing=Timing())))
        await asyncio.sleep(0.05)  # under way
        pair.agent_wire.hold()
        pair.client_wire.hold()
        with pytest.raises(SessionClosed):
            await call


async def test_a_silent_link_ends_a_terminal() -> None:
    async with (
        asyncio.timeout(10),
        session_pair(*SERVICES, timing=SHORT) as pair,
        Agent(pair.client).terminal() as terminal,
    ):
        pair.agent_wire.hold()
        with pytest.raises(SessionClosed):
            await terminal.read()


@pytest.mark.parametrize(
    "call",
    [
        lambda agent: agent.commands.run("true", timeout=0.1),
        lambda agent: agent.files.read("a"),
        lambda agent: agent.files.write("a", b"x" * 100_000),
        lambda agent: agent.files.write("a", b"x"),
    ],
)
async def test_an_agent_that_does_nothing_is_given_up(call: Call) -> None:
    async with session_pair(*SERVICES, timing=LIVELY) as pair, asyncio.timeout(10):
        with pytest.raises(DeadlineExceeded):
            await call(Agent(pair.client, timing=Timing(give_up=0.2, call=0.2)))
        assert pair.client.stats()["streams"] == 0
