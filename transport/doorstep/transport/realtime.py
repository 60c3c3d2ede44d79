"""Transport: Supabase Realtime by the ``realtime`` library, of which this is the only importer.

The library speaks the protocol; when to connect and join is the supervisor's. Its own reconnecting, rejoining
and buffering are off: they give up after 15 s, retry for ever what was refused, deliver old messages late.
What this module overrides of realtime 2.34:

* ``_listen``: the supervisor learns of every end of the socket; replies to our own requests are matched by
  ref; a message the library cannot parse costs one log line.
* ``_handle_message``: routed by topic alone, the ``phx_close`` of a channel just left ends the next one.
  The ref of a close or error is the join ref of its channel (frames of vsn 1.0.0): another one's is ignored.
* ``rejoin_timer``: does nothing.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError
from realtime import (
    AsyncRealtimeChannel,
    AsyncRealtimeClient,
    BroadcastPayload,
    ChannelCloseMessage,
    ChannelErrorMessage,
    ChannelEvents,
    ErrorReplyMessage,
    Message,
    PresenceDiffMessage,
    PresenceStateMessage,
    RealtimeSubscribeStates,
    ReplyMessage,
    ServerMessage,
    ServerMessageAdapter,
    SuccessReplyMessage,
    SystemMessage,
)
from realtime import __version__ as library_version
from realtime._async.timer import AsyncTimer
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from doorstep.protocol.errors import InvalidInput, SignalingLost, Unauthorized
from doorstep.protocol.limits import MIB
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.transport import realtime_words as words
from doorstep.transport.signaling import ChannelSpec, Presence
from doorstep.transport.supervisor import SupervisedSignaling, Token

__all__ = ["RealtimeSignaling"]

log = logging.getLogger("doorstep.transport")

HEARTBEAT = 25
"""Seconds between the library's heartbeats: a real server closes after 60 s of silence."""
REQUESTS_IN_FLIGHT = 256
"""Unanswered requests of one socket."""
MESSAGE_BYTES = 4 * MIB
"""Largest message taken: Supabase carries broadcasts of up to 3 MB. At the 1 MiB of websockets, one such
message of one client would end the socket of every agent that hears it."""
PRESENT = 2_000
"""Presences of one channel: twice the agents that are listed. A server can add to them without end."""

if not library_version.startswith("2."):
    raise ImportError(f"realtime {library_version} has other insides than the 2.34 that doorstep adapts")
words.quiet_the_libraries()

Reply = SuccessReplyMessage | ErrorReplyMessage


class RealtimeSignaling(SupervisedSignaling):
    """Signaling by the Realtime service of the project at ``url``; satisfies ``Signaling``.

    ``key`` is the project's API key (it says which project, not who), ``token`` gives the access token of the
    signed-in user whenever a channel is joined. Raises :class:`InvalidInput` for a bad ``url``.
    """

    def __init__(self, url: str, key: str, token: Token, timing: Timing = DEFAULT_TIMING) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https", "ws", "wss"} or not parts.hostname:
            raise InvalidInput("url", "must be the project's URL, such as https://example.org")
        endpoint = url.rstrip("/") + "/realtime/v1"

        async def open_socket(token: str) -> RealtimeSocket:
            return await RealtimeSocket.open(endpoint, key, token, timing)

        super().__init__(open_socket, token, timing)


class RealtimeSocket:
    """One connected client of the library; satisfies ``supervisor.Socket``."""

    def __init__(self, client: _Client, timing: Timing) -> None:
        self._client = client
        self._timing = timing

    @classmethod
    async def open(cls, endpoint: str, key: str, token: str, timing: Timing) -> RealtimeSocket:
        """Connect once. Raises SignalingLost, or Unauthorized when the API key is refused."""
        client = _Client(endpoint, key, token, timing)
        try:
            await client.connect()
        except InvalidStatus as error:
            await client.end()
            raise words.refused_handshake(error.response.status_code, error.response.body) from None
        except (OSError, WebSocketException) as error:
            await client.end()
            raise SignalingLost(f"cannot connect to Realtime: {error}") from None
        except asyncio.CancelledError:
            await client.end()
            raise
        return cls(client, timing)

    @property
    def lost(self) -> asyncio.Future[str]:
        return self._client.lost

    async def join(self, spec: ChannelSpec, token: str) -> RealtimeMembership:
        await self.set_token(token)
        channel = _Channel(self._client, spec)
        membership = RealtimeMembership(self._client, channel, self._timing)
        try:
            await channel.join_once()
        except BaseException:
            await membership.leave()
            raise
        return membership

    async def set_token(self, token: str) -> None:
        """Push ``token`` to the joined channels, unless they have it. There is no reply."""
        client = self._client
        if token == client.access_token:
            return
        client.access_token = token
        for channel in client.joined():
            await client.tell(channel, ChannelEvents.access_token, {"access_token": token})

    async def probe(self) -> None:
        """Ask for a heartbeat, and for each channel whether the server still has it.

        A null access token is ignored by a channel that lives and answered "unmatched topic" for one that
        does not; nobody else sees either. The heartbeat is answered after those.
        """
        await self._client.probe()

    async def close(self) -> None:
        await self._client.end()


class RealtimeMembership:
    """One joined channel of the library; satisfies ``supervisor.Membership``."""

    def __init__(self, client: _Client, channel: _Channel, timing: Timing) -> None:
        self._client = client
        self._channel = channel
        self._timing = timing

    @property
    def lost(self) -> asyncio.Future[str]:
        return self._channel.lost

    async def send(self, event: str, payload: Mapping[str, Any]) -> None:
        message = {"type": "broadcast", "event": event, "payload": dict(payload)}
        reply = await self._ask(ChannelEvents.broadcast, message)
        if reply.status != "ok":
            raise SignalingLost(f"the server refused {event}: {reply.response}")

    async def track(self, meta: Mapping[str, Any] | None) -> None:
        event = "untrack" if meta is None else "track"
        message = {"type": "presence", "event": event, "payload": dict(meta or {})}
        reply = await self._ask(ChannelEvents.presence, message)
        if reply.status != "ok":
            raise Unauthorized(f"the policies refuse presence on {self._channel.topic}: {reply.response}")

    async def _ask(self, event: str, payload: Mapping[str, Any]) -> Reply:
        channel = self._channel
        if channel.lost.done():
            raise SignalingLost(channel.lost.result())
        return await self._client.request(channel.topic, event, payload, channel)

    async def leave(self) -> None:
        channel, client = self._channel, self._client
        if not channel.forget() or client.lost.done():
            return
        try:
            async with asyncio.timeout(self._timing.shutdown):
                await client.tell(channel, ChannelEvents.leave, {})
        except SignalingLost:
            return  # the server learns of it by the lost socket
        except TimeoutError:
            client.lose("the socket takes no more frames")


class _Client(AsyncRealtimeClient):
    """The library's client for the life of one socket."""

    _listen_task: asyncio.Task[None] | None
    _heartbeat_task: asyncio.Task[None] | None

    def __init__(self, endpoint: str, key: str, token: str, timing: Timing) -> None:
        limit = math.ceil(timing.join) + 1  # the supervisor's own limit comes first
        super().__init__(
            endpoint, key, auto_reconnect=False, hb_interval=HEARTBEAT, max_retries=1, timeout=limit
        )
        self.access_token = token
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._shutdown = timing.shutdown
        self._asked: dict[str, asyncio.Future[Reply]] = {}
        self._probed: dict[str, _Channel] = {}

    def joined(self) -> list[_Channel]:
        """The channels the server has accepted."""
        return [c for c in self.channels.values() if isinstance(c, _Channel) and c.is_joined]

    async def tell(self, channel: _Channel, event: str, payload: Mapping[str, Any]) -> str:
        """Send a frame of ``channel`` and return its ref."""
        ref = self._make_ref()
        await self._post(channel.topic, event, payload, ref, channel)
        return ref

    async def request(
        self, topic: str, event: str, payload: Mapping[str, Any], channel: _Channel | None
    ) -> Reply:
        """Send a frame and wait for its reply. Raises SignalingLost when the road is lost first."""
        if len(self._asked) >= REQUESTS_IN_FLIGHT:
            raise SignalingLost(f"{REQUESTS_IN_FLIGHT} messages wait for an acknowledgement already")
        ref = self._make_ref()
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._asked[ref] = reply
        lost = self.lost if channel is None else channel.lost
        try:
            await self._post(topic, event, payload, ref, channel)
            await _first_of(reply, lost)
        finally:
            del self._asked[ref]
        if not reply.done():
            raise SignalingLost(lost.result())
        return reply.result()

    async def probe(self) -> None:
        self._probed.clear()
        for channel in self.joined():
            ref = self._make_ref()
            self._probed[ref] = channel
            await self._post(channel.topic, ChannelEvents.access_token, {"access_token": None}, ref, channel)
        await self.request("phoenix", ChannelEvents.heartbeat, {}, None)

    def lose(self, reason: str) -> None:
        """Mark the socket and every channel on it as lost."""
        if not self.lost.done():
            self.lost.set_result(reason)
        for channel in list(self.channels.values()):
            if isinstance(channel, _Channel):
                channel.lose(reason)

    async def end(self) -> None:
        """Close within the limit, by force after it; leave no task behind. Idempotent."""
        self.lose("the socket was closed")
        socket = self._ws_connection
        tasks = [task for task in (self._listen_task, self._heartbeat_task) if task is not None]
        for channel in list(self.channels.values()):
            channel.join_push.destroy()
        self.channels.clear()
        try:
            async with asyncio.timeout(self._shutdown):
                await self.close()
        except (TimeoutError, asyncio.CancelledError) as error:
            if socket is not None:
                socket.transport.abort()
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if socket is not None:
                await socket.wait_closed()

    async def _post(
        self, topic: str, event: str, payload: Mapping[str, Any], ref: str, channel: _Channel | None
    ) -> None:
        if not self.is_connected:  # the library would keep the frame for another day
            raise SignalingLost("the socket is closed")
        join_ref = channel.join_push.ref if channel is not None else None
        await self.send(Message(topic=topic, event=event, payload=payload, ref=ref, join_ref=join_ref))

    async def _listen(self) -> None:
        socket = self._ws_connection
        assert socket is not None
        socket.protocol.max_size = MESSAGE_BYTES  # the library connects without saying
        try:
            async for frame in socket:
                self._receive(frame)
        except ConnectionClosed:
            pass  # said below
        finally:
            self._ws_connection = None
            self.lose(_why_closed(socket))

    def _receive(self, frame: str | bytes) -> None:
        try:
            message = ServerMessageAdapter.validate_json(frame)
        except ValidationError as error:
            log.warning("ignored a Realtime message: %s", words.what_is_wrong(frame, error))
            return
        if isinstance(message, ReplyMessage) and message.ref is not None:
            self._replied(message.ref, message.payload)
        channel = self.channels.get(message.topic)
        if isinstance(channel, _Channel):
            channel.handle(message)

    def _replied(self, ref: str, reply: Reply) -> None:
        waiting = self._asked.get(ref)
        if waiting is not None and not waiting.done():
            waiting.set_result(reply)
        forgotten = self._probed.pop(ref, None)
        if forgotten is not None and reply.status == "error":
            forgotten.lose("the server does not know the channel any more")


class _Channel(AsyncRealtimeChannel):
    """The library's channel for one join."""

    def __init__(self, client: _Client, spec: ChannelSpec) -> None:
        presence = spec.on_presence is not None or spec.presence_key != ""
        super().__init__(
            client,
            f"realtime:{spec.topic}",
            {
                "config": {
                    "broadcast": {"ack": True, "self": False},
                    "presence": {"key": spec.presence_key, "enabled": presence},
                    "private": True,
                }
            },
        )
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.rejoin_timer = _NoTimer(self._rejoin_if_connected, float)
        self._spec = spec
        self._complaint = ""
        self.on_broadcast("*", self._on_broadcast)
        if spec.on_presence is not None:
            self.on_presence_sync(self._on_sync)
        client.channels[self.topic] = self

    async def join_once(self) -> None:
        """Join, with every listener in place. Raises Unauthorized, NotSignedIn, SignalingLost."""
        if not self.socket.is_connected:
            raise SignalingLost("the socket is closed")
        await self.subscribe(self._on_status)
        if not self.is_joined:
            reason = self.lost.result() if self.lost.done() else "the join was not answered"
            raise words.refused_join(self._spec.topic, reason)

    def lose(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)
        self._release_subscribe_waiter()

    def forget(self) -> bool:
        """Stop routing to this channel; return whether the server may still hold it."""
        self.join_push.destroy()
        routed = self.socket.channels.get(self.topic) is self
        if routed:
            del self.socket.channels[self.topic]
        self.lose("the channel was left")
        return routed and (self.is_joined or self.is_joining)

    def handle(self, message: ServerMessage) -> None:
        """The library's routing, without what belongs to an earlier channel of this topic."""
        ended = isinstance(message, ChannelCloseMessage | ChannelErrorMessage)
        if ended and message.ref not in (None, self.join_push.ref):
            log.debug("%s: ignored the %s of an earlier join", self.topic, message.event)
            return
        if isinstance(message, SystemMessage) and message.payload.status == "error":
            self._complaint = message.payload.message
        self._handle_message(message)
        if isinstance(message, PresenceStateMessage | PresenceDiffMessage):
            self._limit_presence()

    def _limit_presence(self) -> None:
        """The supervisor joins again, and begins with what the server says then."""
        present = self.presence_state()
        if sum(map(len, present.values())) > PRESENT:
            present.clear()
            self.lose(f"more than {PRESENT} are present")

    def _on_status(self, status: RealtimeSubscribeStates, error: Exception | None) -> None:
        if status is not RealtimeSubscribeStates.SUBSCRIBED:
            self.lose(self._complaint or words.reason(status.value, error))

    def _on_broadcast(self, broadcast: BroadcastPayload) -> None:
        self._spec.on_message(broadcast["event"], broadcast["payload"])

    def _on_sync(self) -> None:
        if self._spec.on_presence is not None:
            self._spec.on_presence(_newest(self.presence_state()))


class _NoTimer(AsyncTimer):
    """The supervisor rejoins, on a new channel."""

    def schedule_timeout(self, delay: float | None = None) -> None:
        del delay


async def _first_of(*futures: asyncio.Future[Any]) -> None:
    """Wait until one of the futures is done; cancel none of them."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


def _newest(state: Mapping[str, list[Any]]) -> Presence:
    """Reduce each key to the meta that joined last, without the library's own field."""
    return {
        key: {name: value for name, value in metas[-1].items() if name != "presence_ref"}
        for key, metas in state.items()
        if metas
    }


def _why_closed(socket: ClientConnection) -> str:
    return f"the socket closed with code {socket.close_code} {socket.close_reason or ''}".rstrip()
