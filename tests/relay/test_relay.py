"""The relay itself: who is let in, what is forwarded, and every limit."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import pytest
from websockets.asyncio.client import connect

from doorstep.protocol.frame_types import Role
from doorstep.protocol.relay import End, NewToken, dump
from doorstep.protocol.seal import OVERHEAD
from doorstep.protocol.trust import TranscriptProofs

from .conftest import Open
from .support import DEADLINE, House, closed, relay_memory

pytestmark = pytest.mark.asyncio


async def test_messages_go_through_as_they_are(house: House) -> None:
    client, agent = await house.raw_pair()
    for size in (0, 1, 1000, 70_000, 256 * 1024 + OVERHEAD):
        data = os.urandom(size)
        for sender, receiver in ((client, agent), (agent, client)):
            await sender.send(data)
            assert await receiver.recv() == data
    await client.close()
    assert await closed(agent) == (End.PEER_LEFT, "the other side has left")


async def test_what_was_sent_before_leaving_arrives(house: House) -> None:
    client, agent = await house.raw_pair()
    for number in range(200):
        await client.send(bytes((number,)))
    await client.close()
    assert [await agent.recv() for _ in range(200)] == [bytes((number,)) for number in range(200)]
    assert (await closed(agent))[0] == End.PEER_LEFT


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        ({"token": "nonsense"}, End.UNAUTHORIZED),
        ({"token": "a.b.c"}, End.UNAUTHORIZED),
        ({"role": "relay"}, End.INVALID),
        ({"sessionId": "short"}, End.INVALID),
        ({"agentId": "box"}, End.INVALID),
        ({"agentId": "00000000-0000-4000-8000-000000000000"}, End.FORBIDDEN),
        ({"event": "token"}, End.INVALID),
        ({"event": "knock"}, End.INVALID),
    ],
)
async def test_joins_that_are_refused(house: House, changes: dict[str, Any], end: End) -> None:
    connection = await connect(house.url)
    await connection.send(house.join(Role.CLIENT, **changes))
    assert (await closed(connection))[0] == end


async def test_a_stranger_does_not_meet_the_owner(house: House) -> None:
    agent = await house.raw(Role.AGENT)
    stranger = await connect(house.url)
    await stranger.send(house.join(Role.CLIENT, user=house.stranger))
    assert await closed(stranger) == (End.FORBIDDEN, "this agent is not yours")
    anonymous = await connect(house.url)
    await anonymous.send(house.join(Role.CLIENT, token=house.hub.anon_key))
    assert (await closed(anonymous))[0] == End.FORBIDDEN
    client = await house.raw(Role.CLIENT)
    assert json.loads(await agent.recv())["event"] == "paired"
    await client.close()
    await agent.close()


async def test_the_token_is_not_taken_from_the_url(house: House) -> None:
    connection = await connect(f"{house.url}?token={house.owner.access_token}")
    join = json.loads(house.join(Role.CLIENT))
    del join["token"]
    await connection.send(json.dumps(join))
    assert (await closed(connection))[0] == End.INVALID


async def test_an_expired_token_is_refused(house: House) -> None:
    connection = await connect(house.url)
    await connection.send(house.join(Role.CLIENT, token=await house.hub.token(house.owner, seconds=-1)))
    assert (await closed(connection))[0] == End.UNAUTHORIZED


@pytest.mark.parametrize("first", [b"bytes", "", "{", '{"event":"paired","tokenSeconds":1,"maxMessage":1}'])
async def test_first_messages_that_are_no_join(house: House, first: bytes | str) -> None:
    connection = await connect(house.url)
    await connection.send(first)
    assert (await closed(connection))[0] == End.INVALID


async def test_bytes_before_the_pairing_end_the_socket(house: House) -> None:
    connection = await house.raw(Role.CLIENT)
    await connection.send(b"too early")
    assert (await closed(connection))[0] == End.INVALID


@pytest.mark.parametrize("text", ["", "hello", '{"event":"waiting","seconds":1}'])
async def test_text_in_a_pairing_ends_it(house: House, text: str) -> None:
    client, agent = await house.raw_pair()
    await client.send(text)
    assert (await closed(client))[0] == (await closed(agent))[0] == End.INVALID


async def test_a_message_that_is_too_large(house: House) -> None:
    client, agent = await house.raw_pair()
    await client.send(bytes(256 * 1024 + OVERHEAD + 1))
    assert (await closed(client))[0] == 1009
    assert (await closed(agent))[0] == End.PEER_LEFT


async def test_a_newer_token_is_taken_and_another_users_is_not(house: House) -> None:
    client, agent = await house.raw_pair()
    await client.send(dump(NewToken(token=await house.hub.token(house.owner))))
    assert json.loads(await client.recv())["event"] == "renewed"
    await client.send(dump(NewToken(token=house.stranger.access_token)))
    assert (await closed(client))[0] == (await closed(agent))[0] == End.FORBIDDEN
    client, agent = await house.raw_pair()
    await client.send(dump(NewToken(token="nonsense")))
    assert (await closed(client))[0] == (await closed(agent))[0] == End.UNAUTHORIZED


async def test_a_token_that_ends_ends_the_pairing(limited: Open) -> None:
    house = await limited(grace=0.0)
    token = await house.hub.token(house.owner, seconds=2)
    client = await house.raw(Role.CLIENT, token=token)
    agent = await house.raw(Role.AGENT)
    assert (await closed(client)) == (End.UNAUTHORIZED, "the token has expired")
    assert (await closed(agent))[0] == End.UNAUTHORIZED


async def test_the_wire_brings_newer_tokens(limited: Open) -> None:
    house = await limited(grace=0.0)
    tokens = [await house.hub.token(house.owner, seconds=2), await house.hub.token(house.owner, seconds=60)]
    asked = asyncio.Event()

    async def token() -> str:
        if len(tokens) == 1:
            asked.set()
            return tokens[0]
        return tokens.pop(0)

    from doorstep.transport.relay import open_relay

    opening = asyncio.create_task(house.side(Role.AGENT))
    client = await open_relay(
        house.url,
        role=Role.CLIENT,
        session_id=house.session,
        agent_id=house.agent,
        token=token,
        prover=TranscriptProofs(None),
    )
    agent = await opening
    for wire in (client, agent):
        wire.start(lambda *_: None)
    async with asyncio.timeout(DEADLINE):
        await asked.wait()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.5):
            await client.wait_closed()
    await client.close()
    await agent.close()


async def test_who_says_nothing_goes(limited: Open) -> None:
    house = await limited(join=0.2)
    assert await closed(await house.raw()) == (End.TIMEOUT, "nothing was said")


async def test_who_waits_in_vain_goes(limited: Open) -> None:
    house = await limited(wait=0.2)
    assert await closed(await house.raw(Role.AGENT)) == (End.TIMEOUT, "the other side did not come")


async def test_an_idle_pairing_ends(limited: Open) -> None:
    house = await limited(idle=0.4)
    client, agent = await house.raw_pair()
    for _ in range(4):
        await asyncio.sleep(0.2)
        await client.send(b"still here")
        await agent.recv()
    assert (await closed(client)) == (await closed(agent)) == (End.TIMEOUT, "nothing was said for too long")


async def test_bytes_are_a_quota(limited: Open) -> None:
    house = await limited(pairing_bytes=1000)
    client, agent = await house.raw_pair()
    await client.send(bytes(500))
    await agent.send(bytes(500))
    assert len(await agent.recv()) == len(await client.recv()) == 500
    await client.send(b"x")
    assert (await closed(client))[0] == (await closed(agent))[0] == End.QUOTA


async def test_time_is_a_quota(limited: Open) -> None:
    house = await limited(pairing_seconds=0.3)
    client, agent = await house.raw_pair()
    assert (await closed(client)) == (await closed(agent)) == (End.QUOTA, "this pairing has used up its time")


async def test_a_reader_that_takes_nothing_is_dropped(limited: Open) -> None:
    house = await limited(stall=0.3)
    client = await house.raw(Role.CLIENT)
    agent = await connect(house.url, max_queue=1, compression=None, ping_interval=None)
    await agent.send(house.join(Role.AGENT))
    assert json.loads(await client.recv())["event"] == "paired"

    async def pour() -> None:
        while True:
            await client.send(bytes(200_000))

    pouring = asyncio.create_task(pour())
    assert (await closed(client)) == (End.PEER_LEFT, "the other side has left")
    await asyncio.wait({pouring})
    assert pouring.exception() is not None
    agent.transport.abort()
    await agent.wait_closed()


async def test_a_slow_reader_stops_the_writer_and_loses_nothing(house: House) -> None:
    client, agent = await house.raw_pair()
    sent = 0

    async def pour() -> None:
        nonlocal sent
        while True:
            await client.send(sent.to_bytes(8, "big") + bytes(200_000))
            sent += 1

    pouring = asyncio.create_task(pour())
    before = -1
    while before != sent:  # until nothing moves any more
        before = sent
        await asyncio.wait({pouring}, timeout=0.3)
    assert relay_memory(house) < 2 * 2**20
    for number in range(before):
        data = await agent.recv()
        assert isinstance(data, bytes)
        assert int.from_bytes(data[:8], "big") == number
    pouring.cancel()
    await asyncio.wait({pouring})
    client.transport.abort()
    await closed(agent)
    await client.wait_closed()


async def test_sockets_are_bounded(limited: Open) -> None:
    house = await limited(sockets_per_user=2)
    client, agent = await house.raw_pair()
    third = await connect(house.url)
    await third.send(house.join(Role.CLIENT))
    assert await closed(third) == (End.BUSY, "you have too many relay sockets")
    await client.close()
    await closed(agent)
    await asyncio.gather(*(one.close() for one in await house.raw_pair()))


async def test_all_sockets_are_bounded(limited: Open) -> None:
    house = await limited(sockets=1)
    client = await house.raw(Role.CLIENT)
    assert await closed(await connect(house.url)) == (End.BUSY, "the relay has no room")
    await client.close()


async def test_the_newest_of_a_role_waits(house: House) -> None:
    first = await house.raw(Role.CLIENT)
    second = await house.raw(Role.CLIENT)
    assert (await closed(first))[0] == End.REPLACED
    agent = await house.raw(Role.AGENT)
    assert json.loads(await second.recv())["event"] == "paired"
    await agent.close()
    await closed(second)


async def test_leaving_while_waiting(house: House) -> None:
    first = await house.raw(Role.CLIENT)
    await first.close()
    client, agent = await house.raw_pair()
    await client.close()
    await closed(agent)


async def test_an_aborted_socket_ends_the_pairing(house: House) -> None:
    client, agent = await house.raw_pair()
    client.transport.abort()
    assert (await closed(agent))[0] == End.PEER_LEFT
    await client.wait_closed()
