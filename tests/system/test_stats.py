"""System: what a session says of itself has one shape, whatever carries it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Literal, cast

import pytest

from doorstep.client import Agent, connect
from doorstep.testing.leaks import no_leaks
from doorstep.testing.stack import Stack
from doorstep.transport.wire_stats import FIELDS

TOP = {
    *("state", "wire", "relayReason", "wires", "resumable", "stalled", "agentKey", "clientKey"),
    *("roundTripMs", "loss", "rateIn", "rateOut", "bytesIn", "bytesOut", "unacknowledged"),
    *("streams", "calls", "connectMs", "transport"),
}
MB = 1_000_000


def stats_of(agent: Agent) -> dict[str, Any]:
    stats = agent.stats()
    assert json.loads(json.dumps(stats)) == stats
    assert set(stats) == TOP
    assert {*FIELDS, "buffered", "connectMs"} <= set(cast("Mapping[str, Any]", stats["transport"]))
    return stats


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("force", "kind", "reason"), [("direct", "webrtc", ""), ("relay", "relay", "forced")]
)
async def test_stats_have_one_shape(
    running: Stack, force: Literal["direct", "relay"], kind: str, reason: str
) -> None:
    user = await running.user()
    await running.agent(user, "box")
    async with no_leaks(), connect("box", credentials=user.credentials, force=force) as agent:
        stats = stats_of(agent)
        assert (stats["wire"], stats["transport"]["kind"]) == (kind, kind)
        assert (stats["state"], stats["relayReason"]) == ("open", reason)
        assert stats["agentKey"] != stats["clientKey"]
        assert None not in (stats["agentKey"], stats["clientKey"])
        assert "sign-in" in stats["connectMs"]
        assert all(took > 0 for took in stats["connectMs"].values())
        assert stats["transport"]["connectMs"]
        ends = stats["transport"]["localCandidate"], stats["transport"]["remoteCandidate"]
        assert (None not in ends) == (kind == "webrtc")
        assert (stats["transport"]["relay"] is not None) == (kind == "relay")
        assert (stats["loss"] is None) == (kind == "relay")

        async def until_seen(way: str) -> None:
            while not stats_of(agent)[way]:
                await asyncio.sleep(0.02)

        async with asyncio.timeout(60 * running.scale):
            ticking = asyncio.create_task(agent.commands.run("while sleep 0.1; do echo tick; done"))
            await until_seen("rateIn")
            ticking.cancel()
            await asyncio.wait({ticking})
            while stats_of(agent)["roundTripMs"] is None:
                await asyncio.sleep(0.02)
        await agent.files.write("numbers", bytes(2 * MB))
        stats = stats_of(agent)
        assert stats["bytesOut"] >= 2 * MB
        assert stats["transport"]["bytesOut"] >= 2 * MB
        assert stats["rateOut"] > 0
        assert set(stats["transport"]["buffered"]) >= {"control", "terminal-io", "file-transfer"}
