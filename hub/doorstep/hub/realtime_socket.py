"""Hub: the conversation of one realtime socket.

The real server gives each socket one process with one mailbox: while it decides about a join, and for the
seconds it takes to refuse one, everything else that comes and goes on this socket waits in the order of its
arrival.
:meth:`RealtimeSocket._work` is that: nothing else of this module waits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from doorstep.hub.access import grant_for
from doorstep.hub.bus import PREFIX, Topic
from doorstep.hub.channel import Channel
from doorstep.hub.join import JoinConfig, read_join
from doorstep.hub.message import Message
from doorstep.hub.outbox import Outbox, text_frame
from doorstep.hub.services import Services
from doorstep.hub.tokens import Claims, TokenError
from doorstep.protocol.access import Grant
from doorstep.protocol.errors import ProtocolError
from doorstep.protocol.phoenix import (
    EMPTY,
    BinaryPush,
    Incoming,
    Push,
    Ref,
    UserBroadcast,
    Vsn,
    decode,
    encode,
)

__all__ = ["RealtimeSocket", "Wire"]

log = logging.getLogger("doorstep.hub")

_encode = msgspec.json.Encoder().encode
_SHOWN = 200
"""Bytes of a wrong payload that an error repeats."""
_READS = Grant.BROADCAST_READ | Grant.PRESENCE_READ
_TOO_SLOW = 1008
_FAULT = 1011
_GOING_AWAY = 1001

Then = Callable[[], None]
"""What to do with the result of some work."""


class _Token(msgspec.Struct):
    access_token: str | None = None


class _Refused(Exception):
    """A join that is refused; the text is what the client is told. ``leave``: the socket is closed too."""

    def __init__(self, reason: str, *, leave: bool = False) -> None:
        super().__init__(reason)
        self.leave = leave


class Wire(Protocol):
    """The WebSocket below."""

    stuck: bool

    def write(self, data: bytes) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def end(self, code: int, reason: str = "") -> None: ...
    def abort(self) -> None: ...


class RealtimeSocket:
    """One connected socket: handles frames in order, answers through a bounded outbox."""

    __slots__ = (
        "_busy",
        "_channels",
        "_claims",
        "_held",
        "_hub",
        "_limits",
        "_mailbox",
        "_outbox",
        "_task",
        "_vsn",
        "_wire",
        "stuck",
    )

    def __init__(self, wire: Wire, hub: Services, vsn: Vsn, claims: Claims) -> None:
        self._wire = wire
        self._hub = hub
        self._limits = hub.config.realtime
        self._vsn = vsn
        self._claims = claims
        self._channels: dict[str, Channel] = {}
        self._busy = False
        self._task: asyncio.Task[None] | None = None
        # What came while busy: (True, a frame of the client's) or (False, one for it).
        self._mailbox: deque[tuple[bool, str | bytes]] | None = None
        self._held = 0
        self.stuck = False
        self._outbox = Outbox(self._limits, self, hub.sockets.flusher)
        hub.sockets.add(self)

    # Life

    @property
    def idle(self) -> bool:
        """Whether it has no channel."""
        return not self._channels and not self._busy

    def lost(self) -> None:
        """The connection has ended: leave every channel. Idempotent."""
        self._outbox.close()
        self._hub.sockets.remove(self)
        self._mailbox = None
        if self._task is not None:
            self._task.cancel()
        for channel in tuple(self._channels.values()):
            channel.detach()
        self._channels.clear()

    def drop(self) -> None:
        """End without a word, as the real server's sweep does."""
        self.lost()
        self._wire.abort()

    def ask_to_leave(self) -> None:
        """Close the channels because the server wants it so."""
        for channel in tuple(self._channels.values()):
            channel.ask_to_leave()

    def overflowed(self) -> None:
        log.warning("a realtime client reads too slowly; its socket is closed")
        self.lost()
        self._wire.end(_TOO_SLOW, "reads too slowly")

    def drained(self) -> None:
        self.stuck = False
        self._outbox.flush()

    # Outgoing

    def write(self, data: bytes) -> None:
        self._wire.write(data)
        self.stuck = self._wire.stuck

    def push(
        self, topic: str, event: str, payload: msgspec.Raw, *, ref: Ref = None, join_ref: Ref = None
    ) -> None:
        """Queue one message of this socket's own."""
        text = encode(self._vsn, topic=topic, event=event, payload=payload, ref=ref, join_ref=join_ref)
        self._put(text_frame(text.encode()))

    def deliver(self, message: Message) -> None:
        """Queue a message that goes to many."""
        frame = message.frame(self._vsn)
        if frame is not None:
            self._put(frame)

    def reply(self, push: Incoming, status: str, response: object, *, join_ref: Ref) -> None:
        """Answer one push; its ref comes back as it came."""
        payload = msgspec.Raw(_encode({"status": status, "response": response}))
        self.push(push.topic, "phx_reply", payload, ref=push.ref, join_ref=join_ref)

    def _put(self, frame: bytes) -> None:
        if self._busy:
            self._hold(False, frame)
        else:
            self._outbox.put(frame)

    # One thing at a time

    def _work(self, work: Callable[[], Awaitable[Then]]) -> None:
        """Do something that waits; everything else stands still till what it says ``then`` has been done."""
        self._busy = True
        self._task = asyncio.get_running_loop().create_task(self._finish(work), name="realtime-work")

    async def _finish(self, work: Callable[[], Awaitable[Then]]) -> None:
        try:
            then = await work()
        except Exception:
            log.exception("a realtime socket is closed by a fault of the hub")
            self._busy = False
            self.lost()
            self._wire.end(_FAULT)
            return
        self._busy, self._task = False, None
        then()
        self._open_mailbox()

    def _hold(self, theirs: bool, frame: str | bytes) -> None:
        if self._mailbox is None:
            self._mailbox = deque()
        self._mailbox.append((theirs, frame))
        self._held += len(frame)
        if len(self._mailbox) > self._limits.queue_frames or self._held > self._limits.queue_bytes:
            self.overflowed()

    def _open_mailbox(self) -> None:
        while self._mailbox and not self._busy:
            theirs, frame = self._mailbox.popleft()
            self._held -= len(frame)
            if theirs:
                self._take(frame)
            elif isinstance(frame, bytes):
                self._outbox.put(frame)
        if not self._mailbox:
            self._mailbox = None
            self._wire.resume()

    # Incoming

    def received(self, frame: str | bytes) -> None:
        """Take one frame."""
        if self._busy:
            self._wire.pause()
            self._hold(True, frame)
        else:
            self._take(frame)

    def _take(self, frame: str | bytes) -> None:
        try:
            push = decode(self._vsn, frame)
        except ProtocolError as error:
            log.debug("frame dropped: %s", error)
            return
        if isinstance(push, Push):
            if push.topic == "phoenix" and push.event == "heartbeat":
                self.reply(push, "ok", {}, join_ref=push.join_ref)
                return
            if push.event == "phx_join":
                self._join(push)
                return
        channel = self._channels.get(push.topic)
        if channel is None:
            self._unmatched(push)
        else:
            self._to_channel(channel, push)

    def _unmatched(self, push: Incoming) -> None:
        if push.event == "phx_leave":
            self.reply(push, "ok", {}, join_ref=push.join_ref)
        else:
            self.reply(push, "error", {"reason": "unmatched topic"}, join_ref=None)

    def _to_channel(self, channel: Channel, push: Incoming) -> None:
        if isinstance(push, UserBroadcast):
            channel.broadcast(push)
        elif isinstance(push, BinaryPush):
            log.debug("binary push %s ignored", push.event)
        elif push.event == "broadcast":
            channel.broadcast(push)
        elif push.event == "presence":
            channel.presence(push)
        elif push.event == "access_token":
            self._access_token(channel, push)
        elif push.event == "phx_leave":
            self.reply(push, "ok", {}, join_ref=channel.join_ref)
            channel.close()
        else:
            self._hub.bus.events.add()

    # Joining

    def _join(self, push: Push) -> None:
        if not push.topic.startswith(PREFIX):
            self._unmatched(push)
            return
        replaced = self._channels.pop(push.topic, None)
        if replaced is not None:
            replaced.detach()
        self._work(lambda: self._decide(push, replaced))

    async def _decide(self, push: Push, replaced: Channel | None) -> Then:
        try:
            channel, replay = await self._authorise(push)
        except _Refused as refused:
            await asyncio.sleep(self._limits.join_error_delay)
            reason, leave = str(refused), refused.leave
            return lambda: self._refuse(push, reason, replaced, leave=leave)
        return lambda: self._admit(push, channel, replay, replaced)

    def _admit(self, push: Push, channel: Channel, replay: list[Message], replaced: Channel | None) -> None:
        self._channels[push.topic] = channel
        self._hub.sockets.is_user(self)
        channel.open()
        self.reply(push, "ok", {"postgres_changes": channel.bindings}, join_ref=push.join_ref)
        channel.begin(replay)
        self._say_replaced(push, replaced)

    def _refuse(self, push: Push, reason: str, replaced: Channel | None, *, leave: bool) -> None:
        self.reply(push, "error", {"reason": reason}, join_ref=push.join_ref)
        self._say_replaced(push, replaced)
        if leave:
            self._outbox.flush()
            self._wire.end(_GOING_AWAY)

    def _say_replaced(self, push: Push, replaced: Channel | None) -> None:
        if replaced is not None:
            self.push(push.topic, "phx_close", EMPTY, ref=replaced.join_ref, join_ref=replaced.join_ref)

    async def _authorise(self, push: Push) -> tuple[Channel, list[Message]]:
        """Check in the real server's order; a client that breaks two rules is told the same one."""
        name = push.topic.removeprefix(PREFIX)
        config = read_join(name, push.payload)
        if config is None:
            shown = bytes(push.payload)[:_SHOWN].decode(errors="replace")
            raise _Refused(f"UnknownErrorOnChannel: expected params to be a :map, got: `{shown}`")
        if not name or len(name.encode()) > self._limits.topic_bytes:
            raise _Refused("TopicNameRequired: You must provide a topic name")
        self._check_limits(config)
        claims = self._join_claims(config.token)
        topic = Topic(name, config.private)
        grant = await grant_for(self._hub, claims.subject, topic)
        if not grant & (_READS if config.presence_enabled else Grant.BROADCAST_READ):
            message = f"You do not have permissions to read from this Channel topic: {name}"
            raise _Refused(f"Unauthorized: {message}")
        channel = Channel(topic, push.join_ref, config, claims, grant, self, self._hub, self._forget)
        return channel, await self._replay(topic, config)

    def _check_limits(self, config: JoinConfig) -> None:
        sockets = self._hub.sockets
        if self._hub.config.private_only and not config.private:
            raise _Refused("PrivateOnly: This project only allows private channels")
        if not sockets.may_be_user(self):
            raise _Refused("ConnectionRateLimitReached: Too many connected users")
        if sockets.joins.exceeded(time.monotonic()):
            raise _Refused("ClientJoinRateLimitReached: Too many joins per second", leave=True)
        sockets.joins.add()
        if len(self._channels) >= self._limits.channels_per_socket:
            raise _Refused("ChannelRateLimitReached: Too many channels")

    async def _replay(self, topic: Topic, config: JoinConfig) -> list[Message]:
        if config.replay is None:
            return []
        if not topic.private:
            raise _Refused("UnableToReplayMessages: Replay is not allowed for public channels")
        since, limit = config.replay.since, config.replay.limit
        if since is None or limit is None:
            raise _Refused("UnableToReplayMessages: Replay params are not valid")
        return await self._hub.messages.replay(topic, since / 1000, limit)

    def _join_claims(self, token: str | None) -> Claims:
        try:
            claims = self._claims_of(token) or self._claims
            claims.check(time.time())
            return claims
        except TokenError as error:
            raise _Refused(f"{error.code}: {error}") from None

    def _claims_of(self, token: str | None) -> Claims | None:
        """Verify a token; none, or an opaque key, means the connection's."""
        if token is None or token.startswith("sb_"):
            return None
        return self._hub.tokens.verify(token)

    def _access_token(self, channel: Channel, push: Push) -> None:
        try:
            token = msgspec.json.decode(push.payload, type=_Token).access_token
            claims = self._claims_of(token)
        except (msgspec.MsgspecError, RecursionError):
            return
        except TokenError as error:
            channel.refuse_token(error)
            return
        if claims is not None and claims != channel.claims:
            self._work(lambda: self._with_claims(channel, claims))

    async def _with_claims(self, channel: Channel, claims: Claims) -> Then:
        grant = await grant_for(self._hub, claims.subject, channel.topic)
        return lambda: channel.new_token(claims, grant)

    def _forget(self, channel: Channel) -> None:
        if self._channels.get(channel.topic.wire) is channel:
            del self._channels[channel.topic.wire]
