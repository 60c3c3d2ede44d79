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
from doorstep.client.known import Stranger
from doorstep.client.login import signed_in, stored
from doorstep.client.trust import Trust
from doorstep.protocol.ids import SessionId
from doorstep.protocol.signaling import IceServer
from doorstep.protocol.timing import Timing
from doorstep.runtime import Session
from doorstep.transport.certificate import warm_up
from doorstep.transport.credentials import state_dir as default_state_dir

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
    loop = asyncio.get_running_loop()
    started = loop.time()
    session: Session | None = None
    credentials = credentials or stored()
    warming = asyncio.create_task(asyncio.to_thread(warm_up), name="doorstep-warm-up")  # while signing in
    try:
        async with signed_in(credentials, timing) as backend:
            row = await backend.find_agent(name_or_id)
            session_id = _new_session_id()
            trust = await Trust.open(
                state_dir or credentials.directory or default_state_dir(),
                Stranger(credentials.url.rstrip("/"), row.id, row.name),
                session_id,
                row.public_key,
            )
            left = max(timing.total - (loop.time() - started), timing.ping)
            connector = Connector(
                Target(user_id=backend.user_id, agent_id=row.id, session_id=session_id),
                backend.signaling(),
                timing=replace(timing, total=left),
                ice_servers=ice_servers,
                on_state=on_state,
                trust=trust,
            )
            session = await connector.connect()
    except BaseException:
        if session is not None:
            await session.close()
        raise
    finally:
        await asyncio.wait({warming})
    return Agent(session, name=row.name, timing=timing)


def _new_session_id() -> SessionId:
    return SessionId(secrets.token_urlsafe(16))
