"""A client that comes by another road too knocks without its offer only if that takes a while."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from doorstep.protocol.timing import DEFAULT_TIMING

from .way import NoPeer, World, play

EARLY = DEFAULT_TIMING.early_knock


class Gathering(NoPeer):
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def create_offer(self) -> str:
        await asyncio.sleep(self._seconds)
        return await super().create_offer()


@pytest.mark.parametrize(
    ("gathers", "knocks"),
    [(0.0, [0.0]), (EARLY / 2, [EARLY / 2]), (2 * EARLY, [EARLY, 2 * EARLY]), (1.0, [EARLY, 1.0])],
)
def test_one_knock_if_the_offer_is_soon_there(gathers: float, knocks: list[float]) -> None:
    async def story(world: World) -> None:
        async def peer(_: Sequence[object]) -> Any:
            return Gathering(gathers)

        world.way._open_peer = peer
        began = asyncio.get_running_loop().time()
        await world.way.open()
        await asyncio.sleep(2)
        assert [at - began for at, _ in world.machine.knocks] == pytest.approx(knocks, abs=0.01)
        assert world.reports[-1].reason == "relay"

    play(story)
