"""Realtime channels between official Python clients: who hears whom."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from realtime import AsyncRealtimeChannel, RealtimeSubscribeStates

from doorstep.hub.events import HubEventKind
from doorstep.testing.hub import HubUser, ThrowAwayHub
from doorstep.testing.raw_socket import raw_socket

pytestmark = pytest.mark.asyncio


class Member:
    """A channel of an official client, and what came in on it."""

    def __init__(
        self, client: Any, topic: str, *, key: str = "", own: bool = False, ack: bool = False
    ) -> None:
        config = {
            "private": True,
            "broadcast": {"self": own, "ack": ack},
            "presence": {"key": key, "enabled": True},
        }
        self.channel: AsyncRealtimeChannel = client.channel(topic, {"config": config})
        self.states: list[str] = []
        self.messages: list[Any] = []
        self._changed = asyncio.Event()
        self.channel.on_broadcast("*", self._message)
        self.channel.on_presence_sync(self._changed.set)

    async def join(self) -> Member:
        await self.channel.subscribe(self._state)
        await self.until(lambda: bool(self.states))
        return self

    async def joined(self) -> Member:
        await self.join()
        assert self.states == ["SUBSCRIBED"], self.states
        return self

    @property
    def present(self) -> dict[str, list[Any]]:
        return self.channel.presence_state()

    async def until(self, condition: Callable[[], bool], seconds: float = 5.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def _state(self, state: RealtimeSubscribeStates, _: Exception | None) -> None:
        self.states.append(state.value)
        self._changed.set()

    def _message(self, message: Any) -> None:
        self.messages.append(message)
        self._changed.set()


def is_present(member: Member, key: str) -> bool:
    return key in member.present


def tracks(member: Member, key: str, number: int) -> bool:
    return [meta["n"] for meta in member.present.get(key, [])] == [number]


@pytest.fixture
def agents_of() -> Callable[[HubUser], str]:
    return lambda user: f"user:{user.id}:agents"


async def test_knock_reaches_the_agent_and_the_watcher(
    hub: ThrowAwayHub, client: Any, agents_of: Any
) -> None:
    user = await hub.user()
    agent = await Member(await client(hub, user), agents_of(user), key="a1").joined()
    browser = await Member(await client(hub, user), agents_of(user)).joined()
    await agent.channel.track({"agent_id": "a1", "name": "box"})
    await browser.until(lambda: "a1" in browser.present)
    await browser.channel.send_broadcast("connection-request", {"agentId": "a1"})
    await agent.until(lambda: bool(agent.messages))
    assert agent.messages[0]["payload"] == {"agentId": "a1"}
    assert browser.messages == []
    await agent.channel.unsubscribe()
    await browser.until(lambda: "a1" not in browser.present)
    kinds = [(event.kind, event.subject, event.agent) for event in hub.events]
    assert kinds[-3:] == [
        (HubEventKind.AGENT_ONLINE, user.id, "a1"),
        (HubEventKind.KNOCK, user.id, "a1"),
        (HubEventKind.AGENT_OFFLINE, user.id, "a1"),
    ]


async def test_two_users_get_nothing_of_each_others(hub: ThrowAwayHub, client: Any, agents_of: Any) -> None:
    users = await hub.user(), await hub.user()
    clients = [await client(hub, user) for user in users]
    rows = [(await each.table("agents").insert({"name": "box"}).execute()).data[0] for each in clients]
    topics = [
        [agents_of(user), f"agent:{row['id']}:signaling"] for user, row in zip(users, rows, strict=True)
    ]
    members = [
        [await Member(each, topic, key=topic).joined() for topic in own]
        for each, own in zip(clients, topics, strict=True)
    ]
    for mine, theirs in ((0, 1), (1, 0)):
        spy = await client(hub, users[mine])
        for topic in topics[theirs]:
            attempt = await Member(spy, topic).join()
            assert attempt.states[0] == "CHANNEL_ERROR"
            assert attempt.present == {}
            await spy.remove_channel(attempt.channel)
        await members[theirs][0].channel.track({"secret": theirs})
        await members[theirs][1].channel.send_broadcast("offer", {"sdp": "secret"})
        await members[theirs][0].until(partial(is_present, members[theirs][0], topics[theirs][0]))
        assert all(topics[theirs][0] not in member.present for member in members[mine])
        assert all(member.messages == [] for member in members[mine])
        seen = (await clients[mine].table("agents").select("owner_id").execute()).data
        assert seen == [{"owner_id": users[mine].id}]


async def test_the_project_key_alone_hears_nothing(hub: ThrowAwayHub, client: Any, agents_of: Any) -> None:
    user = await hub.user()
    for key in (hub.anon_key, hub.server.keys.publishable_key):
        attempt = await Member(await client(hub, key=key), agents_of(user)).join()
        assert attempt.states[0] == "CHANNEL_ERROR"


async def test_presence_of_an_agent_that_tracks_again_never_goes_away(
    hub: ThrowAwayHub, client: Any, agents_of: Any
) -> None:
    user = await hub.user()
    agent = await Member(await client(hub, user), agents_of(user), key="a1").joined()
    watcher = await Member(await client(hub, user), agents_of(user)).joined()
    for number in (1, 2, 3):
        await agent.channel.track({"n": number})
        await watcher.until(partial(tracks, watcher, "a1", number))
    late = await Member(await client(hub, user), agents_of(user)).joined()
    await late.until(lambda: [m["n"] for m in late.present.get("a1", [])] == [3])


async def test_an_agent_that_vanishes_leaves(hub: ThrowAwayHub, client: Any, agents_of: Any) -> None:
    user = await hub.user()
    agent_client = await client(hub, user)
    agent = await Member(agent_client, agents_of(user), key="a1").joined()
    watcher = await Member(await client(hub, user), agents_of(user)).joined()
    await agent.channel.track({"n": 1})
    await watcher.until(lambda: "a1" in watcher.present)
    await agent_client.realtime.close()
    await watcher.until(lambda: "a1" not in watcher.present)


async def test_a_refreshed_token_keeps_the_channel_and_an_expired_one_closes_it(
    hub: ThrowAwayHub, client: Any, agents_of: Any
) -> None:
    user = await hub.user()
    official = await client(hub, user)
    await official.realtime.set_auth(await hub.token(user, seconds=2))
    member = await Member(official, agents_of(user)).joined()
    await official.realtime.set_auth(await hub.token(user, seconds=4))
    watcher = await Member(await client(hub, user), agents_of(user), key="w").joined()
    await watcher.channel.track({})
    await member.until(lambda: "w" in member.present)
    await member.until(lambda: len(member.states) > 1, seconds=8)
    assert member.states[:2] == ["SUBSCRIBED", "CHANNEL_ERROR"]


async def test_both_versions_hear_each_other(hub: ThrowAwayHub, client: Any, agents_of: Any) -> None:
    """The Python client speaks 1.0.0; the frames sent here are what supabase-js 2.119.1 sends in 2.0.0."""
    user = await hub.user()
    python = await Member(await client(hub, user), agents_of(user)).joined()
    topic = f"realtime:{agents_of(user)}".encode()
    async with raw_socket(hub.url, hub.anon_key) as browser:
        await browser.join(agents_of(user), private=True, token=user.access_token, ack=True)
        names = b"12" + topic + b"connection-request"
        payload = '{"agentId":"żółw"}'.encode()
        await browser.connection.send(bytes([3, 1, 1, len(topic), 18, 0, 1]) + names + payload)
        assert (await browser.receive()).payload == {"status": "ok", "response": {}}
        await python.until(lambda: bool(python.messages))
        assert python.messages[0]["payload"] == {"agentId": "żółw"}
        # Bytes cannot be told in version 1.0.0 and are left out there.
        await browser.connection.send(bytes([3, 1, 1, len(topic), 18, 0, 0]) + names + b"\xff")
        await browser.receive()
        await python.channel.send_broadcast("connection-ready", {"agentId": "x"})
        answer = await browser.receive()
        assert answer.event == "broadcast"
        assert answer.payload == {
            "type": "broadcast",
            "event": "connection-ready",
            "payload": {"agentId": "x"},
        }
        async with raw_socket(hub.url, hub.anon_key) as second:
            await second.join(agents_of(user), private=True, token=user.access_token)
            await browser.connection.send(bytes([3, 1, 1, len(topic), 18, 0, 0]) + names + b"\xff")
            kind4 = await second.frame()
            assert kind4 == bytes([4, len(topic), 18, 0, 0]) + topic + b"connection-request\xff"
    assert len(python.messages) == 1


async def test_two_sockets_under_one_key_are_two_metas(hub: ThrowAwayHub, agents_of: Any) -> None:
    user = await hub.user()
    options: dict[str, Any] = {"private": True, "token": user.access_token, "key": "k", "presence": True}
    async with raw_socket(hub.url, hub.anon_key) as watcher:
        await watcher.join(agents_of(user), **options)
        assert (await watcher.receive()).payload == {}
        async with raw_socket(hub.url, hub.anon_key) as first:
            for socket, number in ((first, 1), (watcher, 2)):
                if socket is first:
                    await socket.join(agents_of(user), **options)
                    await socket.receive()
                track = {"type": "presence", "event": "track", "payload": {"n": number}}
                await socket.send("1", "t", f"realtime:{agents_of(user)}", "presence", track)
                while (await socket.receive()).event != "presence_diff":
                    pass
            async with raw_socket(hub.url, hub.anon_key, vsn="1.0.0") as late:
                await late.join(agents_of(user), **options)
                state = (await late.receive()).payload
                assert sorted(meta["n"] for meta in state["k"]["metas"]) == [1, 2]
        while "k" not in (leave := (await watcher.receive()).payload).get("leaves", {}):
            pass
        assert [meta["n"] for meta in leave["leaves"]["k"]["metas"]] == [1]


async def test_a_lost_right_closes_the_channel(hub: ThrowAwayHub, agents_of: Any) -> None:
    one, two = await hub.user(), await hub.user()
    async with raw_socket(hub.url, hub.anon_key) as socket:
        topic = f"realtime:{agents_of(one)}"
        for token, message in (
            (two.access_token, f"You do not have permissions to read from this Channel topic: {topic[9:]}"),
            ("not-a-jwt", "The token provided is not a valid JWT"),
            (one.access_token[:-4] + "AAAA", ":signature_error"),
            (await hub.token(one, seconds=-7), "Token has expired N seconds ago"),
        ):
            await socket.join(agents_of(one), private=True, token=one.access_token)
            await socket.send("1", "2", topic, "access_token", {"access_token": token})
            system, close = await socket.receive(), await socket.receive()
            assert (system.event, system.payload["status"]) == ("system", "error")
            assert system.payload["extension"] == "system"
            assert system.payload["channel"] == topic[9:]
            assert re.sub(r"\d+ seconds", "N seconds", system.payload["message"]) == message
            assert (close.event, close.ref, close.payload) == ("phx_close", "1", {})
        await socket.join(agents_of(one), private=True, token=one.access_token)
        for ignored in (None, one.access_token, "sb_publishable_x", 5):
            await socket.send("1", "2", topic, "access_token", {"access_token": ignored})
        assert await socket.barrier() == []


async def test_signaling_needs_the_agents_row(hub: ThrowAwayHub, client: Any) -> None:
    user = await hub.user()
    official = await client(hub, user)
    identity = "aaaaaaaa-0000-4000-8000-000000000001"
    options: dict[str, Any] = {"private": True, "token": user.access_token}
    async with raw_socket(hub.url, hub.anon_key) as socket:
        refused = await socket.join(f"agent:{identity}:signaling", **options)
        assert refused.payload["status"] == "error"
        assert refused.payload["response"]["reason"].startswith("Unauthorized: You do not have permissions")
        await official.table("agents").insert({"id": identity, "name": "box"}).execute()
        assert (await socket.join(f"agent:{identity}:signaling", **options)).payload["status"] == "ok"
        track = {"event": "track", "payload": {}}
        await socket.send("1", "2", f"realtime:agent:{identity}:signaling", "presence", track)
        assert (await socket.receive()).payload == {"status": "error", "response": {}}


async def test_a_public_topic_of_the_same_name_is_another_topic(hub: ThrowAwayHub, agents_of: Any) -> None:
    one, two = await hub.user(), await hub.user()
    async with raw_socket(hub.url, hub.anon_key) as private, raw_socket(hub.url, hub.anon_key) as public:
        await private.join(agents_of(one), private=True, token=one.access_token, presence=True)
        await private.receive()
        await public.join(agents_of(one), token=two.access_token, ack=True)
        spoof = {"type": "broadcast", "event": "connection-request", "payload": {"agentId": "x"}}
        await public.send("1", "2", f"realtime:{agents_of(one)}", "broadcast", spoof)
        assert (await public.receive()).payload["status"] == "ok"
        await public.send(
            "1", "3", f"realtime:{agents_of(one)}", "presence", {"event": "track", "payload": {}}
        )
        assert (await public.receive()).payload["status"] == "ok"
        assert await private.barrier() == []
    assert [event for event in hub.events if event.kind is HubEventKind.KNOCK] == []
