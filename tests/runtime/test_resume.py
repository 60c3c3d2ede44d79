"""A session outlives its wires: how long, for whom, and what its programs notice of it. On virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from doorstep.protocol.errors import DeadlineExceeded, SessionClosed, WireClosed
from doorstep.protocol.frames import Hello, Ping, Reset, Resume, Role, Switch, Welcome
from doorstep.protocol.lanes import Lane
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.runtime import Session
from doorstep.runtime.session import SessionState
from doorstep.testing.echo import EchoService
from doorstep.testing.pair import SessionPair, session_pair
from doorstep.transport.local import LocalWire, local_pair

from .support import ID, Functions, RawPeer, turns
from .test_waits import A_LITTLE, on_virtual_time, until, virtual_loop

TIMING = DEFAULT_TIMING


def cut(pair: SessionPair) -> None:
    pair.client_wire.lose("cut")
    pair.agent_wire.lose("cut")


async def another_wire(pair: SessionPair) -> tuple[LocalWire, LocalWire]:
    near, far = local_pair()
    async with asyncio.TaskGroup() as group:
        group.create_task(pair.agent.carry(far))
        group.create_task(pair.client.carry(near))
    return near, far


@asynccontextmanager
async def away(**more: Any) -> AsyncGenerator[SessionPair, None]:
    async with session_pair(EchoService(), **more) as pair:
        cut(pair)
        await until(lambda: pair.client.state is pair.agent.state is SessionState.AWAY)
        yield pair


# --- how long ---


@on_virtual_time
async def test_it_is_kept_for_its_time_and_then_ends_with_a_reason() -> None:
    async with session_pair(EchoService()) as pair:
        stream = await pair.client.open("echo", "back", lane=Lane.TERMINAL_IO)
        reading = asyncio.create_task(stream.read())
        cut(pair)
        await turns()
        assert pair.client.state is pair.agent.state is SessionState.AWAY
        assert pair.client.stalled
        await asyncio.sleep(TIMING.keep - A_LITTLE)
        assert pair.client.state is pair.agent.state is SessionState.AWAY
        await asyncio.sleep(A_LITTLE)
        await turns()
        expected = "no wire for 300 s, since the wire is gone: cut"
        assert await pair.client.wait_closed() == await pair.agent.wait_closed() == expected
        with pytest.raises(SessionClosed, match="no wire for 300 s"):
            await reading


@on_virtual_time
async def test_each_time_without_a_wire_counts_anew() -> None:
    async with away() as pair:
        for _ in range(3):
            await asyncio.sleep(TIMING.keep - 1)
            near, far = await another_wire(pair)
            assert pair.client.state is pair.agent.state is SessionState.OPEN
            near.lose("cut")
            far.lose("cut")
            await turns()
        near, far = await another_wire(pair)
        await asyncio.sleep(2 * TIMING.keep)
        assert await pair.client.call("echo.say", {"n": 1}) == {"n": 1}
        assert pair.client.stats()["wires"] == 5


@pytest.mark.parametrize("busy", [False, True])
def test_a_silent_wire_is_lost_within_its_limit(busy: bool) -> None:
    @on_virtual_time
    async def play() -> None:
        async with session_pair(EchoService()) as pair:
            await asyncio.sleep(4.6)
            writing = None
            if busy:
                stream = await pair.client.open("echo", "sink", lane=Lane.FILE_TRANSFER)
                writing = asyncio.create_task(stream.write(bytes(100_000_000)))
                await turns()
            for wire in (pair.client_wire, pair.agent_wire):
                wire.hold()
            start = virtual_loop().time()
            await until(lambda: pair.client.state is pair.agent.state is SessionState.AWAY)
            assert virtual_loop().time() - start <= TIMING.silence + A_LITTLE
            if writing is not None:
                await another_wire(pair)
                await writing

    play()


@on_virtual_time
async def test_an_idle_session_keeps_its_wire() -> None:
    async with session_pair(EchoService()) as pair:
        await asyncio.sleep(24 * 3600)
        assert pair.client.stats()["wires"] == 1


@on_virtual_time
async def test_a_suspended_process_does_not_give_its_wire_up() -> None:
    async with session_pair(EchoService()) as pair:
        virtual_loop().clock.advance(60)
        await asyncio.sleep(TIMING.ping)
        assert pair.client.stats()["wires"] == 1
        assert await pair.client.call("echo.say", {"n": 1}) == {"n": 1}


# --- for whom ---


@on_virtual_time
async def test_only_the_token_takes_it_over() -> None:
    async with session_pair(EchoService()) as pair:
        assert await pair.client.call("echo.say", {"n": 0}) == {"n": 0}  # it has its WELCOME
        wrong = [
            Hello(1, "session-pair", Role.CLIENT, ["resume"], resume=Resume("x" * 43)),
            Hello(1, "session-pair", Role.CLIENT, ["resume"]),
            Hello(1, "another", Role.CLIENT, ["resume"], resume=Resume(pair.client._token)),
            Ping(1),
        ]
        for frame in wrong:
            near, far = local_pair()
            peer = RawPeer(near)
            peer.send(frame)
            with pytest.raises(WireClosed):
                await pair.agent.carry(far)
            answers = [found for _, found in list(peer.frames._queue)]  # type: ignore[attr-defined]
            assert all(type(one) is Welcome and not isinstance(one.resume, Resume) for one in answers)
        assert await pair.client.call("echo.say", {"n": 1}) == {"n": 1}
        assert pair.agent.stats()["wires"] == 1


@on_virtual_time
async def test_a_client_whose_welcome_was_lost_begins_again() -> None:
    await lose_the_welcome(noticed=True)


@on_virtual_time
async def test_a_client_whose_welcome_was_lost_begins_again_beside_a_wire_that_seems_to_live() -> None:
    await lose_the_welcome(noticed=False)


async def lose_the_welcome(*, noticed: bool) -> None:
    """``noticed``: the agent knows that its first wire is gone."""
    client = Session(role=Role.CLIENT, session_id=ID)
    agent = Session(role=Role.AGENT, session_id=ID, services={"echo": EchoService()})
    near, far = local_pair()
    far.hold()
    first = asyncio.create_task(client.carry(near))
    await agent.carry(far)
    near.lose("cut")
    if noticed:
        far.lose("cut")
    with pytest.raises(WireClosed):
        await first
    assert client.state is SessionState.NEW
    assert agent.state is SessionState.AWAY if noticed else SessionState.OPEN
    near, far = local_pair()
    await asyncio.gather(client.carry(near), agent.carry(far))
    assert client.resumable
    assert await client.call("echo.say", {"n": 1}) == {"n": 1}
    await client.close()
    assert await agent.wait_closed() == "closed by the peer: closed"


@on_virtual_time
async def test_a_token_is_long_and_each_has_its_own() -> None:
    async with session_pair() as one, session_pair() as other:
        assert len({one.client._token, other.client._token}) == 2
        assert len(one.client._token) >= 43  # 256 bits
        assert one.client._token not in repr(one.client)


@on_virtual_time
async def test_an_agent_that_was_restarted_does_not_know_it() -> None:
    async with away() as pair:
        near, far = local_pair()
        fresh = Session(role=Role.AGENT, session_id=pair.client.id)
        starting = asyncio.create_task(fresh.start(far))
        with pytest.raises(SessionClosed, match="does not know this session"):
            await pair.client.carry(near)
        with pytest.raises(SessionClosed, match="not this one"):
            await starting
        assert pair.client.closed


@on_virtual_time
async def test_the_refusal_is_heard_before_the_wire_is_closed() -> None:
    async with away() as pair:
        near, far = local_pair()
        far.hold()  # what is on its way when this end closes is lost
        fresh = Session(role=Role.AGENT, session_id=pair.client.id)
        starting = asyncio.create_task(fresh.start(far))
        carrying = asyncio.create_task(pair.client.carry(near))
        await asyncio.sleep(0.4)
        far.release()
        await asyncio.wait({starting, carrying})
        assert await pair.client.wait_closed() == "the agent does not know this session any more"


@on_virtual_time
async def test_a_wire_to_somebody_else_does_not_end_what_works() -> None:
    async with session_pair(EchoService()) as pair:
        near, far = local_pair()
        peer = RawPeer(near)
        peer.send(Welcome(1, "session-pair", Role.AGENT, ["resume"], resume=Resume("y" * 43)))
        with pytest.raises(WireClosed, match="another session"):
            await pair.client.carry(far)
        assert await pair.client.call("echo.say", {"n": 1}) == {"n": 1}


@on_virtual_time
async def test_a_wire_that_is_never_greeted_is_given_up() -> None:
    async with session_pair(EchoService()) as pair:
        for session in (pair.client, pair.agent):
            _, far = local_pair()
            with pytest.raises(DeadlineExceeded, match="greeting"):
                await session.carry(far)
            assert (await far.wait_closed()).startswith("no greeting")
        assert await pair.client.call("echo.say", {"n": 1}) == {"n": 1}


@on_virtual_time
async def test_a_session_of_one_that_cannot_resume_ends_with_its_wire() -> None:
    for client, agent in ((False, True), (True, False)):
        one, other = local_pair()
        near = Session(role=Role.CLIENT, session_id=ID, resume=client)
        far = Session(role=Role.AGENT, session_id=ID, resume=agent)
        await asyncio.gather(near.start(one), far.start(other))
        assert near.resumable is far.resumable is False
        one.lose("cut")
        other.lose("cut")
        assert "cut" in await near.wait_closed()
        assert "cut" in await far.wait_closed()


# --- the end ---


@on_virtual_time
async def test_a_close_is_told_and_the_peer_does_not_wait() -> None:
    async with session_pair() as pair:
        await pair.agent.close("going down")
        assert await pair.client.wait_closed() == "closed by the peer: going down"


@on_virtual_time
async def test_a_close_without_a_wire() -> None:
    async with away() as pair:
        await pair.client.close("enough")
        assert await pair.client.wait_closed() == "enough"
        near, far = local_pair()
        with pytest.raises(SessionClosed, match="enough"):
            await pair.client.carry(near)
        assert await far.wait_closed() == "closed by the peer: enough"


@on_virtual_time
async def test_a_reset_of_stream_0_means_nothing_without_resume() -> None:
    async with session_pair(EchoService(), resume=False) as pair:
        pair.client_wire.send(Lane.CONTROL, Reset(0, "closed", "?"))
        assert await pair.client.call("echo.say", {"n": 1}) == {"n": 1}


# --- what programs notice ---


@on_virtual_time
async def test_reads_writes_and_opens_wait_and_then_go_on() -> None:
    async with session_pair(EchoService()) as pair:
        stream = await pair.client.open("echo", "back", lane=Lane.TERMINAL_IO)
        cut(pair)
        await turns()
        writing = asyncio.create_task(stream.write(b"written without a wire"))
        opening = asyncio.create_task(pair.client.open("echo", "back", lane=Lane.FILE_TRANSFER))
        calling = asyncio.create_task(pair.client.call("echo.say", {"n": 1}))
        reading = asyncio.create_task(stream.read())
        await asyncio.sleep(20)
        assert not any(task.done() for task in (writing, opening, calling, reading))
        await another_wire(pair)
        await writing
        assert await reading == b"written without a wire"
        assert await calling == {"n": 1}
        await (await opening).finish()


@on_virtual_time
async def test_limits_hold_without_a_wire() -> None:
    async with away() as pair:
        for work in (
            pair.client.open("echo", "back", lane=Lane.TERMINAL_IO, timeout=2),
            pair.client.call("echo.say", timeout=2),
        ):
            start = virtual_loop().time()
            with pytest.raises(DeadlineExceeded):
                await work
            assert virtual_loop().time() - start == pytest.approx(2, abs=A_LITTLE)
        assert len(pair.client._streams) == 0


@on_virtual_time
async def test_a_call_whose_reply_was_lost_is_answered_once_however_late() -> None:
    ran: list[int] = []
    answered = asyncio.Event()

    async def count(_: Session, __: dict[str, Any]) -> dict[str, Any]:
        ran.append(1)
        answered.set()
        return {"n": len(ran)}

    async with session_pair(Functions(calls={"count": count})) as pair:
        pair.agent_wire.hold()
        calling = asyncio.create_task(pair.client.call("test.count", timeout=1000))
        await answered.wait()
        await turns()
        cut(pair)
        await asyncio.sleep(TIMING.keep - 10)  # the cache keeps replies for 30 s with a wire
        await another_wire(pair)
        assert await calling == {"n": 1}
        assert ran == [1]


@on_virtual_time
async def test_the_clock_of_limits_stands_still_without_a_wire() -> None:
    async with session_pair() as pair:
        wires = pair.client_wire, pair.agent_wire
        ends = pair.client, pair.agent
        before = [end.time_with_a_wire() for end in ends]
        for number in range(1, 4):
            await asyncio.sleep(1)
            for wire in wires:
                wire.lose("cut")
            for _ in range(3):
                await asyncio.sleep(10)
                gone = [end.time_with_a_wire() - start for end, start in zip(ends, before, strict=True)]
                assert gone == pytest.approx([number, number], abs=A_LITTLE)
            wires = await another_wire(pair)


@on_virtual_time
async def test_tells_pass_a_change_of_wires() -> None:
    heard: list[int] = []

    async def hear(_: Session, params: dict[str, Any]) -> dict[str, Any]:
        heard.append(params["n"])
        return {}

    async with session_pair(Functions(calls={"hear": hear})) as pair:
        for number in range(20):
            pair.client.tell("test.hear", {"n": number})
            if number % 5 == 0:
                await another_wire(pair)
        await turns()
        assert sorted(heard) == list(range(20))


@on_virtual_time
async def test_make_before_break_is_not_noticed() -> None:
    async with session_pair(EchoService(), rate=1_000_000.0) as pair:
        stream = await pair.client.open("echo", "sink", lane=Lane.FILE_TRANSFER)
        writing = asyncio.create_task(stream.write(bytes(8_000_000)))
        await asyncio.sleep(1)
        states: set[SessionState] = set()
        old = pair.client_wire
        changing = asyncio.create_task(another_wire(pair))
        while not changing.done():
            states |= {pair.client.state, pair.agent.state}
            await asyncio.sleep(0)
        assert states == {SessionState.OPEN}
        await writing
        await stream.finish()
        assert await stream.read() == b""
        assert stream.trailer == {"received": 8_000_000}
        assert "another wire" in await old.wait_closed()


@on_virtual_time
async def test_a_writer_that_waits_for_room_goes_on_over_the_new_wire_at_once() -> None:
    async with session_pair(EchoService()) as pair:
        stream = await pair.client.open("echo", "sink", lane=Lane.FILE_TRANSFER)
        for wire in (pair.client_wire, pair.agent_wire):
            wire.hold()
        writing = asyncio.create_task(stream.write(bytes(1_000_000)))
        await turns()
        start = virtual_loop().time()
        await another_wire(pair)
        await writing
        assert virtual_loop().time() - start <= A_LITTLE  # the old wire is left after two seconds only
        await stream.finish()
        assert await stream.read() == b""
        assert stream.trailer == {"received": 1_000_000}


@on_virtual_time
async def test_both_say_switch_on_the_wire_they_leave() -> None:
    sent: list[Any] = []
    async with session_pair() as pair:
        for wire in (pair.client_wire, pair.agent_wire):
            passed = wire.arrive

            def arrive(lane: Lane, frame: Any, size: int, passed: Any = passed) -> None:
                sent.append(frame)
                passed(lane, frame, size)

            wire.arrive = arrive  # type: ignore[method-assign]
        await another_wire(pair)
        await turns()
        assert sent == [Switch(), Switch()]


@on_virtual_time
async def test_a_wire_that_both_have_left_is_closed_at_once() -> None:
    async with session_pair() as pair:
        start = virtual_loop().time()
        await another_wire(pair)
        for wire in (pair.client_wire, pair.agent_wire):
            await wire.wait_closed()
        assert virtual_loop().time() - start <= A_LITTLE


@on_virtual_time
async def test_a_wire_that_one_has_left_is_read_for_a_while() -> None:
    async with session_pair(EchoService()) as pair:
        for wire in (pair.client_wire, pair.agent_wire):
            wire.hold()  # nothing comes, not even SWITCH
        calling = asyncio.create_task(pair.client.call("echo.say", {"n": 1}))
        await turns()
        start = virtual_loop().time()
        await another_wire(pair)
        assert await calling == {"n": 1}  # asked again over the new wire
        await pair.client_wire.wait_closed()
        assert virtual_loop().time() - start == pytest.approx(TIMING.shutdown, abs=A_LITTLE)


@on_virtual_time
async def test_what_comes_late_on_a_wire_that_was_left_is_taken() -> None:
    heard: list[int] = []

    async def hear(_: Session, params: dict[str, Any]) -> dict[str, Any]:
        heard.append(params["n"])
        return {}

    async with session_pair(Functions(calls={"hear": hear})) as pair:
        for wire in (pair.client_wire, pair.agent_wire):
            wire.hold()
        pair.client.tell("test.hear", {"n": 1})  # is not sent again, as all else would be
        await another_wire(pair)
        pair.client.tell("test.hear", {"n": 2})
        await turns()
        assert heard == [2]
        pair.client_wire.release()
        await turns()
        assert heard == [2, 1]


@on_virtual_time
async def test_a_greeting_alone_changes_nothing() -> None:
    """The client's WELCOME may never come; it then goes on over the wire it has."""
    async with session_pair(EchoService()) as pair:
        near, far = local_pair()
        peer = RawPeer(near)
        peer.send(Hello(1, "session-pair", Role.CLIENT, ["resume"], resume=Resume(pair.client._token)))
        carrying = asyncio.create_task(pair.agent.carry(far))
        await peer.expect(Welcome)
        await turns()
        assert pair.agent.wire is pair.agent_wire
        assert await pair.client.call("echo.say", {"n": 1}) == {"n": 1}
        with pytest.raises(DeadlineExceeded, match="greeting"):
            await carrying
        assert await pair.client.call("echo.say", {"n": 2}) == {"n": 2}
        assert pair.client.stats()["wires"] == pair.agent.stats()["wires"] == 1


@on_virtual_time
async def test_who_gives_a_wire_up_too_late_does_not_take_it_from_the_session() -> None:
    async with away() as pair:
        near, far = local_pair()
        answering = asyncio.create_task(pair.agent.carry(far))
        carrying = asyncio.create_task(pair.client.carry(near))
        while pair.client.state is SessionState.AWAY:
            await asyncio.sleep(0)
        assert not carrying.done()
        carrying.cancel()
        await asyncio.gather(carrying, answering)
        assert pair.client.wire is near
        assert await pair.client.call("echo.say", {"n": 1}) == {"n": 1}


@on_virtual_time
async def test_switch_without_another_wire_is_the_loss_of_this_one() -> None:
    async with session_pair() as pair:
        start = virtual_loop().time()
        pair.client_wire.send(Lane.CONTROL, Switch())
        await until(lambda: pair.client.state is pair.agent.state is SessionState.AWAY)
        assert virtual_loop().time() - start <= 2 * A_LITTLE


@on_virtual_time
async def test_the_peer_has_left_for_a_wire_that_died() -> None:
    async with session_pair(EchoService()) as pair:
        near, far = local_pair()
        near.hold()
        carrying = [asyncio.create_task(pair.agent.carry(far)), asyncio.create_task(pair.client.carry(near))]
        await turns()
        near.release(1)  # HELLO, and nothing that tells the agent that the client has come over
        await turns()
        assert pair.client.wire is near
        assert pair.agent.wire is pair.agent_wire
        start = virtual_loop().time()
        near.lose("cut")
        far.lose("cut")
        await asyncio.wait(carrying)
        await until(lambda: pair.client.state is pair.agent.state is SessionState.AWAY)
        assert virtual_loop().time() - start <= 2 * A_LITTLE  # at once, not by silence
        await another_wire(pair)
        assert await pair.client.call("echo.say", {"n": 1}) == {"n": 1}


@on_virtual_time
async def test_a_big_replay_keeps_turns() -> None:
    """What was lost goes through the gates: a keystroke does not stand behind four megabytes of it."""
    async with session_pair(EchoService(), rate=1_000_000.0) as pair:
        bulk = await pair.client.open("echo", "sink", lane=Lane.FILE_TRANSFER)
        keys = await pair.client.open("echo", "back", lane=Lane.TERMINAL_IO)
        pair.agent_wire.hold()
        writing = asyncio.create_task(bulk.write(bytes(6_000_000)))
        await asyncio.sleep(5)
        assert int(str(pair.client.stats()["unacknowledged"])) > 3_000_000
        cut(pair)
        await turns()
        near, far = local_pair(rate=1_000_000.0)
        async with asyncio.TaskGroup() as group:
            group.create_task(pair.agent.carry(far))
            group.create_task(pair.client.carry(near))
        await asyncio.sleep(0.2)
        for _ in range(5):
            start = virtual_loop().time()
            await keys.write(b"x")
            assert await keys.read() == b"x"
            assert virtual_loop().time() - start < 0.040
        await writing
        await bulk.finish()
        assert await bulk.read() == b""
        assert bulk.trailer == {"received": 6_000_000}


def test_the_wait_has_the_length_it_is_specified_to_have() -> None:
    assert Timing().keep == 300
