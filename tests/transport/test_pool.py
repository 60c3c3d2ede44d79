"""The wire pool: what is opened, what carries, what takes over, what is closed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from doorstep.protocol.errors import ConnectFailed, DoorstepError, PeerNotTrusted, WireClosed
from doorstep.transport.local import LocalWire, local_pair
from doorstep.transport.pool import Carry, Opener, WirePool
from doorstep.transport.wire import Wire

pytestmark = pytest.mark.asyncio


class Way:
    """An opener whose wire is ready, or fails, when the test says so."""

    def __init__(self, kind: str) -> None:
        self.opener = Opener(kind, self._open)
        self.clearing: asyncio.Event | None = None
        """Stopped, it clears away until then."""
        self.cleared = 0
        self.opened = 0
        self.stopped = 0
        self.ready: asyncio.Queue[LocalWire | DoorstepError] = asyncio.Queue()

    async def _open(self, carry: Carry) -> None:
        self.opened += 1
        try:
            outcome = await self.ready.get()
        except asyncio.CancelledError:
            self.stopped += 1
            if self.clearing is not None:
                await self.clearing.wait()
            self.cleared += 1
            raise
        if isinstance(outcome, DoorstepError):
            raise outcome
        await carry(outcome)


class Two:
    """A pool of a good way and a poor one, and what it made the session do."""

    def __init__(self, **options: Any) -> None:
        self.good, self.poor = Way("webrtc"), Way("relay")
        self.carried: list[Wire] = []
        self.pool = WirePool([self.good.opener, self.poor.opener], self._carry, **options)

        self.held: dict[Wire, asyncio.Event] = {}
        """Wires whose greeting takes until then."""
        self.broken: set[Wire] = set()
        """Those of them that are not greeted."""

    async def _carry(self, wire: Wire) -> None:
        self.carried.append(wire)
        if wire in self.held:
            await self.held[wire].wait()
        if wire in self.broken:
            await wire.close("no greeting")
            raise WireClosed("no greeting")

    def hold(self, wire: LocalWire) -> LocalWire:
        self.held[wire] = asyncio.Event()
        return wire


async def soon(check: asyncio.Task[None]) -> None:
    async with asyncio.timeout(30):
        await check


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_the_first_that_is_ready_carries_and_the_better_takes_over() -> None:
    two = Two()
    relay, webrtc = local_pair()[0], local_pair()[0]
    opening = asyncio.create_task(two.pool.open())
    two.poor.ready.put_nowait(relay)
    await soon(opening)
    assert two.pool.wire is relay
    two.good.ready.put_nowait(webrtc)
    await turns()
    assert two.carried == [relay, webrtc]
    assert two.pool.wire is webrtc
    await two.pool.close()


async def test_a_worse_one_is_not_opened_any_longer() -> None:
    """It would hold its place at the relay, and a login, until its time is over."""
    two = Two()
    opening = asyncio.create_task(two.pool.open())
    two.good.ready.put_nowait(local_pair()[0])
    await soon(opening)
    await two.pool.wait_ended("relay")
    assert (two.poor.opened, two.poor.stopped) == (1, 1)
    await two.pool.close()


async def test_a_worse_one_that_comes_later_is_closed() -> None:
    two = Two()
    relay, webrtc = local_pair()[0], two.hold(local_pair()[0])
    opening = asyncio.create_task(two.pool.open())
    two.good.ready.put_nowait(webrtc)
    await turns()
    two.poor.ready.put_nowait(relay)
    await turns()
    two.held[webrtc].set()
    await soon(opening)
    await relay.wait_closed()
    assert two.carried == [webrtc]
    await two.pool.close()


async def test_better_ones_go_on_and_worse_ones_do_not() -> None:
    ways = [Way("webrtc"), Way("relay"), Way("broadcast")]

    async def carry(wire: Wire) -> None:
        return None

    pool = WirePool([way.opener for way in ways], carry)
    opening = asyncio.create_task(pool.open())
    ways[1].ready.put_nowait(local_pair()[0])
    await soon(opening)
    await pool.wait_ended("broadcast")
    assert [way.stopped for way in ways] == [0, 0, 1]
    assert pool.reason == "webrtc is being tried"
    await pool.close()


async def test_only_better_ones_are_opened_beside_a_living_one() -> None:
    two = Two()
    opening = asyncio.create_task(two.pool.open())
    two.poor.ready.put_nowait(local_pair()[0])
    await soon(opening)
    two.good.ready.put_nowait(ConnectFailed("blocked"))
    await turns()
    with pytest.raises(ConnectFailed, match="blocked"):
        two.good.ready.put_nowait(ConnectFailed("blocked"))
        await two.pool.open()
    assert (two.good.opened, two.poor.opened) == (2, 1)
    await two.pool.close()


async def test_after_a_loss_all_are_opened_again() -> None:
    two = Two()
    first = local_pair()[0]
    opening = asyncio.create_task(two.pool.open())
    two.good.ready.put_nowait(first)
    await soon(opening)
    first.lose("cut")
    await turns()
    assert two.pool.wire is None
    opening = asyncio.create_task(two.pool.open())
    second = local_pair()[0]
    two.poor.ready.put_nowait(second)
    await soon(opening)
    assert two.carried == [first, second]
    await two.pool.close()


async def test_anew_replaces_one_that_lives() -> None:
    two = Two()
    wires = [local_pair()[0] for _ in range(2)]
    for wire in wires:
        opening = asyncio.create_task(two.pool.open(anew=True))
        two.good.ready.put_nowait(wire)
        await soon(opening)
    assert two.carried == wires
    await two.pool.close()


async def test_when_all_fail_the_best_ones_error_is_told() -> None:
    two = Two()
    opening = asyncio.create_task(two.pool.open())
    two.poor.ready.put_nowait(ConnectFailed("no relay"))
    await turns()
    assert not opening.done()
    two.good.ready.put_nowait(ConnectFailed("no path"))
    with pytest.raises(ConnectFailed, match="no path"):
        await opening
    await two.pool.close()


async def test_a_wire_that_is_not_carried_is_a_failure() -> None:
    two = Two()

    async def refuse(wire: Wire) -> None:
        await wire.close("refused")
        raise WireClosed("refused")

    pool = WirePool([two.good.opener], refuse)
    two.good.ready.put_nowait(local_pair()[0])
    with pytest.raises(WireClosed, match="refused"):
        await pool.open()
    assert pool.wire is None
    await pool.close()


async def test_a_closed_pool_leaves_the_wire_and_stops_the_rest() -> None:
    two = Two()
    wire = local_pair()[0]
    opening = asyncio.create_task(two.pool.open())
    two.good.ready.put_nowait(wire)
    await soon(opening)
    await turns()
    await two.pool.close()
    assert two.poor.stopped == 1
    assert wire._reason is None
    with pytest.raises(ConnectFailed, match="closed"):
        await two.pool.open()


async def test_a_final_error_ends_the_others() -> None:
    two = Two(is_final=lambda error: isinstance(error, PeerNotTrusted))
    opening = asyncio.create_task(two.pool.open())
    two.poor.ready.put_nowait(PeerNotTrusted("somebody else"))
    with pytest.raises(PeerNotTrusted):
        await soon(opening)
    assert (two.good.stopped, two.poor.stopped) == (1, 0)
    await two.pool.close()


async def test_without_a_wire_all_begin_anew_together() -> None:
    two = Two()
    opening = asyncio.create_task(two.pool.open())
    two.poor.ready.put_nowait(local_pair()[0])
    await soon(opening)
    assert two.pool.wire is not None
    await two.pool.wire.close("cut")
    await turns()
    opening = asyncio.create_task(two.pool.open())
    await turns()
    assert (two.good.opened, two.good.stopped, two.poor.opened) == (2, 1, 2)
    opening.cancel()
    await two.pool.close()


async def test_it_says_why_the_wire_is_not_the_best() -> None:
    two = Two()
    assert two.pool.reason == ""
    opening = asyncio.create_task(two.pool.open())
    two.poor.ready.put_nowait(local_pair()[0])
    await soon(opening)
    assert two.pool.reason == "webrtc is being tried"
    two.good.ready.put_nowait(ConnectFailed("blocked"))
    await turns()
    assert two.pool.reason == "webrtc: blocked"
    opening = asyncio.create_task(two.pool.open(anew=True))
    two.good.ready.put_nowait(local_pair()[0])
    await soon(opening)
    assert two.pool.reason == ""
    await two.pool.close()


async def test_a_wire_whose_turn_does_not_come_is_closed() -> None:
    two = Two()
    relay, webrtc = local_pair()[0], local_pair()[0]
    two.hold(webrtc)
    opening = asyncio.create_task(two.pool.open())
    two.good.ready.put_nowait(webrtc)
    await turns()
    two.poor.ready.put_nowait(relay)
    await turns()
    await two.pool.close()
    with pytest.raises(ConnectFailed):
        await opening
    assert webrtc._reason is not None
    assert relay._reason is not None
    assert two.carried == [webrtc]


async def test_two_that_are_cancelled_twice_are_closed_all_the_same() -> None:
    """As the runner of a program does that is interrupted while it clears away."""
    two = Two()
    wires = [local_pair()[0], local_pair()[0]]
    two.hold(wires[0])
    opening = asyncio.create_task(two.pool.open())
    two.good.ready.put_nowait(wires[0])
    await turns()
    two.poor.ready.put_nowait(wires[1])
    await turns()
    for _ in range(2):
        for task in list(two.pool._tasks.values()):
            task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(ConnectFailed):
        await opening
    await two.pool.close()
    assert all(wire._reason is not None for wire in wires)


async def test_a_better_one_that_is_ready_waits_for_no_greeting_of_a_worse_one() -> None:
    """A relay that lets both in and then carries nothing cannot hold WebRTC back."""
    two = Two()
    relay, webrtc = two.hold(local_pair()[0]), local_pair()[0]
    opening = asyncio.create_task(two.pool.open())
    two.poor.ready.put_nowait(relay)
    await turns()
    assert two.carried == [relay]
    two.good.ready.put_nowait(webrtc)
    await soon(opening)
    assert (two.pool.wire, two.pool.reason) == (webrtc, "")
    assert "a better wire is ready" in await relay.wait_closed()
    await two.pool.close()


async def test_what_was_given_up_for_a_better_one_is_tried_again_if_that_comes_to_nothing() -> None:
    two = Two()
    relays = [two.hold(local_pair()[0]), local_pair()[0]]
    opening = asyncio.create_task(two.pool.open())
    two.poor.ready.put_nowait(relays[0])
    await turns()
    webrtc = two.hold(local_pair()[0])
    two.good.ready.put_nowait(webrtc)
    await turns()
    assert two.carried == [relays[0], webrtc]
    two.broken.add(webrtc)
    two.held[webrtc].set()
    two.poor.ready.put_nowait(relays[1])
    await soon(opening)
    assert two.pool.wire is relays[1]
    assert two.poor.opened == 2
    assert "no greeting" in await webrtc.wait_closed()
    await two.pool.close()


async def test_of_those_that_wait_the_best_comes_first() -> None:
    """Whoever gives way takes a while to do so; meanwhile two more are ready."""
    ways = [Way("webrtc"), Way("relay"), Way("broadcast")]
    wires = [local_pair()[0] for _ in ways]
    gone = asyncio.Event()
    carried: list[Wire] = []

    async def carry(wire: Wire) -> None:
        carried.append(wire)
        if wire is wires[2]:
            try:
                await asyncio.Event().wait()
            finally:
                await gone.wait()

    pool = WirePool([way.opener for way in ways], carry)
    opening = asyncio.create_task(pool.open())
    for way, wire in zip(reversed(ways), reversed(wires), strict=True):
        way.ready.put_nowait(wire)
        await turns()
    gone.set()
    await soon(opening)
    assert carried == [wires[2], wires[0]]
    assert pool.wire is wires[0]
    await pool.close()
    assert all(wire._reason is not None for wire in wires[1:])


async def test_one_that_is_stopped_while_it_is_greeted_is_closed() -> None:
    two = Two()
    relay = two.hold(local_pair()[0])
    opening = asyncio.create_task(two.pool.open())
    two.poor.ready.put_nowait(relay)
    await turns()
    await two.pool.close()
    with pytest.raises(ConnectFailed):
        await opening
    assert relay._reason is not None
    assert two.pool.wire is None


async def test_a_defect_of_one_is_logged_and_a_failure_of_this_one(caplog: pytest.LogCaptureFixture) -> None:
    two = Two()

    async def broken(carry: Carry) -> None:
        raise ImportError("a proxy needs another package")

    pool = WirePool([Opener("webrtc", broken), two.poor.opener], two._carry)
    opening = asyncio.create_task(pool.open())
    await turns()
    two.poor.ready.put_nowait(local_pair()[0])
    await soon(opening)
    assert pool.reason.startswith("webrtc: internal error")
    assert "another package" in pool.reason
    assert "Traceback" in caplog.text
    await pool.close()


async def test_where_all_are_defects_one_is_told() -> None:
    async def broken(carry: Carry) -> None:
        raise ImportError("a proxy needs another package")

    pool = WirePool([Opener("relay", broken)], Two()._carry)
    with pytest.raises(ConnectFailed, match="internal error of the way by relay"):
        await pool.open()
    await pool.close()


async def test_one_that_clears_away_is_not_interrupted() -> None:
    """It was stopped for a better one; the pool is closed before it is through."""
    two = Two()
    two.poor.clearing = asyncio.Event()
    opening = asyncio.create_task(two.pool.open())
    two.good.ready.put_nowait(local_pair()[0])
    await soon(opening)
    await turns()
    closing = asyncio.create_task(two.pool.close())
    await turns()
    assert (two.poor.stopped, two.poor.cleared, closing.done()) == (1, 0, False)
    two.poor.clearing.set()
    await soon(closing)
    assert two.poor.cleared == 1
