"""Streams: bytes, windows, ends, and every way to give up on one."""

from __future__ import annotations

import asyncio
import hashlib
import random
from typing import Any

import pytest

from doorstep.protocol.errors import InvalidInput, RemoteError, SessionClosed, StreamClosed
from doorstep.protocol.frames import Accept, Data, Fin, Open, Ping, Pong, Reset, Window
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import (
    BULK_WINDOW,
    DATA_CHUNK,
    SESSION_WINDOWS,
    SMALLEST_WINDOW,
    TERMINAL_WINDOW,
)
from doorstep.protocol.stream import StreamState
from doorstep.runtime import Stream, StreamRequest
from doorstep.testing.echo import EchoService
from doorstep.testing.pair import session_pair

from .support import Functions, raw_agent, raw_client, soon, turns, until

pytestmark = pytest.mark.asyncio
IO, BULK = Lane.TERMINAL_IO, Lane.FILE_TRANSFER


class Holder:
    """Accepts streams and hands them to the test, until the test lets go."""

    def __init__(self, window: int | None = None) -> None:
        self.window = window
        self.streams: asyncio.Queue[Stream] = asyncio.Queue()
        self.let_go = asyncio.Event()
        self.cancelled = 0

    async def hold(self, request: StreamRequest) -> None:
        self.streams.put_nowait(await request.accept(window=self.window))
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    @property
    def service(self) -> Functions:
        return Functions(streams={"hold": self.hold})


# --- bytes ---


async def test_an_echo_with_params_result_and_trailers() -> None:
    async with session_pair(EchoService()) as pair:
        stream = await pair.client.open("echo", "back", {"cols": 80}, lane=IO)
        assert (stream.id, stream.lane, stream.session) == (1, IO, pair.client)
        assert stream.params == stream.result == {"cols": 80}
        await stream.write(b"hello")
        assert await soon(stream.read()) == b"hello"
        await stream.finish({"bye": 1})
        assert stream.trailer is None
        assert await soon(stream.read()) == b""
        assert await stream.read() == b""
        assert stream.trailer == {"bye": 1}
        assert stream.state is StreamState.FINISHED
        assert repr(stream) == "<Stream 1 finished on terminal-io>"
        assert (stream.sent, stream.received) == (5, 5)


async def test_the_agent_opens_even_ids() -> None:
    async with session_pair(client_services=[EchoService()]) as pair:
        first = await pair.agent.open("echo", "back", lane=IO)
        second = await pair.agent.open("echo", "back", lane=BULK)
        assert (first.id, second.id) == (2, 4)
        await first.write(b"x")
        assert await soon(first.read()) == b"x"


async def test_megabytes_arrive_as_they_were_sent() -> None:
    chance = random.Random(7)
    digests = [hashlib.sha256(), hashlib.sha256()]
    async with session_pair(EchoService()) as pair:
        stream = await pair.client.open("echo", "back", lane=BULK, window=100_000)

        async def write() -> None:
            for _ in range(60):
                piece = chance.randbytes(chance.choice([1, 7, 1000, DATA_CHUNK, 200_000]))
                digests[0].update(piece)
                await stream.write(piece)
            await stream.finish()

        writing = asyncio.create_task(write())
        while piece := await soon(stream.read(chance.choice([1, 100, 65536, 1 << 20]))):
            digests[1].update(piece)
        await writing
        assert stream.sent == stream.received
        assert digests[0].digest() == digests[1].digest()


async def test_what_is_written_is_copied() -> None:
    async with session_pair(EchoService()) as pair:
        stream = await pair.client.open("echo", "back", lane=IO)
        buffer = bytearray(b"before")
        await stream.write(memoryview(buffer))  # type: ignore[arg-type]
        buffer[:] = b"after!"
        assert await soon(stream.read()) == b"before"


async def test_reads_give_what_is_asked_for() -> None:
    async with raw_agent() as (peer, session):
        opening = asyncio.create_task(session.open("a", "b", lane=IO))
        await peer.expect(Open)
        peer.send(Accept(1, {}, 0), IO)
        stream = await soon(opening)
        for offset, piece in ((0, b"abc"), (3, b"defg"), (7, b"h")):
            peer.send(Data(1, offset, piece), IO)
        await until(lambda: stream.received == 8)
        assert await stream.read(2) == b"ab"
        assert await stream.read(3) == b"cde"
        assert await stream.read(100) == b"fgh"


async def test_many_small_chunks_are_kept_together() -> None:
    async with raw_agent() as (peer, session):
        opening = asyncio.create_task(session.open("a", "b", lane=IO))
        await peer.expect(Open)
        peer.send(Accept(1, {}, 0), IO)
        stream = await soon(opening)
        sent = bytearray()
        for number in range(20_000):
            piece = bytes([number % 251, number % 7])
            peer.send(Data(1, len(sent), piece), IO)
            sent += piece
        peer.send(Data(1, len(sent), bytes(2000)), IO)
        sent += bytes(2000)
        await until(lambda: stream.received == len(sent))
        assert len(stream._chunks) < 10
        got = b""
        while len(got) < len(sent):
            part = await stream.read(777)
            assert type(part) is bytes
            got += part
        assert got == sent


async def test_iterating_ends_with_the_stream_and_leaves_nothing_when_left_early() -> None:
    async with session_pair(EchoService()) as pair:
        stream = await pair.client.open("echo", "back", lane=IO)
        await stream.write(b"one")
        async for chunk in stream:
            assert chunk == b"one"
            break
        await stream.write(b"two")
        await stream.finish()
        assert [chunk async for chunk in stream] == [b"two"]


async def test_two_writers_never_interleave() -> None:
    async with session_pair(EchoService()) as pair:
        stream = await pair.client.open("echo", "back", lane=BULK, window=50_000)
        writing = [asyncio.create_task(stream.write(bytes([n]) * 70_000)) for n in range(4)]
        finishing = asyncio.create_task(stream.finish())
        got = b"".join([chunk async for chunk in stream])
        await asyncio.gather(finishing, *writing)
        assert got == b"".join(bytes([n]) * 70_000 for n in range(4))


async def test_one_task_reads_at_a_time() -> None:
    async with session_pair(EchoService()) as pair:
        stream = await pair.client.open("echo", "back", lane=IO)
        first = asyncio.create_task(stream.read())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another task"):
            await stream.read()
        await stream.write(b"x")
        assert await soon(first) == b"x"


# --- windows ---


async def test_a_writer_stops_at_the_window_and_goes_on_when_half_was_read() -> None:
    holder = Holder(window=1000)
    async with session_pair(holder.service) as pair:
        stream = await pair.client.open("test", "hold", lane=BULK)
        writing = asyncio.create_task(stream.write(bytes(2500)))
        far = await soon(holder.streams.get())
        await turns()
        assert (stream.sent, far.received) == (1000, 1000)
        await far.read(499)
        await turns()
        assert stream.sent == 1000
        await far.read(1)
        await turns()
        assert stream.sent == 1500
        while far.received < 2500 or not writing.done():
            await soon(far.read(300))
        await writing


async def test_a_slow_reader_bounds_what_is_held() -> None:
    holder = Holder(window=64 * 1024)
    async with session_pair(holder.service) as pair:
        stream = await pair.client.open("test", "hold", lane=BULK)
        far = await soon(holder.streams.get())
        writing = asyncio.create_task(stream.write(bytes(2_000_000)))
        read = 0
        while read < 2_000_000:
            await turns(3)
            assert far.received - read <= 64 * 1024
            assert sum(map(len, far._chunks)) <= 64 * 1024 + DATA_CHUNK  # a chunk half read is still whole
            read += len(await soon(far.read(5000)))
        await writing


@pytest.mark.parametrize(("lane", "window"), [(IO, TERMINAL_WINDOW), (BULK, BULK_WINDOW)])
async def test_the_window_of_a_lane(lane: Lane, window: int) -> None:
    async with raw_client(EchoService(), Holder().service) as (peer, _):
        peer.send(Open(1, "echo", "back", {}, lane, 0), lane)
        assert (await peer.expect(Accept)).window == window


async def test_windows_shrink_when_the_memory_of_the_session_is_given_out() -> None:
    holder = Holder()
    async with raw_client(holder.service) as (peer, session):
        count = SESSION_WINDOWS // BULK_WINDOW
        windows = [(await peer.open(2 * number + 1, "hold")).window for number in range(count + 2)]
        assert windows == [BULK_WINDOW] * count + [SMALLEST_WINDOW] * 2
        for number in range(3):
            peer.send(Reset(2 * number + 1, "cancelled", ""), BULK)
        await until(lambda: holder.cancelled == 3)
        assert (await peer.open(201, "hold")).window == BULK_WINDOW
        peer.send(Data(201, 0, bytes(1000)), BULK)
        peer.send(Fin(201, 1000, {}), BULK)
        holder.let_go.set()
        await until(lambda: len(session._streams) == 0)
        await turns()
        assert session._streams._windows == 0


async def test_a_finished_stream_that_is_not_read_still_counts() -> None:
    async def give(request: StreamRequest) -> None:
        stream = await request.accept()
        await stream.write(bytes(1000))
        await stream.finish()
        await stream.read()

    async with session_pair(Functions(streams={"give": give})) as pair:
        stream = await pair.client.open("test", "give", lane=BULK)
        await stream.finish()
        await until(lambda: stream.state is StreamState.FINISHED)
        registry = pair.client._streams
        await until(lambda: len(registry) == 0)
        assert registry._windows == BULK_WINDOW
        assert len(await stream.read()) == 1000
        assert registry._windows == 0
        assert await stream.read() == b""


async def test_a_window_below_zero_is_refused_here() -> None:
    async with session_pair(EchoService()) as pair:
        with pytest.raises(InvalidInput, match="window"):
            await pair.client.open("echo", "back", lane=IO, window=-1)


@pytest.mark.parametrize(
    ("service", "method", "params"),
    [
        ("", "x", {}),
        ("x", "", {}),
        ("x" * 65, "x", {}),
        ("x", "x", {"a": object()}),
        ("x", "x", {"a": "b" * 70000}),
    ],
)
async def test_what_no_frame_can_carry_is_refused(service: str, method: str, params: dict[str, Any]) -> None:
    async with session_pair(EchoService()) as pair:
        with pytest.raises(InvalidInput):
            await pair.client.open(service, method, params, lane=IO)
        assert len(pair.client._streams) == 0
        assert await soon(pair.client.call("echo.say")) == {}


# --- ends ---


async def test_directions_end_one_by_one() -> None:
    holder = Holder()
    async with session_pair(holder.service) as pair:
        near = await pair.client.open("test", "hold", lane=IO)
        far = await soon(holder.streams.get())
        await near.finish({"mine": 1})
        await near.finish()  # whole already
        with pytest.raises(StreamClosed):
            await near.write(b"x")
        assert await soon(far.read()) == b""
        assert far.trailer == {"mine": 1}
        await far.write(b"still here")
        assert await soon(near.read()) == b"still here"
        await far.finish({"yours": 2})
        assert await soon(near.read()) == b""
        assert near.trailer == {"yours": 2}
        assert len(pair.client._streams) == len(pair.agent._streams) == 0
        await near.reset("cancelled", "too late to matter")
        assert near.state is StreamState.FINISHED


async def test_an_empty_write_still_says_that_the_stream_is_closed() -> None:
    async with session_pair(EchoService()) as pair:
        stream = await pair.client.open("echo", "back", lane=IO)
        await stream.write(b"")
        await stream.finish()
        with pytest.raises(StreamClosed):
            await stream.write(b"")


async def test_a_reset_by_the_peer() -> None:
    holder = Holder(window=10)
    async with session_pair(holder.service) as pair:
        near = await pair.client.open("test", "hold", lane=IO)
        far = await soon(holder.streams.get())
        await far.write(b"unread")
        writing = asyncio.create_task(near.write(bytes(11)))
        await turns()
        await near.read()
        reading = asyncio.create_task(near.read())
        await turns()
        await far.reset("busy", "not now")
        for task in (writing, reading):
            with pytest.raises(RemoteError, match="not now") as caught:
                await soon(task)
            assert caught.value.code == "busy"
        for again in (near.write(b"x"), near.read(), near.finish()):
            with pytest.raises(RemoteError, match="not now"):
                await again
        for again in (far.write(b"x"), far.read(), far.finish()):
            with pytest.raises(StreamClosed):
                await again
        await near.reset("cancelled", "")
        await far.reset("cancelled", "")


async def test_a_reset_drops_what_was_not_read() -> None:
    holder = Holder()
    async with session_pair(holder.service) as pair:
        near = await pair.client.open("test", "hold", lane=IO)
        far = await soon(holder.streams.get())
        await far.write(b"unread")
        await far.reset("internal", "broken")
        await turns()
        with pytest.raises(RemoteError, match="broken"):
            await near.read()


async def test_what_ended_whole_stays_whole_when_the_rest_is_reset() -> None:
    async def answer(request: StreamRequest) -> None:
        stream = await request.accept()
        await stream.write(b"the answer")
        await stream.finish({"exitCode": 0})

    async with session_pair(Functions(streams={"answer": answer})) as pair:
        stream = await pair.client.open("test", "answer", lane=IO)
        await until(lambda: stream.state is StreamState.RESET)
        assert await stream.read(3) == b"the"
        assert await stream.read() == b" answer"
        assert await stream.read() == b""
        assert stream.trailer == {"exitCode": 0}
        with pytest.raises(RemoteError, match="the service has ended"):
            await stream.write(b"x")


async def test_a_reset_of_what_is_finished_drops_what_was_not_read() -> None:
    async with session_pair(EchoService()) as pair:
        stream = await pair.client.open("echo", "back", lane=IO)
        await stream.write(b"hello")
        await stream.finish()
        await until(lambda: stream.state is StreamState.FINISHED)
        assert await stream.read(2) == b"he"
        await stream.reset("cancelled", "no interest")
        assert pair.client._streams._windows == 0
        assert stream.trailer is None
        with pytest.raises(StreamClosed, match="dropped"):
            await stream.read()


async def test_our_own_reset_wakes_our_own_waits() -> None:
    holder = Holder(window=10)
    async with session_pair(holder.service) as pair:
        near = await pair.client.open("test", "hold", lane=IO)
        tasks = [asyncio.create_task(near.write(bytes(11))), asyncio.create_task(near.read())]
        await turns()
        await near.reset("cancelled", "enough")
        for task in tasks:
            with pytest.raises(StreamClosed):
                await soon(task)
        await until(lambda: holder.cancelled == 1)


async def test_codes_and_messages_are_cut_to_what_a_frame_carries() -> None:
    async with raw_client(Holder().service) as (peer, session):
        await peer.open(1, "hold")
        stream = session._streams._streams[1]
        await stream.reset("c" * 100, "m" * 2000)
        assert await peer.expect(Reset) == Reset(1, "c" * 64, "m" * 1024)


# --- giving up ---


async def test_a_cancelled_read_loses_nothing() -> None:
    holder = Holder()
    async with session_pair(holder.service) as pair:
        near = await pair.client.open("test", "hold", lane=IO)
        far = await soon(holder.streams.get())
        reading = asyncio.create_task(near.read())
        await turns()
        await far.write(b"kept")
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert await soon(near.read()) == b"kept"


async def test_a_read_cancelled_just_as_bytes_arrive_loses_nothing() -> None:
    holder = Holder()
    async with session_pair(holder.service) as pair:
        near = await pair.client.open("test", "hold", lane=IO)
        far = await soon(holder.streams.get())
        for turn in range(6):
            reading = asyncio.create_task(near.read())
            await turns()
            await far.write(bytes([turn]))
            await turns(turn)
            reading.cancel()
            await asyncio.wait([reading])
            got = await soon(near.read()) if reading.cancelled() else reading.result()
            assert got == bytes([turn])


async def test_a_cancelled_write_says_how_far_it_got() -> None:
    holder = Holder(window=1000)
    async with session_pair(holder.service) as pair:
        near = await pair.client.open("test", "hold", lane=IO)
        far = await soon(holder.streams.get())
        writing = asyncio.create_task(near.write(bytes(1500)))
        await turns()
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert near.sent == 1000
        await far.read()
        await near.write(b"and more")
        assert await soon(far.read()) == b"and more"


async def test_a_cancelled_open_resets_and_late_frames_are_nothing() -> None:
    async with raw_agent() as (peer, session):
        opening = asyncio.create_task(session.open("a", "b", lane=IO))
        await peer.expect(Open)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert await peer.expect(Reset) == Reset(1, "cancelled", "the opener gave up")
        for late in (Accept(1, {}, 100), Data(1, 0, b"x"), Fin(1, 1, {}), Reset(1, "x", "")):
            peer.send(late, IO)
        peer.send(Window(1, 0, 100))
        peer.send(Ping(5))
        assert await peer.expect(Pong) == Pong(5)
        assert not session.closed
        assert len(session._streams) == 0


async def test_an_open_cancelled_just_as_it_is_accepted_is_reset_too() -> None:
    async with raw_agent() as (peer, session):
        opening = asyncio.create_task(session.open("a", "b", lane=IO))
        await peer.expect(Open)
        peer.send(Accept(1, {}, 100), IO)
        stream = session._streams._streams[1]
        await until(lambda: stream.state is StreamState.OPEN)
        opening.cancel()
        await asyncio.wait([opening])
        assert opening.cancelled()
        await peer.expect(Reset)
        assert len(session._streams) == 0


async def test_a_reset_cancels_the_handler() -> None:
    holder = Holder()
    async with session_pair(holder.service) as pair:
        near = await pair.client.open("test", "hold", lane=IO)
        await near.finish()  # its input has ended; a reset still reaches it
        await near.reset("cancelled", "")
        await until(lambda: pair.agent._streams._served == 0)
        assert holder.cancelled == 1


async def test_the_session_ends_between_accept_and_read() -> None:
    async with raw_agent() as (peer, session):
        opening = asyncio.create_task(session.open("a", "b", lane=IO))
        await peer.expect(Open)
        peer.send(Accept(1, {}, 100), IO)
        stream = await soon(opening)
        peer.send(Data(1, 0, b"x"), IO)
        await until(lambda: stream.received == 1)
        peer.wire.lose("gone")
        await session.close("over")
        assert await stream.read() == b"x"
        with pytest.raises(SessionClosed, match="over"):
            await stream.read()
        with pytest.raises(SessionClosed, match="over"):
            await stream.finish()


async def test_bytes_read_as_the_wire_dies_are_not_lost() -> None:
    async with session_pair(EchoService()) as pair:
        stream = await pair.client.open("echo", "back", lane=IO, window=4)
        await stream.write(b"1234")
        await until(lambda: stream.received == 4)
        pair.client_wire.lose("cut")
        assert await stream.read() == b"1234"  # its WINDOW cannot be sent any more
