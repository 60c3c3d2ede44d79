"""A hub for every test, and the official Python client to talk to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest_asyncio
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from doorstep.testing.hub import HubUser, ThrowAwayHub, throw_away_hub
from doorstep.testing.leaks import no_leaks

Sign = Callable[..., Awaitable[AsyncClient]]


@pytest_asyncio.fixture(autouse=True)
async def nothing_left() -> AsyncGenerator[None, None]:
    async with no_leaks():
        yield


@pytest_asyncio.fixture
async def hub(tmp_path: Path, nothing_left: None) -> AsyncGenerator[ThrowAwayHub, None]:
    async with throw_away_hub(tmp_path) as running:
        yield running


@pytest_asyncio.fixture
async def client(nothing_left: None) -> AsyncGenerator[Sign, None]:
    """Make official clients: ``await client(hub, user)`` is signed in, ``await client(hub)`` is not."""
    async with AsyncExitStack() as stack:

        async def make(hub: ThrowAwayHub, user: HubUser | None = None, key: str | None = None) -> AsyncClient:
            http = await stack.enter_async_context(httpx.AsyncClient())
            options = AsyncClientOptions(httpx_client=http, auto_refresh_token=False)
            made = await acreate_client(hub.url, key or hub.anon_key, options)
            stack.push_async_callback(made.realtime.close)
            if user is not None:
                await made.auth.sign_in_with_password({"email": user.email, "password": user.password})
                session = await made.auth.get_session()
                assert session is not None
                await made.realtime.set_auth(session.access_token)
            return made

        yield make
    await end_push_timers()


async def end_push_timers() -> None:
    """realtime 2.34 lets a push's time-out run on when the channel or socket it belongs to is gone."""
    left = [task for task in asyncio.all_tasks() if "AsyncPush" in repr(task.get_coro())]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


@pytest_asyncio.fixture
async def http(hub: ThrowAwayHub) -> AsyncGenerator[httpx.AsyncClient, None]:
    async with httpx.AsyncClient(base_url=hub.url) as plain:
        yield plain
