"""The broadcast wire over a back end that lies. On virtual time."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any

from doorstep.protocol.errors import (
    ProtocolError,
)
from doorstep.protocol.frames import Data, Ping
from doorstep.protocol.lanes import Lane
from doorstep.testing.bus import MemoryBus
from doorstep.testing.hostile import HostileBus, Said

from .broadcast_pair import (
    TOPIC,
    Inbox,
    close,
    on_virtual_time,
    pair,
)


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
