"""The broadcast wire over a bus that behaves, one that does not and one that lies. On virtual time."""

from __future__ import annotations

import asyncio
import base64
import random
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import replace
from functools import wraps
from typing import Any

import pytest

from doorstep.protocol.errors import (
    DeadlineExceeded,
    InvalidInput,
    PeerNotTrusted,
    ProtocolError,
    SignalingLost,
    Unauthorized,
    WireClosed,
)
from doorstep.protocol.frame_types import Role
from doorstep.protocol.frames import Data, Frame, Ping, Tell
from doorstep.protocol.ids import AgentId, SessionId, wire_topic
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import (
    BROADCAST_BURST,
    BROADCAST_HIGH_WATER,
    BROADCAST_RATE,
    LANE_LIMIT,
    MAX_FRAME,
)
from doorstep.protocol.proof import PrivateKey
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.protocol.trust import TranscriptProofs
from doorstep.runtime import Session
from doorstep.runtime.session import SessionState
from doorstep.testing.bus import MemoryBus
from doorstep.testing.clock import run_virtual
from doorstep.testing.echo import EchoService
from doorstep.testing.hostile import HostileBus, Said
from doorstep.transport.broadcast import BroadcastWire, open_broadcast

AGENT = AgentId("6f2c1e0a-0b5e-4c7e-9a51-3f1f5f4f9d10")
SESSION = SessionId("session-0001")
TOPIC = wire_topic(AGENT, SESSION)
TIMING = DEFAULT_TIMING


def on_virtual_time(play: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run on a loop of its own; at the end nothing of the wires is left."""

    async def whole() -> None:
        await play()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left

    @wraps(play)
    def test() -> None:
        run_virtual(whole())

    return test


async def side(
    bus: MemoryBus,
    role: Role,
    *,
    user: str = "owner",
    session: SessionId = SESSION,
    proofs: TranscriptProofs | None = None,
    timing: Timing = TIMING,
) -> BroadcastWire:
    return await open_broadcast(
        bus.signaling(user, timing),
        role=role,
        session_id=session,
        agent_id=AGENT,
        prover=proofs or TranscriptProofs(None),
        timing=timing,
    )


async def pair(bus: MemoryBus, **more: Any) -> tuple[BroadcastWire, BroadcastWire]:
    client, agent = await asyncio.gather(*(side(bus, role, **more) for role in Role))
    return client, agent


async def close(*wires: BroadcastWire) -> None:
    await asyncio.gather(*(wire.close() for wire in wires))


class Inbox:
    """What came over a wire."""

    def __init__(self, wire: BroadcastWire) -> None:
        self.frames: list[tuple[Lane, Frame]] = []
        self._news = asyncio.Event()
        wire.start(self._receive)

    def _receive(self, lane: Lane, frame: Frame) -> None:
        self.frames.append((lane, frame))
        self._news.set()

    @property
    def data(self) -> bytes:
        return b"".join(frame.payload for _, frame in self.frames if isinstance(frame, Data))

    async def until(self, count: int) -> None:
        async with asyncio.timeout(600):
            while len(self.frames) < count:
                self._news.clear()
                await self._news.wait()


def now() -> float:
    return asyncio.get_running_loop().time()


# meeting


@pytest.mark.parametrize("first", Role)
@pytest.mark.parametrize("later", [0.0, 0.5, 7.3])
def test_they_meet_whoever_comes_first(first: Role, later: float) -> None:
    @on_virtual_time
    async def play() -> None:
        bus = MemoryBus()
        early = asyncio.create_task(side(bus, first))
        await asyncio.sleep(later)
        start = now()
        wires = await side(bus, next(role for role in Role if role is not first)), await early
        assert now() - start < 0.2
        inboxes = [Inbox(wire) for wire in wires]
        for wire in wires:
            wire.send(Lane.CONTROL, Ping(1))
        for inbox in inboxes:
            await inbox.until(1)
        assert wires[0].kind == "broadcast"
        await close(*wires)
        assert bus.members(TOPIC) == 0

    play()


@on_virtual_time
async def test_nobody_comes() -> None:
    bus = MemoryBus()
    start = now()
    with pytest.raises(DeadlineExceeded, match="broadcast_wait"):
        await side(bus, Role.CLIENT)
    assert now() - start == pytest.approx(TIMING.broadcast_wait, abs=0.5)
    assert bus.members(TOPIC) == 0


@on_virtual_time
async def test_one_who_gives_up_leaves_nothing() -> None:
    bus = MemoryBus()
    opening = asyncio.create_task(side(bus, Role.AGENT))
    await asyncio.sleep(3)
    assert bus.members(TOPIC) == 1
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert bus.members(TOPIC) == 0


@on_virtual_time
async def test_who_may_not_join_is_told_so() -> None:
    bus = MemoryBus()
    bus.allows = lambda user, topic: user == "owner"
    with pytest.raises(Unauthorized):
        await side(bus, Role.CLIENT, user="stranger")


@on_virtual_time
async def test_a_bus_that_is_down() -> None:
    bus = MemoryBus()
    bus.down = True
    with pytest.raises(SignalingLost):
        await side(bus, Role.CLIENT)


@on_virtual_time
async def test_the_handshake_has_a_limit_of_its_own() -> None:
    """The other side says hello and then nothing that makes a greeting."""
    bus = HostileBus()

    async def half(event: str, payload: dict[str, Any]) -> list[Said]:
        if payload["role"] == "agent":
            payload.pop("data", None)
            payload.pop("place", None)
        return [(event, payload)]

    bus.lie = half
    agent = asyncio.create_task(side(bus, Role.AGENT))
    with pytest.raises((DeadlineExceeded, WireClosed), match=r"broadcast_open|answer|says"):
        await side(bus, Role.CLIENT)
    with pytest.raises((DeadlineExceeded, WireClosed)):
        await agent
    await bus.close()


@on_virtual_time
async def test_the_agents_key_is_proved() -> None:
    bus = MemoryBus()
    key, mine = (PrivateKey(secrets.token_bytes(32)) for _ in range(2))
    ours, theirs = TranscriptProofs(mine, expected=key.public), TranscriptProofs(key, required=True)
    client, agent = await asyncio.gather(
        side(bus, Role.CLIENT, proofs=ours), side(bus, Role.AGENT, proofs=theirs)
    )
    assert theirs.shown == mine.public
    await close(client, agent)


@pytest.mark.parametrize("shown", [True, False], ids=["another key", "no key"])
def test_another_agent_is_not_trusted(shown: bool) -> None:
    @on_virtual_time
    async def play() -> None:
        bus = MemoryBus()
        ours = TranscriptProofs(None, expected=PrivateKey(secrets.token_bytes(32)).public)
        theirs = TranscriptProofs(PrivateKey(secrets.token_bytes(32)) if shown else None)
        results = await asyncio.gather(
            side(bus, Role.CLIENT, proofs=ours),
            side(bus, Role.AGENT, proofs=theirs),
            return_exceptions=True,
        )
        assert isinstance(results[0], PeerNotTrusted)
        if isinstance(results[1], BroadcastWire):
            assert "the peer says" in await results[1].wait_closed()

    play()


@on_virtual_time
async def test_several_sessions_and_an_old_wire_beside_a_new_one() -> None:
    bus = MemoryBus()
    old = await pair(bus)
    new = await pair(bus)
    other = await pair(bus, session=SessionId("session-0002"))
    for number, (client, agent) in enumerate((old, new, other)):
        inbox = Inbox(agent)
        client.send(Lane.CONTROL, Ping(number))
        await inbox.until(1)
        assert inbox.frames == [(Lane.CONTROL, Ping(number))]
    await close(*old)
    inbox = Inbox(new[0])
    new[1].send(Lane.CONTROL, Ping(9))
    await inbox.until(1)
    await close(*new, *other)


# carrying


@on_virtual_time
async def test_an_echo_takes_less_than_150_ms_and_frames_of_one_moment_share_a_message() -> None:
    bus = MemoryBus()
    bus.arrivals = lambda: (0.03,)
    client, agent = await pair(bus)
    inbox = Inbox(client)
    agent.start(agent.send)
    for number in range(30):
        start, before = now(), client.stats()["chunksOut"]
        for piece in range(5):
            client.send(Lane.TERMINAL_IO, Data(1, 5 * number + piece, b"k"))
        await inbox.until(5 * number + 5)
        assert now() - start < 0.15
        assert client.stats()["chunksOut"] == before + 1  # type: ignore[operator]
        await asyncio.sleep(0.3)
    await close(client, agent)


@on_virtual_time
async def test_a_flood_is_whole_and_paced() -> None:
    bus = HostileBus()
    client, agent = await pair(bus)
    inbox = Inbox(client)
    content = random.Random(1).randbytes(500_000)
    start, said = now(), len(bus.said)
    for at in range(0, len(content), 16_000):
        await agent.drained(Lane.TERMINAL_IO)
        assert agent.buffered(Lane.TERMINAL_IO) <= BROADCAST_HIGH_WATER
        agent.send(Lane.TERMINAL_IO, Data(1, at, content[at : at + 16_000]))
    await inbox.until(len(range(0, len(content), 16_000)))
    assert inbox.data == content
    seconds = now() - start
    assert seconds < 500_000 / (8192 * BROADCAST_RATE) + 1
    of_agent = sum(payload["role"] == "agent" for _, payload in bus.said[said:])
    assert of_agent <= seconds * BROADCAST_RATE + BROADCAST_BURST
    assert len(bus.said) - said < 1.6 * of_agent
    await close(client, agent)


def bad_weather(seed: int, loss: float) -> Callable[[], Iterator[float]]:
    """Some are lost, some come twice, all come late and out of order."""
    chance = random.Random(seed)

    def arrivals() -> Iterator[float]:
        if chance.random() >= loss:
            yield chance.uniform(0.01, 0.4)
            if chance.random() < 0.2:
                yield chance.uniform(0.01, 1.0)

    return arrivals


@pytest.mark.parametrize("seed", range(6))
def test_lost_doubled_and_reordered_broadcasts_lose_nothing(seed: int) -> None:
    @on_virtual_time
    async def play() -> None:
        bus = MemoryBus()
        bus.arrivals = bad_weather(seed, 0.15)
        client, agent = await pair(bus)
        inboxes = Inbox(client), Inbox(agent)
        chance = random.Random(seed)
        sent = [b"", b""]
        for _ in range(40):
            for number, wire in enumerate((agent, client)):
                data = chance.randbytes(chance.randrange(1, 3000))
                wire.send(Lane.TERMINAL_IO, Data(1, len(sent[number]), data))
                sent[number] += data
            await asyncio.sleep(chance.uniform(0, 0.3))
        for number, inbox in enumerate(inboxes):
            await inbox.until(40)
            assert inbox.data == sent[number]
        assert client.stats()["chunksResent"] + agent.stats()["chunksResent"] > 0  # type: ignore[operator]
        await close(client, agent)

    play()


@on_virtual_time
async def test_urgent_frames_overtake_and_the_largest_frame_goes() -> None:
    bus = MemoryBus()
    client, agent = await pair(bus)
    inbox = Inbox(agent)
    big = Data(1, 0, bytes(MAX_FRAME - 32))
    client.send(Lane.TERMINAL_IO, Data(3, 0, b"first"))
    client.send(Lane.TERMINAL_IO, big)
    client.send(Lane.CONTROL, Ping(1))
    await inbox.until(3)
    assert [lane for lane, _ in inbox.frames] == [Lane.CONTROL, Lane.TERMINAL_IO, Lane.TERMINAL_IO]
    assert inbox.frames[2][1] == big
    with pytest.raises(InvalidInput, match="frame"):
        client.send(Lane.TERMINAL_IO, Data(1, 0, bytes(MAX_FRAME)))
    await close(client, agent)


@pytest.mark.parametrize("lane", [Lane.BROWSER_STREAM, Lane.FILE_TRANSFER])
def test_bulk_lanes_are_not_carried(lane: Lane) -> None:
    @on_virtual_time
    async def play() -> None:
        bus = MemoryBus()
        client, agent = await pair(bus)
        assert lane not in client.traits.lanes
        with pytest.raises(InvalidInput, match="is not carried"):
            client.send(lane, Data(1, 0, b"x"))
        assert client.buffered(lane) == 0
        await client.drained(lane)
        agent.start(lambda lane, frame: None)
        sealed = iter([client._channel.seal(lane, b"x")])
        client._link.source = lambda: next(sealed, None)
        client._link.offer()
        assert f"a frame on lane {lane}" in await agent.wait_closed()
        await close(client, agent)

    play()


# faults


@pytest.mark.parametrize("fault", ["channel", "socket"])
def test_the_channel_goes_and_comes_and_the_wire_stays(fault: str) -> None:
    @on_virtual_time
    async def play() -> None:
        bus = MemoryBus()
        timing = replace(TIMING, reconnect_first=0.2, reconnect_cap=0.5)
        client, agent = await pair(bus, timing=timing)
        inbox, sent = Inbox(client), b""
        for number in range(60):
            data = b"%06d\n" % number * 50
            agent.send(Lane.TERMINAL_IO, Data(1, len(sent), data))
            sent += data
            await asyncio.sleep(0.1)
            if number in (10, 20, 40):
                if fault == "channel":
                    bus.close_channel(TOPIC)
                else:
                    bus.drop()
        await inbox.until(60)
        assert inbox.data == sent
        assert agent.stats()["losses"] == client.stats()["losses"] == 3
        await close(client, agent)

    play()


@on_virtual_time
async def test_after_a_loss_of_the_channel_less_is_said() -> None:
    """Too many messages close the channel of a real server: it is not hammered."""
    bus = HostileBus()
    client, agent = await pair(bus, timing=replace(TIMING, reconnect_first=0.01, reconnect_cap=0.02))
    inbox = Inbox(client)
    bus.close_channel(TOPIC)
    await asyncio.sleep(1)
    for number in range(60):
        agent.send(Lane.TERMINAL_IO, Data(1, number * 8000, bytes(8000)))
    said, start = len(bus.said), now()
    await inbox.until(60)
    of_agent = sum(payload["role"] == "agent" for _, payload in bus.said[said:])
    assert of_agent <= (now() - start) * BROADCAST_RATE / 2 + BROADCAST_BURST
    await close(client, agent)


@on_virtual_time
async def test_a_peer_that_vanishes_is_noticed_by_who_has_something_to_say() -> None:
    bus = MemoryBus()
    client, agent = await pair(bus)
    bus.arrivals = lambda: ()
    start = now()
    client.send(Lane.CONTROL, Ping(1))
    assert await client.wait_closed() == "the peer does not answer any more"
    assert 5 < now() - start < 30
    with pytest.raises(WireClosed, match="does not answer"):
        client.send(Lane.CONTROL, Ping(1))
    with pytest.raises(WireClosed, match="does not answer"):
        await client.drained(Lane.CONTROL)
    await close(client, agent)


@on_virtual_time
async def test_the_end_is_told_after_everything_before_it() -> None:
    bus = MemoryBus()
    bus.arrivals = lambda: (0.05,)
    client, agent = await pair(bus)
    inbox = Inbox(agent)
    client.send(Lane.CONTROL, Tell("a.b", b"{}"))
    await asyncio.gather(client.close("enough"), client.close("again"))
    assert await client.wait_closed() == "enough"
    assert await agent.wait_closed() == "the peer says: the connection was closed"
    assert inbox.frames == [(Lane.CONTROL, Tell("a.b", b"{}"))]
    assert client.stats()["state"] == agent.stats()["state"] == "closed"
    await close(agent, client)


@on_virtual_time
async def test_closing_without_a_peer_does_not_last() -> None:
    bus = MemoryBus()
    client, agent = await pair(bus)
    bus.arrivals = lambda: ()
    client.send(Lane.CONTROL, Ping(1))
    start = now()
    await client.close()
    assert now() - start < 1
    await agent.close()


@pytest.mark.parametrize("cancelled_after", [0.1, 0.6])
def test_a_close_that_is_cancelled_closes_nevertheless(cancelled_after: float) -> None:
    """In the wait for the last acknowledgements, and in the goodbye."""

    @on_virtual_time
    async def play() -> None:
        bus = MemoryBus()
        client, agent = await pair(bus)
        bus.arrivals = lambda: ()
        client.send(Lane.CONTROL, Ping(1))
        closing = asyncio.create_task(client.close("enough"))
        await asyncio.sleep(cancelled_after)
        closing.cancel()
        assert await client.wait_closed() == "enough"
        await agent.close()
        assert bus.members(TOPIC) == 0

    play()


@on_virtual_time
async def test_who_does_not_drain_ends_his_wire() -> None:
    bus = MemoryBus()
    client, agent = await pair(bus)
    with pytest.raises(WireClosed, match="MiB wait on the lane terminal-io"):
        for number in range(LANE_LIMIT // 16_000 + 1):
            client.send(Lane.TERMINAL_IO, Data(1, number * 16_000, bytes(16_000)))
    assert "MiB wait" in await client.wait_closed()
    await agent.wait_closed()


@on_virtual_time
async def test_writers_wait_and_wake() -> None:
    bus = MemoryBus()
    client, agent = await pair(bus)
    agent.start(lambda lane, frame: None)
    client.send(Lane.CONTROL, Data(1, 0, bytes(2 * BROADCAST_HIGH_WATER)))
    waiting = [asyncio.create_task(client.drained(lane)) for lane in (Lane.CONTROL, Lane.TERMINAL_IO)]
    cancelled = asyncio.create_task(client.drained(Lane.CONTROL))
    await asyncio.sleep(0)
    cancelled.cancel()
    assert not any(task.done() for task in waiting)
    await asyncio.gather(*waiting)
    client.send(Lane.CONTROL, Data(1, 0, bytes(2 * BROADCAST_HIGH_WATER)))
    last = asyncio.create_task(client.drained(Lane.TERMINAL_IO))
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(WireClosed):
        await last
    await agent.close()


# a back end that lies


async def lied_to(lie: Callable[[str, dict[str, Any]], Awaitable[list[Said]]]) -> str:
    """What ends the agent's wire."""
    bus = HostileBus()
    client, agent = await pair(bus)
    agent.start(lambda lane, frame: None)
    client.send(Lane.CONTROL, Ping(1))
    await asyncio.sleep(1)
    bus.lie = lie
    client.send(Lane.CONTROL, Ping(2))
    try:
        async with asyncio.timeout(60):
            return await agent.wait_closed()
    finally:
        await close(client, agent)
        await bus.close()


@on_virtual_time
async def test_it_can_neither_read_nor_change() -> None:
    async def changed(event: str, payload: dict[str, Any]) -> list[Said]:
        if "data" in payload:
            data = bytearray(base64.b64decode(payload["data"]))
            data[-1] ^= 1
            payload["data"] = base64.b64encode(data).decode()
        return [(event, payload)]

    assert "was changed, repeated or left out" in await lied_to(changed)
    bus = HostileBus()
    client, agent = await pair(bus)
    inbox = Inbox(agent)
    client.send(Lane.TERMINAL_IO, Data(1, 0, b"a secret word"))
    await inbox.until(1)
    said = b"".join(base64.b64decode(payload.get("data", "")) for _, payload in bus.said)
    assert b"secret" not in said
    await close(client, agent)


@on_virtual_time
async def test_what_it_invents_ends_the_wire_or_is_dropped() -> None:
    async def beyond(event: str, payload: dict[str, Any]) -> list[Said]:
        return [(event, {**payload, "place": 10_000, "data": "AAAA"})]

    async def never_sent(event: str, payload: dict[str, Any]) -> list[Said]:
        return [(event, {**payload, "received": 10_000})]

    async def large(event: str, payload: dict[str, Any]) -> list[Said]:
        return [(event, {**payload, "data": "/////w=="} if "data" in payload else payload)]

    async def bye(event: str, payload: dict[str, Any]) -> list[Said]:
        return [(event, {**payload, "bye": "I am the back end"})]

    async def elsewhere(event: str, payload: dict[str, Any]) -> list[Said]:
        return [(event, {**payload, "to": "somebody-else"})]

    assert "beyond the window" in await lied_to(beyond)
    assert "never sent" in await lied_to(never_sent)
    assert "a record of" in await lied_to(large)
    assert await lied_to(bye) == "the peer says: I am the back end"
    assert "another connection" in await lied_to(elsewhere)


@on_virtual_time
async def test_nonsense_of_others_is_dropped() -> None:
    bus = HostileBus()
    client, agent = await pair(bus)
    inbox = Inbox(agent)
    nonsense: tuple[dict[str, Any], ...] = (
        {},
        {"role": "client", "from": "stranger-1", "number": 1, "place": 0, "data": "AAAA"},
    )
    for payload in nonsense:
        bus.say(TOPIC, ("wire", payload))
    bus.say(TOPIC, ("offer", {"sdp": "x"}))
    client.send(Lane.CONTROL, Ping(1))
    await inbox.until(1)
    assert inbox.frames == [(Lane.CONTROL, Ping(1))]
    await close(client, agent)


@on_virtual_time
async def test_counts_of_bulk_have_no_place_here() -> None:
    bus = MemoryBus()
    client, agent = await pair(bus)
    agent.start(lambda lane, frame: None)
    client._outbox.append(client._channel.seal_count(1))
    client._link.offer()
    assert "a count of bulk" in await agent.wait_closed()
    await close(client)


@on_virtual_time
async def test_a_fault_of_ours_ends_the_wire_only() -> None:
    bus = MemoryBus()
    client, agent = await pair(bus)

    def broken() -> bytes:
        raise ProtocolError("this key has sealed its last frame")

    client._link.source = broken
    client._link.offer()
    assert "its last frame" in await client.wait_closed()
    await agent.close()


# sessions


@pytest.mark.parametrize("seed", range(3))
def test_a_session_over_bad_weather(seed: int) -> None:
    @on_virtual_time
    async def play() -> None:
        bus = MemoryBus()
        bus.arrivals = bad_weather(seed, 0.1)
        wires = await pair(bus)
        client = Session(role=Role.CLIENT, session_id=SESSION)
        echo = EchoService()
        agent = Session(role=Role.AGENT, session_id=SESSION, services={echo.name: echo})
        await asyncio.gather(client.start(wires[0]), agent.start(wires[1]))
        stream = await client.open("echo", "back", lane=Lane.TERMINAL_IO, timeout=60)
        content = random.Random(seed).randbytes(150_000)

        async def write() -> None:
            await stream.write(content)
            await stream.finish()

        writing = asyncio.create_task(write())
        received = b"".join([chunk async for chunk in stream])
        await writing
        assert received == content
        assert await client.call("echo.say", {"n": 1}, timeout=60) == {"n": 1}
        await client.close()
        await agent.close()

    play()


@on_virtual_time
async def test_an_idle_session_costs_little_and_lives() -> None:
    bus = HostileBus()
    wires = await pair(bus)
    client, agent = (Session(role=role, session_id=SESSION) for role in Role)
    await asyncio.gather(client.start(wires[0]), agent.start(wires[1]))
    await asyncio.sleep(5)
    before = len(bus.said)
    await asyncio.sleep(600)
    assert client.state is agent.state is SessionState.OPEN
    assert len(bus.said) - before <= 600 * 0.35
    await client.close()
    await agent.close()
