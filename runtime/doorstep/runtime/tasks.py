"""Runtime: the owner of a session's tasks: none is lost, none outlives its session unnoticed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

__all__ = ["TaskOwner", "uninterrupted"]

logger = logging.getLogger("doorstep.runtime")


class TaskOwner:
    """Holds every task it started until the task is done."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Start ``work``. It is expected to handle its errors; one that escapes is logged."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def cancel(self) -> None:
        """Ask every task to end; one that was asked before is at its clean-up and must not be interrupted."""
        for task in self._tasks:
            if not task.cancelling():
                task.cancel()

    async def ended(self, limit: float) -> None:
        """Wait until every task has ended, at most ``limit`` seconds; log those that have not."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=limit)
        for task in late:
            logger.error("task %s did not end within %g s of its session", task.get_name(), limit)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("task %s failed", task.get_name(), exc_info=error)


async def uninterrupted(work: Coroutine[Any, Any, None], name: str) -> None:
    """Clear away: a cancellation of the caller takes effect when ``work``, which must be bounded, is done."""
    task = asyncio.create_task(work, name=name)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
