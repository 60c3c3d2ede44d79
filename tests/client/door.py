"""An agent's door for the client's tests: real peer and session; only its manners are chosen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from doorstep.protocol.ids import AgentId, SessionId, UserId, agents_topic, signaling_topic
from doorstep.protocol.signaling import Answer, ConnectionReady, ConnectionRefused, Message, dump, parse
from doorstep.protocol.timing import Timing
from doorstep.runtime import Role, Session
from doorstep.runtime.tasks import TaskOwner
from doorstep.testing.bus import MemoryBus
from doorstep.transport.signaling import Channel, ChannelSpec
from doorstep.transport.webrtc import Peer

USER = UserId("11111111-1111-4111-8111-111111111111")
AGENT = AgentId("22222222-2222-4222-8222-222222222222")


class Door:
    """Joins both channels and answers knocks, as well-mannered as ``manner`` says."""

    def __init__(self, timing: Timing, manner: str) -> None:
        self.manner = manner
        self.heard: list[Message] = []
        self.sessions: list[Session] = []
        self._timing = timing
        self._peers: list[Peer] = []
        self._tasks = TaskOwner()
        self._agents: Channel
        self._signaling: Channel

    @asynccontextmanager
    async def open(self, bus: MemoryBus) -> AsyncIterator[Door]:
        signaling = bus.signaling("agent")
        self._agents = await signaling.join(_spec(agents_topic(USER), self._on_message), timeout=5)
        self._signaling = await signaling.join(_spec(signaling_topic(AGENT), self._on_message), timeout=5)
        try:
            yield self
        finally:
            self._tasks.cancel()
            await self._tasks.ended(1)
            for session in self.sessions:
                await session.close()
            for peer in self._peers:
                await peer.close()
            await signaling.close()

    def _on_message(self, event: str, payload: dict[str, Any]) -> None:
        message = parse(event, payload)
        self.heard.append(message)
        handler = getattr(self, "_on_" + event.replace("-", "_"), None)
        if handler is not None:
            self._tasks.spawn(handler(message), f"door {event}")

    async def _on_connection_request(self, request: Any) -> None:
        if self.manner == "silent" or (self.manner == "silent once" and len(self.heard) == 1):
            return
        if self.manner == "refuse":
            refusal = ConnectionRefused(
                agent_id=AGENT, session_id=request.session_id, code="busy", message="no room"
            )
            await self._agents.send(*dump(refusal))
            return
        answer = None
        if request.offer is not None and self.manner == "express":
            answer = await self._answer(request.offer, request.session_id)
        ready = ConnectionReady(agent_id=AGENT, session_id=request.session_id, answer=answer)
        await self._agents.send(*dump(ready))

    async def _on_offer(self, offer: Any) -> None:
        if self.manner == "no answer":
            return
        sdp = (
            "v=0 nonsense" if self.manner == "bad answer" else await self._answer(offer.sdp, offer.session_id)
        )
        await self._signaling.send(*dump(Answer(sdp=sdp, session_id=offer.session_id)))

    async def _answer(self, sdp: str, session_id: SessionId | None) -> str:
        peer = Peer((), timing=self._timing)
        self._peers.append(peer)
        answer = await peer.accept_offer(sdp)
        if self.manner == "deaf":
            await peer.close()
        else:
            self._tasks.spawn(self._serve(peer, session_id), "door serve")
        return answer

    async def _serve(self, peer: Peer, session_id: SessionId | None) -> None:
        wire = await peer.wire()
        about = {"name": "door", "platform": "test", "version": "0"}
        session = Session(role=Role.AGENT, session_id=session_id or SessionId("anonymous"), about=about)
        self.sessions.append(session)
        await session.start(wire)


def _spec(topic: str, on_message: Any) -> ChannelSpec:
    return ChannelSpec(topic=topic, on_message=on_message)
