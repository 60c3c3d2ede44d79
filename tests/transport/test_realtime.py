"""The faults of realtime-py 2.34 and of networks, against the real hub with a tap on its frames."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from dataclasses import replace
from typing import Any

import pytest
import realtime

from doorstep.hub.config import RealtimeLimits
from doorstep.protocol.errors import InvalidInput, SignalingLost, Unauthorized
from doorstep.protocol.ids import agents_topic, user_id
from doorstep.testing.hub import throw_away_hub
from doorstep.transport.realtime import RealtimeSignaling, RealtimeSocket
from doorstep.transport.signaling import ChannelState

pytestmark = pytest.mark.asyncio

JOINED, LOST, LEFT = ChannelState.JOINED, ChannelState.LOST, ChannelState.LEFT


async def test_it_comes_back_after_more_refusals_than_the_library_bears(hub: Any, member: Any) -> None:
    one = member(hub.topic)
    await hub.signaling().join(one.spec, timeout=3)
    await hub.tap.stop()
    refused = 0
    enough = asyncio.Event()

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal refused
        refused += 1
        if refused > 7:
            enough.set()
        writer.close()

    wall = await asyncio.start_server(refuse, "127.0.0.1", hub.tap.port)
    await asyncio.wait_for(enough.wait(), 8)
    wall.close()
    await wall.wait_closed()
    assert one.states == [JOINED, LOST]
    await hub.tap.start()
    await one.until(lambda: one.states == [JOINED, LOST, JOINED])


async def test_a_half_open_link_is_noticed_by_the_probe(hub: Any, member: Any, quick: Any) -> None:
    one = member(hub.topic)
    channel = await hub.signaling(replace(quick, probe_answer=0.3, acknowledge=0.3)).join(one.spec, timeout=3)
    hub.tap.silent = True  # the proxy still answers WebSocket pings
    with pytest.raises(SignalingLost, match=r"within 0.3 s|closed"):
        await channel.send("offer", {})
    await one.until(lambda: one.states[-1] is LOST)
    hub.tap.silent = False
    await one.until(lambda: one.states[-1] is JOINED)
    await channel.send("offer", {})


async def test_the_probe_finds_a_channel_the_server_forgot(hub: Any, member: Any) -> None:
    one = member(hub.topic)
    await hub.signaling().join(one.spec, timeout=3)
    hub.tap.dropped = {"phx_close"}
    await hub.close_channels()
    await one.until(lambda: one.states == [JOINED, LOST, JOINED])
    assert len(hub.tap.links) == 1


async def test_probes_are_seen_by_nobody_and_keep_the_channel(hub: Any, member: Any) -> None:
    one, two = member(hub.topic, presence=True), member(hub.topic)
    await hub.signaling().join(one.spec, timeout=3)
    await hub.signaling().join(two.spec, timeout=3)
    await hub.tap.until(
        lambda frames: sum(f["event"] == "heartbeat" and f["ref"] is not None for f in frames) > 5
    )
    assert one.messages == two.messages == []
    assert one.states == two.states == [JOINED]


async def test_a_refused_join_is_one_frame(hub: Any, member: Any, stranger: str, quick: Any) -> None:
    signaling = hub.signaling(replace(quick, reconnect_first=0.001, reconnect_cap=0.001))
    with pytest.raises(Unauthorized, match="is the agent yours"):
        await signaling.join(member(stranger).spec, timeout=3)
    one = member(hub.topic)
    channel = await signaling.join(one.spec, timeout=3)
    for _ in range(20):  # many times the pause after which a retry would come
        await channel.send("tick", {})
    assert hub.tap.count("phx_join", stranger) == 1
    assert hub.tap.count("phx_leave", stranger) == 0


async def test_rights_lost_meanwhile_end_the_channel_for_good(hub: Any, member: Any) -> None:
    one = member(hub.topic)
    channel = await hub.signaling().join(one.spec, timeout=3)
    hub.user = await hub.hub.user()
    await hub.close_channels()
    await one.until(lambda: one.states == [JOINED, LOST, LEFT])
    assert channel.state is LEFT


async def test_a_refreshed_token_keeps_the_channel_over_the_old_ones_expiry(hub: Any, member: Any) -> None:
    one = member(hub.topic)
    hub.seconds = 2
    signaling = hub.signaling()
    channel = await signaling.join(one.spec, timeout=3)
    joined = asyncio.get_running_loop().time()
    hub.seconds = None
    await signaling.set_token(await hub.token())
    while asyncio.get_running_loop().time() - joined < 2.2:
        await channel.send("tick", {})
    assert one.states == [JOINED]
    assert hub.tap.count("access_token", hub.topic) >= 1


async def test_an_expired_token_is_replaced_and_the_channel_rejoined(hub: Any, member: Any) -> None:
    one = member(hub.topic)
    hub.seconds = 2
    await hub.signaling().join(one.spec, timeout=3)
    hub.seconds = None
    await one.until(lambda: one.states == [JOINED, LOST, JOINED])
    assert len(hub.tap.links) == 1


async def test_a_bad_api_key_is_not_tried_again(hub: Any, member: Any, quick: Any) -> None:
    signaling = RealtimeSignaling(hub.hub.url, "nonsense", hub.token, quick)
    with pytest.raises(Unauthorized, match="check DOORSTEP_KEY"):
        await signaling.join(member(hub.topic).spec, timeout=3)
    await signaling.close()


async def test_two_sockets_do_not_disturb_each_other(hub: Any, member: Any) -> None:
    one, two = hub.signaling(), hub.signaling()
    await one.join(member(hub.topic).spec, timeout=3)
    await two.join(member(hub.topic).spec, timeout=3)
    assert len(hub.tap.links) == 2
    await two.close()
    assert one.topics() == (hub.topic,)


async def test_a_payload_that_is_no_object_costs_one_log_line(hub: Any, member: Any, caplog: Any) -> None:
    one = member(hub.topic)
    channel = await hub.signaling().join(member(hub.topic).spec, timeout=3)
    await hub.signaling().join(one.spec, timeout=3)
    join_ref = next(f["ref"] for f in hub.tap.sent if f["event"] == "phx_join")
    payload = {"type": "broadcast", "event": "offer", "payload": ["not", "an", "object"]}
    frame = {"topic": f"realtime:{hub.topic}", "event": "broadcast", "ref": "99", "join_ref": join_ref}
    await hub.tap.send(0, frame | {"payload": payload})
    await channel.send("answer", {})
    await one.until(lambda: bool(one.messages))
    assert one.messages == [("answer", {})]
    lines = [r.getMessage() for r in caplog.records if "ignored a Realtime message" in r.getMessage()]
    assert len(lines) == 1
    assert "\n" not in lines[0]
    assert f"realtime:{hub.topic} offer" in lines[0]


async def test_the_largest_message_a_server_carries_ends_no_socket(hub: Any, member: Any) -> None:
    one, two = member(hub.topic), member(hub.topic)
    await hub.signaling().join(one.spec, timeout=3)
    channel = await hub.signaling().join(two.spec, timeout=3)
    await channel.send("connection-request", {"offer": "x" * 2_900_000})
    await one.until(lambda: bool(one.messages))
    assert one.states == [JOINED]


@pytest.mark.parametrize("keys", [True, False], ids=["many keys", "one key"])
async def test_a_server_that_invents_presences_without_end(hub: Any, member: Any, keys: bool) -> None:
    """Nor does one that only shows itself, and looks at nobody, keep them."""
    one, two = member(hub.topic, presence=True), member(hub.topic, "agent-1")
    await hub.signaling().join(one.spec, timeout=3)
    await hub.signaling().join(two.spec, timeout=3)
    for link, _ in hub.tap.links:
        for begin in range(0, 2_500, 500):
            metas = [{"phx_ref": f"{begin}-{number}"} for number in range(500)]
            joins = (
                {meta["phx_ref"]: {"metas": [meta]} for meta in metas} if keys else {"one": {"metas": metas}}
            )
            frame = {
                "topic": f"realtime:{hub.topic}",
                "event": "presence_diff",
                "ref": None,
                "payload": {"joins": joins, "leaves": {}},
            }
            await link.send(json.dumps(frame))
    for each in (one, two):
        await each.until(lambda each=each: each.states == [JOINED, LOST, JOINED])
    await one.until(lambda: one.presences[-1] == {})


async def test_no_log_line_holds_the_key_or_a_token(hub: Any, member: Any, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("websockets.client", "realtime", "doorstep"):
        caplog.set_level(logging.DEBUG, logger=name)
    one = member(hub.topic, "agent-1", presence=True)
    signaling = hub.signaling()
    channel = await signaling.join(one.spec, timeout=3)
    await channel.track({"n": 1})
    await signaling.set_token(await hub.token())
    await channel.send("offer", {})
    await hub.stop()
    await one.until(lambda: one.states[-1] is LOST)
    await hub.start()
    await one.until(lambda: one.states[-1] is JOINED)
    text = "\n".join(r.getMessage() for r in caplog.records if not r.name.startswith("websockets.server"))
    ours = "\n".join(r.getMessage() for r in caplog.records if r.name.startswith(("realtime", "doorstep")))
    assert "websocket?<redacted>" in text
    assert hub.key not in text
    assert "eyJ" not in ours
    loud = [r for r in caplog.records if r.name.startswith("realtime") and r.levelno > logging.DEBUG]
    assert not loud


async def test_an_idle_socket_without_channels_is_closed_and_a_join_opens_another(
    hub: Any, member: Any
) -> None:
    signaling = hub.signaling()
    channel = await signaling.join(member(hub.topic).spec, timeout=3)
    await channel.leave()
    client, _ = hub.tap.links[0]
    await asyncio.wait_for(client.wait_closed(), 3)
    await signaling.join(member(hub.topic).spec, timeout=3)
    assert len(hub.tap.links) == 2


@pytest.mark.parametrize("url", ["", "example.org", "ftp://example.org", "http://"])
async def test_a_bad_url_is_said_before_anything_is_opened(url: str, hub: Any) -> None:
    with pytest.raises(InvalidInput, match="url"):
        RealtimeSignaling(url, "key", hub.token)


async def test_what_is_overridden_in_the_library_is_there() -> None:
    client, channel = realtime.AsyncRealtimeClient, realtime.AsyncRealtimeChannel
    assert list(inspect.signature(client._listen).parameters) == ["self"]
    assert list(inspect.signature(channel._handle_message).parameters) == ["self", "message"]
    assert "self._listen()" in inspect.getsource(client._on_connect)
    assert "rejoin_timer.schedule_timeout" in inspect.getsource(channel)
    made = client("ws://localhost/realtime/v1", "key")
    for name in ("_ws_connection", "_listen_task", "_heartbeat_task", "_make_ref", "_remove_channel"):
        assert hasattr(made, name)
    assert hasattr(made.channel("x"), "_release_subscribe_waiter")


async def test_a_close_that_is_cancelled_still_leaves_no_task(hub: Any, quick: Any) -> None:
    socket = await RealtimeSocket.open(f"{hub.hub.url}/realtime/v1", hub.key, await hub.token(), quick)
    closing = asyncio.create_task(socket.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait({closing})
    assert closing.cancelled()  # and the fixture finds nothing left


async def test_a_refused_join_on_a_socket_of_its_own_freezes_nobody_else(
    tmp_path: Any, member: Any, stranger: str, quick: Any
) -> None:
    slow = RealtimeLimits(join_error_delay=1.0)
    async with throw_away_hub(tmp_path, realtime=slow) as hub:
        user = await hub.user()

        async def token() -> str:
            return user.access_token

        main, separate = (RealtimeSignaling(hub.url, hub.anon_key, token, quick) for _ in range(2))
        channel = await main.join(member(agents_topic(user_id(user.id))).spec, timeout=3)
        refused = asyncio.create_task(separate.join(member(stranger).spec, timeout=3))
        for _ in range(20):
            await channel.send("tick", {})
        assert not refused.done()
        with pytest.raises(Unauthorized):
            await refused
        await asyncio.gather(main.close(), separate.close())


async def test_a_frozen_socket_is_not_taken_for_a_dead_one(
    tmp_path: Any, member: Any, stranger: str, quick: Any
) -> None:
    slow = RealtimeLimits(join_error_delay=1.0)
    async with throw_away_hub(tmp_path, realtime=slow) as hub:
        user = await hub.user()

        async def token() -> str:
            return user.access_token

        signaling = RealtimeSignaling(hub.url, hub.anon_key, token, replace(quick, probe=0.05))
        one = member(agents_topic(user_id(user.id)))
        await signaling.join(one.spec, timeout=3)
        with pytest.raises(Unauthorized):
            await signaling.join(member(stranger).spec, timeout=3)
        assert one.states == [JOINED]
        await signaling.close()
