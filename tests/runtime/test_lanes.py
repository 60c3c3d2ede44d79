"""A wire that carries only some lanes: what goes over it, what waits for a better one. On virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from doorstep.protocol.errors import NotCarried
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import LANE_HIGH_WATER
from doorstep.protocol.timing import DEFAULT_TIMING
from doorstep.runtime import Stream
from doorstep.runtime.session import SessionState
from doorstep.testing.echo import EchoService
from doorstep.testing.pair import SessionPair, session_pair
from doorstep.transport.local import LocalWire
from doorstep.transport.wire import Traits

from .support import turns
from .test_resume import another_wire, cut
from .test_waits import on_virtual_time, until

SLOW = Traits(lanes=frozenset({Lane.CONTROL, Lane.TERMINAL_IO}), high_water=4096, patience=10)
NARROW = pytest.mark.parametrize("lane", [Lane.FILE_TRANSFER, Lane.BROWSER_STREAM])


class Counting(LocalWire):
    """Notes what it was given."""

    def __init__(self) -> None:
        super().__init__(None, 1 << 18)
        self.lanes: set[Lane] = set()
        self.count = 0

    def send(self, lane: Lane, frame: Any) -> None:
        self.lanes.add(lane)
        self.count += 1
        super().send(lane, frame)


async def slow_wire(pair: SessionPair) -> tuple[Counting, Counting]:
    near, far = Counting(), Counting()
    near.join(far)
    far.join(near)
    near.traits = far.traits = SLOW
    async with asyncio.TaskGroup() as group:
        group.create_task(pair.agent.carry(far))
        group.create_task(pair.client.carry(near))
    return near, far


async def echoed(stream: Stream, text: bytes) -> bytes:
    await stream.write(text)
    found = b""
    while len(found) < len(text):
        found += await stream.read()
    return found


@NARROW
def test_a_stream_of_another_lane_is_refused_and_a_shell_is_not(lane: Lane) -> None:
    @on_virtual_time
    async def play() -> None:
        async with session_pair(EchoService()) as pair:
            await slow_wire(pair)
            with pytest.raises(NotCarried, match="does not go over local") as refused:
                await pair.client.open("echo", "back", lane=lane)
            assert refused.value.code == "unsupported"
            shell = await pair.client.open("echo", "back", lane=Lane.TERMINAL_IO)
            assert await echoed(shell, b"ls\n") == b"ls\n"
            assert await pair.client.call("echo.say", {"n": 1}) == {"n": 1}
            await another_wire(pair)
            assert await echoed(await pair.client.open("echo", "back", lane=lane), b"x") == b"x"

    play()


@pytest.mark.parametrize("broken", [True, False])
def test_a_file_in_flight_waits_for_a_better_wire(broken: bool) -> None:
    """Nothing of it is sent over the slow one, nothing is lost; a shell beside it goes on."""

    @on_virtual_time
    async def play() -> None:
        async with session_pair(EchoService()) as pair:
            bulk = await pair.client.open("echo", "back", lane=Lane.FILE_TRANSFER)
            shell = await pair.client.open("echo", "back", lane=Lane.TERMINAL_IO)
            content = bytes(range(256)) * 1000
            writing = asyncio.create_task(bulk.write(content + content))
            received = bytearray()

            async def read() -> None:
                while len(received) < 2 * len(content):
                    received.extend(await bulk.read())

            reading = asyncio.create_task(read())
            await until(lambda: len(received) > len(content) // 2)
            if broken:
                cut(pair)
                await until(lambda: pair.client.state is pair.agent.state is SessionState.AWAY)
            near, far = await slow_wire(pair)
            await turns()
            before = len(received)
            await asyncio.sleep(60)
            assert await echoed(shell, b"still here") == b"still here"
            assert len(received) == before
            assert near.lanes | far.lanes <= SLOW.lanes
            await another_wire(pair)
            async with asyncio.timeout(60):
                await reading
                await writing
                await bulk.finish()
                assert await bulk.read() == b""
            assert received == content + content

    play()


@on_virtual_time
async def test_what_ended_meanwhile_is_told_over_the_better_wire() -> None:
    async with session_pair(EchoService()) as pair:
        whole, given_up = [await pair.client.open("echo", "back", lane=Lane.FILE_TRANSFER) for _ in range(2)]
        cut(pair)
        await slow_wire(pair)
        await whole.finish()
        await given_up.reset("cancelled", "enough")
        await asyncio.sleep(5)
        assert pair.agent.stats()["streams"] == 2
        await another_wire(pair)
        assert await whole.read() == b""
        await until(lambda: pair.agent.stats()["streams"] == 0)


@on_virtual_time
async def test_on_an_idle_slow_wire_little_is_said_and_silence_is_borne_longer() -> None:
    timing = DEFAULT_TIMING
    async with session_pair() as pair:
        near, far = await slow_wire(pair)
        await asyncio.sleep(timing.shutdown + 1)  # the other wire has been left
        near.count = 0
        await asyncio.sleep(100)
        assert 10 <= near.count <= 24  # our PING and our PONG, each 10 s
        near.hold()
        far.hold()
        await asyncio.sleep(8 * timing.silence)
        assert pair.client.state is SessionState.OPEN
        await asyncio.sleep(4 * timing.silence)
        assert pair.client.state is pair.agent.state is SessionState.AWAY


@on_virtual_time
async def test_the_clock_of_a_lane_stands_still_while_it_is_not_carried() -> None:
    async with session_pair() as pair:

        def clocks() -> list[float]:
            return [pair.client.time_with_a_wire(lane) for lane in (Lane.TERMINAL_IO, Lane.FILE_TRANSFER)]

        async def gone(seconds: float) -> list[float]:
            before = clocks()
            await asyncio.sleep(seconds)
            return [after - start for after, start in zip(clocks(), before, strict=True)]

        assert await gone(5) == pytest.approx([5, 5])
        await slow_wire(pair)
        assert await gone(7) == pytest.approx([7, 0])
        wires = await slow_wire(pair)
        for wire in wires:
            wire.lose("cut")
        await turns()
        assert await gone(9) == pytest.approx([0, 0])
        await another_wire(pair)
        assert await gone(2) == pytest.approx([2, 2])


@on_virtual_time
async def test_a_writer_waits_at_the_wires_own_mark() -> None:
    async with session_pair(EchoService()) as pair:
        near, _ = await slow_wire(pair)
        shell = await pair.client.open("echo", "back", lane=Lane.TERMINAL_IO)
        await turns()
        near.hold()
        writing = asyncio.create_task(shell.write(bytes(LANE_HIGH_WATER - 1)))
        await turns()
        assert not writing.done()
        assert near.buffered(Lane.TERMINAL_IO) < LANE_HIGH_WATER / 2
        near.release()
        async with asyncio.timeout(10):
            await writing
