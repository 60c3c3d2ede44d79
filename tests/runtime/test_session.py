"""A session's life: the greeting, the ends it can take, and what is left after it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec
import pytest

from doorstep.protocol.errors import (
    SessionClosed,
)
from doorstep.protocol.frames import (
    Data,
    Datagram,
    Fin,
    Frame,
    Hello,
    Open,
    Ping,
    Reset,
    Role,
    Switch,
    Welcome,
    Window,
)
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import STREAMS_PER_SESSION
from doorstep.protocol.timing import Timing
from doorstep.runtime import Session, StreamRequest
from doorstep.runtime.session import SessionState
from doorstep.testing.echo import EchoService
from doorstep.testing.pair import session_pair
from doorstep.transport.local import local_pair
from doorstep.transport.wire_stats import FIELDS

from .support import HELLO, ID, WELCOME, Functions, RawPeer, ended, raw_client, soon

pytestmark = pytest.mark.asyncio


# --- the greeting ---


async def test_both_learn_who_the_other_is() -> None:
    one, other = local_pair()
    client = Session(role=Role.CLIENT, session_id=ID, about={"name": "laptop"})
    agent = Session(role=Role.AGENT, session_id=ID, about={"name": "workshop", "platform": "linux"})
    assert client.state is SessionState.NEW
    await soon(asyncio.gather(client.start(one), agent.start(other)))
    assert client.peer == {"name": "workshop", "platform": "linux"}
    assert agent.peer == {"name": "laptop"}
    assert client.wire is one
    assert not client.stalled
    await client.close()
    assert await ended(agent) == "closed by the peer: closed"
    await agent.close()


async def test_the_frames_of_the_greeting() -> None:
    near, far = local_pair(max_frame=2048)
    agent = Session(role=Role.AGENT, session_id=ID, about={"name": "a"})
    peer = RawPeer(near)
    peer.send(HELLO)
    await soon(agent.start(far))
    assert await peer.expect(Welcome) == Welcome(1, ID, Role.AGENT, ["resume"], 2048, {"name": "a"})
    await agent.close()


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (Hello(2, "test-session", Role.CLIENT), "protocol version 2"),
        (Hello(1, "test-session", Role.AGENT), "not a client"),
        (Welcome(1, "test-session", Role.AGENT), "WELCOME from one"),
        (Ping(1), "Ping before the greeting"),
        (Data(1, 0, b""), "Data before the greeting"),
    ],
)
async def test_an_agent_refuses_a_wrong_greeting(frame: Frame, reason: str) -> None:
    near, far = local_pair()
    session = Session(role=Role.AGENT, session_id=ID)
    near.send(Lane.CONTROL, frame)
    with pytest.raises(SessionClosed, match=reason):
        await soon(session.start(far))
    assert reason in await near.wait_closed()


@pytest.mark.parametrize(
    ("lane", "frame", "reason"),
    [
        (Lane.CONTROL, Welcome(7, "test-session", Role.AGENT), "protocol version 7"),
        (Lane.CONTROL, Welcome(1, "test-session", Role.CLIENT), "not an agent"),
        (Lane.CONTROL, HELLO, "HELLO from one"),
        (Lane.CONTROL, Open(2, "a", "b", {}, Lane.CONTROL, 0), "Open before"),
        (Lane.TERMINAL_IO, Data(2, 0, b""), "Data before"),
    ],
)
async def test_a_client_refuses_a_wrong_greeting(lane: Lane, frame: Frame, reason: str) -> None:
    near, far = local_pair()
    session = Session(role=Role.CLIENT, session_id=ID)
    near.send(lane, frame)
    with pytest.raises(SessionClosed, match=reason):
        await soon(session.start(far))


async def test_streams_that_overtake_the_welcome_are_kept() -> None:
    near, far = local_pair()
    session = Session(role=Role.CLIENT, session_id=ID, services={"echo": EchoService()})
    peer = RawPeer(near)
    peer.send(Open(2, "echo", "back", {"n": 1}, Lane.TERMINAL_IO, 10), Lane.TERMINAL_IO)
    starting = asyncio.create_task(session.start(far))
    await peer.expect(Hello)
    peer.send(WELCOME)
    await soon(starting)
    lane, accept = await soon(peer.frames.get())
    assert lane is Lane.TERMINAL_IO
    assert accept.result == {"n": 1}
    await session.close()


async def test_too_many_streams_before_the_welcome_end_the_session() -> None:
    near, far = local_pair()
    session = Session(role=Role.CLIENT, session_id=ID)
    for number in range(1, STREAMS_PER_SESSION + 2):
        near.send(Lane.TERMINAL_IO, Open(2 * number, "echo", "back", {}, Lane.TERMINAL_IO, 10))
    with pytest.raises(SessionClosed, match="too many streams"):
        await soon(session.start(far))


async def test_a_second_greeting_ends_the_session() -> None:
    async with raw_client() as (peer, session):
        peer.send(HELLO)
        assert "a second greeting" in await ended(session)


async def test_small_frames_of_the_peer_are_heeded() -> None:
    near, far = local_pair()
    agent = Session(role=Role.AGENT, session_id=ID, services={"echo": EchoService()})
    peer = RawPeer(near)
    peer.send(Hello(1, "test-session", Role.CLIENT, [], 1024, {}))
    await soon(agent.start(far))
    await peer.expect(Welcome)
    peer.send(Open(1, "echo", "back", {}, Lane.FILE_TRANSFER, 100_000), Lane.FILE_TRANSFER)
    await soon(peer.frames.get())
    peer.send(Data(1, 0, bytes(5000)), Lane.FILE_TRANSFER)
    sizes = [len((await peer.expect(Data)).payload) for _ in range(5)]
    assert sizes == [1007, 1007, 1007, 1007, 972]
    await agent.close()


# --- how it is used wrongly ---


async def test_before_the_start_there_is_nothing_to_use() -> None:
    session = Session(role=Role.CLIENT, session_id=ID)
    assert session.stats() == {"wire": None}
    with pytest.raises(SessionClosed, match="not started"):
        _ = session.wire
    with pytest.raises(SessionClosed, match="not started"):
        await session.call("echo.say")
    await session.close("never mind")
    assert await ended(session) == "never mind"


async def test_a_session_starts_once() -> None:
    async with raw_client() as (_, session):
        near, far = local_pair()
        with pytest.raises(SessionClosed, match="already started"):
            await session.start(far)
        assert "already started" in await near.wait_closed()


async def test_a_closed_session_does_not_start() -> None:
    session = Session(role=Role.CLIENT, session_id=ID)
    await session.close("done")
    near, far = local_pair()
    with pytest.raises(SessionClosed, match="done"):
        await session.start(far)
    assert "already started or closed" in await near.wait_closed()


# --- the end ---


async def test_close_is_idempotent_and_the_first_reason_counts() -> None:
    async with session_pair(EchoService()) as pair:
        await asyncio.gather(pair.client.close("first"), pair.client.close("second"))
        await pair.client.close("third")
        assert await ended(pair.client) == "first"
        assert await ended(pair.agent) == "closed by the peer: first"
        for session in (pair.client, pair.agent):
            with pytest.raises(SessionClosed):
                session.tell("echo.say")
            with pytest.raises(SessionClosed):
                await session.open("echo", "back", lane=Lane.CONTROL)


async def test_everything_that_waits_fails_when_the_wire_dies() -> None:
    stuck = asyncio.Event()
    waiting = asyncio.Semaphore(0)

    async def hang(_: Session, __: dict[str, Any]) -> dict[str, Any]:
        waiting.release()
        await stuck.wait()
        return {}

    async def take_nothing(request: StreamRequest) -> None:
        await request.accept(window=10)
        await stuck.wait()

    async def never_answer(_: StreamRequest) -> None:
        waiting.release()
        await stuck.wait()

    service = Functions(calls={"hang": hang}, streams={"full": take_nothing, "never": never_answer})
    async with session_pair(service, resume=False) as pair:
        client = pair.client
        stream = await client.open("test", "full", lane=Lane.TERMINAL_IO)
        tasks = [
            asyncio.create_task(client.call("test.hang")),
            asyncio.create_task(client.open("test", "never", lane=Lane.CONTROL)),
            asyncio.create_task(stream.write(bytes(11))),
            asyncio.create_task(stream.read()),
            asyncio.create_task(stream.finish()),
        ]
        for _ in range(2):
            await soon(waiting.acquire())
        pair.client_wire.lose("the cable was cut")
        results = await soon(asyncio.gather(*tasks, return_exceptions=True))
        for result in results:
            assert isinstance(result, SessionClosed)
            assert "the cable was cut" in result.reason
        with pytest.raises(SessionClosed):
            await stream.write(b"x")
        await stream.reset("cancelled", "")  # nothing to do, nothing to raise


async def test_what_had_arrived_can_be_read_after_the_end() -> None:
    async def give(request: StreamRequest) -> None:
        stream = await request.accept()
        await stream.write(b"last words")
        await stream.read()

    async with session_pair(Functions(streams={"give": give})) as pair:
        stream = await pair.client.open("test", "give", lane=Lane.TERMINAL_IO)
        assert await soon(stream.read(5)) == b"last "
        await pair.client.close()
        assert await stream.read() == b"words"
        with pytest.raises(SessionClosed):
            await stream.read()


async def test_handlers_are_cancelled_and_clean_up() -> None:
    cleaned = asyncio.Event()
    started = asyncio.Event()

    async def handler(request: StreamRequest) -> None:
        await request.accept()
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.set()

    async with session_pair(Functions(streams={"run": handler})) as pair:
        await pair.client.open("test", "run", lane=Lane.TERMINAL_IO)
        await soon(started.wait())
        await pair.agent.close("going down")
        assert cleaned.is_set()
        assert await ended(pair.client) == "closed by the peer: going down"


async def test_a_handler_may_close_its_own_session() -> None:
    async def goodbye(session: Session, _: dict[str, Any]) -> dict[str, Any]:
        await session.close("said goodbye")
        return {}

    async with session_pair(Functions(calls={"goodbye": goodbye})) as pair:
        with pytest.raises(SessionClosed, match="said goodbye"):
            await soon(pair.client.call("test.goodbye"))
        assert await ended(pair.agent) == "said goodbye"


async def test_a_handler_that_will_not_end_is_named(caplog: pytest.LogCaptureFixture) -> None:
    let_go = asyncio.Event()
    started = asyncio.Event()

    async def stubborn(request: StreamRequest) -> None:
        await request.accept()
        started.set()
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    timing = Timing(shutdown=0.05)
    with caplog.at_level(logging.ERROR):
        async with session_pair(Functions(streams={"stay": stubborn}), timing=timing) as pair:
            await pair.client.open("test", "stay", lane=Lane.TERMINAL_IO)
            await soon(started.wait())
            await soon(pair.agent.close())
    assert "stream 1 test.stay did not end within" in caplog.text
    let_go.set()


async def test_a_cancelled_start_closes_its_wire() -> None:
    near, far = local_pair()
    session = Session(role=Role.AGENT, session_id=ID)
    start = asyncio.create_task(session.start(far))
    await asyncio.sleep(0)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert await near.wait_closed() == "closed by the peer: no greeting"
    assert await ended(session) == "no greeting"


async def test_a_session_closed_while_it_greets() -> None:
    _, far = local_pair()
    session = Session(role=Role.CLIENT, session_id=ID)
    start = asyncio.create_task(session.start(far))
    await asyncio.sleep(0)
    await session.close("changed my mind")
    with pytest.raises(SessionClosed, match="changed my mind"):
        await soon(start)


async def test_a_wire_that_is_dead_on_arrival() -> None:
    _, far = local_pair()
    far.lose("dead")
    session = Session(role=Role.CLIENT, session_id=ID)
    with pytest.raises(SessionClosed, match="dead"):
        await soon(session.start(far))


async def test_a_wire_that_dies_between_two_sends() -> None:
    async with session_pair(EchoService(), resume=False) as pair:
        stream = await pair.client.open("echo", "back", lane=Lane.TERMINAL_IO)
        pair.client_wire.lose("cut")
        with pytest.raises(SessionClosed, match="cut"):  # before the session was told
            await stream.write(b"x")
        assert pair.client.closed
        with pytest.raises(SessionClosed, match="cut"):
            await pair.client.call("echo.say")


# --- a broken protocol ---


@pytest.mark.parametrize(
    ("lane", "frame", "reason"),
    [
        (Lane.CONTROL, Switch(), "SWITCH without a second wire"),
        (Lane.TERMINAL_IO, Data(1, 0, b"x"), "stream 1 was never opened"),
        (Lane.TERMINAL_IO, Data(2, 0, b"x"), "stream 2 was never opened"),
        (Lane.TERMINAL_IO, Fin(1, 0, {}), "stream 1 was never opened"),
        (Lane.TERMINAL_IO, Reset(3, "x", ""), "stream 3 was never opened"),
        (Lane.CONTROL, Window(1, 0, 1), "stream 1 was never opened"),
        (Lane.TERMINAL_IO, Window(1, 0, 1), "WINDOW on lane terminal-io"),
        (
            Lane.CONTROL,
            Open(1, "a", "b", {}, Lane.TERMINAL_IO, 1),
            "OPEN for lane terminal-io on lane control",
        ),
        (Lane.CONTROL, Open(2, "a", "b", {}, Lane.CONTROL, 1), "not the peer's to open"),
        (Lane.CONTROL, Open(0, "a", "b", {}, Lane.CONTROL, 1), "not the peer's to open"),
    ],
)
async def test_a_broken_protocol_ends_the_session(lane: Lane, frame: Frame, reason: str) -> None:
    async with raw_client() as (peer, session):
        peer.send(frame, lane)
        found = await ended(session)
        assert found.startswith("the peer broke the protocol: ")
        assert reason in found
        assert reason in await soon(peer.wire.wait_closed())


async def test_datagrams_and_frames_after_the_end_are_nothing() -> None:
    async with raw_client(EchoService()) as (peer, session):
        peer.send(Datagram(1, 1, b"x"))
        peer.send(Switch())
        peer.send(Switch())
        assert "SWITCH" in await ended(session)


async def test_a_frame_nobody_knows_is_an_internal_error(caplog: pytest.LogCaptureFixture) -> None:
    async with raw_client() as (peer, session):
        peer.send("no frame")  # type: ignore[arg-type]
        assert await ended(session) == "internal error"
    assert "a frame could not be handled" in caplog.text


# --- what it says about itself ---


async def test_stats_are_json() -> None:
    async with session_pair(EchoService()) as pair:
        stream = await pair.client.open("echo", "back", lane=Lane.TERMINAL_IO)
        await stream.write(b"12345")
        assert await soon(stream.read()) == b"12345"
        stats = pair.client.stats()
        assert stats | {"transport": None, "rateIn": 0.0, "rateOut": 0.0} == {
            "state": "open",
            "wire": "local",
            "relayReason": "",
            "wires": 1,
            "resumable": True,
            "stalled": False,
            "agentKey": None,
            "clientKey": None,
            "roundTripMs": None,
            "loss": None,
            "rateIn": 0.0,
            "rateOut": 0.0,
            "bytesIn": 5,
            "bytesOut": 5,
            "unacknowledged": 5,
            "streams": 1,
            "calls": 0,
            "connectMs": {},
            "transport": None,
        }
        transport = stats["transport"]
        assert isinstance(transport, dict)
        assert transport.keys() == {*FIELDS, "buffered", "connectMs"}
        assert transport["localCandidate"] is None
        assert msgspec.json.encode(stats)
        assert repr(pair.client) == "<Session session-pair client open>"
