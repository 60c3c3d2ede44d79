"""An agent that has promised to come by a road is waited for while somebody knocks, and not much longer."""

from __future__ import annotations

import pytest

from doorstep.protocol.attempt import AttemptState as S
from doorstep.protocol.errors import ConnectFailed
from doorstep.protocol.timing import Timing

from .way import World, play

TIMING = Timing(answer=0.5, relay_wait=25, promise=7)
LAST_KNOCK = 3 * (TIMING.answer + TIMING.retry_pause)
"""Seconds until the fourth attempt knocks; WebRTC has failed for good ``answer`` later."""


def test_one_that_never_comes_has_its_time_from_its_last_promise() -> None:
    async def story(world: World) -> None:
        took = await world.fails(ConnectFailed)
        assert took == pytest.approx(LAST_KNOCK + TIMING.promise, abs=0.1)
        assert world.states[-1] is S.FAILED

    play(story, timing=TIMING, late=99)


@pytest.mark.parametrize("late", [5.0, LAST_KNOCK + TIMING.promise - 0.1])
def test_one_that_comes_before_that_is_in_time(late: float) -> None:
    """Its first promise may be older than that: it was renewed."""

    async def story(world: World) -> None:
        await world.way.open()
        assert world.reports[-1].reason == "relay"

    play(story, timing=TIMING, late=late)
