"""Transport: the ICE servers to use now: those that are configured, and the back end's while they hold."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

import httpx
import msgspec

from doorstep.protocol.errors import DoorstepError, InvalidInput
from doorstep.protocol.limits import ICE_SERVERS
from doorstep.protocol.signaling import IceServer
from doorstep.protocol.timing import DEFAULT_TIMING, Timing

__all__ = ["IceServers"]

_log = logging.getLogger("doorstep.transport")

_RENEW = 0.5
"""The part of their life after which credentials are fetched again: an attempt may yet use the old ones."""
_AGAIN = 30.0
"""Seconds until a back end that did not answer is asked again."""
_NONE = 3600.0
"""Seconds until a back end that knows nothing of ICE servers is asked again."""
_SHORTEST = 1.0
_BYTES = 64 * 1024


class _Server(msgspec.Struct):
    """W3C ``RTCIceServer``."""

    urls: str | tuple[str, ...]
    username: str | None = None
    credential: str | None = None

    def listed(self) -> IceServer:
        urls = (self.urls,) if isinstance(self.urls, str) else self.urls
        return IceServer(urls=urls, username=self.username, credential=self.credential)


class _Answer(msgspec.Struct, rename="camel"):
    ice_servers: tuple[_Server, ...]
    expires_in: float


class IceServers:
    """Asks ``{relay}/ice-servers`` as the signed-in user. Failing to get any is no error: others may do."""

    def __init__(
        self,
        relay: str | None,
        token: Callable[[], Awaitable[str]],
        *,
        configured: Sequence[IceServer] = (),
        timing: Timing = DEFAULT_TIMING,
    ) -> None:
        """``relay`` is what :func:`doorstep.transport.relay.relay_url` returns; None asks nobody."""
        self._url = None if relay is None else _http(relay)
        self._token = token
        self._configured = tuple(configured)
        self._timing = timing
        self._clock = asyncio.get_running_loop().time
        self._given: tuple[IceServer, ...] = ()
        self._ends = self._renew_at = self._clock()
        self._asking = asyncio.Lock()

    @property
    def known(self) -> tuple[IceServer, ...]:
        """What is known and still holds, without asking."""
        given = self._given if self._clock() < self._ends else ()
        return (*self._configured, *given)[:ICE_SERVERS]

    async def current(self) -> tuple[IceServer, ...]:
        """Ask if it is time to; return what is known then. Takes at most ``Timing.relay_open``."""
        async with self._asking:
            if self._url is not None and self._clock() >= self._renew_at:
                await self._ask(self._url)
        return self.known

    async def keep(self) -> None:
        """Ask again and again, so that :attr:`known` always holds. For a task of the caller's."""
        while self._url is not None:
            await self.current()
            await asyncio.sleep(max(self._renew_at - self._clock(), _SHORTEST))

    async def _ask(self, url: str) -> None:
        try:
            async with asyncio.timeout(self._timing.relay_open):
                answer = await _fetch(url, await self._token())
            given = () if answer is None else tuple(server.listed() for server in answer.ice_servers)
        except (httpx.HTTPError, msgspec.MsgspecError, DoorstepError, TimeoutError, UnicodeError) as error:
            _log.info("no ICE servers from the back end: %s", error or type(error).__name__)
            self._renew_at = self._clock() + _AGAIN
            return
        now = self._clock()
        if answer is None:
            self._given, self._ends, self._renew_at = (), now, now + _NONE
            return
        life = max(answer.expires_in, _SHORTEST)
        self._given, self._ends, self._renew_at = given, now + life, now + life * _RENEW


async def _fetch(url: str, token: str) -> _Answer | None:
    """None: this back end has no such thing."""
    async with httpx.AsyncClient() as http:
        answer = await http.get(url, headers={"Authorization": f"Bearer {token}"})
    if answer.status_code in (404, 405, 501):
        return None
    answer.raise_for_status()
    if len(answer.content) > _BYTES:
        raise InvalidInput("iceServers", f"must have at most {_BYTES} bytes")
    return msgspec.json.decode(answer.content, type=_Answer)


def _http(relay: str) -> str:
    parts = urlsplit(relay)
    scheme = "https" if parts.scheme == "wss" else "http"
    return f"{scheme}://{parts.netloc}{parts.path}/ice-servers"
