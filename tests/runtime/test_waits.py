"""Every wait of a session, on virtual time: nothing at the limit less a little, something at the limit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

import pytest

from doorstep.protocol.errors import DeadlineExceeded, RemoteError, SessionClosed
from doorstep.protocol.frames import Call, Hello, Open, Ping, Pong, Reply, Reset, Role
from doorstep.protocol.lanes import Lane
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.runtime import Session, StreamRequest
from doorstep.runtime.pulse import Beat, Pulse
from doorstep.testing.clock import VirtualLoop, run_virtual
from doorstep.testing.echo import EchoService
from doorstep.testing.pair import session_pair
from doorstep.transport.local import local_pair

from .support import ID, Functions, raw_agent, raw_client, turns

A_LITTLE = 0.001
TIMING = DEFAULT_TIMING


def on_virtual_time(play: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    @wraps(play)
    def test() -> None:
        run_virtual(play())

    return test


async def until(check: Callable[[], bool]) -> None:
    """Let time pass until ``check`` is true."""
    async with asyncio.timeout(3600):
        while not check():
            await asyncio.sleep(A_LITTLE)


def virtual_loop() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


# --- the greeting, open and call ---


@on_virtual_time
async def test_no_greeting_ends_at_the_limit() -> None:
    near, far = local_pair()
    session = Session(role=Role.AGENT, session_id=ID)
    start = asyncio.create_task(session.start(far))
    await asyncio.sleep(TIMING.ice - A_LITTLE)
    assert not start.done()
    await asyncio.sleep(A_LITTLE)
    with pytest.raises(DeadlineExceeded, match="greeting"):
        await start
    assert (await near.wait_closed()).startswith("closed by the peer: no greeting")


@on_virtual_time
async def test_an_open_that_is_not_answered() -> None:
    async with raw_agent() as (peer, session):
        opening = asyncio.create_task(session.open("a", "b", lane=Lane.TERMINAL_IO, timeout=5))
        await asyncio.sleep(5 - A_LITTLE)
        assert not opening.done()
        await asyncio.sleep(A_LITTLE)
        with pytest.raises(DeadlineExceeded, match=r"open a\.b"):
            await opening
        frames = [frame for _, frame in _all(peer.frames) if not isinstance(frame, Ping)]
        assert isinstance(frames[0], Open)
        assert frames[1] == Reset(1, "timeout", "the stream was not accepted in time")
        assert len(session._streams) == 0


@on_virtual_time
async def test_the_default_limit_of_open_and_call() -> None:
    async with raw_agent() as (peer, session):
        tasks = [
            asyncio.create_task(session.open("a", "b", lane=Lane.TERMINAL_IO)),
            asyncio.create_task(session.call("a.b")),
        ]
        pinging = asyncio.create_task(_keep_alive(peer))
        await asyncio.sleep(TIMING.call - A_LITTLE)
        assert not any(task.done() for task in tasks)
        await asyncio.sleep(2 * A_LITTLE)
        for task in tasks:
            with pytest.raises(DeadlineExceeded):
                await task
        pinging.cancel()


async def _keep_alive(peer: Any) -> None:
    while True:
        peer.send(Ping(0))
        await asyncio.sleep(1)


@on_virtual_time
async def test_the_peer_keeps_the_limit_of_a_call_too() -> None:
    async def forever(_: Session, __: dict[str, Any]) -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async with raw_client(Functions(calls={"forever": forever})) as (peer, _):
        peer.send(Call("1", "test.forever", 2000, b""))
        await asyncio.sleep(2 - A_LITTLE)
        assert not [f for _, f in _all(peer.frames) if isinstance(f, Reply)]
        await asyncio.sleep(2 * A_LITTLE)
        (reply,) = [f for _, f in _all(peer.frames) if isinstance(f, Reply)]
        assert reply.error is not None
        assert reply.error.code == "timeout"


@on_virtual_time
async def test_a_repeated_request_runs_once_within_the_limit_and_again_after_it() -> None:
    ran: list[int] = []

    async def count(_: Session, __: dict[str, Any]) -> dict[str, Any]:
        ran.append(1)
        return {"n": len(ran)}

    async with raw_client(Functions(calls={"count": count})) as (peer, _):
        pinging = asyncio.create_task(_keep_alive(peer))
        peer.send(Call("1", "test.count", 1000, b""))
        await turns()
        await asyncio.sleep(TIMING.repeat - A_LITTLE)
        peer.send(Call("1", "test.count", 1000, b""))
        await turns()
        assert len(ran) == 1
        await asyncio.sleep(2 * A_LITTLE)
        peer.send(Call("1", "test.count", 1000, b""))
        await turns()
        assert len(ran) == 2
        pinging.cancel()
        replies = [f.payload for _, f in _all(peer.frames) if isinstance(f, Reply)]
        assert replies == [b'{"n":1}', b'{"n":1}', b'{"n":2}']


def _all(queue: asyncio.Queue[Any]) -> list[Any]:
    found: list[Any] = []
    while not queue.empty():
        found.append(queue.get_nowait())
    return found


# --- the pulse ---


@on_virtual_time
async def test_an_idle_wire_carries_pings_and_their_round_trip() -> None:
    async with raw_agent() as (peer, session):
        await asyncio.sleep(TIMING.ping - A_LITTLE)
        assert not _all(peer.frames)
        await asyncio.sleep(2 * A_LITTLE)
        ((lane, ping),) = _all(peer.frames)
        assert isinstance(ping, Ping)
        assert lane is Lane.CONTROL
        await asyncio.sleep(0.05)
        peer.send(Pong(ping.timestamp))
        await turns()
        round_trip = session.stats()["roundTripMs"]
        assert isinstance(round_trip, float)
        assert round_trip == pytest.approx(50, abs=2)
        peer.send(Pong(1 << 52))  # of a clock that is not ours
        await turns()
        assert session.stats()["roundTripMs"] == round_trip


@on_virtual_time
async def test_both_of_two_idle_sessions_know_the_round_trip() -> None:
    async with session_pair() as pair:
        await asyncio.sleep(10)
        assert pair.client.stats()["roundTripMs"] is not None
        assert pair.agent.stats()["roundTripMs"] is not None
        assert not pair.client.stalled


@on_virtual_time
async def test_silence_is_a_stall_then_a_loss() -> None:
    async with session_pair(resume=False) as pair:
        tick = TIMING.ping / 4
        await asyncio.sleep(5)
        pair.agent_wire.hold()
        await asyncio.sleep(TIMING.silence - tick)  # the last frame came up to a ping and a tick ago
        await until(lambda: pair.client.stalled)
        assert not pair.agent.stalled
        pair.agent_wire.release()
        await turns()
        assert not pair.client.stalled  # at once, with the first frame
        pair.agent_wire.hold()
        start = virtual_loop().time()
        await until(lambda: pair.client.closed)
        waited = virtual_loop().time() - start
        assert TIMING.give_up - TIMING.ping - 2 * tick <= waited <= TIMING.give_up + 2 * tick
        assert await pair.client.wait_closed() == "the wire is lost: nothing came for 15 s"


@on_virtual_time
async def test_silence_ends_what_waits() -> None:
    async with session_pair(EchoService(), resume=False) as pair:
        pair.client_wire.hold()
        pair.agent_wire.hold()
        with pytest.raises(SessionClosed, match="nothing came"):
            await pair.client.call("echo.say", timeout=1000)


@on_virtual_time
async def test_our_own_sleep_is_not_the_peers_silence() -> None:
    async with session_pair(EchoService()) as pair:
        virtual_loop().clock.advance(3600)  # the process was suspended
        await asyncio.sleep(TIMING.ping)
        assert not pair.client.stalled
        assert await pair.client.call("echo.say", {"n": 1}) == {"n": 1}


def test_a_pulse_counts_ticks() -> None:
    timing = Timing(ping=1.0, silence=3.0, give_up=4.0)
    pulse = Pulse(timing)
    beats = [pulse.tick(0) for _ in range(17)]
    assert pulse.interval == 0.25
    assert beats[:3] == [Beat.NOTHING] * 3
    assert beats[3] is Beat.PING
    assert beats[15] is Beat.PING
    assert beats[16] is Beat.LOST


def test_a_pulse_gives_up_early_when_the_session_can_resume() -> None:
    pulse = Pulse(Timing(ping=1.0, silence=3.0, give_up=15.0), resumable=True)
    beats = [pulse.tick(number) for number in range(12)]
    assert beats == [*[Beat.NOTHING] * 11, Beat.LOST]  # the twelfth quarter of a second


def test_a_pulse_stalls_at_its_limit_and_not_before() -> None:
    pulse = Pulse(Timing(ping=1.0, silence=3.0, give_up=15.0))
    for number in range(13):  # the first one hears the greeting
        assert not pulse.stalled, number
        pulse.tick(number)
    assert pulse.stalled
    pulse.heard()
    assert not pulse.stalled
    pulse.tick(13)
    assert not pulse.stalled


# --- shares of a slow link ---

RATE = 1_000_000.0


@on_virtual_time
async def test_a_bulk_stream_does_not_delay_calls_and_keystrokes() -> None:
    async with session_pair(EchoService(), rate=RATE) as pair:
        bulk = await pair.client.open("echo", "sink", lane=Lane.FILE_TRANSFER)
        keys = await pair.client.open("echo", "back", lane=Lane.TERMINAL_IO)
        writing = asyncio.create_task(bulk.write(bytes(8_000_000)))
        await asyncio.sleep(1)
        for _ in range(10):
            start = virtual_loop().time()
            await pair.client.call("echo.say", {"hello": 1})
            assert virtual_loop().time() - start < 0.040  # one chunk at 1 MB/s is 16 ms
            start = virtual_loop().time()
            await keys.write(b"x")
            assert await keys.read() == b"x"
            assert virtual_loop().time() - start < 0.040
        await writing
        start = virtual_loop().time()
        await bulk.finish()
        assert await bulk.read() == b""
        assert bulk.trailer == {"received": 8_000_000}


@on_virtual_time
async def test_bulk_streams_on_one_lane_share_it() -> None:
    async with session_pair(EchoService(), rate=RATE) as pair:
        streams = [await pair.client.open("echo", "sink", lane=Lane.FILE_TRANSFER) for _ in range(4)]
        writing = [asyncio.create_task(stream.write(bytes(4_000_000))) for stream in streams]
        for _ in range(6):
            await asyncio.sleep(1)
            sent = [stream.sent for stream in streams]
            assert max(sent) - min(sent) <= 17 * 16384, sent  # the first fills the lane up alone
        for task in writing:
            task.cancel()


@on_virtual_time
async def test_a_bulk_lane_stands_back_behind_an_urgent_one() -> None:
    async with session_pair(EchoService(), rate=RATE) as pair:
        bulk = await pair.client.open("echo", "sink", lane=Lane.FILE_TRANSFER)
        flood = await pair.client.open("echo", "sink", lane=Lane.TERMINAL_IO)
        tasks = [asyncio.create_task(stream.write(bytes(4_000_000))) for stream in (bulk, flood)]
        await tasks[1]
        assert bulk.sent < 1_000_000
        await tasks[0]


@on_virtual_time
async def test_a_writer_that_waits_for_the_lane_can_be_cancelled_and_others_go_on() -> None:
    async with session_pair(EchoService(), rate=RATE) as pair:
        streams = [await pair.client.open("echo", "sink", lane=Lane.FILE_TRANSFER) for _ in range(3)]
        writing = [asyncio.create_task(stream.write(bytes(1_000_000))) for stream in streams]
        await asyncio.sleep(0.5)
        writing[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing[1]
        assert 0 < streams[1].sent < 1_000_000
        await writing[0]
        await writing[2]
        await streams[1].write(b"and on it goes")
        await streams[1].finish()
        assert await streams[1].read() == b""
        assert streams[1].trailer == {"received": streams[1].sent}


@on_virtual_time
async def test_a_reset_reaches_a_writer_that_waits_for_the_lane() -> None:
    async def hang_up(request: StreamRequest) -> None:
        stream = await request.accept()
        await stream.read()
        await stream.reset("busy", "no more")

    async with session_pair(Functions(streams={"hang-up": hang_up}), rate=RATE) as pair:
        stream = await pair.client.open("test", "hang-up", lane=Lane.FILE_TRANSFER)
        with pytest.raises(RemoteError, match="no more"):
            await stream.write(bytes(4_000_000))


@on_virtual_time
async def test_the_wire_dies_while_writers_wait_for_the_lane() -> None:
    async with session_pair(EchoService(), rate=RATE, resume=False) as pair:
        streams = [await pair.client.open("echo", "sink", lane=Lane.FILE_TRANSFER) for _ in range(3)]
        writing = [asyncio.create_task(stream.write(bytes(1_000_000))) for stream in streams]
        await asyncio.sleep(0.5)
        pair.client_wire.lose("cut")
        for result in await asyncio.gather(*writing, return_exceptions=True):
            assert isinstance(result, SessionClosed)
            assert "cut" in result.reason


@on_virtual_time
async def test_hello_is_the_first_frame() -> None:
    near, far = local_pair()
    frames: list[Any] = []
    near.start(lambda lane, frame: frames.append((lane, frame)))
    session = Session(role=Role.CLIENT, session_id=ID, about={"name": "x"})
    with pytest.raises(DeadlineExceeded):
        await session.start(far)
    assert frames == [(Lane.CONTROL, Hello(1, ID, Role.CLIENT, ["resume"], 262144, {"name": "x"}))]
