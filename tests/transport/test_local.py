"""The in-process wire: order, urgency, buffers, silence and ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from doorstep.protocol.errors import WireClosed
from doorstep.protocol.frames import Data, Frame, Ping
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import LANE_HIGH_WATER, LANE_LOW_WATER
from doorstep.testing.clock import run_virtual
from doorstep.transport.local import local_pair
from doorstep.transport.wire import Receiver, Wire

pytestmark = pytest.mark.asyncio
CONTROL, IO, BULK = Lane.CONTROL, Lane.TERMINAL_IO, Lane.FILE_TRANSFER


def collect() -> tuple[list[tuple[Lane, Frame]], Receiver]:
    found: list[tuple[Lane, Frame]] = []
    return found, lambda lane, frame: found.append((lane, frame))


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_it_is_a_wire() -> None:
    one, other = local_pair(max_frame=5000)
    wires: list[Wire] = [one, other]
    assert [wire.kind for wire in wires] == ["local", "local"]
    assert [wire.max_frame for wire in wires] == [5000, 5000]


async def test_frames_arrive_as_they_are_in_order_also_those_before_the_start() -> None:
    one, other = local_pair()
    frames = [Ping(number) for number in range(5)]
    for frame in frames[:3]:
        one.send(CONTROL, frame)
    await turns()
    found, receiver = collect()
    other.start(receiver)
    assert len(found) == 3
    for frame in frames[3:]:
        one.send(CONTROL, frame)
    assert len(found) == 3  # never within send
    await turns()
    assert all(got is sent for (_, got), sent in zip(found, frames, strict=True))


async def test_a_receiver_may_answer() -> None:
    one, other = local_pair()
    found, receiver = collect()
    one.start(receiver)
    other.start(lambda lane, frame: other.send(lane, frame))
    one.send(IO, Ping(1))
    await turns()
    assert found == [(IO, Ping(1))]


async def test_a_receiver_may_send_on_its_way_again() -> None:
    one, other = local_pair()
    other.start(lambda _, __: None)

    def bounce(lane: Lane, frame: Frame) -> None:
        other.send(lane, Ping(2))

    one.start(bounce)
    other.send(IO, Ping(1))
    await turns(2)
    assert other.buffered(IO) > 0  # the next one is on its way already
    await one.close()


async def test_the_more_urgent_lane_goes_first() -> None:
    one, other = local_pair()
    found, receiver = collect()
    other.start(receiver)
    for lane in (BULK, IO, CONTROL, IO):
        one.send(lane, Ping(1))
    await turns()
    assert [lane for lane, _ in found] == [CONTROL, IO, IO, BULK]


async def test_a_rate_takes_time_and_control_overtakes() -> None:
    arrivals: list[tuple[float, Lane]] = []

    async def play() -> None:
        loop = asyncio.get_running_loop()
        one, other = local_pair(rate=1000.0)
        start = loop.time()
        other.start(lambda lane, _: arrivals.append((round(loop.time() - start, 3), lane)))
        for _ in range(3):
            one.send(BULK, Data(1, 0, bytes(968)))  # and 32 for the frame: one second
        await asyncio.sleep(0.5)
        one.send(CONTROL, Ping(1))
        await asyncio.sleep(9)
        await one.close()

    await asyncio.to_thread(run_virtual, play())
    assert arrivals == [(0, BULK), (1, CONTROL), (1.032, BULK), (2.032, BULK)]


async def test_drained_waits_for_the_low_water_mark_of_this_lane_and_those_above() -> None:
    one, other = local_pair()
    other.start(lambda _, __: None)
    one.hold()
    await one.drained(BULK)
    one.send(IO, Data(1, 0, bytes(LANE_HIGH_WATER)))
    one.send(BULK, Data(1, 0, bytes(LANE_LOW_WATER)))
    await one.drained(CONTROL)
    waiting = {lane: asyncio.create_task(one.drained(lane)) for lane in (IO, BULK)}
    given_up = asyncio.create_task(one.drained(BULK))
    await turns()
    assert not any(task.done() for task in waiting.values())
    given_up.cancel()
    await turns()
    one.release(1)
    await turns()
    assert one.buffered(IO) == 0
    assert waiting[IO].done()
    assert not waiting[BULK].done()
    one.release()
    await asyncio.wait_for(waiting[BULK], 5)


@pytest.mark.parametrize("rate", [None, 1e9])
async def test_a_silent_link_loses_nothing(rate: float | None) -> None:
    one, other = local_pair(rate=rate)
    found, receiver = collect()
    other.start(receiver)
    one.send(IO, Ping(1))
    one.hold()
    one.send(IO, Ping(2))
    await turns()
    assert found == []
    one.release(1)
    assert found == [(IO, Ping(1))]
    one.release(5)
    assert len(found) == 2
    one.send(IO, Ping(3))
    one.release()
    one.release()
    async with asyncio.timeout(5):
        while len(found) < 3:
            await asyncio.sleep(0)
    await one.close()


async def test_holding_from_within_a_receiver() -> None:
    one, other = local_pair(rate=1e9)
    other.start(lambda _, __: one.hold())
    one.send(IO, Ping(1))
    one.send(IO, Ping(2))
    await turns()
    assert one.buffered(IO) > 0
    await one.close()


async def test_closing_ends_both_ends_and_every_wait() -> None:
    one, other = local_pair()
    found, receiver = collect()
    other.start(receiver)
    one.hold()
    one.send(IO, Data(1, 0, bytes(LANE_HIGH_WATER)))
    waiting = asyncio.create_task(one.drained(IO))
    await turns()
    await one.close("enough")
    await one.close("again")
    await other.close("me too")
    assert await one.wait_closed() == "enough"
    assert await other.wait_closed() == "closed by the peer: enough"
    uses: list[Callable[[], Any]] = [lambda: one.send(IO, Ping(1)), lambda: other.send(IO, Ping(1))]
    for use in uses:
        with pytest.raises(WireClosed):
            use()
    with pytest.raises(WireClosed, match="enough"):
        await waiting
    with pytest.raises(WireClosed):
        await one.drained(IO)
    one.release()
    await turns()
    assert found == []


async def test_a_link_that_dies_is_noticed_at_one_end_only() -> None:
    one, other = local_pair()
    found, receiver = collect()
    one.start(receiver)
    one.lose("cut")
    other.send(IO, Ping(1))
    await turns()
    assert found == []
    assert await one.wait_closed() == "cut"


async def test_stats_count_bytes() -> None:
    one, other = local_pair()
    other.start(lambda _, __: None)
    one.send(IO, Data(1, 0, bytes(100)))
    assert one.stats()["buffered"] == {lane: 132 if lane is IO else 0 for lane in Lane}
    await turns()
    assert (one.stats()["bytesOut"], other.stats()["bytesIn"]) == (132, 132)
