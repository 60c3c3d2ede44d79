"""Hub: what nobody asks for and somebody must do: agents that vanished go offline, old links go away."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from datetime import UTC, datetime, timedelta

from doorstep.hub import agents
from doorstep.hub.agents import Access
from doorstep.hub.messages import forget_messages
from doorstep.hub.services import Services
from doorstep.protocol.access import Role, Subject

__all__ = ["keep_house", "sweep"]

log = logging.getLogger("doorstep.hub")

STALE = timedelta(minutes=5)
"""As in ``cleanup_stale_agents()`` of ``sql/``."""
_EVERY = 60.0


async def keep_house(services: Services) -> None:
    """Sweep now and then, until cancelled."""
    while True:
        try:
            await sweep(services)
        except sqlite3.Error:
            log.exception("the sweep failed; it is tried again")
        await asyncio.sleep(_EVERY)


async def sweep(services: Services) -> None:
    """Mark agents offline that were last seen ``STALE`` ago, and forget what can no longer be used."""
    access = Access(Subject(Role.SERVICE))
    before = (datetime.now(UTC) - STALE).isoformat()

    def work(db: sqlite3.Connection) -> None:
        agents.mark_stale(db, access, before)
        db.execute("DELETE FROM links WHERE expires_at < ?", (time.time(),))
        forget_messages(db, services.config.realtime.replay_seconds)

    await services.store.run(work)
    services.changes.tell(access.changes)
