"""Hub: the relay: pairs the two sides of a session and forwards what it cannot read.

One task per socket reads a message and writes it to the partner's socket before it reads the next one. So a
slow reader slows the writer down (TCP's back pressure, end to end), and what is held is bounded.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from doorstep.hub.connection import HubWebSocket
from doorstep.hub.relay_limits import RelayLimits
from doorstep.hub.tokens import Claims, TokenError
from doorstep.protocol.errors import ProtocolError
from doorstep.protocol.ids import AgentId
from doorstep.protocol.relay import (
    End,
    Join,
    NewToken,
    Notice,
    Paired,
    Pairings,
    Renewed,
    Waiting,
    dump,
    parse_request,
)

__all__ = ["Authorise", "Relay", "Verify"]

log = logging.getLogger("doorstep.hub")

Verify = Callable[[str], Awaitable[Claims]]
"""Whom a token names; raises :class:`~doorstep.hub.tokens.TokenError`."""
Authorise = Callable[[Claims, AgentId], Awaitable[Hashable | None]]
"""Whose agent it is: only sockets with the same answer meet. None: not this token's."""

_CLOSING = 1.0
"""Seconds a close frame may take to leave."""


class _Refused(Exception):
    """A socket that is closed with ``end`` and the text."""

    def __init__(self, end: End, reason: str) -> None:
        super().__init__(reason)
        self.end = end


class Relay:
    """All pairings of one hub."""

    def __init__(self, limits: RelayLimits, verify: Verify, authorise: Authorise) -> None:
        self.limits = limits
        self.verify = verify
        self.authorise = authorise
        self.pairings: Pairings[_Member] = Pairings()
        self._sockets = 0
        self._users: Counter[str | None] = Counter()

    @property
    def sockets(self) -> int:
        """Connected sockets."""
        return self._sockets

    async def serve(self, connection: WebSocket) -> None:
        """Talk with one socket until it ends."""
        await connection.accept()
        wire: HubWebSocket = connection.state.wire
        wire.conn.max_size = self.limits.message_bytes
        self._sockets += 1
        try:
            await self._serve(connection, wire)
        except _Refused as refused:
            await _close(connection, wire, refused.end, str(refused))
        except WebSocketDisconnect:
            pass
        finally:
            self._sockets -= 1

    async def _serve(self, connection: WebSocket, wire: HubWebSocket) -> None:
        if self._sockets > self.limits.sockets:
            raise _Refused(End.BUSY, "the relay has no room")
        join = await self._join(connection)
        claims = await self._claims(join.token)
        owner = await self.authorise(claims, join.agent_id)
        if owner is None:
            raise _Refused(End.FORBIDDEN, "this agent is not yours")
        if self._users[claims.sub] >= self.limits.sockets_per_user:
            raise _Refused(End.BUSY, "you have too many relay sockets")
        self._users[claims.sub] += 1
        try:
            await _Member(self, connection, wire, join, claims, owner).run()
        finally:
            self._users[claims.sub] -= 1
            if not self._users[claims.sub]:
                del self._users[claims.sub]

    async def _join(self, connection: WebSocket) -> Join:
        try:
            async with asyncio.timeout(self.limits.join):
                request = parse_request(await connection.receive_text())
        except TimeoutError:
            raise _Refused(End.TIMEOUT, "nothing was said") from None
        except (ProtocolError, KeyError):
            raise _Refused(End.INVALID, "the first message must be a join") from None
        if not isinstance(request, Join):
            raise _Refused(End.INVALID, "the first message must be a join")
        return request

    async def _claims(self, token: str) -> Claims:
        try:
            return await self.verify(token)
        except TokenError as error:
            raise _Refused(End.UNAUTHORIZED, str(error)) from None


class _Pair:
    """What the two members of a pairing have used up."""

    __slots__ = ("ends", "heard", "left")

    def __init__(self, limits: RelayLimits, now: float) -> None:
        self.heard = now
        self.ends = now + limits.pairing_seconds
        self.left = limits.pairing_bytes


class _Member:
    """One joined socket: waits for its partner, then forwards to it."""

    def __init__(
        self,
        relay: Relay,
        connection: WebSocket,
        wire: HubWebSocket,
        join: Join,
        claims: Claims,
        owner: Hashable,
    ) -> None:
        self._relay = relay
        self._limits = relay.limits
        self._connection = connection
        self._wire = wire
        self._claims = claims
        self._role = join.role
        self._agent = join.agent_id
        self._key = (owner, join.agent_id, join.session_id)
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._partner: _Member | None = None
        self._pair: _Pair | None = None
        self._told = asyncio.Event()
        self._ended: asyncio.Future[tuple[End, str]] = self._loop.create_future()

    async def run(self) -> None:
        """Be a member until one of the two leaves or a limit is reached."""
        await self._say(Waiting(seconds=self._limits.wait))  # before a partner can say more
        joined = self._relay.pairings.join(self._key, self._role, self)
        reading = asyncio.create_task(self._read(), name="relay-read")
        try:
            for member in joined.replaced:
                member.end(End.REPLACED, "a newer connection has taken the place of this one")
            if joined.partner is not None:
                await self._pair_with(joined.partner)
            await self._watch(reading)
        finally:
            if not self._ended.done():
                self._ended.cancel()
            reading.cancel()
            await asyncio.wait({reading})
            left = self._relay.pairings.leave(self._key, self._role, self)
            if left is not None:
                left.end(End.PEER_LEFT, "the other side has left")
        if not self._ended.cancelled():
            await _close(self._connection, self._wire, *self._ended.result())
        if not reading.cancelled() and (error := reading.exception()) is not None:
            raise error

    def end(self, end: End, reason: str) -> None:
        """Close this member's socket. The first reason stays."""
        if not self._ended.done():
            self._ended.set_result((end, reason))

    async def _pair_with(self, partner: _Member) -> None:
        self._partner, partner._partner = partner, self
        self._pair = partner._pair = _Pair(self._limits, self._loop.time())
        for member in (partner, self):
            await member._tell_paired()  # noqa: SLF001

    async def _tell_paired(self) -> None:
        await self._say(Paired(token_seconds=self._token_seconds(), max_message=self._limits.message_bytes))
        self._told.set()

    # Waiting

    async def _watch(self, reading: asyncio.Task[None]) -> None:
        awaited: set[asyncio.Future[Any]] = {reading, self._ended}
        while not reading.done() and not self._ended.done():
            moment, end, reason = min(self._limits_ahead())
            left = moment - self._loop.time()
            if left <= 0:
                self._end_both(end, reason)
            else:
                await asyncio.wait(awaited, timeout=left, return_when=asyncio.FIRST_COMPLETED)

    def _limits_ahead(self) -> list[tuple[float, End, str]]:
        limits, pair = self._limits, self._pair
        expiry = self._loop.time() + self._claims.expires - time.time() + limits.grace
        ahead = [(expiry, End.UNAUTHORIZED, "the token has expired")]
        if pair is None:
            ahead.append((self._since + limits.wait, End.TIMEOUT, "the other side did not come"))
        else:
            ahead.append((pair.heard + limits.idle, End.TIMEOUT, "nothing was said for too long"))
            ahead.append((pair.ends, End.QUOTA, "this pairing has used up its time"))
        return ahead

    def _token_seconds(self) -> float:
        return max(0.0, min(self._claims.expires - time.time(), self._limits.pairing_seconds))

    # Reading and forwarding

    async def _read(self) -> None:
        while not self._wire.disconnected:
            message = await self._connection.receive()
            if message["type"] != "websocket.receive":
                return
            text, data = message.get("text"), message.get("bytes")
            if text is not None:
                await self._listen(text)
            elif data is not None:
                await self._forward(data)

    async def _forward(self, data: bytes) -> None:
        partner, pair = self._partner, self._pair
        if partner is None or pair is None:
            self.end(End.INVALID, "nobody is here yet to forward to")
            return
        pair.left -= len(data)
        if pair.left < 0:
            self._end_both(End.QUOTA, "this pairing has used up its bytes")
            return
        await partner._take(data)  # noqa: SLF001 - the same class
        pair.heard = self._loop.time()

    async def _take(self, data: bytes) -> None:
        """Write what the partner says; return when it is about to leave."""
        try:
            async with asyncio.timeout(self._limits.stall):
                await self._told.wait()
                await self._send({"type": "websocket.send", "bytes": data})
        except TimeoutError:
            self.end(End.SLOW, "this side reads too slowly")

    async def _listen(self, text: str) -> None:
        try:
            request = parse_request(text)
        except ProtocolError:
            request = None
        if not isinstance(request, NewToken):
            self._end_both(End.INVALID, "not a message that is allowed now")
            return
        try:
            claims = await self._relay.verify(request.token)
        except TokenError as error:
            self._end_both(End.UNAUTHORIZED, str(error))
            return
        same_user = (claims.role, claims.sub) == (self._claims.role, self._claims.sub)
        if not same_user or await self._relay.authorise(claims, self._agent) != self._owner:
            self._end_both(End.FORBIDDEN, "this agent is not yours")
            return
        self._claims = claims
        await self._say(Renewed(token_seconds=self._token_seconds()))

    def _end_both(self, end: End, reason: str) -> None:
        self.end(end, reason)
        if self._partner is not None:
            self._partner.end(end, reason)

    async def _say(self, notice: Notice) -> None:
        await self._send({"type": "websocket.send", "text": dump(notice)})

    async def _send(self, message: dict[str, Any]) -> None:
        if not self._ended.done():
            # RuntimeError: it was closed while this waited for room.
            with suppress(WebSocketDisconnect, RuntimeError):
                await self._connection.send(message)


async def _close(connection: WebSocket, wire: HubWebSocket, end: End, reason: str) -> None:
    """Say why; a peer that has not read what was sent before is dropped."""
    log.debug("a relay socket is closed: %s", reason)
    if end is End.SLOW or not wire.writable.is_set():
        wire.abort()
        return
    with suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
        async with asyncio.timeout(_CLOSING):
            await connection.close(end, reason[:120])
