"""Client: keeps one session in touch: a new wire when it has none, or when this machine's route changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from doorstep.client.route import source_addresses
from doorstep.protocol.errors import DoorstepError, LinkError, PeerError, PeerNotTrusted
from doorstep.protocol.timing import Timing
from doorstep.runtime import Session
from doorstep.runtime.session import SessionState

__all__ = ["Keeper"]

logger = logging.getLogger("doorstep.client")

Reconnect = Callable[[Session], Coroutine[Any, Any, None]]
"""Takes the session over to a new wire, within ``Timing.total``; raises a :class:`DoorstepError`."""
Release = Callable[[], Coroutine[Any, Any, None]]
"""Ends what opens wires for the session; called once, when it has ended."""


class Keeper:
    """Owns one task, from :meth:`start` until the session has ended; :meth:`ended` waits for it."""

    def __init__(
        self,
        session: Session,
        reconnect: Reconnect,
        timing: Timing,
        route: Callable[[], tuple[str, ...]] = source_addresses,
        *,
        release: Release | None = None,
    ) -> None:
        self._session = session
        self._reconnect = reconnect
        self._timing = timing
        self._release = release
        self._find_route = route
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; a session that cannot resume is left alone until it has ended."""
        self._task = asyncio.create_task(self._live(), name=f"doorstep-keep-{self._session.id}")

    async def ended(self) -> None:
        """Wait until nothing is left, which is soon after the end of the session."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _live(self) -> None:
        if self._session.resumable:
            await self._keep()
        else:
            await self._session.wait_closed()
        if self._release is not None:
            await self._release()

    async def _keep(self) -> None:
        ended = asyncio.create_task(self._session.wait_closed(), name="doorstep-keep-end")
        route = self._find_route()
        while True:
            await self._until_needed(ended, route)
            if self._session.closed:
                break
            route = self._find_route()
            trying = asyncio.create_task(self._try(), name="doorstep-reconnect")
            await asyncio.wait({trying, ended}, return_when=asyncio.FIRST_COMPLETED)
            trying.cancel()
            await asyncio.wait({trying})
            if not trying.cancelled() and (error := trying.exception()) is not None:
                logger.error("session %s cannot be kept", self._session.id, exc_info=error)
                await self._session.close("internal error of the client")
        await asyncio.wait({ended})

    async def _until_needed(self, ended: asyncio.Task[str], route: tuple[str, ...]) -> None:
        """Return when the session has no wire or has ended, or packets leave by another address."""
        away = asyncio.create_task(self._session.wait_away(), name="doorstep-keep-away")
        try:
            while not away.done():
                await asyncio.wait(
                    {away, ended}, timeout=self._timing.ping, return_when=asyncio.FIRST_COMPLETED
                )
                found = self._find_route()
                if ended.done() or (found and found != route):
                    return
        finally:
            away.cancel()
            await asyncio.wait({away})

    async def _try(self) -> None:
        try:
            await self._reconnect(self._session)
        except DoorstepError as error:
            await self._judge(error)

    async def _judge(self, error: DoorstepError) -> None:
        if isinstance(error, LinkError | PeerError) and not isinstance(error, PeerNotTrusted):
            logger.info("session %s: not yet reconnected: %s", self._session.id, error)
            await asyncio.sleep(self._timing.retry_pause)
        elif self._session.state is SessionState.AWAY or _is_fraud(error):  # waiting cures nothing
            await self._session.close(str(error))
        else:
            logger.warning("session %s stays where it is: %s", self._session.id, error)


def _is_fraud(error: DoorstepError) -> bool:
    return isinstance(error, PeerNotTrusted) and not error.told
