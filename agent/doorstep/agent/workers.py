"""Agent: a bounded number of threads for file work, so that a slow disk never holds up the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

__all__ = ["Workers"]

T = TypeVar("T")
_THREADS = 4
"""Disk work gains nothing from more; what waits is bounded by the streams and calls of sessions."""


class Closable(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=Closable)


class Workers:
    """Owns its threads, which start when first needed and end with :meth:`close`."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="doorstep-files")

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """Run ``work`` in a thread. Cancelled, it still waits for its end: nothing is closed under it."""
        return await self._run(lambda _: None, work, *arguments)

    async def open(self, work: Callable[..., C], *arguments: object) -> C:
        """Like :meth:`run` for work that opens something; when cancelled meanwhile, that is closed again."""
        return await self._run(lambda opened: opened.close(), work, *arguments)

    def close(self) -> None:
        """End the threads after what they are doing. Idempotent."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, discard: Callable[[T], None], work: Callable[..., T], *arguments: object) -> T:
        future = asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait({future})
            if not future.cancelled() and future.exception() is None:
                discard(future.result())
            raise
