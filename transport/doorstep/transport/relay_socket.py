"""Transport, below the relay wire: a paired socket at a relay; the only importer of ``websockets``."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

from doorstep.protocol.errors import (
    ConnectFailed,
    DeadlineExceeded,
    DoorstepError,
    InvalidInput,
    ProtocolError,
    Unauthorized,
    WireClosed,
)
from doorstep.protocol.relay import (
    PATH,
    End,
    Join,
    NewToken,
    Notice,
    Paired,
    Renewed,
    Waiting,
    dump,
    parse_notice,
)
from doorstep.protocol.timing import Timing

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

__all__ = ["RelaySocket", "Token", "relay_url"]

_log = logging.getLogger("doorstep.transport")

Token = Callable[[], Awaitable[str]]
"""Gives an access token that is good for a while yet."""

_NOT_SENT = 128 * 1024
"""Bytes the kernel may hold that are not on their way (TCP_NOTSENT_LOWAT): what a keystroke waits for."""
_NOTSENT_LOWAT = {"linux": 25, "darwin": 0x201}.get(sys.platform)
_WRITE_LIMIT = 32 * 1024
"""Bytes asyncio may hold."""
_READ_QUEUE = 4
"""Messages read and not yet taken."""
_CLOSE = 1.0
"""Seconds for the closing handshake."""
_RENEW = 0.75
"""The part of a token's life after which the relay is told the next one."""
_AGAIN = 5.0
"""Seconds until a token that could not be had is asked for again."""
_N = TypeVar("_N", bound=Notice)
_FINAL = {End.UNAUTHORIZED, End.FORBIDDEN}


def relay_url(backend: str, relay: str = PATH) -> str:
    """The WebSocket URL of ``relay``, which is a path at the back end or a URL of its own (http or ws).

    Raises :class:`InvalidInput` for anything else: access tokens are sent there.
    """
    parts = urlsplit(backend.rstrip("/") + relay if relay.startswith("/") else relay)
    scheme = {"http": "ws", "ws": "ws", "https": "wss", "wss": "wss"}.get(parts.scheme)
    if scheme is None or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise InvalidInput(
            "relay", "must be a path or a URL of ws, wss, http or https, without anything secret"
        )
    return urlunsplit((scheme, parts.netloc, parts.path if parts.path.strip("/") else PATH, "", ""))


class RelaySocket:
    """A socket of one session at a relay. After :meth:`open` it is paired."""

    def __init__(self, url: str, connection: ClientConnection) -> None:
        self.url = url
        self._connection = connection
        self._renewing: asyncio.Task[None] | None = None
        self._token_seconds = asyncio.Queue[float](1)  # the newest only
        self.paired: Paired

    @classmethod
    async def open(cls, url: str, join: Join, token: Token, timing: Timing) -> Self:
        """Connect, join, and wait for the other side.

        Raises :class:`ConnectFailed`, :class:`Unauthorized`, :class:`DeadlineExceeded` or
        :class:`ProtocolError`.
        """
        opened = cls(url, await _connect(url, timing))
        try:
            await opened._join(join, timing)
        except BaseException:
            await opened.close()
            raise
        opened._renewing = asyncio.create_task(opened._keep_fresh(token), name="relay token")
        return opened

    async def _join(self, join: Join, timing: Timing) -> None:
        try:
            async with asyncio.timeout(timing.relay_open):
                await self._connection.send(dump(join))
                await self._notice(Waiting)
        except TimeoutError:
            raise DeadlineExceeded("relay_open", timing.relay_open) from None
        except WireClosed as closed:
            raise self._refusal(closed, timing) from None
        try:
            async with asyncio.timeout(timing.relay_wait):
                self.paired = await self._notice(Paired)
        except TimeoutError:
            raise DeadlineExceeded("relay_wait", timing.relay_wait) from None
        except WireClosed as closed:
            raise self._refusal(closed, timing) from None
        self._renew_within(self.paired.token_seconds)

    def _refusal(self, closed: WireClosed, timing: Timing) -> DoorstepError:
        if self._connection.close_code == End.TIMEOUT:  # the relay's patience was a little shorter
            return DeadlineExceeded("relay_wait", timing.relay_wait)
        if self._connection.close_code in _FINAL:
            return Unauthorized(f"the relay refuses: {self._connection.close_reason}")
        return ConnectFailed(str(closed), wait="relay_wait")

    async def _notice(self, kind: type[_N]) -> _N:
        text = await self._receive()
        notice = parse_notice(text) if isinstance(text, str) else None
        if not isinstance(notice, kind):
            raise ProtocolError("the relay said something else than it should")
        return notice

    async def send(self, message: bytes) -> None:
        """Send; wait while the socket is full. Raises :class:`WireClosed`."""
        from websockets.exceptions import ConnectionClosed

        try:
            await self._connection.send(message)
        except ConnectionClosed:
            raise WireClosed(self._reason()) from None

    async def receive(self) -> bytes:
        """The next message of the other side. Raises :class:`WireClosed`, :class:`ProtocolError`."""
        while isinstance(message := await self._receive(), str):
            notice = parse_notice(message)
            if not isinstance(notice, Renewed):
                raise ProtocolError("the relay said something else than it should")
            self._renew_within(notice.token_seconds)
        return message

    async def _receive(self) -> bytes | str:
        from websockets.exceptions import ConnectionClosed

        try:
            return await self._connection.recv()
        except ConnectionClosed:
            raise WireClosed(self._reason()) from None

    async def wait_closed(self) -> str:
        """Wait until the socket is gone; return why."""
        await self._connection.wait_closed()
        return self._reason()

    def _reason(self) -> str:
        code, reason = self._connection.close_code, self._connection.close_reason
        if code == End.PEER_LEFT or code == 1000:
            return "the peer closed the connection"
        if code in (1001, 1012):
            return "the relay stops"
        if code is None or code == 1006:
            return "the connection to the relay was lost"
        return f"the relay ended it: {reason or code}"

    def _renew_within(self, seconds: float) -> None:
        if self._token_seconds.full():
            self._token_seconds.get_nowait()
        self._token_seconds.put_nowait(seconds)

    async def _keep_fresh(self, token: Token) -> None:
        """Tell the relay the next access token before this one ends."""
        from websockets.exceptions import ConnectionClosed

        with suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(await self._token_seconds.get() * _RENEW)
                await self._connection.send(dump(NewToken(token=await _patiently(token))))

    async def close(self) -> None:
        """Close; release everything. Idempotent."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait({self._renewing})
        if self._connection.transport.get_write_buffer_size():
            self._connection.transport.abort()  # the relay takes nothing: a close frame would wait for ever
        try:
            async with asyncio.timeout(_CLOSE):
                await self._connection.close()
        except TimeoutError:
            self._connection.transport.abort()
            await self._connection.wait_closed()


async def _patiently(token: Token) -> str:
    while True:
        try:
            return await token()
        except DoorstepError as error:
            _log.info("no access token for the relay yet: %s", error)
            await asyncio.sleep(_AGAIN)


async def _connect(url: str, timing: Timing) -> ClientConnection:
    """Raises :class:`ConnectFailed`."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import WebSocketException

    try:
        connection = await connect(
            url,
            open_timeout=timing.relay_open,
            ping_interval=None,  # the session has its own heart
            close_timeout=_CLOSE,
            compression=None,
            max_size=2**20,
            max_queue=_READ_QUEUE,
            write_limit=_WRITE_LIMIT,
            user_agent_header=None,
        )
    except (OSError, WebSocketException, TimeoutError, EOFError) as error:
        raise ConnectFailed(f"no relay at {url}: {str(error) or type(error).__name__}") from error
    _keep_queues_short(connection)
    return connection


def _keep_queues_short(connection: ClientConnection) -> None:
    raw: socket.socket | None = connection.transport.get_extra_info("socket")
    if raw is not None and _NOTSENT_LOWAT is not None:
        with suppress(OSError):
            raw.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, _NOT_SENT)
