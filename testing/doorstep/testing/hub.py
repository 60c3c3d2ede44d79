"""Testing: a hub to throw away: real, on a free loopback port, its state in a directory of the caller's."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from doorstep.hub import accounts
from doorstep.hub.config import HubConfig, SignInLimits
from doorstep.hub.events import HubEvent
from doorstep.hub.server import HubServer

__all__ = ["CHEAP", "HubUser", "ThrowAwayHub", "throw_away_hub"]

CHEAP = SignInLimits(time_cost=1, memory_cost=8, parallelism=1)
"""Password hashes that cost nothing; never for real use."""


@dataclass(frozen=True, slots=True)
class HubUser:
    """An account of a throw-away hub, signed in once."""

    id: str
    email: str
    password: str
    access_token: str
    refresh_token: str


class ThrowAwayHub:
    """A running hub and shortcuts that the HTTP interface would make slow."""

    def __init__(self, server: HubServer) -> None:
        self.server = server
        self.events: list[HubEvent] = []
        self._numbers = itertools.count(1)

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def anon_key(self) -> str:
        return self.server.anon_key

    @property
    def service_key(self) -> str:
        return self.server.service_key

    async def user(self, email: str | None = None, *, seconds: float | None = None) -> HubUser:
        """Make an account and sign it in; ``seconds`` is the life of its access token."""
        address = email or f"user{next(self._numbers)}@example.test"
        password = secrets.token_urlsafe(12)
        hub = self.server.services
        hashed = await hub.passwords.hash(password)
        user = await hub.store.run(lambda db: accounts.create_user(db, address, hashed))
        session = await hub.store.run(lambda db: accounts.start_session(db, user["id"]))
        token, _, _ = hub.tokens.access_token(user, session.session, seconds=seconds)
        return HubUser(user["id"], address, password, token, session.token)

    async def token(self, user: HubUser, *, seconds: float | None = None) -> str:
        """Another access token for an account, in a session of its own."""
        hub = self.server.services
        session = await hub.store.run(lambda db: accounts.start_session(db, user.id))
        return hub.tokens.access_token(session.user, session.session, seconds=seconds)[0]


@asynccontextmanager
async def throw_away_hub(state_dir: Path, **changes: Any) -> AsyncGenerator[ThrowAwayHub, None]:
    """Run a hub on a free port; ``changes`` are fields of :class:`~doorstep.hub.config.HubConfig`."""
    config = replace(HubConfig(state_dir=state_dir, port=0, sign_in=CHEAP), **changes)
    events: list[HubEvent] = []
    server = HubServer(config, on_event=events.append)
    await server.start()
    hub = ThrowAwayHub(server)
    hub.events = events
    try:
        yield hub
    finally:
        await server.stop()
