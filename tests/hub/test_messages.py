"""What the server sends itself: both versions, kept for those who join later, and broadcasts by HTTP."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from doorstep.hub.config import RealtimeLimits
from doorstep.hub.housekeeping import sweep
from doorstep.testing.hub import HubUser, ThrowAwayHub, throw_away_hub
from doorstep.testing.raw_socket import RawSocket, raw_socket

pytestmark = pytest.mark.asyncio


async def join(socket: RawSocket, user: HubUser, replay: Any = None, **more: Any) -> Any:
    """Join the user's topic; the reply."""
    config = {"private": True, "broadcast": {"replay": replay} | more}
    payload = {"config": config, "access_token": user.access_token}
    await socket.send("1", "1", f"realtime:user:{user.id}:agents", "phx_join", payload)
    reply = await socket.receive()
    return reply.payload["response"].get("reason", "ok")


def broadcasts(messages: list[Any]) -> list[Any]:
    return [message.payload for message in messages if message.event == "broadcast"]


async def test_what_the_server_sends_carries_its_id(hub: ThrowAwayHub) -> None:
    user = await hub.user()
    topic, send = f"user:{user.id}:agents", hub.server.services.messages.send
    async with (
        raw_socket(hub.url, hub.anon_key, vsn="1.0.0") as one,
        raw_socket(hub.url, hub.anon_key) as two,
        raw_socket(hub.url, hub.anon_key) as public,
    ):
        assert await join(one, user) == await join(two, user) == "ok"
        await public.join(topic)
        message_id = await send({"hello": 1}, "db-event", topic)
        body = {"id": message_id, "hello": 1}
        assert (await one.receive()).payload == {
            "event": "db-event",
            "meta": {"id": message_id},
            "payload": body,
            "type": "broadcast",
        }
        frame = await two.frame()
        assert isinstance(frame, bytes)
        names = f'realtime:{topic}db-event{{"id":"{message_id}"}}'.encode()
        assert frame[5:].startswith(names)
        assert json.loads(frame[5 + len(names) :]) == body
        assert await public.barrier() == []
        own = await send({"id": "mine"}, "e", topic, private=False)
        assert own != "mine"
        frame = await public.frame()
        assert isinstance(frame, bytes)
        assert frame.endswith(b'{"id":"mine"}')
    for wrong in ({"topic": "x" * 250, "event": "e"}, {"topic": topic, "event": "e" * 256}):
        with pytest.raises(ValueError, match="too long"):
            await send({}, **wrong)


async def test_messages_are_replayed_the_oldest_first_and_once(hub: ThrowAwayHub) -> None:
    user = await hub.user()
    topic, send = f"user:{user.id}:agents", hub.server.services.messages.send
    ids = [await send({"n": number}, "e", topic) for number in range(30)]
    await send({"n": "public"}, "e", topic, private=False)
    await send({"n": "other"}, "e", "user:other:agents")
    for limit, expected in ((3, ids[-3:]), (0, ids[-1:]), (100, ids[-25:]), (None, ids[-25:])):
        async with raw_socket(hub.url, hub.anon_key, vsn="1.0.0") as socket:
            assert await join(socket, user, {"since": 0, "limit": limit}) == "ok"
            heard = broadcasts(await socket.barrier())
            assert [each["meta"] for each in heard] == [{"replayed": True, "id": each} for each in expected]
            assert [each["payload"]["id"] for each in heard] == expected
            # The same message again, as when it was sent while the channel joined.
            repeated = {"topic": topic, "event": "e", "payload": {}, "private": True, "id": expected[-1]}
            await post(hub, [repeated, repeated | {"id": "new"}, repeated | {"id": None}])
            metas = [each.get("meta") for each in broadcasts(await socket.barrier())]
            assert metas == [{"id": "new"}, None]
    async with raw_socket(hub.url, hub.anon_key) as socket:
        assert await join(socket, user, {"since": int(time.time() * 1000) + 60_000}) == "ok"
        assert await socket.barrier() == []


async def post(hub: ThrowAwayHub, messages: list[Any]) -> httpx.Response:
    headers = {"Authorization": f"Bearer {hub.service_key}"}
    async with httpx.AsyncClient(base_url=hub.url, headers=headers) as http:
        return await http.post("/realtime/v1/api/broadcast", json={"messages": messages})


@pytest.mark.parametrize(
    "replay", [{}, 5, [], "x", {"since": "x"}, {"since": True}, {"since": 1, "limit": "x"}, {"since": -1}]
)
async def test_wrong_wishes_for_a_replay(hub: ThrowAwayHub, replay: Any) -> None:
    user = await hub.user()
    async with raw_socket(hub.url, hub.anon_key) as socket:
        wrong = "UnableToReplayMessages: Replay params are not valid"
        assert await join(socket, user, replay) == wrong
        config = {"broadcast": {"replay": replay}}
        await socket.send("1", "1", "realtime:room", "phx_join", {"config": config})
        public = "UnableToReplayMessages: Replay is not allowed for public channels"
        assert (await socket.receive()).payload["response"]["reason"] == public


async def test_messages_are_forgotten_after_their_time(tmp_path: Path) -> None:
    async with throw_away_hub(tmp_path, realtime=RealtimeLimits(replay_seconds=0)) as hub:
        user = await hub.user()
        hub_parts = hub.server.services
        await hub_parts.messages.send({}, "e", f"user:{user.id}:agents")
        async with raw_socket(hub.url, hub.anon_key) as socket:
            assert await join(socket, user, {"since": 0}) == "ok"
            assert await socket.barrier() == []
        await sweep(hub_parts)
        kept = await hub_parts.store.run(lambda db: db.execute("SELECT count(*) FROM messages").fetchone()[0])
        assert kept == 0


async def test_a_client_can_wait_for_replication(hub: ThrowAwayHub) -> None:
    user = await hub.user()
    async with raw_socket(hub.url, hub.anon_key) as socket:
        assert await join(socket, user, replication_ready="true") == "ok"
        system = await socket.receive()
        assert (system.event, system.payload["status"]) == ("system", "ok")
        assert system.payload["message"] == "Replication connection established"


async def test_batches_with_faults_are_refused_field_by_field(hub: ThrowAwayHub) -> None:
    good = {"topic": "room", "event": "e", "payload": {"a": 1}}
    blank, invalid = ["can't be blank"], ["is invalid"]
    for change, fault in (
        ({"topic": 5}, {"topic": invalid}),
        ({"topic": " "}, {"topic": blank}),
        ({"event": None}, {"event": blank}),
        ({"event": {"a": 1}}, {"event": invalid}),
        ({"payload": None}, {"payload": blank}),
        ({"payload": [1]}, {"payload": invalid}),
        ({"private": "maybe"}, {"private": invalid}),
    ):
        answer = await post(hub, [good, good | change])
        assert (answer.status_code, answer.json()) == (422, {"errors": {"messages": [{}, fault]}})
    assert (await post(hub, [good | {"private": "true", "id": 5}])).status_code == 202
    for wrong in (5, ["x"], "x"):
        assert (await post(hub, wrong)).status_code == 422  # type: ignore[arg-type]
    answer = await post(hub, [good] * 101)
    assert answer.status_code == 429
    assert answer.json() == {"message": "Too many messages to broadcast, please reduce the batch size"}


async def test_health(http: httpx.AsyncClient) -> None:
    assert (await http.get("/healthcheck")).text == "ok"
    for path in ("/api/ping", "/realtime/v1/api/ping"):
        assert (await http.get(path)).json() == {"message": "Success"}
