"""What a client hears of the limits of a real hub: the server's own words, which it can tell from a loss."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from doorstep.hub.config import RealtimeLimits
from doorstep.protocol.errors import SignalingLost
from doorstep.protocol.ids import UserId, agents_topic
from doorstep.protocol.timing import Timing
from doorstep.testing.hub import HubUser, ThrowAwayHub, throw_away_hub
from doorstep.testing.leaks import no_leaks
from doorstep.transport.realtime import RealtimeSignaling
from doorstep.transport.signaling import ChannelSpec, ChannelState

pytestmark = pytest.mark.asyncio
PATIENCE = 60.0
FEW = RealtimeLimits(events_per_second=1, rate_tick=0.1, rate_buckets=3)


def signaling(hub: ThrowAwayHub, user: HubUser, timing: Timing) -> RealtimeSignaling:
    async def token() -> str:
        return user.access_token

    return RealtimeSignaling(hub.url, hub.anon_key, token, timing)


async def test_too_many_messages(tmp_path: Path) -> None:
    async with no_leaks(), throw_away_hub(tmp_path / "hub", realtime=FEW) as hub:
        user = await hub.user()
        talker, hearer = (signaling(hub, user, Timing(join=PATIENCE)) for _ in range(2))
        lost = asyncio.Event()

        def state(now: ChannelState) -> None:
            if now is ChannelState.LOST:
                lost.set()

        topic = agents_topic(UserId(user.id))
        try:
            heard = await hearer.join(
                ChannelSpec(topic=topic, on_message=lambda *_: None, on_state=state), timeout=PATIENCE
            )
            talking = await talker.join(
                ChannelSpec(topic=topic, on_message=lambda *_: None), timeout=PATIENCE
            )
            async with asyncio.timeout(PATIENCE):
                while not lost.is_set():
                    await talking.send("connection-request", {})
                    await asyncio.sleep(0.01)
            assert heard.reason == "Too many messages per second"
        finally:
            await talker.close()
            await hearer.close()


async def test_too_many_sockets(tmp_path: Path) -> None:
    """Said in the answer to the handshake; the join is told why it took too long."""
    limits = RealtimeLimits(connections=1)
    async with no_leaks(), throw_away_hub(tmp_path / "hub", realtime=limits) as hub:
        user = await hub.user()
        first, second = (signaling(hub, user, Timing(join=PATIENCE)) for _ in range(2))
        spec = ChannelSpec(topic=agents_topic(UserId(user.id)), on_message=lambda *_: None)
        try:
            await first.join(spec, timeout=PATIENCE)
            with pytest.raises(SignalingLost, match="Too many"):
                await second.join(spec, timeout=3)
        finally:
            await first.close()
            await second.close()
