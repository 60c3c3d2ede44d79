"""What the relay's tests share: a hub's relay with who may use it, and raw sockets to it."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from doorstep.protocol.frame_types import Role
from doorstep.protocol.ids import AgentId, SessionId
from doorstep.protocol.relay import Join, dump
from doorstep.protocol.seal import Prover
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.protocol.trust import TranscriptProofs
from doorstep.testing.hub import HubUser, ThrowAwayHub
from doorstep.transport.relay import RelayWire, open_relay, relay_url

SESSION = SessionId("session-0001")
DEADLINE = 10.0


@dataclass
class House:
    """A hub, the owner of one agent in it, and a stranger with an account."""

    hub: ThrowAwayHub
    owner: HubUser
    stranger: HubUser
    agent: AgentId
    session: SessionId = SESSION
    url: str = field(init=False)

    def __post_init__(self) -> None:
        self.url = relay_url(self.hub.url)

    async def side(
        self,
        role: Role,
        *,
        user: HubUser | None = None,
        session: SessionId | None = None,
        prover: Prover | None = None,
        timing: Timing = DEFAULT_TIMING,
        token: str | None = None,
    ) -> RelayWire:
        """One side's wire, when the other side opens one too."""
        who = user or self.owner

        async def access_token() -> str:
            return token or who.access_token

        return await open_relay(
            self.url,
            role=role,
            session_id=session or self.session,
            agent_id=self.agent,
            token=access_token,
            prover=prover or TranscriptProofs(None),
            timing=timing,
        )

    async def pair(self, *provers: Prover, session: SessionId | None = None) -> tuple[RelayWire, RelayWire]:
        """The client's and the agent's wire."""
        mine, theirs = provers or (None, None)
        return await both(
            self.side(Role.CLIENT, prover=mine, session=session),
            self.side(Role.AGENT, prover=theirs, session=session),
        )

    def join(self, role: Role, /, *, user: HubUser | None = None, **changes: Any) -> str:
        """The text of a join."""
        token = changes.pop("token", (user or self.owner).access_token)
        join = Join(session_id=self.session, agent_id=self.agent, role=role, token=token)
        return json.dumps(json.loads(dump(join)) | changes)

    async def raw(self, role: Role | None = None, **changes: Any) -> ClientConnection:
        """A socket at the relay, joined when a role is given."""
        connection = await connect(self.url, compression=None, ping_interval=None, max_size=None)
        if role is not None:
            await connection.send(self.join(role, **changes))
            assert json.loads(await connection.recv())["event"] == "waiting"
        return connection

    async def raw_pair(self) -> tuple[ClientConnection, ClientConnection]:
        """Two raw sockets that have been told that they are paired."""
        client, agent = await self.raw(Role.CLIENT), await self.raw(Role.AGENT)
        for connection in (client, agent):
            assert json.loads(await connection.recv())["event"] == "paired"
        return client, agent


async def move_in(hub: ThrowAwayHub) -> House:
    """Make the accounts and register the agent."""
    owner, stranger = await hub.user(), await hub.user()
    agent = AgentId(str(uuid.uuid4()))
    headers = {"apikey": hub.anon_key, "Authorization": f"Bearer {owner.access_token}"}
    async with httpx.AsyncClient(base_url=hub.url, headers=headers) as http:
        row = {"id": agent, "owner_id": owner.id, "name": "box"}
        (await http.post("/rest/v1/agents", json=row)).raise_for_status()
    return House(hub, owner, stranger, agent)


async def both(one: Awaitable[RelayWire], other: Awaitable[RelayWire]) -> tuple[RelayWire, RelayWire]:
    """Open two wires at once; when one fails close the other and raise."""
    opened = await asyncio.gather(one, other, return_exceptions=True)
    failed = [result for result in opened if isinstance(result, BaseException)]
    if failed:
        for wire in opened:
            if isinstance(wire, RelayWire):
                await wire.close()
        raise failed[0]
    first, second = (wire for wire in opened if isinstance(wire, RelayWire))
    return first, second


async def closed(connection: ClientConnection) -> tuple[int | None, str | None]:
    """Wait until the relay has closed; return its code and reason."""
    async with asyncio.timeout(DEADLINE):
        try:
            while True:
                await connection.recv()
        except ConnectionClosed:
            pass
    return connection.close_code, connection.close_reason


def relay_memory(house: House) -> int:
    """Bytes the relay holds for its sockets, the kernel's aside."""
    server = house.hub.server._server
    assert server is not None
    held = 0
    for connection in server.server_state.connections:
        held += connection.transport.get_write_buffer_size()
        queue = getattr(connection, "queue", None)
        held += sum(len(item.get("bytes") or b"") for item in getattr(queue, "_queue", ()))
    return held
