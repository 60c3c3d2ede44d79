"""Contract: changes of the agents table reach their owner, heard by the official client."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from realtime import AsyncRealtimeClient, RealtimePostgresChangesListenEvent

from doorstep.transport.backend import Backend
from doorstep.transport.credentials import Credentials

from .conftest import RUN, BackEnd, rest

pytestmark = pytest.mark.asyncio(loop_scope="session")

Changes = asyncio.Queue[Any]


@asynccontextmanager
async def listening(who: Credentials, *, within: float) -> AsyncIterator[Changes]:
    """Listen as ``who``. Joined is not yet listening: a real server says so 1 to 8 s later."""
    heard: Changes = asyncio.Queue(100)
    live = asyncio.Event()
    realtime = AsyncRealtimeClient(f"{who.url}/realtime/v1", who.key)
    try:
        async with await Backend.sign_in(who) as backend:
            await realtime.connect()
            await realtime.set_auth(await backend.access_token())
        channel = realtime.channel(f"{RUN}-{secrets.token_hex(2)}")
        channel.on_postgres_changes(
            RealtimePostgresChangesListenEvent.All,
            schema="public",
            table="agents",
            callback=lambda told: heard.put_nowait(told["data"]),
        )
        channel.on_system(lambda _: live.set())
        await channel.subscribe()
        async with asyncio.timeout(within):
            await live.wait()
        yield heard
    finally:
        await realtime.close()


async def about(heard: Changes, name: str, *, never: str, within: float) -> Any:
    """The next change of the row of this name; other rows of the owner's may change too, ``never`` not."""
    async with asyncio.timeout(within):
        while True:
            change = await heard.get()
            assert never not in str(change)
            if change.get("record", {}).get("name") == name:
                return change


async def test_the_owner_hears_of_its_rows_and_another_account_does_not(back_end: BackEnd) -> None:
    within = 20 * back_end.scale
    mine, theirs = f"{RUN}-mine", f"{RUN}-theirs"
    async with (
        listening(back_end.owner, within=within) as heard,
        rest(back_end.owner) as table,
        rest(back_end.other) as other,
    ):
        for each, name in ((other, theirs), (table, mine)):
            (await each.post("agents", json={"name": name})).raise_for_status()
        inserted = await about(heard, mine, never=theirs, within=within)
        assert (inserted["type"], inserted["record"]["status"]) == ("INSERT", "online")
        change = {"status": "offline"}
        (await table.patch("agents", params={"name": f"eq.{mine}"}, json=change)).raise_for_status()
        updated = await about(heard, mine, never=theirs, within=within)
        assert (updated["type"], updated["record"]["status"]) == ("UPDATE", "offline")
        for each, name in ((other, theirs), (table, mine)):
            (await each.delete("agents", params={"name": f"eq.{name}"})).raise_for_status()
        async with asyncio.timeout(within):
            while (last := await heard.get())["old_record"].get("id") != inserted["record"]["id"]:
                assert last["type"] == "DELETE"  # a real server tells everybody of those, by id alone
        assert last["type"] == "DELETE"
