"""Changed rows of the agents table reach their owner, and nobody else."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from realtime import RealtimePostgresChangesListenEvent, RealtimeSubscribeStates

from doorstep.hub.housekeeping import sweep
from doorstep.testing.hub import ThrowAwayHub
from doorstep.testing.raw_socket import raw_socket

pytestmark = pytest.mark.asyncio

ALL = {"event": "*", "schema": "public", "table": "agents"}


async def test_the_official_client_hears_its_own_rows_change(hub: ThrowAwayHub, client: Any) -> None:
    one, two = await hub.user(), await hub.user()
    mine, theirs = await client(hub, one), await client(hub, two)
    heard: asyncio.Queue[Any] = asyncio.Queue()
    live = asyncio.Event()
    channel = mine.channel("agents")
    channel.on_postgres_changes(
        RealtimePostgresChangesListenEvent.All, schema="public", table="agents", callback=heard.put_nowait
    )
    channel.on_system(lambda _: live.set())

    def state(now: RealtimeSubscribeStates, error: Exception | None) -> None:
        assert now is not RealtimeSubscribeStates.CHANNEL_ERROR, error

    await channel.subscribe(state)
    await asyncio.wait_for(live.wait(), 5)
    await theirs.table("agents").insert({"name": "theirs"}).execute()
    row = (await mine.table("agents").insert({"name": "box"}).execute()).data[0]
    await mine.table("agents").update({"status": "offline"}).eq("id", row["id"]).execute()
    await mine.table("agents").delete().eq("id", row["id"]).execute()
    told = [(await asyncio.wait_for(heard.get(), 5))["data"] for _ in range(3)]
    assert [each["type"] for each in told] == ["INSERT", "UPDATE", "DELETE"]
    assert told[0]["record"] == row
    assert told[1]["record"] == row | {"status": "offline"}
    assert told[2]["old_record"] == {"id": row["id"]}
    assert heard.empty()


async def test_bindings_choose_by_event_and_filter(hub: ThrowAwayHub, client: Any) -> None:
    user = await hub.user()
    table = (await client(hub, user)).table("agents")
    changes = [ALL | {"event": "INSERT"}, ALL | {"event": "UPDATE", "filter": "status=eq.offline"}]
    async with raw_socket(hub.url, hub.anon_key) as socket, raw_socket(hub.url, hub.anon_key) as nobody:
        reply = await socket.join("room", token=user.access_token, changes=changes)
        first, second = (each["id"] for each in reply.payload["response"]["postgres_changes"])
        assert (await socket.receive()).event == "system"
        await nobody.join("room", changes=[ALL])
        await nobody.receive()
        row = (await table.insert({"name": "box"}).execute()).data[0]
        assert (await socket.receive()).payload["ids"] == [first]
        await table.update({"version": "2"}).eq("id", row["id"]).execute()
        assert await socket.barrier() == []
        await table.update({"status": "offline"}).eq("id", row["id"]).execute()
        message = await socket.receive()
        assert (message.join_ref, message.ref, message.payload["ids"]) == (None, None, [second])
        data = message.payload["data"]
        assert set(data) == {
            "table",
            "type",
            "record",
            "columns",
            "errors",
            "schema",
            "commit_timestamp",
            "old_record",
        }
        assert await nobody.barrier() == []
        await socket.send("1", "9", "realtime:room", "phx_leave")
        await table.update({"status": "online"}).eq("id", row["id"]).execute()
        assert [each.event for each in await socket.barrier()] == ["phx_reply", "phx_close"]


@pytest.mark.parametrize(
    "wrong",
    [{"table": "nope"}, {"schema": "auth"}, {"event": "LOOK"}, {"filter": "nope=eq.1"}, {"filter": "name"}],
)
async def test_what_is_not_there_is_refused_and_the_channel_stays(
    hub: ThrowAwayHub, wrong: dict[str, str]
) -> None:
    async with raw_socket(hub.url, hub.anon_key) as socket:
        await socket.join("room", changes=[ALL | wrong])
        system = await socket.receive()
        assert (system.payload["status"], system.payload["extension"]) == ("error", "postgres_changes")
        assert system.payload["message"].startswith("Unable to subscribe to changes with given parameters.")
        await socket.send("1", "2", "realtime:room", "broadcast", {"event": "e"})
        assert await socket.barrier() == []


async def test_agents_that_vanished_go_offline(
    hub: ThrowAwayHub, client: Any, http: httpx.AsyncClient
) -> None:
    user = await hub.user()
    table = (await client(hub, user)).table("agents")
    rows = [{"name": "gone", "last_seen": "2001-01-01T00:00:00Z"}, {"name": "here", "last_seen": "now"}]
    await table.insert(rows).execute()
    async with raw_socket(hub.url, hub.anon_key) as socket:
        await socket.join("room", token=user.access_token, changes=[ALL])
        await socket.receive()
        await sweep(hub.server.services)
        assert (await socket.receive()).payload["data"]["record"]["name"] == "gone"
        await sweep(hub.server.services)
        assert await socket.barrier() == []
    found = (await table.select("name").eq("status", "online").execute()).data
    assert found == [{"name": "here"}]


async def test_a_new_token_subscribes_again_and_sees_as_its_user(hub: ThrowAwayHub, client: Any) -> None:
    one, two = await hub.user(), await hub.user()
    async with raw_socket(hub.url, hub.anon_key) as socket:
        await socket.join("room", token=one.access_token, changes=[ALL])
        assert (await socket.receive()).event == "system"
        await socket.send("1", "2", "realtime:room", "access_token", {"access_token": two.access_token})
        again = await socket.receive()
        assert again.payload["message"] == "Subscribed to PostgreSQL"
        await (await client(hub, one)).table("agents").insert({"name": "one"}).execute()
        await (await client(hub, two)).table("agents").insert({"name": "two"}).execute()
        heard = [message.payload["data"]["record"]["name"] for message in await socket.barrier()]
        assert heard == ["two"]
