"""Hub: password hashes (argon2id), computed off the event loop, in a queue that cannot grow without bound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

import argon2

from doorstep.hub.config import SignInLimits

__all__ = ["Passwords", "TooBusy"]


R = TypeVar("R")


class TooBusy(Exception):
    """More password checks are waiting than the limit allows."""


class Passwords:
    """Hashes and verifies in one worker thread: one core at most goes to argon2."""

    def __init__(self, limits: SignInLimits) -> None:
        self._hasher = argon2.PasswordHasher(
            time_cost=limits.time_cost, memory_cost=limits.memory_cost, parallelism=limits.parallelism
        )
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="doorstep-argon2")
        self._most = limits.hashes_waiting
        self._waiting = 0
        self._queued = 0
        self._turn = asyncio.Lock()
        self._nobody: str | None = None

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """Check one password at a time, so that guesses sent at once see each other's failures.

        Raises :class:`TooBusy` when as many wait as the limit allows.
        """
        if self._queued >= self._most:
            raise TooBusy
        self._queued += 1
        try:
            async with self._turn:
                yield
        finally:
            self._queued -= 1

    async def hash(self, password: str) -> str:
        return await self._run(self._hasher.hash, password)

    async def verify(self, hashed: str | None, password: str) -> bool:
        """Whether ``password`` is right. ``None`` (no such account) takes as long and is never right."""
        if hashed is None:
            if self._nobody is None:
                self._nobody = await self.hash("nobody")
            await self._run(self._matches, self._nobody, password)
            return False
        return await self._run(self._matches, hashed, password)

    def close(self) -> None:
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _matches(self, hashed: str, password: str) -> bool:
        try:
            return self._hasher.verify(hashed, password)
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False

    async def _run(self, work: Callable[..., R], *arguments: str) -> R:
        if self._waiting >= self._most:
            raise TooBusy
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, work, *arguments)
        finally:
            self._waiting -= 1
