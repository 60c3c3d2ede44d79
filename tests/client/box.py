"""A real agent, online at a real hub."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from doorstep.agent.agent import Agent
from doorstep.agent.exec import ExecService
from doorstep.agent.identity import load_identity
from doorstep.protocol.proof import PrivateKey
from doorstep.transport.backend import Backend
from doorstep.transport.credentials import Credentials


class Box(NamedTuple):
    """An agent that runs commands, and its back end."""

    agent: Agent
    backend: Backend


@asynccontextmanager
async def box_online(
    login: Credentials, directory: Path, *, key: PrivateKey | None = None
) -> AsyncIterator[Box]:
    """An agent called box; its identity is kept in ``directory``."""
    backend = await Backend.sign_in(login)
    agent = Agent(
        identity=load_identity(directory, "box"),
        owner=backend.user_id,
        signaling=backend.signaling(),
        services=(ExecService(),),
        directory=backend,
        key=key,
    )
    await agent.start()
    try:
        yield Box(agent, backend)
    finally:
        await agent.stop("the test is over")
        await backend.close()
