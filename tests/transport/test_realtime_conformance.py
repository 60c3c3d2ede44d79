"""What every signaling service does, the bus in memory and the real hub alike."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from doorstep.protocol.errors import InvalidInput, SignalingLost, Unauthorized
from doorstep.transport.signaling import ChannelSpec, ChannelState

pytestmark = pytest.mark.asyncio

JOINED, LOST, LEFT = ChannelState.JOINED, ChannelState.LOST, ChannelState.LEFT


async def test_a_broadcast_reaches_the_others_and_not_its_sender(world: Any, member: Any) -> None:
    one, two = member(world.topic), member(world.topic)
    sender = await world.signaling().join(one.spec, timeout=3)
    await world.signaling().join(two.spec, timeout=3)
    await sender.send("offer", {"sdp": "v=0 äöü", "n": [1, None]})
    await two.until(lambda: two.messages == [("offer", {"sdp": "v=0 äöü", "n": [1, None]})])
    assert one.messages == []


async def test_a_service_that_comes_back_finds_the_channel_joined_and_tracked_again(
    world: Any, member: Any
) -> None:
    agent, client = member(world.topic, "agent-1"), member(world.topic, presence=True)
    channel = await world.signaling().join(agent.spec, timeout=3)
    await channel.track({"name": "box", "n": 1})
    await world.stop()
    await agent.until(lambda: agent.states[-1] is LOST)
    await world.start()
    await agent.until(lambda: agent.states == [JOINED, LOST, JOINED])
    await world.signaling().join(client.spec, timeout=3)
    await client.until(
        lambda: bool(client.presences) and client.presences[-1] == {"agent-1": {"name": "box", "n": 1}}
    )


async def test_what_cannot_be_sent_fails_at_once_and_is_never_delivered(world: Any, member: Any) -> None:
    one, two = member(world.topic), member(world.topic)
    sender = await world.signaling().join(one.spec, timeout=3)
    await world.signaling().join(two.spec, timeout=3)
    await world.stop()
    await one.until(lambda: one.states[-1] is LOST)
    with pytest.raises(SignalingLost, match="stale was not sent"):
        await sender.send("stale", {})
    await world.start()
    await one.until(lambda: one.states[-1] is JOINED)
    await two.until(lambda: two.states == [JOINED, LOST, JOINED])
    await sender.send("fresh", {})
    await two.until(lambda: bool(two.messages))
    assert two.messages == [("fresh", {})]


async def test_leaving_and_joining_the_same_topic_at_once_works(world: Any, member: Any) -> None:
    listener = member(world.topic)
    await world.signaling().join(listener.spec, timeout=3)
    signaling = world.signaling()
    for turn in range(20):
        one = member(world.topic)
        channel = await signaling.join(one.spec, timeout=3)
        await channel.send("turn", {"n": turn})
        assert one.states == [JOINED]
        await channel.leave()
        assert one.states == [JOINED, LEFT]
    await listener.until(lambda: [payload["n"] for _, payload in listener.messages] == list(range(20)))
    assert world.joins(world.topic) == 21


async def test_a_refused_join_is_unauthorized_once(world: Any, member: Any, stranger: str) -> None:
    one, bystander = member(stranger), member(world.topic)
    signaling = world.signaling()
    channel = await signaling.join(bystander.spec, timeout=3)
    with pytest.raises(Unauthorized):
        await signaling.join(one.spec, timeout=3)
    await channel.send("alive", {})
    await channel.send("alive", {})
    assert world.joins(stranger) == 1
    assert signaling.topics() == (world.topic,)
    assert one.states == [LEFT]
    assert bystander.states == [JOINED]


async def test_presence_shows_joins_and_updates_at_once_and_a_leave_late(world: Any, member: Any) -> None:
    client, agent = member(world.topic, presence=True), member(world.topic, "agent-1")
    await world.signaling().join(client.spec, timeout=3)
    await client.until(lambda: client.presences == [{}])
    agents = world.signaling()
    channel = await agents.join(agent.spec, timeout=3)
    await channel.track({"n": 1})
    await client.until(lambda: client.presences[-1] == {"agent-1": {"n": 1}})
    await channel.track({"n": 2})
    await client.until(lambda: client.presences[-1] == {"agent-1": {"n": 2}})
    await channel.leave()
    again = await agents.join(agent.spec, timeout=3)
    await again.track({"n": 3})
    await client.until(lambda: client.presences[-1] == {"agent-1": {"n": 3}})
    assert client.presences == [{}, *({"agent-1": {"n": n}} for n in (1, 2, 3))]
    loop = asyncio.get_running_loop()
    left = loop.time()
    await again.untrack()
    await client.until(lambda: client.presences[-1] == {})
    assert loop.time() - left >= 0.29


async def test_a_channel_the_server_closes_is_joined_again(world: Any, member: Any) -> None:
    one = member(world.topic)
    channel = await world.signaling().join(one.spec, timeout=3)
    await world.close_channels()
    await one.until(lambda: one.states == [JOINED, LOST, JOINED])
    await channel.send("alive", {})


async def test_a_join_waits_for_a_service_that_is_down(world: Any, member: Any) -> None:
    one = member(world.topic)
    signaling = world.signaling()
    await world.stop()
    joining = asyncio.create_task(signaling.join(one.spec, timeout=5))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(joining), 0.3)
    assert signaling.topics() == (world.topic,)
    await world.start()
    assert (await joining).state is JOINED


async def test_a_join_that_does_not_succeed_in_time_leaves_nothing(world: Any, member: Any) -> None:
    signaling = world.signaling()
    await world.stop()
    with pytest.raises(SignalingLost, match="is not joined after"):
        await signaling.join(member(world.topic).spec, timeout=0.2)
    assert signaling.topics() == ()
    await world.start()


async def test_a_cancelled_join_leaves_nothing(world: Any, member: Any) -> None:
    signaling = world.signaling()
    one = member(world.topic)
    joining = asyncio.create_task(signaling.join(one.spec, timeout=5))
    await asyncio.sleep(0)
    joining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await joining
    assert signaling.topics() == ()
    await signaling.join(member(world.topic).spec, timeout=3)


async def test_a_topic_has_one_owner_on_one_socket(world: Any, member: Any) -> None:
    signaling = world.signaling()
    await signaling.join(member(world.topic).spec, timeout=3)
    with pytest.raises(InvalidInput, match="already joined"):
        await signaling.join(member(world.topic).spec, timeout=3)


async def test_a_listener_that_fails_ends_nothing(world: Any, member: Any, caplog: Any) -> None:
    heard = asyncio.Queue[str]()

    def fail(event: str, payload: dict[str, Any]) -> None:
        heard.put_nowait(event)
        raise RuntimeError("this listener fails")

    sender = await world.signaling().join(member(world.topic).spec, timeout=3)
    channel = await world.signaling().join(ChannelSpec(topic=world.topic, on_message=fail), timeout=3)
    await sender.send("first", {})
    await sender.send("second", {})
    async with asyncio.timeout(3):
        assert [await heard.get(), await heard.get()] == ["first", "second"]
    assert channel.state is JOINED
    assert caplog.text.count("a listener of") == 2


async def test_closed_signaling_is_final_and_says_so(world: Any, member: Any) -> None:
    one = member(world.topic)
    signaling = world.signaling()
    channel = await signaling.join(one.spec, timeout=3)
    await signaling.close()
    await signaling.close()
    assert one.states == [JOINED, LEFT]
    assert channel.state is LEFT
    await channel.leave()
    with pytest.raises(SignalingLost):
        await channel.send("late", {})
    with pytest.raises(SignalingLost):
        await signaling.join(one.spec, timeout=1)
