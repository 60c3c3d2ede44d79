"""Client: your agents - the rows of the table, and who of them is present now."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from doorstep.client._waiting import limit
from doorstep.client.login import signed_in
from doorstep.protocol.errors import DeadlineExceeded
from doorstep.protocol.ids import agents_topic
from doorstep.protocol.timing import Timing
from doorstep.transport.signaling import ChannelSpec, Presence

if TYPE_CHECKING:
    from doorstep.transport.backend import AgentRow, Backend
    from doorstep.transport.credentials import Credentials

__all__ = ["AgentInfo", "agents", "watch_agents"]


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """One of your agents. ``online`` is its presence, not the table's word for it."""

    id: str
    name: str
    online: bool
    platform: str | None
    version: str | None
    last_seen: datetime | None

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        seen = self.last_seen.isoformat() if self.last_seen else None
        state = "online" if self.online else "offline"
        return {
            "id": self.id,
            "name": self.name,
            "state": state,
            "platform": self.platform,
            "version": self.version,
            "last_seen": seen,
        }


async def agents(*, credentials: Credentials | None = None, timing: Timing | None = None) -> list[AgentInfo]:
    """Return your agents, those that are present first, each kind by name.

    Raises :class:`NotSignedIn`, :class:`Unauthorized`, :class:`SignalingLost`.
    """
    waits = timing or Timing.from_environment(os.environ)
    async with signed_in(credentials, waits) as backend, _Members(backend, waits).joined() as members:
        rows = await backend.list_agents()
        await members.settled({row.id for row in rows if row.status == "online"})
        return _merge(rows, members.present)


async def watch_agents(
    *, credentials: Credentials | None = None, timing: Timing | None = None
) -> AsyncGenerator[list[AgentInfo], None]:
    """Yield the same list now and after every change of presence, until the caller stops."""
    waits = timing or Timing.from_environment(os.environ)
    async with signed_in(credentials, waits) as backend, _Members(backend, waits).joined() as members:
        while True:
            members.changed.clear()
            yield _merge(await backend.list_agents(), members.present)
            await members.changed.wait()


class _Members:
    """The presence of the owner's channel."""

    def __init__(self, backend: Backend, timing: Timing) -> None:
        self._backend = backend
        self._timing = timing
        self.present: Presence = {}
        self.changed = asyncio.Event()

    @asynccontextmanager
    async def joined(self) -> AsyncGenerator[_Members, None]:
        spec = ChannelSpec(
            topic=agents_topic(self._backend.user_id),
            on_message=_not_for_us,
            on_presence=self._take,
        )
        channel = await self._backend.signaling().join(spec, timeout=self._timing.join)
        try:
            yield self
        finally:
            await channel.leave()

    async def settled(self, expected: set[str]) -> None:
        """Wait until those who should be here are, or as long as an absence may be a mere update."""
        try:
            async with limit("presence", self._timing.presence_debounce):
                while not expected <= set(self.present):
                    self.changed.clear()
                    await self.changed.wait()
        except DeadlineExceeded:
            return

    def _take(self, present: Presence) -> None:
        self.present = present
        self.changed.set()


def _merge(rows: Sequence[AgentRow], present: Presence) -> list[AgentInfo]:
    found = [
        AgentInfo(
            id=row.id,
            name=row.name,
            online=row.id in present,
            platform=row.platform,
            version=row.version,
            last_seen=row.last_seen,
        )
        for row in rows
    ]
    return sorted(found, key=lambda agent: (not agent.online, agent.name))


def _not_for_us(_event: str, _payload: dict[str, Any]) -> None:
    """Knocks on the same channel."""
