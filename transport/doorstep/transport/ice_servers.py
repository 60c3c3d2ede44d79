"""Transport: the ICE servers to use now: those that are configured, and the back end's while they hold."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

import msgspec

from doorstep.protocol.errors import DoorstepError, InvalidInput
from doorstep.protocol.limits import ICE_SERVERS
from doorstep.protocol.signaling import IceServer
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.transport.webrtc_servers import servers_of

if TYPE_CHECKING:
    import httpx

__all__ = ["IceServers", "SignedIn", "Soon", "ice_servers_from"]

_log = logging.getLogger("doorstep.transport")

_RENEW = 0.5
"""The part of their life after which credentials are fetched again: an attempt may yet use the old ones."""
_AGAIN = 30.0
"""Seconds until a back end that did not answer is asked again."""
_NONE = 3600.0
"""Seconds until a back end that knows nothing of ICE servers is asked again."""
_SHORTEST = 1.0
_LOOK = 10.0
"""Seconds between two looks at the clocks: a machine that slept finds its credentials ended."""
_BYTES = 64 * 1024
"""The longest list of servers: far more than :data:`ICE_SERVERS` can be said in."""

_Moment = tuple[float, float]
"""By the loop's clock and by the calendar's."""

Soon = Callable[[], Awaitable[tuple[IceServer, ...]]]
"""Gives what is known, after a wait of at most ``Timing.ice_servers`` for what is being asked."""


_SETTING = "DOORSTEP_ICE_SERVERS"


def ice_servers_from(environment: Mapping[str, str]) -> tuple[IceServer, ...]:
    """Those of DOORSTEP_ICE_SERVERS, a JSON list of W3C ``RTCIceServer``. Raises :class:`InvalidInput`."""
    text = environment.get(_SETTING)
    if not text:
        return ()
    try:
        servers = msgspec.json.decode(text, type=tuple[IceServer, ...])
        servers_of(servers)
    except (msgspec.MsgspecError, InvalidInput) as error:
        raise InvalidInput(_SETTING, str(error)) from error
    return servers


class SignedIn(Protocol):
    """A user of the back end, for one that asks as this user."""

    @property
    def http(self) -> httpx.AsyncClient:
        """With connections to the back end; stays its owner's."""
        ...

    async def access_token(self) -> str:
        """One that is valid now. Raises a :class:`DoorstepError`."""
        ...


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
    """Asks ``{relay}/ice-servers`` as the signed-in user. Failing to get any is no error: others may do.

    Credentials have an end. It is counted on two clocks, since one may stand still while the machine sleeps
    and the other may be set.
    """

    def __init__(
        self,
        relay: str | None,
        *,
        configured: Sequence[IceServer] = (),
        timing: Timing = DEFAULT_TIMING,
        calendar: Callable[[], float] = time.time,
    ) -> None:
        """``relay`` is what :func:`doorstep.transport.relay.relay_url` returns; None asks nobody."""
        self._calendar = calendar
        self._url = None if relay is None else _http(relay)
        self._configured = tuple(configured)
        self._timing = timing
        self._given: tuple[IceServer, ...] = ()
        self._ends = self._renew_at = self._now()
        self._asking = asyncio.Lock()

    @property
    def asks(self) -> bool:
        """False: the configured ones are all there are."""
        return self._url is not None

    @property
    def known(self) -> tuple[IceServer, ...]:
        """What is known and still holds, without asking; the configured ones first."""
        given = () if self._is_past(self._ends) else self._given
        return (*self._configured, *given)[:ICE_SERVERS]

    async def current(self, user: SignedIn) -> tuple[IceServer, ...]:
        """Ask if it is time to; return what is known then. Takes at most ``Timing.relay_open``."""
        async with self._asking:
            if self._url is not None and self._is_past(self._renew_at):
                await self._ask(user, self._url)
        return self.known

    @asynccontextmanager
    async def asked_beside(self, user: SignedIn) -> AsyncGenerator[Soon]:
        """Ask, if it is time to, while the block runs."""
        asking = asyncio.create_task(self.current(user), name="ask for ICE servers")

        async def soon() -> tuple[IceServer, ...]:
            if self._is_past(self._ends):
                await asyncio.wait({asking}, timeout=self._timing.ice_servers)
            return self.known

        try:
            yield soon
        finally:
            asking.cancel()
            await asyncio.wait({asking})

    async def keep(self, user: SignedIn) -> None:
        """Ask again and again, so that :attr:`known` always holds. For a task of the caller's."""
        while self._url is not None:
            await self.current(user)
            await asyncio.sleep(min(max(self._left(self._renew_at), _SHORTEST), _LOOK))

    async def _ask(self, user: SignedIn, url: str) -> None:
        import httpx

        try:
            async with asyncio.timeout(self._timing.relay_open):
                answer = await _fetch(user, url)
        except (httpx.HTTPError, msgspec.MsgspecError, DoorstepError, TimeoutError, UnicodeError) as error:
            _log.info("no ICE servers from the back end: %s", str(error) or type(error).__name__)
            self._renew_at = self._later(_AGAIN)
            return
        if answer is None:
            self._given, self._ends, self._renew_at = (), self._now(), self._later(_NONE)
            return
        self._given = tuple(server for one in answer.ice_servers if (server := _usable(one)) is not None)
        life = max(answer.expires_in, _SHORTEST)
        self._ends, self._renew_at = self._later(life), self._later(life * _RENEW)

    def _now(self) -> _Moment:
        return asyncio.get_running_loop().time(), self._calendar()

    def _later(self, seconds: float) -> _Moment:
        steady, calendar = self._now()
        return steady + seconds, calendar + seconds

    def _left(self, moment: _Moment) -> float:
        return min(then - now for then, now in zip(moment, self._now(), strict=True))

    def _is_past(self, moment: _Moment) -> bool:
        return self._left(moment) <= 0


async def _fetch(user: SignedIn, url: str) -> _Answer | None:
    """None: this back end has no such thing."""
    from doorstep.transport.bounded_http import read_bounded, unpacked

    headers = {"Authorization": f"Bearer {await user.access_token()}", **unpacked}
    async with user.http.stream("GET", url, headers=headers) as answer:
        if answer.status_code in (404, 405, 501):
            return None
        answer.raise_for_status()
        return msgspec.json.decode(await read_bounded(answer, _BYTES), type=_Answer)


def _usable(offered: _Server) -> IceServer | None:
    """One that nobody can ask must not spoil the others."""
    try:
        server = offered.listed()
        servers_of((server,))
    except InvalidInput as error:
        _log.warning("an ICE server of the back end is left out: %s", error)
        return None
    return server


def _http(relay: str) -> str:
    parts = urlsplit(relay)
    scheme = "https" if parts.scheme == "wss" else "http"
    return f"{scheme}://{parts.netloc}{parts.path}/ice-servers"
