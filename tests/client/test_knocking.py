"""The nonce of a knock counts from the moment it is decided on, whenever its message goes out."""

from __future__ import annotations

from pathlib import Path

import pytest

from doorstep.client.attempts import Connector, Target
from doorstep.client.known import Stranger
from doorstep.client.trust import Trust
from doorstep.protocol.ids import SessionId
from doorstep.protocol.proof import PrivateKey
from doorstep.protocol.signaling import ConnectionReady, ConnectionRequest
from doorstep.protocol.trust import AgentProofs
from doorstep.testing.bus import MemoryBus

from .door import AGENT, USER

SESSION = SessionId("s" * 22)


@pytest.mark.asyncio
async def test_a_ready_that_comes_while_the_next_knock_is_being_sent_is_late(tmp_path: Path) -> None:
    """Two knocks soon after each other: without an offer, and with it."""
    trust = await Trust.open(tmp_path, Stranger("", AGENT, "box"), SESSION, None)
    bus = MemoryBus()
    signaling = bus.signaling("client")
    target = Target(user_id=USER, agent_id=AGENT, session_id=SESSION)
    connector = Connector(target, signaling, trust=trust)
    request = ConnectionRequest(agent_id=AGENT, session_id=SESSION)
    agent = AgentProofs(PrivateKey(bytes([7] * 32)), AGENT, SESSION, lambda count: bytes([9] * count))
    agent.request(trust.request(request))
    ready = agent.ready(ConnectionReady(agent_id=AGENT, session_id=SESSION))
    assert not trust.is_late(ready.proof)
    connector._send(connector._agents, request, None, 1)
    assert trust.is_late(ready.proof)
    await connector._release()
    await signaling.close()
