"""The wire pool in virtual time: when the better wires are tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from doorstep.protocol.errors import ConnectFailed
from doorstep.protocol.timing import DEFAULT_TIMING
from doorstep.testing.clock import run_virtual
from doorstep.transport.local import local_pair
from doorstep.transport.pool import Carry, Opener, WirePool
from doorstep.transport.wire import Wire


class World:
    """A pool whose best way fails after ``takes`` seconds, until ``good`` is a wire."""

    def __init__(self, takes: float = 1.0) -> None:
        self.tried: list[float] = []
        self.good: Wire | None = None
        self.away = False
        """No road goes anywhere."""
        self.carried: list[Wire] = []
        self.poor = local_pair()[0]
        self.pool = WirePool(
            [Opener("webrtc", self._best), Opener("relay", self._poor)], self._carry, timing=DEFAULT_TIMING
        )
        self._takes = takes

    async def _best(self, carry: Carry) -> None:
        self.tried.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self._takes)
        if self.good is None:
            raise ConnectFailed("blocked")
        await carry(self.good)

    async def _poor(self, carry: Carry) -> None:
        if self.away:
            raise ConnectFailed("no network")
        await carry(self.poor)

    async def _carry(self, wire: Wire) -> None:
        self.carried.append(wire)


def play(story: Coroutine[Any, Any, None]) -> None:
    run_virtual(story)


def test_ever_less_often_counted_from_the_end_of_the_last_trial() -> None:
    async def story() -> None:
        world = World()
        await world.pool.open()
        await asyncio.sleep(1600)
        gaps = [late - early - 1 for early, late in zip(world.tried, world.tried[1:], strict=False)]
        assert gaps == pytest.approx([15, 30, 60, 120, 240, 300, 300, 300])
        await world.pool.close()
        tried = len(world.tried)
        await asyncio.sleep(1000)
        assert len(world.tried) == tried

    play(story())


def test_no_more_when_the_best_carries() -> None:
    async def story() -> None:
        world = World()
        await world.pool.open()
        world.good = None
        await asyncio.sleep(5)
        world.good = local_pair()[0]
        await asyncio.sleep(1000)
        assert world.carried == [world.poor, world.good]
        assert len(world.tried) == 2
        assert world.pool.reason == ""
        await world.pool.close()

    play(story())


def test_no_more_when_none_carries() -> None:
    async def story() -> None:
        world = World()
        await world.pool.open()
        await asyncio.sleep(5)
        await world.poor.close("cut")
        await asyncio.sleep(1000)
        assert len(world.tried) == 1
        await world.pool.close()

    play(story())


def test_from_the_beginning_after_a_new_connect() -> None:
    async def story() -> None:
        world = World()
        await world.pool.open()
        await asyncio.sleep(200)
        before = len(world.tried)
        world.poor = local_pair()[0]
        await world.pool.open(anew=True)
        again = asyncio.get_running_loop().time()
        await asyncio.sleep(20)
        assert [at - again for at in world.tried[before:]] == pytest.approx([0, 16])
        await world.pool.close()

    play(story())


def test_from_the_beginning_after_a_connect_that_failed_beside_a_living_wire() -> None:
    """The route changed to one where nothing goes, and the wire that was there lives on."""

    async def story() -> None:
        world = World()
        await world.pool.open()
        await asyncio.sleep(200)
        before = len(world.tried)
        world.away = True
        again = asyncio.get_running_loop().time()
        with pytest.raises(ConnectFailed, match="blocked"):
            await world.pool.open(anew=True)
        assert world.pool.wire is world.poor
        await asyncio.sleep(60)
        assert [at - again for at in world.tried[before:]] == pytest.approx([0, 16, 47])
        world.good = local_pair()[0]
        await asyncio.sleep(300)
        assert world.pool.wire is world.good
        await world.pool.close()

    play(story())


@pytest.mark.parametrize("after", [0, 1], ids=["while the last trial is stopped", "while it tries"])
def test_from_the_beginning_after_a_connect_that_was_cancelled_beside_a_living_wire(after: float) -> None:
    async def story() -> None:
        world = World(takes=5)
        world.poor = local_pair()[0]
        await world.pool.open()
        await asyncio.sleep(10)
        world.away = True
        opening = asyncio.create_task(world.pool.open(anew=True))
        await asyncio.sleep(after)
        opening.cancel()
        await asyncio.wait({opening})
        world.good = local_pair()[0]
        await asyncio.sleep(30)
        assert world.pool.wire is world.good
        await world.pool.close()

    play(story())


@pytest.mark.parametrize("why", ["failed", "closed"])
def test_the_best_that_lives_on_stays_the_best(why: str) -> None:
    async def story() -> None:
        world = World()
        world.good = first = local_pair()[0]
        world.away = True
        await world.pool.open()
        world.good = None
        opening = asyncio.create_task(world.pool.open(anew=True))
        if why == "closed":
            await asyncio.sleep(0.5)
            await world.pool.close()
        with pytest.raises(ConnectFailed, match="blocked" if why == "failed" else "no network"):
            await opening
        assert (world.pool.wire, world.pool.reason) == (first, "")
        await asyncio.sleep(1000)
        assert len(world.tried) == 2
        await world.pool.close()

    play(story())
