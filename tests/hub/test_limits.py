"""The limits of the realtime socket, at the limit and beyond it, and what a client is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from doorstep.hub.config import RealtimeLimits
from doorstep.testing.hub import ThrowAwayHub, throw_away_hub
from doorstep.testing.raw_socket import RawSocket, raw_socket

pytestmark = pytest.mark.asyncio

T = "realtime:room"
QUICK = RealtimeLimits(rate_tick=0.25)
"""A minute of the rates takes three seconds."""
TRACK = {"event": "track", "payload": {"n": 1}}


@asynccontextmanager
async def hub_and_sockets(
    directory: Path, limits: RealtimeLimits, count: int, **changes: Any
) -> AsyncGenerator[tuple[ThrowAwayHub, list[RawSocket]], None]:
    async with throw_away_hub(directory, realtime=limits, **changes) as hub, AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(raw_socket(hub.url, hub.anon_key)) for _ in range(count)]
        yield hub, sockets


async def refused(hub: ThrowAwayHub) -> tuple[int, Any]:
    with pytest.raises(InvalidStatus) as found:
        async with raw_socket(hub.url, hub.anon_key):
            pass
    return found.value.response.status_code, json.loads(found.value.response.body)


async def test_users_are_sockets_that_have_joined(tmp_path: Path) -> None:
    async with hub_and_sockets(tmp_path, RealtimeLimits(connections=2), 3) as (hub, (one, two, three)):
        assert (await one.join("a")).payload["status"] == "ok"
        assert (await two.join("a")).payload["status"] == "ok"
        reason = "ConnectionRateLimitReached: Too many connected users"
        assert (await three.join("a")).payload["response"] == {"reason": reason}
        assert await refused(hub) == (429, {"error": "Too many connected users"})
        await one.send("1", "2", "realtime:a", "phx_leave")
        assert (await three.join("a")).payload["status"] == "error"  # one is a user until it goes
        assert (await one.receive()).event == "phx_reply"
        await one.connection.close()
        await hub_forgets(hub, 2)
        assert (await three.join("a")).payload["status"] == "ok"


async def hub_forgets(hub: ThrowAwayHub, left: int) -> None:
    async with asyncio.timeout(5):
        while len(hub.server.services.sockets) > left:
            await asyncio.sleep(0.01)


async def test_sockets_in_all_are_bounded(tmp_path: Path) -> None:
    async with hub_and_sockets(tmp_path, RealtimeLimits(sockets=2), 2) as (hub, _):
        assert await refused(hub) == (429, {"error": "Too many connected users"})


async def test_a_storm_of_joins_ends_the_sockets_that_make_it(tmp_path: Path) -> None:
    limits = replace(QUICK, joins_per_second=20.0)
    async with hub_and_sockets(tmp_path, limits, 2) as (hub, (storm, calm)):
        await calm.join("calm")
        number = 0
        while (reply := await storm.join("room", str(number))).payload["status"] == "ok":
            number += 1
            if number > 1:
                assert (await storm.receive()).event == "phx_close"
        assert number >= 5
        reason = "ClientJoinRateLimitReached: Too many joins per second"
        assert reply.payload["response"] == {"reason": reason}
        assert (await storm.receive()).event == "phx_close"  # the channel it had is replaced by nothing
        assert await storm.closed() == 1001
        assert await refused(hub) == (429, {"error": "Too many joins per second"})
        await calm.send("1", "2", "realtime:calm", "broadcast", {"event": "e"})
        assert await calm.barrier() == []


async def test_too_many_messages_close_those_who_receive_them(tmp_path: Path) -> None:
    async with hub_and_sockets(tmp_path, QUICK, 2) as (hub, (sender, receiver)):
        await sender.join("room", ack=True)
        await receiver.join("room")
        closing = asyncio.create_task(until(receiver, "system"))
        sent = 0
        while not closing.done():
            await sender.send("1", str(sent), T, "broadcast", {"event": "e"})
            assert (await sender.receive()).payload["status"] == "ok"
            sent += 1
        system = await closing
        assert system.payload["message"] == "Too many messages per second"
        assert (await receiver.receive()).event == "phx_close"
        await sender.send("1", "x", T, "broadcast", {"event": "e"})
        assert (await sender.receive()).payload["status"] == "ok"
        message = {"topic": "room", "event": "e", "payload": {}}
        async with httpx.AsyncClient(base_url=hub.url, headers={"apikey": hub.anon_key}) as http:
            answer = await http.post("/realtime/v1/api/broadcast", json={"messages": [message]})
            single = await http.post("/realtime/v1/api/broadcast/room/events/e", json={})
        assert answer.status_code == single.status_code == 429
        assert answer.json() == single.json() == {"message": "You have exceeded your rate limit"}


async def until(socket: RawSocket, event: str) -> Any:
    while (message := await socket.receive()).event != event:
        pass
    return message


async def test_too_many_presence_messages_close_the_channel(tmp_path: Path) -> None:
    limits = replace(QUICK, presence_events_per_second=1.0, presence_calls=10_000)
    async with hub_and_sockets(tmp_path, limits, 1) as (_, (socket,)):
        await socket.join("room")
        number = 0
        while True:
            track = {"event": "track", "payload": {"n": number}}
            await socket.send("1", str(number), T, "presence", track)
            heard = await socket.barrier()
            if heard[0].event == "system":
                break
            number += 1
        assert heard[0].payload["message"] == "Too many presence messages per second"
        assert heard[1].event == "phx_close"


async def test_presence_calls_count_anew_after_their_time(tmp_path: Path) -> None:
    limits = RealtimeLimits(presence_calls=2, presence_window=0.3)
    async with hub_and_sockets(tmp_path, limits, 1) as (_, (socket,)):
        await socket.join("room")
        for _ in range(3):
            for event in ("track", "untrack"):
                await socket.send("1", "2", T, "presence", {"event": event, "payload": {}})
            assert all(message.event != "system" for message in await socket.barrier())
            await asyncio.sleep(0.35)  # the limit is a time


async def test_a_project_of_private_channels_only(tmp_path: Path) -> None:
    async with hub_and_sockets(tmp_path, RealtimeLimits(), 1, private_only=True) as (hub, (socket,)):
        user = await hub.user()
        public, topic = await socket.join("room"), f"user:{user.id}:agents"
        reason = "PrivateOnly: This project only allows private channels"
        assert public.payload["response"] == {"reason": reason}
        reply = await socket.join(topic, private=True, token=user.access_token)
        assert reply.payload["status"] == "ok"


async def test_sockets_without_a_channel_are_dropped(tmp_path: Path) -> None:
    async with hub_and_sockets(tmp_path, RealtimeLimits(no_channel=0.4), 2) as (_, (idle, joined)):
        await joined.join("room")
        assert await idle.closed() == 1006
        assert await joined.barrier() == []
        await joined.send("1", "2", T, "phx_leave")
        assert await joined.closed() == 1006


async def test_the_operator_can_ask_everybody_to_leave(tmp_path: Path) -> None:
    async with hub_and_sockets(tmp_path, RealtimeLimits(), 1) as (hub, (socket,)):
        await socket.join("room")
        hub.server.services.sockets.ask_all_to_leave()
        system, closed = await socket.receive(), await socket.receive()
        told = {"message": "Server requested disconnect", "status": "ok", "extension": "system"}
        assert (system.event, system.payload) == ("system", told)
        assert (closed.event, closed.ref) == ("phx_close", "1")
        assert await socket.barrier() == []


async def test_keys_in_the_header_win_and_user_token_is_another_name(hub: ThrowAwayHub) -> None:
    user = await hub.user()
    address = f"{hub.url.replace('http', 'ws')}/realtime/v1/websocket?apikey=nonsense&vsn=2.0.0"
    headers = {"x-api-key": hub.server.keys.publishable_key}
    async with connect(address, additional_headers=headers, proxy=None, compression=None) as connection:
        socket = RawSocket(connection, "2.0.0")
        topic = f"realtime:user:{user.id}:agents"
        for token, status in (
            ({"user_token": user.access_token}, "ok"),
            ({"user_token": user.access_token, "access_token": "sb_publishable_x"}, "error"),
            ({"user_token": "sb_x", "access_token": user.access_token}, "error"),
            ({"access_token": ""}, "error"),
        ):
            await socket.send("1", "1", topic, "phx_join", {"config": {"private": True}} | token)
            assert (await until(socket, "phx_reply")).payload["status"] == status
        await socket.send("1", "2", topic, "phx_leave")


async def test_an_empty_access_token_closes_the_channel(hub: ThrowAwayHub) -> None:
    async with raw_socket(hub.url, hub.anon_key) as socket:
        await socket.join("room")
        await socket.send("1", "2", T, "access_token", {"access_token": ""})
        system, closed = await socket.receive(), await socket.receive()
        assert system.payload["message"] == "The token provided is not a valid JWT"
        assert closed.event == "phx_close"


async def test_presence_of_a_private_topic_is_for_those_who_asked(hub: ThrowAwayHub) -> None:
    user = await hub.user()
    topic = f"user:{user.id}:agents"
    options: dict[str, Any] = {"private": True, "token": user.access_token}
    async with raw_socket(hub.url, hub.anon_key) as one, raw_socket(hub.url, hub.anon_key) as two:
        await one.join(topic, **options)
        await two.join(topic, key="two", **options)
        await two.send("1", "2", f"realtime:{topic}", "presence", TRACK)
        assert [message.event for message in await two.barrier()] == ["phx_reply", "presence_diff"]
        assert await one.barrier() == []
        await one.send("1", "2", f"realtime:{topic}", "presence", TRACK)
        assert [message.event for message in await one.barrier()] == ["phx_reply", "presence_diff"]
        assert [message.event for message in await two.barrier()] == ["presence_diff"]
