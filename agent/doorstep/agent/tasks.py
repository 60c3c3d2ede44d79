"""Agent: several jobs of one owner: the first to end decides, or all must end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import NoReturn

__all__ = ["forever", "race", "together"]


async def race(*jobs: Coroutine[object, object, None]) -> int:
    """Run ``jobs`` until the first has ended, end the others, and return the index of the first.

    Raises what the first raised. Cancelled = all are ended before it returns.
    """
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        first = next(index for index, task in enumerate(tasks) if task.done())
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    outcome = results[first]
    if isinstance(outcome, BaseException):
        raise outcome
    return first


async def together(*jobs: Coroutine[object, object, None]) -> None:
    """Run ``jobs`` until all have ended; when one raises, end the others and raise that."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def forever() -> NoReturn:
    """Wait to be cancelled."""
    while True:
        await asyncio.get_running_loop().create_future()
