"""Client: ``connect()`` - from a name and a login to a live agent."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from doorstep.client._waiting import Opening
from doorstep.client.agent import Agent
from doorstep.client.attempts import Connector, OnState, Target
from doorstep.client.keeping import Keeper
from doorstep.client.known import Stranger
from doorstep.client.login import signed_in, stored
from doorstep.client.trust import Trust
from doorstep.protocol.ids import SessionId
from doorstep.protocol.signaling import IceServer
from doorstep.protocol.timing import Timing
from doorstep.runtime import Session
from doorstep.transport.certificate import warm_up
from doorstep.transport.credentials import state_dir as default_state_dir
from doorstep.transport.pool import Carry, Opener, WirePool

if TYPE_CHECKING:
    from doorstep.transport.credentials import Credentials

__all__ = ["connect"]


def connect(
    name_or_id: str,
    *,
    credentials: Credentials | None = None,
    on_state: OnState | None = None,
    timing: Timing | None = None,
    ice_servers: Sequence[IceServer] = (),
    state_dir: Path | None = None,
) -> Opening[Agent]:
    """Connect to one of your agents, by ``await`` (close it yourself) or ``async with``.

    ``credentials`` None takes those of ``doorstep login``; ``timing`` None the defaults and
    DOORSTEP_TIMING_*. No STUN or TURN server is contacted unless it is named in ``ice_servers``. ``on_state``
    hears every state. ``state_dir`` holds our key and those of the known agents; None takes the place of the
    credentials, or DOORSTEP_STATE_DIR.

    A connection that is lost later is made again by itself, from ``requesting``, while the session goes on:
    reads and writes wait meanwhile, for at most ``Timing.keep``.

    Ends within ``Timing.total``. Raises :class:`NotSignedIn`, :class:`AgentNotFound`,
    :class:`AgentUnreachable` (offline or not responding, after the retries), :class:`ConnectionRefused`,
    :class:`Unauthorized`, :class:`ConnectFailed`, :class:`SignalingLost`, :class:`PeerNotTrusted`.
    """
    waits = timing if timing is not None else Timing.from_environment(os.environ)
    return Opening(lambda: _connect(name_or_id, credentials, on_state, waits, ice_servers, state_dir))


async def _connect(
    name_or_id: str,
    credentials: Credentials | None,
    on_state: OnState | None,
    timing: Timing,
    ice_servers: Sequence[IceServer],
    state_dir: Path | None,
) -> Agent:
    way = _Way(name_or_id, credentials or stored(), on_state, timing, tuple(ice_servers), state_dir)
    warming = asyncio.create_task(asyncio.to_thread(warm_up), name="doorstep-warm-up")  # while signing in
    try:
        session = await way.go(None)
    finally:
        await asyncio.wait({warming})
    keeper = Keeper(session, way.again, timing)
    keeper.start()
    return Agent(session, name=way.name, timing=timing, keeper=keeper)


class _Way:
    """The way to one agent for one session: gone at first, and again whenever the session has no wire."""

    def __init__(
        self,
        name_or_id: str,
        credentials: Credentials,
        on_state: OnState | None,
        timing: Timing,
        ice_servers: tuple[IceServer, ...],
        state_dir: Path | None,
    ) -> None:
        self.name = ""
        self._agent = name_or_id
        self._session_id = _new_session_id()
        self._credentials = credentials
        self._on_state = on_state
        self._timing = timing
        self._ice_servers = ice_servers
        self._state_dir = state_dir or credentials.directory or default_state_dir()

    async def again(self, session: Session) -> None:
        """Take the session over to another wire."""
        pool = WirePool([Opener("webrtc", lambda carry: self._go(session, carry))], session.carry)
        try:
            await pool.open(anew=True)
        finally:
            await pool.close()

    async def _go(self, session: Session, carry: Carry) -> None:
        await self.go(session, carry)

    async def go(self, session: Session | None, carry: Carry | None = None) -> Session:
        """Sign in, look the agent up and connect; everything but the session is released at the end."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        result: Session | None = None
        try:
            async with signed_in(self._credentials, self._timing) as backend:
                row = await backend.find_agent(self._agent)
                self._agent, self.name = row.id, row.name
                trust = await Trust.open(
                    self._state_dir,
                    Stranger(self._credentials.url.rstrip("/"), row.id, row.name),
                    self._session_id,
                    row.public_key,
                )
                left = max(self._timing.total - (loop.time() - started), self._timing.ping)
                connector = Connector(
                    Target(user_id=backend.user_id, agent_id=row.id, session_id=self._session_id),
                    backend.signaling(),
                    timing=replace(self._timing, total=left),
                    ice_servers=self._ice_servers,
                    on_state=self._on_state,
                    trust=trust,
                    session=session,
                    carry=carry,
                )
                result = await connector.connect()
        except BaseException:
            if session is None and result is not None:
                await result.close()
            raise
        return result


def _new_session_id() -> SessionId:
    return SessionId(secrets.token_urlsafe(16))
