"""A ready that comes late: an agent that slept through our knocks answers all of them at once."""

from __future__ import annotations

from doorstep.protocol.ids import AgentId, SessionId
from doorstep.protocol.proof import PrivateKey
from doorstep.protocol.signaling import ConnectionReady, ConnectionRequest
from doorstep.protocol.trust import AgentProofs, ClientProofs

AGENT = AgentId("01234567-89ab-4cde-8f01-23456789abcd")
SESSION = SessionId("session-1")
CLIENT_KEY, AGENT_KEY = PrivateKey(bytes([1] * 32)), PrivateKey(bytes([2] * 32))


def test_a_ready_for_an_earlier_knock_is_known_as_such_and_a_forged_one_is_not() -> None:
    knock = ConnectionRequest(agent_id=AGENT, session_id=SESSION)
    bytes_of = iter(range(1, 256))
    client = ClientProofs(CLIENT_KEY, AGENT, SESSION, lambda count: bytes([next(bytes_of)]) * count)
    agent = AgentProofs(AGENT_KEY, AGENT, SESSION, lambda count: bytes(count))
    said: list[dict[str, str] | None] = []
    for _ in range(20):
        agent.request(client.request(knock))
        said.append(agent.ready(ConnectionReady(agent_id=AGENT, session_id=SESSION)).proof)
    *earlier, present = said
    assert not client.is_late(present)
    assert [client.is_late(proof) for proof in earlier[-16:]] == [True] * 16
    assert not client.is_late(earlier[0])  # so old that it is forgotten
    assert not client.is_late(None)
    assert not client.is_late({"key": "nonsense"})
    assert not client.is_late(client.request(knock).proof)
