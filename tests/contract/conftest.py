"""The back end under contract: a hub of our own, or the Supabase project that DOORSTEP_CONTRACT_* names.

``DOORSTEP_CONTRACT_URL``, ``_KEY`` (publishable or anon), ``_EMAIL`` and ``_PASSWORD_FILE`` name the project
and an account of it; ``_OTHER_EMAIL`` and ``_OTHER_PASSWORD_FILE`` a second one, for what accounts must not
see of each other. The tests know nothing else of the back end, and leave no row behind.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from doorstep.protocol.ids import AgentId
from doorstep.testing.stack import AgentProgram, stack
from doorstep.transport.backend import Backend
from doorstep.transport.credentials import Credentials, save

RUN = f"contract-{secrets.token_hex(3)}"
"""Begins the name of every agent of this run: a project may have others."""


class BackEnd:
    """One or two accounts of a back end, and agent processes that sign in to it."""

    def __init__(self, directory: Path, scale: float, owner: Credentials, other: Credentials | None) -> None:
        self.directory = directory
        self.scale = scale
        self.owner = owner
        self._other = other

    @property
    def other(self) -> Credentials:
        """The second account; a test that needs it is skipped when none is named."""
        if self._other is None:
            pytest.skip("DOORSTEP_CONTRACT_OTHER_EMAIL and _OTHER_PASSWORD_FILE name no second account")
        return self._other

    @asynccontextmanager
    async def agent(self, name: str) -> AsyncIterator[RunningAgent]:
        """Run an agent of the owner as its own process; its row goes with it."""
        state_dir = self.directory / name
        save(state_dir, self.owner)
        arguments = ["agent", "--events", "--name", f"{RUN}-{name}", "--state-dir", str(state_dir)]
        program = AgentProgram(name, arguments, {}, self.directory / f"{name}.log")
        await program.start()
        try:
            online = await program.event("online", within=30 * self.scale)
            yield RunningAgent(program, AgentId(online["agentId"]), f"{RUN}-{name}")
        finally:
            await program.close()
            async with rest(self.owner) as table:
                (await table.delete("agents", params={"name": f"eq.{RUN}-{name}"})).raise_for_status()


class RunningAgent:
    """An agent process and what it is known by."""

    def __init__(self, program: AgentProgram, identity: AgentId, name: str) -> None:
        self.program, self.id, self.name = program, identity, name


@asynccontextmanager
async def rest(who: Credentials, *, signed_in: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    """Ask PostgREST for the agents table as ``who``, or with the project's key alone."""
    headers = {"apikey": who.key, "Prefer": "return=representation"}
    if signed_in:
        async with await Backend.sign_in(who) as backend:
            headers["Authorization"] = f"Bearer {await backend.access_token()}"
    async with httpx.AsyncClient(base_url=f"{who.url}/rest/v1", headers=headers, timeout=20) as http:
        yield http


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def back_end(tmp_path_factory: pytest.TempPathFactory, scale: float) -> AsyncIterator[BackEnd]:
    directory = tmp_path_factory.mktemp("contract")
    prefix = "DOORSTEP_CONTRACT_"
    named = {
        name.removeprefix(prefix): value for name, value in os.environ.items() if name.startswith(prefix)
    }
    if named.get("URL"):
        second = _account(named, "OTHER_") if named.get("OTHER_EMAIL") else None
        yield BackEnd(directory, scale, _account(named), second)
        return
    async with stack(directory, scale=scale) as running:
        owner, other = await running.user(), await running.user()
        yield BackEnd(directory, scale, owner.credentials, other.credentials)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def agent(back_end: BackEnd) -> AsyncIterator[RunningAgent]:
    """An agent that is online all the time; tests that stop one run their own."""
    async with back_end.agent("box") as running:
        yield running


def _account(named: Mapping[str, str], which: str = "") -> Credentials:
    wanted = ("URL", "KEY", f"{which}EMAIL", f"{which}PASSWORD_FILE")
    missing = [f"DOORSTEP_CONTRACT_{name}" for name in wanted if not named.get(name)]
    if missing:
        pytest.fail(f"{', '.join(missing)} must be set too")
    url, key, email, password_file = (named[name] for name in wanted)
    return Credentials(url, key, email, Path(password_file).read_text().rstrip("\r\n"))
