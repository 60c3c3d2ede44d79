"""A session that is closed, or a connect that is cancelled, at every moment of it: nothing is left behind.

In virtual time a moment is one round of the event loop; the roads are those of ``way``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from doorstep.client.keeping import Keeper
from doorstep.protocol.timing import DEFAULT_TIMING
from doorstep.runtime import Session

from .way import World, play

Story = Callable[[World], Coroutine[Any, Any, None]]
STEP = 3
ROUNDS = 60
"""The relay carries after about half as many."""


async def rounds(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def everything_is_gone(world: World) -> None:
    assert world.host.signed_in == 0
    assert all(wire._reason is not None for wire in world.place.wires)
    left = {task.get_name() for task in asyncio.all_tasks()} - {asyncio.current_task().get_name()}  # type: ignore[union-attr]
    assert [
        name for name in left if name.startswith(("doorstep", f"session {world.session.id} client"))
    ] == []


@pytest.mark.parametrize("force", [None, "relay"])
@pytest.mark.parametrize("count", range(0, ROUNDS, STEP))
def test_a_connect_is_cancelled(count: int, force: str | None) -> None:
    async def story(world: World) -> None:
        opening = asyncio.create_task(world.way.open())
        await rounds(count)
        opening.cancel()
        await asyncio.wait({opening})
        await world.session.close()
        await world.way.close()
        everything_is_gone(world)

    play(story, force=force)


@pytest.mark.parametrize("why", ["the wire was lost", "the route has changed", "a better one is tried"])
@pytest.mark.parametrize("count", range(0, ROUNDS, STEP))
def test_an_agent_is_closed_in_a_reconnect(count: int, why: str) -> None:
    """As ``Agent.close()`` does it."""

    async def story(world: World) -> None:
        route = ["192.0.2.7"]
        await world.way.open()
        begun = asyncio.Event()

        async def reconnect(_: Session) -> None:
            begun.set()
            await world.way.open()

        keeper = Keeper(
            world.session, reconnect, DEFAULT_TIMING, lambda: tuple(route), release=world.way.close
        )
        keeper.start()
        await asyncio.sleep(DEFAULT_TIMING.total)
        match why:
            case "the wire was lost":
                world.place.wires[-1].lose("cut")
                await begun.wait()
            case "the route has changed":
                route.append("2001:db8::9")
                await begun.wait()
            case _:
                await until_it_knocks(world)
        await rounds(count)
        await world.session.close()
        await keeper.ended()
        everything_is_gone(world)

    play(story)


async def until_it_knocks(world: World) -> None:
    before = len(world.machine.knocks)
    while len(world.machine.knocks) == before:
        await asyncio.sleep(0.01)
