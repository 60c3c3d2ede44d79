"""The wall clock of a machine is set while all runs on it: hub, agent, client. Only tokens may care."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from doorstep import client
from doorstep.protocol.errors import LinkError, PeerError
from doorstep.testing.deadlines import SCALE
from doorstep.testing.hub import throw_away_hub
from doorstep.transport.credentials import Credentials

from .box import box_online

pytestmark = pytest.mark.asyncio
HOUR = 3600.0


class Wall:
    """Satisfies ``time.time``: the wall clock, and what somebody has set it ahead."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self._real = time.time

    def __call__(self) -> float:
        return self._real() + self.ahead


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    """Nobody but root can set the real one, and it is everybody's."""
    clock = Wall()
    monkeypatch.setattr(time, "time", clock)
    return clock


@pytest_asyncio.fixture
async def login(tmp_path: Path, nothing_left: None, wall: Wall) -> AsyncIterator[Credentials]:
    """An agent called box is online."""
    async with throw_away_hub(tmp_path / "hub") as hub:
        user = await hub.user()
        login = Credentials(hub.url, hub.anon_key, user.email, user.password)
        async with box_online(login, tmp_path / "agent"):
            yield login


async def connected(login: Credentials) -> client.Agent:
    """The agent may have to see first that its token is over: on its next word to the hub, or in 30 s."""
    async with asyncio.timeout(120 * SCALE):
        while True:
            try:
                return await client.connect("box", credentials=login)
            except (LinkError, PeerError):
                await asyncio.sleep(0.1)


async def echoes(agent: client.Agent, *words: Any) -> None:
    for word in words:
        assert (await agent.commands.run(f"echo {word}")).stdout == f"{word}\n"


@pytest.mark.parametrize("ahead", [7 * HOUR, -7 * HOUR, 400 * 24 * HOUR])
async def test_a_session_does_not_notice_and_new_ones_are_made(
    login: Credentials, wall: Wall, ahead: float
) -> None:
    first = await connected(login)
    await echoes(first, "before")
    running = asyncio.create_task(first.commands.run("read word; echo $word", stdin=_later(wall, ahead)))
    assert (await running).stdout == "still\n"
    await echoes(first, *range(20))
    assert first.stats()["wires"] == 1
    second = await connected(login)
    await echoes(second, "after")
    await first._session.wire.close("cut")  # another one is made by this clock, with a fresh sign-in
    await echoes(first, "again")
    wall.ahead = 0.0
    await echoes(first, "back")
    third = await connected(login)
    await echoes(third, "and once more")
    for agent in (first, second, third):
        await agent.close()


async def _later(wall: Wall, ahead: float) -> AsyncIterator[bytes]:
    """The command is under way when the clock is set."""
    wall.ahead = ahead
    yield b"still\n"
