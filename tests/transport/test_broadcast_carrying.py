"""What the broadcast wire carries, over a bus that loses and falls silent. On virtual time."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from doorstep.protocol.errors import (
    InvalidInput,
    WireClosed,
)
from doorstep.protocol.frames import Data, Ping, Tell
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import (
    BROADCAST_BURST,
    BROADCAST_HIGH_WATER,
    BROADCAST_RATE,
    LANE_LIMIT,
    MAX_FRAME,
)
from doorstep.testing.bus import MemoryBus
from doorstep.testing.hostile import HostileBus

from .broadcast_pair import (
    TIMING,
    TOPIC,
    Inbox,
    bad_weather,
    close,
    now,
    on_virtual_time,
    pair,
)

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
