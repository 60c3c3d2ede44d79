"""Contract: a session outlives its access token; channels go on with the new one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from doorstep.protocol.ids import agents_topic
from doorstep.protocol.timing import Timing
from doorstep.transport.backend import Backend
from doorstep.transport.credentials import Credentials
from doorstep.transport.signaling import ChannelSpec, ChannelState

from .conftest import BackEnd, RunningAgent

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_refreshed_token_keeps_the_channel(back_end: BackEnd, agent: RunningAgent) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue(100)
    states: list[ChannelState] = []

    def on_message(event: str, _: dict[str, Any]) -> None:
        heard.put_nowait(event)

    async with (
        await Backend.sign_in(back_end.owner) as listener,
        await Backend.sign_in(back_end.owner) as teller,
    ):
        topic = agents_topic(listener.user_id)
        spec = ChannelSpec(topic=topic, on_message=on_message, on_state=states.append)
        channel = await listener.signaling().join(spec, timeout=Timing().join)
        quiet = ChannelSpec(topic=topic, on_message=lambda *_: None)
        telling = await teller.signaling().join(quiet, timeout=Timing().join)
        old = listener.credentials.refresh_token
        await listener._tokens.renew()
        await teller._tokens.renew()
        assert listener.credentials.refresh_token != old
        assert agent.id in {row.id for row in await listener.list_agents()}
        await telling.send("contract-after-refresh", {})
        async with asyncio.timeout(10 * back_end.scale):
            while await heard.get() != "contract-after-refresh":
                continue
        assert channel.state == ChannelState.JOINED
        assert ChannelState.LOST not in states


async def test_a_refresh_token_signs_in_without_the_password(back_end: BackEnd) -> None:
    who = back_end.owner
    async with await Backend.sign_in(who) as first:
        kept = Credentials(who.url, who.key, who.email, None, first.credentials.refresh_token)
        user = first.user_id
    async with await Backend.sign_in(kept) as again:
        assert again.user_id == user
        await again.list_agents()
