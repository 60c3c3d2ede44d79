"""Hub: ``/realtime/v1/websocket``: the handshake, and the conversation of one socket."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import Literal

import msgspec
from starlette.responses import JSONResponse, Response
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from doorstep.hub.access import grant_for
from doorstep.hub.bus import PREFIX, Topic
from doorstep.hub.channel import Channel
from doorstep.hub.join import JoinConfig, read_join
from doorstep.hub.outbox import Outbox
from doorstep.hub.services import Services, services
from doorstep.hub.tokens import Claims, TokenError, TokenFault
from doorstep.protocol.access import Grant
from doorstep.protocol.errors import ProtocolError
from doorstep.protocol.phoenix import (
    EMPTY,
    BinaryPush,
    Incoming,
    Outgoing,
    Push,
    Ref,
    UserBroadcast,
    Vsn,
    decode,
    encode,
)

__all__ = ["ROUTES", "RealtimeSocket"]

log = logging.getLogger("doorstep.hub")

_encode = msgspec.json.Encoder().encode
_SHOWN = 200
"""Bytes of a wrong payload that an error repeats."""
_READS = Grant.BROADCAST_READ | Grant.PRESENCE_READ


class _Token(msgspec.Struct):
    access_token: str | None = None


class _Refused(Exception):
    """A join that is refused; the text is what the client is told."""


async def websocket(connection: WebSocket) -> None:
    """Admit a socket and talk with it until it ends."""
    hub = services(connection)
    refusal = await _admit(connection, hub)
    if isinstance(refusal, Response):
        await connection.send_denial_response(refusal)
        return
    vsn, claims = refusal
    await connection.accept()
    hub.sockets.add(connection)
    try:
        await RealtimeSocket(connection, hub, vsn, claims).run()
    finally:
        hub.sockets.discard(connection)


ROUTES = [
    WebSocketRoute("/realtime/v1/websocket", websocket),
    WebSocketRoute("/socket/websocket", websocket),
]


async def _admit(connection: WebSocket, hub: Services) -> Response | tuple[Vsn, Claims]:
    limits = hub.config.realtime
    try:
        vsn = Vsn(connection.query_params.get("vsn", Vsn.V1))
    except ValueError:
        return Response(status_code=403)
    try:
        claims = _handshake_claims(connection, hub)
    except _Refused as refused:
        await asyncio.sleep(limits.connect_error_delay)
        return JSONResponse({"error": str(refused)}, status_code=401)
    if len(hub.sockets) >= limits.connections:
        await asyncio.sleep(limits.connect_error_delay)
        return JSONResponse({"error": "Too many connected users"}, status_code=429)
    return vsn, claims


def _handshake_claims(connection: WebSocket, hub: Services) -> Claims:
    key = connection.headers.get("x-api-key") or connection.query_params.get("apikey")
    if not key:
        raise _Refused("API key is missing")
    try:
        return hub.tokens.verify(key)
    except TokenError as error:
        expired = error.fault is TokenFault.EXPIRED
        raise _Refused("Token has expired" if expired else str(error)) from None


class RealtimeSocket:
    """One connected socket: reads frames in order, answers through a bounded outbox."""

    def __init__(self, connection: WebSocket, hub: Services, vsn: Vsn, claims: Claims) -> None:
        self._connection = connection
        self._hub = hub
        self._limits = hub.config.realtime
        self._vsn = vsn
        self._claims = claims
        self._channels: dict[str, Channel] = {}
        self._outbox = Outbox(self._limits)

    async def run(self) -> None:
        """Talk until the client leaves, the reader is too slow, or the hub stops."""
        tasks: list[asyncio.Task[None] | asyncio.Task[Literal[True]]] = [
            asyncio.create_task(self._read(), name="realtime-read"),
            asyncio.create_task(self._write(), name="realtime-write"),
            asyncio.create_task(self._outbox.overflowed.wait(), name="realtime-overflow"),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for channel in tuple(self._channels.values()):
                channel.detach()
            self._channels.clear()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if self._outbox.overflowed.is_set():
            log.warning("a realtime client reads too slowly; its socket is dropped")
            self._connection.state.wire.abort()
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    # Outgoing

    def push(
        self, topic: str, event: str, payload: msgspec.Raw, *, ref: Ref = None, join_ref: Ref = None
    ) -> None:
        """Queue one message of this socket's own."""
        self._outbox.put(
            encode(self._vsn, topic=topic, event=event, payload=payload, ref=ref, join_ref=join_ref)
        )

    def deliver(self, message: Outgoing) -> None:
        """Queue a message that goes to many."""
        frame = message.frame(self._vsn)
        if frame is not None:
            self._outbox.put(frame)

    def reply(self, push: Incoming, status: str, response: object, *, join_ref: Ref) -> None:
        """Answer one push; its ref comes back as it came."""
        payload = msgspec.Raw(_encode({"status": status, "response": response}))
        self.push(push.topic, "phx_reply", payload, ref=push.ref, join_ref=join_ref)

    async def _write(self) -> None:
        with suppress(WebSocketDisconnect):
            while True:
                frame = await self._outbox.get()
                if isinstance(frame, str):
                    await self._connection.send_text(frame)
                else:
                    await self._connection.send_bytes(frame)

    # Incoming

    async def _read(self) -> None:
        while (message := await self._connection.receive())["type"] == "websocket.receive":
            text = message.get("text")
            frame: str | bytes = message.get("bytes") or b"" if text is None else text
            try:
                push = decode(self._vsn, frame)
            except ProtocolError as error:
                log.debug("frame dropped: %s", error)
                continue
            await self._handle(push)

    async def _handle(self, push: Incoming) -> None:
        if isinstance(push, Push):
            if push.topic == "phoenix" and push.event == "heartbeat":
                self.reply(push, "ok", {}, join_ref=push.join_ref)
                return
            if push.event == "phx_join":
                await self._join(push)
                return
        channel = self._channels.get(push.topic)
        if channel is None:
            self._unmatched(push)
        else:
            await self._to_channel(channel, push)

    def _unmatched(self, push: Incoming) -> None:
        if push.event == "phx_leave":
            self.reply(push, "ok", {}, join_ref=push.join_ref)
        else:
            self.reply(push, "error", {"reason": "unmatched topic"}, join_ref=None)

    async def _to_channel(self, channel: Channel, push: Incoming) -> None:
        if isinstance(push, UserBroadcast):
            channel.broadcast(push)
        elif isinstance(push, BinaryPush):
            log.debug("binary push %s ignored", push.event)
        elif push.event == "broadcast":
            channel.broadcast(push)
        elif push.event == "presence":
            channel.presence(push)
        elif push.event == "access_token":
            await self._access_token(channel, push)
        elif push.event == "phx_leave":
            self.reply(push, "ok", {}, join_ref=channel.join_ref)
            channel.close()

    # Joining

    async def _join(self, push: Push) -> None:
        if not push.topic.startswith(PREFIX):
            self._unmatched(push)
            return
        replaced = self._channels.pop(push.topic, None)
        if replaced is not None:
            replaced.detach()
        try:
            channel, config = await self._authorise(push)
        except _Refused as refused:
            await self._outbox.freeze(self._limits.join_error_delay)
            self.reply(push, "error", {"reason": str(refused)}, join_ref=push.join_ref)
        else:
            self._channels[push.topic] = channel
            channel.open()
            self.reply(push, "ok", {"postgres_changes": config.bindings}, join_ref=push.join_ref)
            channel.send_presence_state()
            channel.answer_bindings()
        if replaced is not None:
            self.push(push.topic, "phx_close", EMPTY, ref=replaced.join_ref, join_ref=replaced.join_ref)

    async def _authorise(self, push: Push) -> tuple[Channel, JoinConfig]:
        name = push.topic.removeprefix(PREFIX)
        config = read_join(name, push.payload)
        if config is None:
            shown = bytes(push.payload)[:_SHOWN].decode(errors="replace")
            raise _Refused(f"UnknownErrorOnChannel: expected params to be a :map, got: `{shown}`")
        if not name or len(name.encode()) > self._limits.topic_bytes:
            raise _Refused("TopicNameRequired: You must provide a topic name")
        if len(self._channels) >= self._limits.channels_per_socket:
            raise _Refused("ChannelRateLimitReached: Too many channels")
        claims = self._join_claims(config.token)
        topic = Topic(name, config.private)
        grant = await grant_for(self._hub, claims.subject, topic)
        if not grant & (_READS if config.presence_enabled else Grant.BROADCAST_READ):
            message = f"You do not have permissions to read from this Channel topic: {name}"
            raise _Refused(f"Unauthorized: {message}")
        channel = Channel(
            topic=topic,
            join_ref=push.join_ref,
            config=config,
            claims=claims,
            grant=grant,
            socket=self,
            bus=self._hub.bus,
            changes=self._hub.changes,
            limits=self._limits,
            closed=self._forget,
        )
        return channel, config

    def _join_claims(self, token: str | None) -> Claims:
        try:
            claims = self._claims_of(token) or self._claims
            claims.check(time.time())
            return claims
        except TokenError as error:
            raise _Refused(f"{error.code}: {error}") from None

    def _claims_of(self, token: str | None) -> Claims | None:
        """Verify a token; none, or an opaque key, means the connection's."""
        if not token or token.startswith("sb_"):
            return None
        return self._hub.tokens.verify(token)

    async def _access_token(self, channel: Channel, push: Push) -> None:
        try:
            token = msgspec.json.decode(push.payload, type=_Token).access_token
        except (msgspec.MsgspecError, RecursionError):
            return
        try:
            claims = self._claims_of(token)
        except TokenError as error:
            channel.refuse_token(error)
            return
        if claims is not None and claims != channel.claims:
            channel.new_token(claims, await grant_for(self._hub, claims.subject, channel.topic))

    def _forget(self, channel: Channel) -> None:
        if self._channels.get(channel.topic.wire) is channel:
            del self._channels[channel.topic.wire]
