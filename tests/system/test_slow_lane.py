"""System: no relay and no WebRTC: a shell over the back end's broadcasts, and its way to a better wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from doorstep.client import AttemptReport, connect
from doorstep.protocol.errors import ConnectFailed, NotCarried
from doorstep.testing.leaks import no_leaks
from doorstep.testing.stack import Stack, stack

PATIENCE = 40.0


@pytest_asyncio.fixture
async def plain(tmp_path: Path, scale: float) -> AsyncIterator[Stack]:
    """A back end without a relay."""
    async with stack(tmp_path, scale=scale, hub_options=["--no-relay"]) as found:
        yield found


@pytest.mark.asyncio
async def test_a_shell_over_broadcasts(plain: Stack) -> None:
    user = await plain.user()
    program = await plain.agent(user, "box")
    reports: list[AttemptReport] = []
    patience = PATIENCE * plain.scale
    async with (
        no_leaks(),
        connect("box", credentials=user.credentials, force="broadcast", on_state=reports.append) as agent,
    ):
        assert (str(reports[-1].state), reports[-1].reason) == ("connected", "broadcast")
        connected = await program.event("connected", within=patience)
        assert connected["wire"] == "broadcast"
        stats = agent.stats()
        assert (stats["wire"], stats["relayReason"]) == ("broadcast", "forced")
        result = await agent.commands.run("seq 1 3000; exit 3")
        assert result.exit_code == 3
        assert result.stdout.split() == [str(number) for number in range(1, 3001)]
        async with agent.terminal(100, 30) as terminal:
            await terminal.write(b"stty size\n")
            await terminal.expect(r"30 100", timeout=patience)
        assert await agent.files.list(".") is not None
        with pytest.raises(NotCarried, match="does not go over broadcast"):
            await agent.files.write("x.txt", b"x")


@pytest.mark.asyncio
async def test_where_there_is_no_relay_the_other_roads_are_tried(plain: Stack) -> None:
    user = await plain.user()
    await plain.agent(user, "box")
    async with no_leaks():
        with pytest.raises(ConnectFailed, match="no relay"):
            await connect("box", credentials=user.credentials, force="relay")
        async with connect("box", credentials=user.credentials) as agent:
            async with asyncio.timeout(PATIENCE * plain.scale):
                while agent.stats()["wire"] != "webrtc":  # on a busy machine the slow lane may come first
                    await asyncio.sleep(0.1)
            await agent.files.write("x.txt", b"x")
            assert await agent.files.read("x.txt") == b"x"
