"""Hub: one joined channel of one socket: its rights, its token, its presence, what its client may send."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from doorstep.hub.bus import Topic
from doorstep.hub.changes import is_valid, wanted_text
from doorstep.hub.join import JoinConfig
from doorstep.hub.message import Message
from doorstep.hub.services import Services
from doorstep.hub.tokens import Claims, TokenError, TokenFault
from doorstep.protocol.access import Grant, Subject
from doorstep.protocol.phoenix import EMPTY, Outgoing, Push, Ref, UserBroadcast

__all__ = ["Channel", "Socket"]

log = logging.getLogger("doorstep.hub")

_encode = msgspec.json.Encoder().encode
_TOO_MANY_PRESENCES = "Too many presence messages per second"


class _PresenceCall(msgspec.Struct):
    event: str | None = None
    payload: msgspec.Raw = EMPTY


class Socket(Protocol):
    """What a channel needs of its socket."""

    def push(
        self, topic: str, event: str, payload: msgspec.Raw, *, ref: Ref = None, join_ref: Ref = None
    ) -> None: ...
    def deliver(self, message: Message) -> None: ...
    def reply(self, push: Push | UserBroadcast, status: str, response: object, *, join_ref: Ref) -> None: ...


class Channel:
    """A member of a topic. ``closed`` is called once when the channel closes itself."""

    __slots__ = (
        "_calls",
        "_changes_timer",
        "_closed",
        "_config",
        "_hub",
        "_limits",
        "_open",
        "_replayed",
        "_socket",
        "_timer",
        "_window_ends",
        "claims",
        "grant",
        "hears",
        "join_ref",
        "sees",
        "topic",
    )

    def __init__(
        self,
        topic: Topic,
        join_ref: Ref,
        config: JoinConfig,
        claims: Claims,
        grant: Grant,
        socket: Socket,
        hub: Services,
        closed: Callable[[Channel], None],
    ) -> None:
        self.topic = topic
        self.join_ref = join_ref
        self.claims = claims
        self.grant = grant
        self.hears = False
        self.sees = False
        self._config = config
        self._socket = socket
        self._hub = hub
        self._limits = hub.config.realtime
        self._closed = closed
        self._open = False
        self._calls = 0
        self._window_ends = 0.0
        self._replayed: frozenset[str | None] = frozenset()
        self._timer: asyncio.TimerHandle | None = None
        self._changes_timer: asyncio.TimerHandle | None = None

    # Life

    def open(self) -> None:
        """Become a member and watch the token's expiry."""
        self._open = True
        self._may(watching=self._config.presence_enabled)
        self._hub.bus.join(self.topic, self)
        if self.bindings:
            self._hub.changes.add(self)
        self._watch_token()

    def begin(self, replay: list[Message]) -> None:
        """What follows the reply to the join: who is there, what was missed, what will come."""
        if self._config.presence_enabled and self.sees:
            self._send_presence_state()
        if replay:
            self._replayed = frozenset(message.id for message in replay)
            for message in replay:
                self._socket.deliver(message)
        if self._config.replication_ready:
            self.system("ok", "Replication connection established")
        self._subscribe()

    def detach(self) -> None:
        """Stop being a member, saying nothing to the client. Idempotent."""
        self._open = False
        for timer in (self._timer, self._changes_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._changes_timer = None
        self._hub.changes.remove(self)
        self._hub.bus.leave(self.topic, self)

    def close(self) -> None:
        """Tell the client that the channel is closed, and stop."""
        self._push("phx_close", EMPTY, ref=self.join_ref)
        self.detach()
        self._closed(self)

    def fail(self, message: str) -> None:
        """Close the channel for a reason the client is told. Idempotent."""
        if self._open:
            log.info("channel %s closed: %s", self.topic.name, message)
            self.system("error", message)
            self.close()

    def ask_to_leave(self) -> None:
        """Close the channel because the server wants it so."""
        payload = {"message": "Server requested disconnect", "status": "ok", "extension": "system"}
        self._push("system", msgspec.Raw(_encode(payload)))
        self.close()

    def system(self, status: str, message: str, *, extension: str = "system") -> None:
        """Send a ``system`` message."""
        payload = {"message": message, "status": status, "extension": extension, "channel": self.topic.name}
        self._push("system", msgspec.Raw(_encode(payload)))

    def _send_presence_state(self) -> None:
        if self._hub.bus.presences.exceeded(time.monotonic()):
            self.fail(_TOO_MANY_PRESENCES)
            return
        self._hub.bus.presences.add()
        self._push("presence_state", self._hub.bus.presence(self.topic).state())

    def _may(self, *, watching: bool) -> None:
        """Work out what this member hears and sees. Presence of a private topic is for those who asked for
        it, when they joined or by tracking."""
        self.hears = Grant.BROADCAST_READ in self.grant
        self.sees = not self.topic.private or (watching and Grant.PRESENCE_READ in self.grant)

    # Changed rows

    @property
    def bindings(self) -> tuple[dict[str, Any], ...]:
        return self._config.bindings

    @property
    def subject(self) -> Subject:
        return self.claims.subject

    def tell_change(self, payload: msgspec.Raw) -> None:
        """Take a changed row this channel listens for."""
        self.deliver(Message(Outgoing.push(self.topic.wire, "postgres_changes", payload)))

    def _subscribe(self) -> None:
        """Answer after a while whether the changes asked for will come; again for each new token."""
        if self._changes_timer is not None:
            self._changes_timer.cancel()
        if self.bindings:
            loop = asyncio.get_running_loop()
            self._changes_timer = loop.call_later(self._limits.changes_delay, self._answer_bindings)

    def _answer_bindings(self) -> None:
        """Say whether the changes asked for will come."""
        self._changes_timer = None
        wrong = [binding for binding in self.bindings if not is_valid(binding)]
        if wrong:
            message = (
                "Unable to subscribe to changes with given parameters. Please check Realtime is enabled"
                f" for the given connect parameters: {wanted_text(wrong[0])}"
            )
            self.system("error", message, extension="postgres_changes")
        elif self.bindings:
            self.system("ok", "Subscribed to PostgreSQL", extension="postgres_changes")

    # Token

    def new_token(self, claims: Claims, grant: Grant) -> None:
        """Go on with a newer token; a right to read that is lost closes the channel."""
        if not self._open:
            return
        lost = self._reads() & ~grant
        self.claims, self.grant = claims, grant
        self._may(watching=self.sees or self._config.presence_enabled)
        if lost:
            self.fail(f"You do not have permissions to read from this Channel topic: {self.topic.name}")
        else:
            self._watch_token()
            self._subscribe()

    def refuse_token(self, error: TokenError) -> None:
        """Close because of a token that is not accepted; the words are the real server's."""
        self.fail(":signature_error" if error.fault is TokenFault.SIGNATURE else str(error))

    def _reads(self) -> Grant:
        wanted = Grant.BROADCAST_READ
        if self._config.presence_enabled:
            wanted |= Grant.PRESENCE_READ
        return self.grant & wanted

    def _watch_token(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        left = self.claims.expires - time.time()
        wait = min(max(left, 0.0), self._limits.token_check)
        self._timer = asyncio.get_running_loop().call_later(wait, self._check_token)

    def _check_token(self) -> None:
        try:
            self.claims.check(time.time())
        except TokenError as error:
            self.refuse_token(error)
        else:
            self._watch_token()

    # What the client sends

    def deliver(self, message: Message) -> None:
        """Take a message of the bus, unless it was replayed to this channel."""
        if not self._replayed or message.id not in self._replayed:
            self._socket.deliver(message)

    def broadcast(self, push: Push | UserBroadcast) -> None:
        """Send to the topic. Without the right to write: dropped in silence, whatever ``ack`` says."""
        if Grant.BROADCAST_WRITE not in self.grant:
            return
        if _size(push) > self._limits.payload_bytes:
            if self._config.broadcast_ack:
                self._socket.reply(push, "error", "payload_size_exceeded", join_ref=self.join_ref)
            return
        self._hub.bus.broadcast(self.topic, push, without=None if self._config.broadcast_self else self)
        if self._config.broadcast_ack:
            self._socket.reply(push, "ok", {}, join_ref=self.join_ref)

    def presence(self, push: Push) -> None:
        """``track`` or ``untrack``; replies first, then everybody gets the diff."""
        if Grant.PRESENCE_WRITE not in self.grant:
            self._socket.reply(push, "error", {}, join_ref=self.join_ref)
            return
        try:
            call = msgspec.json.decode(push.payload, type=_PresenceCall)
        except (msgspec.MsgspecError, RecursionError):
            self._socket.reply(push, "error", {}, join_ref=self.join_ref)
            return
        if not self._count_call():
            self.fail("Client presence rate limit exceeded")
            return
        match None if call.event is None else call.event.lower():
            case "track":
                self._track(push, bytes(call.payload))
            case "untrack":
                diff = self._hub.bus.untrack(self.topic, self)
                self._socket.reply(push, "ok", {}, join_ref=self.join_ref)
                self._hub.bus.tell(self.topic, diff)
            case None:
                self._socket.reply(push, "ok", {}, join_ref=self.join_ref)
            case _:
                self._socket.reply(push, "error", {}, join_ref=self.join_ref)

    def _track(self, push: Push, payload: bytes) -> None:
        if not payload.lstrip().startswith(b"{"):
            reason = {"reason": "Presence track payload must be a map"}
            self._socket.reply(push, "error", reason, join_ref=self.join_ref)
            return
        if len(payload) > self._limits.payload_bytes:
            self.fail("Track message size exceeded")
            return
        if self._hub.bus.presences.exceeded(time.monotonic()):
            self.fail(_TOO_MANY_PRESENCES)
            return
        self._hub.bus.presences.add()
        self._may(watching=True)
        diff = self._hub.bus.track(self.topic, self, self._config.presence_key, payload)
        self._socket.reply(push, "ok", {}, join_ref=self.join_ref)
        self._hub.bus.tell(self.topic, diff)

    def _count_call(self) -> bool:
        """Whether one more presence call is within ``presence_calls`` per ``presence_window``."""
        now = time.monotonic()
        if now > self._window_ends:
            self._calls, self._window_ends = 0, now + self._limits.presence_window
        self._calls += 1
        return self._calls <= self._limits.presence_calls

    def _push(self, event: str, payload: msgspec.Raw, *, ref: Ref = None) -> None:
        self._socket.push(self.topic.wire, event, payload, ref=ref, join_ref=self.join_ref)


def _size(push: Push | UserBroadcast) -> int:
    return len(bytes(push.payload))
