"""Agent: its row in the back end's table: made at the start, touched while it lives, offline at the end."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Protocol

from doorstep.agent.identity import Identity
from doorstep.protocol.errors import AgentNotFound, DoorstepError, LinkError
from doorstep.protocol.timing import Timing
from doorstep.transport.backend import AgentRecord, AgentRow
from doorstep.transport.supervisor import Backoff

__all__ = ["Directory", "Registration", "platform_name", "version"]

_log = logging.getLogger("doorstep.agent")


class Directory(Protocol):
    """The part of :class:`doorstep.transport.backend.Backend` that is used here."""

    async def register_agent(self, record: AgentRecord) -> AgentRow: ...

    async def touch_agent(self, agent: str) -> None: ...

    async def set_offline(self, agent: str) -> None: ...


class Registration:
    """Keeps one row. Owns one task between :meth:`start` and :meth:`stop`."""

    def __init__(
        self, directory: Directory, identity: Identity, timing: Timing, public_key: str | None = None
    ) -> None:
        self._directory = directory
        self._timing = timing
        self._record = AgentRecord(
            id=identity.id,
            name=identity.name,
            platform=platform_name(),
            version=version(),
            public_key=public_key,
        )
        self._touching: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Register, however long the back end is away; return the name the agent got there.

        Raises :class:`NotSignedIn`, :class:`Unauthorized`, :class:`InvalidInput`.
        """
        backoff = Backoff(self._timing)
        while True:
            try:
                row = await self._directory.register_agent(self._record)
            except LinkError as error:
                pause = backoff.pause()
                _log.warning("not registered: %s; next attempt in %.1f s", error, pause)
                await asyncio.sleep(pause)
            else:
                self._touching = asyncio.create_task(self._touch(), name="touch agent")
                return row.name

    async def stop(self) -> None:
        """Mark the row offline. Idempotent; a back end that is away learns it from the last touch."""
        if self._touching is None:
            return
        self._touching.cancel()
        await asyncio.wait({self._touching})
        self._touching = None
        try:
            async with asyncio.timeout(self._timing.shutdown):
                await self._directory.set_offline(self._record.id)
        except (DoorstepError, TimeoutError) as error:
            _log.warning("the row could not be marked offline: %s", error)

    async def _touch(self) -> None:
        while True:
            await asyncio.sleep(self._timing.last_seen)
            try:
                await self._directory.touch_agent(self._record.id)
            except AgentNotFound:
                await self._register_again()
            except DoorstepError as error:
                _log.warning("last_seen was not touched: %s", error)

    async def _register_again(self) -> None:
        try:
            await self._directory.register_agent(self._record)
        except DoorstepError as error:
            _log.warning("not registered again: %s", error)


def platform_name() -> str:
    """Return ``linux`` or ``darwin``."""
    return sys.platform


def version() -> str:
    """Return the version of the installed package."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("doorstep")
    except PackageNotFoundError:  # run from a source tree
        return "0"
