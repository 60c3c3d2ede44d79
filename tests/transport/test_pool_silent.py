"""A better wire that opened and says nothing does not hold the session up, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from doorstep.protocol.timing import DEFAULT_TIMING
from doorstep.runtime import Role
from doorstep.testing.clock import run_virtual
from doorstep.transport.local import local_pair
from doorstep.transport.pool import Carry

from .test_pool_session import World, works

SILENCE = DEFAULT_TIMING.silence


class Silent(World):
    """WebRTC is ready at once, and silent on its first ``wires``; the relay after ``relay`` seconds."""

    def __init__(self, silent: Role, *, relay: float = 0.0, wires: int = 1) -> None:
        super().__init__(silent)
        self.relay, self.left, self.tries = relay, wires, 0

    async def _webrtc(self, carry: Carry) -> None:
        self.tries += 1
        client, agent = local_pair()
        client.kind = agent.kind = "webrtc"
        if self.left:
            self.left -= 1
            (client if self.silent is Role.CLIENT else agent).hold()
        await self._carry((client, agent), carry)

    async def _relay(self, carry: Carry) -> None:
        await asyncio.sleep(self.relay)
        client, agent = local_pair()
        client.kind = agent.kind = "relay"
        await self._carry((client, agent), carry)


async def opened(here: Silent) -> float:
    """Seconds until the session has a wire."""
    began = asyncio.get_running_loop().time()
    await here.pool.open()
    return asyncio.get_running_loop().time() - began


@pytest.mark.parametrize("relay", [0.0, 1.0, SILENCE, 2 * SILENCE], ids=lambda relay: f"{relay:g} s")
def test_a_relay_that_is_ready_carries_after_the_silence(relay: float) -> None:
    """HELLO is lost on the better wire; its second one takes over."""

    async def story() -> None:
        here = Silent(Role.CLIENT, relay=relay)
        try:
            assert await opened(here) == pytest.approx(max(relay, SILENCE), abs=0.01)
            assert here.client.wire.kind == "relay"
            assert await works(here)
            await asyncio.sleep(0.1)
            assert (here.client.wire.kind, here.tries, here.pool.reason) == ("webrtc", 2, "")
            assert await works(here)
        finally:
            await here.close()

    run_virtual(story())


def test_an_agent_that_hears_nothing_more_gives_the_wire_up_itself() -> None:
    """WELCOME is lost on the better wire."""

    async def story() -> None:
        here = Silent(Role.AGENT)
        try:
            assert await opened(here) <= SILENCE
            assert here.client.wire.kind == "relay"
            assert await works(here)
            await asyncio.sleep(DEFAULT_TIMING.improve_first + 1)
            assert here.client.wire.kind == "webrtc"
        finally:
            await here.close()

    run_virtual(story())


def test_one_that_stays_silent_is_tried_beside_the_relay_at_its_pace() -> None:
    async def story() -> None:
        here = Silent(Role.CLIENT, wires=99)
        try:
            await opened(here)
            for _ in range(29):
                await asyncio.sleep(1)
                assert here.client.wire.kind == "relay"
                assert await works(here)
            assert here.tries == 2  # the second one has just been given up, after Timing.ice
            assert "greeting" in here.pool.reason
        finally:
            await here.close()

    run_virtual(story())


def test_without_another_wire_it_has_its_time() -> None:
    async def story() -> None:
        here = Silent(Role.CLIENT, relay=DEFAULT_TIMING.ice - 1)
        try:
            opening = asyncio.create_task(opened(here))
            await asyncio.sleep(DEFAULT_TIMING.ice - 2)
            here.wires[0].release()  # its HELLO was only late
            await opening
            assert (here.client.wire.kind, here.tries) == ("webrtc", 1)
        finally:
            await here.close()

    run_virtual(story())
