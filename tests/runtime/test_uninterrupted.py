"""Clearing away that a cancellation does not interrupt."""

from __future__ import annotations

import asyncio

import pytest

from doorstep.runtime.tasks import uninterrupted

pytestmark = pytest.mark.asyncio


async def test_a_cancellation_comes_after_it() -> None:
    go, cleared = asyncio.Event(), asyncio.Event()

    async def clear() -> None:
        await go.wait()
        cleared.set()

    task = asyncio.create_task(uninterrupted(clear(), "clear"))
    await asyncio.sleep(0)
    task.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleared.is_set()


async def test_its_error_is_told() -> None:
    async def clear() -> None:
        raise OSError("it will not close")

    with pytest.raises(OSError, match="will not"):
        await uninterrupted(clear(), "clear")
