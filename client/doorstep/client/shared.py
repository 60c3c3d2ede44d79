"""Client: a thing that several use at the same time: made for the first of them, closed after the last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Shared"]

T = TypeVar("T")


@dataclass(slots=True)
class _Held(Generic[T]):
    thing: T
    stack: AsyncExitStack
    users: int = 0


class Shared(Generic[T]):
    """``async with shared.held() as thing``; whoever comes while it is being made waits for it."""

    def __init__(self, make: Callable[[], AbstractAsyncContextManager[T]]) -> None:
        self._make = make
        self._held: _Held[T] | None = None
        self._making = asyncio.Lock()

    @asynccontextmanager
    async def held(self) -> AsyncGenerator[T]:
        """Raises what making it raises."""
        async with self._making:
            held = self._held
            if held is None:
                stack = AsyncExitStack()
                held = _Held(await stack.enter_async_context(self._make()), stack)
                self._held = held
            held.users += 1
        try:
            yield held.thing
        finally:
            held.users -= 1
            if not held.users:
                if self._held is held:
                    self._held = None
                await held.stack.aclose()
