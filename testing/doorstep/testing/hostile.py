"""Testing: a back end that lies: it changes, drops, repeats and invents what the two peers say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeAlias

from doorstep.runtime.tasks import TaskOwner
from doorstep.testing.bus import MemoryBus, _MemoryMembership  # pyright: ignore[reportPrivateUsage]

__all__ = ["HostileBus", "Said"]

Said: TypeAlias = tuple[str, dict[str, Any]]
"""An event and its payload."""


class HostileBus(MemoryBus):
    """A memory bus in the hands of somebody else. :meth:`close` ends what it still has to say."""

    def __init__(self) -> None:
        super().__init__()
        self.lie: Callable[[str, dict[str, Any]], Awaitable[Iterable[Said]]] | None = None
        """What is passed on in the place of a broadcast; None = everything as it was said."""
        self.said: list[Said] = []
        """Every broadcast as its sender said it."""
        self._tasks = TaskOwner()

    def broadcast(self, sender: _MemoryMembership, event: str, text: str) -> None:
        payload = json.loads(text)
        self.said.append((event, payload))
        if self.lie is None:
            super().broadcast(sender, event, text)
        else:
            self._tasks.spawn(self._lying(sender, self.lie(event, dict(payload))), f"lie about {event}")

    def say(self, topic: str, said: Said) -> None:
        """Invent a broadcast: every member of the topic hears it."""
        loop = asyncio.get_running_loop()
        for member in self._members.get(topic, ()):
            loop.call_soon(member.hear, said[0], json.dumps(said[1]))

    async def _lying(self, sender: _MemoryMembership, told: Awaitable[Iterable[Said]]) -> None:
        for event, payload in await told:
            super().broadcast(sender, event, json.dumps(payload))

    async def close(self) -> None:
        self._tasks.cancel()
        await self._tasks.ended(1.0)
