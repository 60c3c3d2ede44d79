"""The back end as a way sees it, on a memory bus."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from doorstep.testing.bus import MemoryBus
from doorstep.transport.backend import AgentRow

from .door import AGENT, USER


class Host:
    """Satisfies ``way.Host``; ``row`` is the key that the agent's row names."""

    user_id = USER
    http: Any = None

    def __init__(self, bus: MemoryBus, row: str | None = None) -> None:
        self._bus = bus
        self._row = row
        self.signed_in = 0

    async def access_token(self) -> str:
        return "token"

    async def find_agent(self, name_or_id: str) -> AgentRow:
        return AgentRow(id=AGENT, owner_id=USER, name="box", status="online", public_key=self._row)

    def separate_signaling(self) -> Any:
        return self._bus.signaling("client")

    @asynccontextmanager
    async def sign_in(self) -> AsyncIterator[Host]:
        self.signed_in += 1
        try:
            yield self
        finally:
            self.signed_in -= 1
