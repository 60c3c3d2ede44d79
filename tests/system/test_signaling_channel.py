"""System: the signaling channel comes and goes, the session stays; a client of the required fields only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from realtime import AsyncRealtimeChannel, AsyncRealtimeClient

from doorstep.client import connect
from doorstep.protocol.frames import PROTOCOL_VERSION, Hello, Role, Welcome, decode, encode
from doorstep.protocol.ids import SessionId
from doorstep.protocol.lanes import REQUIRED_LANES
from doorstep.testing.hub import HubUser, ThrowAwayHub, throw_away_hub
from doorstep.testing.stack import AgentProgram
from doorstep.transport.credentials import Credentials, save

LINGER = 1.5


class House:
    """A hub in this process, so that its topics can be counted, and an agent in its own."""

    def __init__(self, hub: ThrowAwayHub, user: HubUser, agent: AgentProgram, agent_id: str) -> None:
        self.hub, self.user, self.agent, self.agent_id = hub, user, agent, agent_id
        self.credentials = Credentials(hub.url, hub.anon_key, user.email, user.password)

    @property
    def topics(self) -> set[str]:
        return {topic.name for topic in self.hub.server.services.bus.topics()}

    async def until_topics(self, count: int, within: float) -> None:
        async with asyncio.timeout(within):
            while len(self.topics) != count:
                await asyncio.sleep(0.01)


@pytest_asyncio.fixture
async def house(tmp_path: Path, scale: float) -> AsyncIterator[House]:
    async with throw_away_hub(tmp_path / "hub") as hub:
        user = await hub.user()
        state_dir = tmp_path / "agent"
        save(state_dir, Credentials(hub.url, hub.anon_key, user.email, user.password))
        arguments = ["agent", "--events", "--name", "box", "--state-dir", str(state_dir)]
        environment = {"DOORSTEP_TIMING_SIGNALING_LINGER": str(LINGER), "HOME": str(tmp_path)}
        agent = AgentProgram("box", arguments, environment, tmp_path / "agent.log")
        await agent.start()
        try:
            online = await agent.event("online", within=30 * scale)
            yield House(hub, user, agent, online["agentId"])
        finally:
            await agent.close()


@pytest.mark.asyncio
async def test_the_clean_up_leaves_the_channel_and_never_the_peer(house: House, scale: float) -> None:
    """One channel when idle, two while signaling, one after; the session lives on."""
    assert len(house.topics) == 1
    async with connect("box", credentials=house.credentials) as agent:
        assert len(house.topics) == 2
        await house.until_topics(1, (LINGER + 10) * scale)
        assert (await agent.commands.run("echo alive")).stdout == "alive\n"
        async with agent.terminal(80, 24) as terminal:
            await terminal.write(b"echo $((6 * 7))\n")
            await terminal.expect(r"42", timeout=10 * scale)
    async with connect("box", credentials=house.credentials) as again:  # the topic is joined anew
        assert (await again.commands.run("echo again")).stdout == "again\n"


@pytest.mark.asyncio
async def test_a_knock_for_another_agent_leaves_no_trace(house: House, scale: float) -> None:
    async with plain_realtime(house) as (_, agents_channel, heard):
        other = "00000000-0000-4000-8000-000000000000"
        await knock(agents_channel, {"agentId": other})
        await knock(agents_channel, {"agentId": house.agent_id, "sessionId": "not for long"})  # malformed id
        await knock(agents_channel, {"agentId": house.agent_id})
        ready = await heard("connection-ready", 10 * scale)
        assert ready["agentId"] == house.agent_id
        assert house.topics == {f"user:{house.user.id}:agents", f"agent:{house.agent_id}:signaling"}
        assert len(house.agent.events("knock")) == 1


@pytest.mark.asyncio
async def test_a_plain_client_connects(house: House, scale: float) -> None:
    """Only ``{agentId}`` and ``{sdp}``; its candidates are sent before its offer, and not in it."""
    async with plain_realtime(house) as (realtime, agents_channel, heard):
        await knock(agents_channel, {"agentId": house.agent_id})
        await heard("connection-ready", 10 * scale)
        signaling, signaling_heard = await join(realtime, f"agent:{house.agent_id}:signaling", house)
        peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        try:
            channels = {str(lane): peer.createDataChannel(lane) for lane in REQUIRED_LANES}
            welcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            channels["control"].on("message", lambda data: welcome.done() or welcome.set_result(decode(data)))
            await peer.setLocalDescription(await peer.createOffer())
            sdp, candidates = without_candidates(peer.localDescription.sdp)
            for candidate in candidates:
                await signaling.send_broadcast("candidate", {"candidate": candidate, "sdpMid": "0"})
            await signaling.send_broadcast("offer", {"sdp": sdp})
            answer = await signaling_heard("answer", 10 * scale)
            await peer.setRemoteDescription(RTCSessionDescription(answer["sdp"], "answer"))
            async with asyncio.timeout(20 * scale):
                while channels["control"].readyState != "open":
                    await asyncio.sleep(0.02)
                hello = Hello(PROTOCOL_VERSION, SessionId("plain-client"), Role.CLIENT, [], 65536, {})
                channels["control"].send(encode(hello))
                assert isinstance(await welcome, Welcome)
        finally:
            await peer.close()


def without_candidates(sdp: str) -> tuple[str, list[str]]:
    lines = sdp.splitlines()
    found = [line.removeprefix("a=") for line in lines if line.startswith("a=candidate:")]
    kept = [line for line in lines if not line.startswith(("a=candidate:", "a=end-of-candidates"))]
    assert found, "aiortc put no candidate into its offer"
    return "\r\n".join(kept) + "\r\n", found


async def knock(channel: AsyncRealtimeChannel, payload: dict[str, Any]) -> None:
    await channel.send_broadcast("connection-request", payload)


@asynccontextmanager
async def plain_realtime(
    house: House,
) -> AsyncIterator[tuple[AsyncRealtimeClient, AsyncRealtimeChannel, Any]]:
    """The official client, signed in as the owner, on the owner's channel."""
    realtime = AsyncRealtimeClient(f"{house.hub.url}/realtime/v1", house.hub.anon_key)
    await realtime.connect()
    try:
        await realtime.set_auth(house.user.access_token)
        channel, heard = await join(realtime, f"user:{house.user.id}:agents", house)
        yield realtime, channel, heard
    finally:
        await realtime.close()


async def join(realtime: AsyncRealtimeClient, topic: str, house: House) -> tuple[AsyncRealtimeChannel, Any]:
    messages: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue(100)
    config = {"broadcast": {"ack": False, "self": False}, "presence": {"key": "", "enabled": False}}
    channel = realtime.channel(topic, {"config": {**config, "private": True}})  # type: ignore[typeddict-item]
    for event in ("connection-ready", "connection-refused", "answer", "candidate"):
        channel.on_broadcast(event, lambda told: messages.put_nowait((told["event"], told["payload"])))
    joined: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    await channel.subscribe(lambda state, _: joined.done() or joined.set_result(str(state)))  # type: ignore[arg-type,func-returns-value]
    assert "SUBSCRIBED" in await joined

    async def heard(event: str, within: float) -> dict[str, Any]:
        async with asyncio.timeout(within):
            while True:
                name, payload = await messages.get()
                if name == event:
                    return payload

    return channel, heard
