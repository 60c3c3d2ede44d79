"""Client: two small shapes every call uses: a wait with a name and a limit, and a thing that opens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from doorstep.protocol.errors import DeadlineExceeded
from doorstep.protocol.lanes import Lane

if TYPE_CHECKING:
    from doorstep.runtime import Session

__all__ = ["Opening", "limit", "patient"]


class Closable(Protocol):
    """What can be opened can be closed."""

    async def close(self) -> None: ...


T = TypeVar("T", bound=Closable)
R = TypeVar("R")


class Opening(Generic[T]):
    """A thing on its way: ``thing = await opening`` (you close it) or ``async with opening as thing:``."""

    def __init__(self, start: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._start = start
        self._thing: T | None = None

    def __await__(self) -> Generator[Any, None, T]:
        return self._start().__await__()

    async def __aenter__(self) -> T:
        self._thing = await self._start()
        return self._thing

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thing is not None:
            await self._thing.close()


@asynccontextmanager
async def limit(wait: str, seconds: float | None) -> AsyncGenerator[None, None]:
    """End the block after ``seconds`` (None: never) with :class:`DeadlineExceeded` naming ``wait``."""
    scope = asyncio.timeout(seconds)
    try:
        async with scope:
            yield
    except TimeoutError:
        if scope.expired() and seconds is not None:
            raise DeadlineExceeded(wait, seconds) from None
        raise


async def patient(
    session: Session, wait: str, seconds: float, step: Awaitable[R], lane: Lane = Lane.TERMINAL_IO
) -> R:
    """Return what ``step`` does; time in which no wire carries the lane does not count towards its limit.

    Raises :class:`DeadlineExceeded` naming ``wait``.
    """
    task = asyncio.ensure_future(step)
    until = session.time_with_a_wire(lane) + seconds
    try:
        while (left := until - session.time_with_a_wire(lane)) > 0:
            await asyncio.wait({task}, timeout=left)
            if task.done():
                return task.result()
        raise DeadlineExceeded(wait, seconds)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
