"""Why a wire ends that was met on a road and does not come to carry: the true reason is said."""

from __future__ import annotations

import asyncio

import pytest

from doorstep.client.trust import Trust
from doorstep.protocol.errors import InvalidInput, PeerNotTrusted
from doorstep.protocol.proof import PublicKey

from .way import World, play


class Deciding:
    """In the place of ``Trust.met``: comes to a decision when it is told one."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.decision: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    async def met(self, _: PublicKey | None) -> None:
        self.asked.set()
        raise await self.decision


async def asked(world: World) -> tuple[asyncio.Task[None], Deciding]:
    """A connect that has met the agent at the relay and asks whether to believe it."""
    deciding, trust = Deciding(), world.way._trust
    assert isinstance(trust, Trust)
    trust.met = deciding.met  # type: ignore[method-assign]
    opening = asyncio.create_task(world.way.open())
    await deciding.asked.wait()
    return opening, deciding


def test_one_that_is_called_off_accuses_nobody() -> None:
    async def story(world: World) -> None:
        opening, _ = await asked(world)
        opening.cancel()
        await asyncio.wait({opening})
        await world.way.close()
        assert (await world.place.wires[0].wait_closed()).endswith("it is not needed any more")

    play(story, force="relay")


@pytest.mark.parametrize(
    "error",
    [PeerNotTrusted("it is somebody else"), InvalidInput("known_agents.json", "is no JSON")],
    ids=repr,
)
def test_one_that_is_refused_says_why(error: Exception) -> None:
    async def story(world: World) -> None:
        opening, deciding = await asked(world)
        deciding.decision.set_result(error)
        with pytest.raises(type(error)):
            await opening
        assert (await world.place.wires[0].wait_closed()).endswith(str(error))

    play(story, force="relay")
