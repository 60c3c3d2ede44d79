"""Transport: an access token that is always valid. Knows no library.

Tokens are renewed well before they expire, by the refresh token or, where there is one, the password. A
refresh token is good for one use: its successor is written to the credentials file before its lock is let
go, and a renewal once begun is finished even if whoever asked for it has gone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from doorstep.protocol.errors import DoorstepError, LinkError, NotSignedIn
from doorstep.protocol.timing import Timing
from doorstep.transport import credentials as files
from doorstep.transport.credentials import Credentials
from doorstep.transport.supervisor import Backoff

__all__ = ["Grant", "Issuer", "Tokens"]

MARGIN = 60.0
"""Seconds before expiry at which a token is renewed; half of its life for short-lived ones."""
NAP = 30.0
"""Longest sleep before the clocks are read again: a suspended machine's monotonic clock stands still."""

log = logging.getLogger("doorstep.transport")


@dataclass(frozen=True, slots=True)
class Grant:
    """What the back end gives for a password or a refresh token. ``lifetime`` is in seconds."""

    user_id: str
    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    lifetime: float


class Issuer(Protocol):
    """The back end's sign-in. Both raise NotSignedIn when it says no, LinkError when it cannot be asked."""

    async def by_password(self, email: str, password: str) -> Grant: ...

    async def by_refresh_token(self, token: str) -> Grant: ...


class Tokens:
    """The tokens of one signed-in user."""

    def __init__(
        self,
        issuer: Issuer,
        credentials: Credentials,
        timing: Timing,
        on_token: Callable[[str], Awaitable[None]],
    ) -> None:
        self._issuer = issuer
        self._credentials = credentials
        self._timing = timing
        self._on_token = on_token
        self._grant: Grant | None = None
        self._granted = (0.0, 0.0)
        self._renewal: asyncio.Task[None] | None = None

    @property
    def grant(self) -> Grant:
        """The current grant; after the first :meth:`renew`."""
        assert self._grant is not None
        return self._grant

    @property
    def credentials(self) -> Credentials:
        """The credentials with the newest refresh token."""
        return self._credentials

    async def access_token(self) -> str:
        """Give a token that is valid now. Raises NotSignedIn, LinkError."""
        if self._left() <= 0:
            try:
                await self.renew()
            except LinkError:
                if self._left() + self._margin() <= 0:
                    raise
        return self.grant.access_token

    async def renew(self) -> None:
        """Get a new grant; callers at the same time share one renewal."""
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._renew(), name="renew the access token")
        await asyncio.shield(self._renewal)

    async def keep_fresh(self) -> None:
        """Renew before each expiry, for ever. Run by the owner's task."""
        backoff = Backoff(self._timing)
        while True:
            await asyncio.sleep(min(NAP, max(self._left(), 0)))
            if self._left() > 0:
                continue
            try:
                await self.renew()
                backoff = Backoff(self._timing)
            except DoorstepError as error:
                pause = backoff.pause()
                log.warning("the access token is not renewed: %s; next attempt in %.1f s", error, pause)
                await asyncio.sleep(pause)

    async def finish(self) -> None:
        """Wait for a renewal that is under way, so that its refresh token is not lost."""
        if self._renewal is not None:
            await asyncio.wait({self._renewal})

    def _left(self) -> float:
        """Seconds until a renewal is due, by the clock that is ahead: one can stand still, one can be set."""
        if self._grant is None:
            return 0.0
        gone = max(time.monotonic() - self._granted[0], time.time() - self._granted[1])
        return self._grant.lifetime - self._margin() - gone

    def _margin(self) -> float:
        return min(MARGIN, self._grant.lifetime / 2) if self._grant else 0.0

    async def _renew(self) -> None:
        directory = self._credentials.directory
        granted = (time.monotonic(), time.time())
        if directory is None:
            grant = await self._obtain()
        else:
            async with files.locked(directory, 2 * self._timing.request):
                self._read_again()
                grant = await self._obtain()
                self._credentials = replace(self._credentials, refresh_token=grant.refresh_token)
                files.save(directory, self._credentials)
        self._credentials = replace(self._credentials, refresh_token=grant.refresh_token)
        self._grant, self._granted = grant, granted
        await self._on_token(grant.access_token)

    def _read_again(self) -> None:
        """Take the refresh token another process may have written since."""
        try:
            stored = files.load(self._credentials.directory, {})
        except DoorstepError:
            return  # signed out meanwhile: what we hold decides
        if stored.same_user(self._credentials):
            self._credentials = replace(stored, password=self._credentials.password or stored.password)

    async def _obtain(self) -> Grant:
        known = self._credentials
        if known.refresh_token is not None:
            try:
                return await self._issuer.by_refresh_token(known.refresh_token)
            except NotSignedIn:
                if known.password is None:
                    raise
        if known.password is None:
            raise NotSignedIn(f"no password for {known.email}; run “doorstep login”")
        return await self._issuer.by_password(known.email, known.password)
