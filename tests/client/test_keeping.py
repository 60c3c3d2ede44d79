"""The keeper of a session: when it makes a new wire, when it waits, when it gives up. On virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any

import pytest

from doorstep.client.keeping import Keeper
from doorstep.protocol.errors import (
    AgentNotFound,
    AgentUnreachable,
    ConnectFailed,
    ConnectionRefused,
    DeadlineExceeded,
    DoorstepError,
    NotSignedIn,
    PeerNotTrusted,
    SignalingLost,
    Unauthorized,
    WireClosed,
)
from doorstep.protocol.timing import Timing
from doorstep.runtime import Session
from doorstep.runtime.session import SessionState
from doorstep.testing.clock import run_virtual
from doorstep.testing.echo import EchoService
from doorstep.testing.pair import SessionPair, session_pair
from doorstep.transport.local import LocalWire, local_pair

TIMING = Timing()
A_LITTLE = 0.01
Play = Callable[..., Coroutine[Any, Any, None]]


def on_virtual_time(play: Play) -> Callable[..., None]:
    @wraps(play)
    def test(*_: Any, **parameters: Any) -> None:
        run_virtual(play(**parameters))

    return test


class House:
    """A session, its keeper, and what either finds: the route, and the ways that reconnecting can go."""

    def __init__(self, pair: SessionPair) -> None:
        self.pair = pair
        self.session = pair.client
        self.wires: tuple[LocalWire, LocalWire] = (pair.client_wire, pair.agent_wire)
        self.route: tuple[str, ...] = ("192.0.2.7",)
        self.error: Exception | None = None
        """What every reconnect ends with; None: it has success."""
        self.stuck = False
        """A reconnect takes for ever."""
        self.began: list[float] = []
        self.cancelled = self.released = 0
        self.keeper = Keeper(pair.client, self._reconnect, TIMING, lambda: self.route, release=self._release)

    async def _reconnect(self, session: Session) -> None:
        self.began.append(asyncio.get_running_loop().time())
        assert session is self.session
        try:
            await (asyncio.Event().wait() if self.stuck else asyncio.sleep(A_LITTLE))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        self.wires = local_pair()
        await asyncio.gather(self.pair.agent.carry(self.wires[1]), session.carry(self.wires[0]))

    async def _release(self) -> None:
        self.released += 1

    def cut(self) -> None:
        for wire in self.wires:
            wire.lose("cut")

    async def works(self) -> bool:
        return await self.session.call("echo.say", {"n": 1}) == {"n": 1}


@asynccontextmanager
async def house(*, resume: bool = True) -> AsyncGenerator[House, None]:
    async with session_pair(EchoService(), resume=resume) as pair:
        here = House(pair)
        here.keeper.start()
        await asyncio.sleep(5)
        assert not here.began
        yield here
        await here.session.close("the test is over")
        await here.keeper.ended()
        assert here.released == 1


@on_virtual_time
async def test_a_lost_wire_is_replaced_at_once_and_again() -> None:
    async with house() as here:
        for number in range(1, 4):
            lost = asyncio.get_running_loop().time()
            here.cut()
            assert await here.works()
            assert here.began[-1] - lost < A_LITTLE
            assert len(here.began) == number
        await asyncio.sleep(1000)
        assert len(here.began) == 3


@on_virtual_time
async def test_silence_is_a_loss() -> None:
    """Packets are dropped without a word: noticed within Timing.silence, then replaced."""
    async with house() as here:
        start = asyncio.get_running_loop().time()
        for wire in here.wires:
            wire.hold()
        assert await here.works()
        assert here.began[0] - start <= TIMING.silence + A_LITTLE
        assert here.session.stats()["wires"] == 2


@pytest.mark.parametrize(
    "error",
    [
        AgentUnreachable(),
        ConnectFailed("no road"),
        ConnectionRefused("busy", "too many"),
        DeadlineExceeded("greeting", 15),
        SignalingLost("the hub restarts"),
        WireClosed("gone again"),
    ],
    ids=lambda error: type(error).__name__,
)
@on_virtual_time
async def test_what_may_heal_is_tried_again_until_the_session_is_kept_no_longer(error: Exception) -> None:
    async with house() as here:
        here.error = error
        here.cut()
        await asyncio.sleep(60)
        pauses = [later - earlier for earlier, later in zip(here.began, here.began[1:], strict=False)]
        assert len(pauses) > 10
        assert all(pause == pytest.approx(TIMING.retry_pause + A_LITTLE) for pause in pauses)
        here.error = None
        assert await here.works()
        here.error = error
        here.cut()
        assert (await here.session.wait_closed()).startswith("no wire for 300 s")


@pytest.mark.parametrize(
    "error",
    [
        AgentNotFound("box"),
        NotSignedIn("signed out"),
        PeerNotTrusted("another key"),
        PeerNotTrusted("another client has begun this session", told=True),
        Unauthorized("not yours"),
    ],
    ids=lambda error: type(error).__name__,
)
@on_virtual_time
async def test_what_waiting_does_not_cure_ends_a_session_without_a_wire(error: DoorstepError) -> None:
    async with house() as here:
        here.error = error
        here.cut()
        assert await here.session.wait_closed() == str(error)
        await here.keeper.ended()
        assert len(here.began) == 1


@on_virtual_time
async def test_an_error_of_ours_ends_it_too(caplog: pytest.LogCaptureFixture) -> None:
    async with house() as here:
        here.error = RuntimeError("a defect")
        here.cut()
        assert await here.session.wait_closed() == "internal error of the client"
        assert "a defect" in caplog.text


# --- the route ---


@on_virtual_time
async def test_another_route_is_another_wire_before_the_first_is_lost() -> None:
    async with house() as here:
        for number, route in enumerate((("198.51.100.9",), ("198.51.100.9", "2001:db8::9")), 1):
            first, here.route = here.wires[0], route
            await asyncio.sleep(TIMING.ping + 3 * A_LITTLE)
            assert len(here.began) == number
            assert here.session.wire is not first
            assert here.session.state is SessionState.OPEN
            await asyncio.sleep(100)
            assert len(here.began) == number
        assert await here.works()


@on_virtual_time
async def test_no_route_is_waited_out() -> None:
    """Between two networks there is none: nothing can be made then, and the last may come back."""
    async with house() as here:
        before, here.route = here.route, ()
        await asyncio.sleep(60)
        here.route = before
        await asyncio.sleep(60)
        assert not here.began
        here.route = ()
        await asyncio.sleep(60)
        here.route = ("198.51.100.9",)
        await asyncio.sleep(TIMING.ping + 3 * A_LITTLE)
        assert len(here.began) == 1


@on_virtual_time
async def test_without_route_and_wire_it_is_tried_all_the_same() -> None:
    """What we take for a route is that to the Internet; the machine may be next door."""
    async with house() as here:
        here.route = ()
        here.cut()
        assert await here.works()


@pytest.mark.parametrize(
    "error",
    [
        ConnectFailed("no road"),
        Unauthorized("not yours"),
        NotSignedIn("no"),
        PeerNotTrusted("another client has begun this session", told=True),
    ],
)
@on_virtual_time
async def test_a_session_that_works_is_not_ended_by_a_failed_change(error: DoorstepError) -> None:
    async with house() as here:
        here.error = error
        here.route = ("198.51.100.9",)
        await asyncio.sleep(100)
        assert len(here.began) == 1
        assert here.session.state is SessionState.OPEN
        assert await here.works()


@on_virtual_time
async def test_who_is_not_trusted_ends_even_a_session_that_works() -> None:
    async with house() as here:
        here.error = PeerNotTrusted("another key")
        here.route = ("198.51.100.9",)
        assert await here.session.wait_closed() == str(here.error)


# --- the end ---


@on_virtual_time
async def test_a_close_ends_what_is_under_way() -> None:
    async with house() as here:
        here.stuck = True
        here.cut()
        await asyncio.sleep(1)
        assert len(here.began) == 1
        await here.session.close("enough")
        await here.keeper.ended()
        assert (here.cancelled, here.released) == (1, 1)


@on_virtual_time
async def test_a_close_ends_the_pause_between_two_trials() -> None:
    async with house() as here:
        here.error = ConnectFailed("no road")
        here.cut()
        await asyncio.sleep(10 * A_LITTLE)
        closed = asyncio.get_running_loop().time()
        await here.session.close("enough")
        await here.keeper.ended()
        assert asyncio.get_running_loop().time() - closed < A_LITTLE


@on_virtual_time
async def test_a_session_that_is_kept_no_longer_ends_what_is_under_way() -> None:
    async with house() as here:
        here.stuck = True
        here.cut()
        assert (await here.session.wait_closed()).startswith("no wire for 300 s")
        await here.keeper.ended()
        assert (here.cancelled, len(here.began)) == (1, 1)


@on_virtual_time
async def test_the_agents_end_is_the_end() -> None:
    async with house() as here:
        await here.pair.agent.close("going down")
        assert await here.session.wait_closed() == "closed by the peer: going down"
        await here.keeper.ended()
        assert not here.began


@on_virtual_time
async def test_a_session_that_cannot_resume_is_left_alone() -> None:
    async with house(resume=False) as here:
        here.route = ("198.51.100.9",)
        await asyncio.sleep(100)
        here.cut()
        await here.session.wait_closed()
        await here.keeper.ended()
        assert not here.began
