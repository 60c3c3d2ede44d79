"""What the client's tests share: an agent's real services behind a session in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from doorstep.agent.exec import ExecService
from doorstep.agent.files import FilesService
from doorstep.agent.terminal import TerminalService
from doorstep.client import Agent
from doorstep.protocol.timing import Timing
from doorstep.testing.deadlines import SCALE
from doorstep.testing.leaks import no_leaks
from doorstep.testing.pair import SessionPair, session_pair


@pytest_asyncio.fixture(autouse=True)
async def nothing_left() -> AsyncIterator[None]:
    async with no_leaks():
        yield


Check = Callable[[], bool]
Eventually = Callable[[Check], Awaitable[None]]


@pytest.fixture
def eventually() -> Eventually:
    """Wait for what sends no event to us: processes, another side's clean-up."""

    async def wait(check: Check) -> None:
        async with asyncio.timeout(10 * SCALE):
            while not check():
                await asyncio.sleep(0.01)

    return wait


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The agent's file root."""
    root = tmp_path / "root"
    root.mkdir()
    return root


@pytest_asyncio.fixture
async def pair(root: Path, nothing_left: None) -> AsyncIterator[SessionPair]:
    timing = Timing(hangup=0.3, call=10 * SCALE)
    files = FilesService(root)
    try:
        async with session_pair(ExecService(timing), files, TerminalService(timing), timing=timing) as pair:
            yield pair
    finally:
        files.close()


@pytest_asyncio.fixture
async def agent(pair: SessionPair) -> Agent:
    return Agent(pair.client, name="test", timing=Timing(hangup=0.3, call=10 * SCALE))
