"""Hub: one WebSocket: its handshake as uvicorn does it by ASGI, and from then on a plain conversation.

What was accepted leaves ASGI: frames come as calls and go as bytes, without a task per socket, and the
hub sees what ASGI cannot say: idle time, a peer that does not read, a peer that is gone.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol, cast

from uvicorn._types import ASGI3Application, ASGISendEvent
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request

__all__ = ["Conversation", "HubWebSocket", "websocket_class"]

log = logging.getLogger("doorstep.hub")

_CLOSE_SECONDS = 5.0
"""The peer gets this long to answer a close or to read what is on its way; then it is dropped."""
_FRAGMENTS = 256
"""Fragments of a message kept apart at most: empty ones count towards no limit on bytes."""


class Conversation(Protocol):
    """Who talks over an accepted socket. All calls come from the event loop; none may raise."""

    def received(self, frame: str | bytes) -> None: ...
    def drained(self) -> None:
        """The peer reads again; :attr:`HubWebSocket.stuck` is false now."""
        ...

    def lost(self) -> None:
        """Nothing goes or comes any more. Called once."""
        ...


class HubWebSocket(WebSocketsSansIOProtocol):
    """Closes with 1000 after ``idle`` seconds without incoming bytes; the peer's pings count, as on the real
    server. The ASGI scope's ``state["wire"]`` is this object."""

    idle = 60.0
    stuck = False
    _heard = 0.0
    _idle_timer: asyncio.TimerHandle | None = None
    _conversation: Conversation | None = None
    _attached = False
    _pong = b""

    def attach(self, conversation: Conversation) -> None:
        """Take the accepted socket out of ASGI's hands."""
        self._conversation = conversation
        self._attached = True
        # The handshake is over: a thousand idle sockets need not remember it.
        self.scope = self.request = self.response = None  # type: ignore[assignment]
        self.resume()

    def write(self, data: bytes) -> None:
        """Send bytes that are whole frames."""
        self.transport.write(data)

    def pause(self) -> None:
        """Take nothing more from the peer for now."""
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.read_paused:
            self.read_paused = False
            self._heard = self.loop.time()
            self.transport.resume_reading()

    def end(self, code: int, reason: str = "") -> None:
        """Close with ``code``; what was written before is still sent. Idempotent."""
        if self.close_sent or self.transport.is_closing():
            return
        self.conn.send_close(code, reason)
        self.close_sent = True
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.resume()
        self._over()

    def abort(self) -> None:
        """Drop the peer without a word."""
        self.transport.abort()

    # What uvicorn and asyncio call

    async def run_asgi(self) -> None:
        try:
            app = cast("ASGI3Application", self.app)  # pyright: ignore[reportUnknownMemberType] (uvicorn's own)
            await app(self.scope, self.receive, self.send)
        except ClientDisconnected:
            pass
        except Exception:
            log.exception("a handshake failed")
            self.send_500_response()
        if not self._attached and self.close_timer is None:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        self._heard = self.loop.time()
        super().data_received(data)

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        # The task that reads the scope has not run yet.
        if not self.close_sent:
            self.scope.setdefault("state", {})["wire"] = self
            self._watch_idle()

    def handle_cont(self, event: Frame) -> None:
        super().handle_cont(event)
        if len(self.frames) > _FRAGMENTS:
            self.frames = [b"".join(self.frames)]

    def send_receive_event_to_app(self) -> None:
        if not self._attached:
            super().send_receive_event_to_app()
            return
        data = self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)
        self.frames = []
        if self._conversation is None:
            return
        if self.curr_msg_data_type == "bytes":
            self._conversation.received(bytes(data))
            return
        try:
            text = str(data, "utf-8")
        except UnicodeDecodeError:
            self.end(1007, "a text frame is not UTF-8")
        else:
            self._conversation.received(text)

    def handle_ping(self) -> None:
        pong = b"".join(self.conn.data_to_send())
        if self.stuck:
            self._pong = pong  # RFC 6455, 5.5.3: the answer to the latest ping is enough
        else:
            self.transport.write(pong)

    def handle_close(self, event: Frame) -> None:
        super().handle_close(event)
        self._over()

    def handle_parser_exception(self) -> None:
        super().handle_parser_exception()
        self._over()

    def eof_received(self) -> None:
        self._over()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.stuck = True

    def resume_writing(self) -> None:
        super().resume_writing()
        self.stuck = False
        if self._pong:
            self.transport.write(self._pong)
            self._pong = b""
        if self._conversation is not None:
            self._conversation.drained()

    def shutdown(self) -> None:
        super().shutdown()
        self._over()

    def connection_lost(self, exc: Exception | None) -> None:
        self._over()
        super().connection_lost(exc)

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            # uvicorn 0.54 would log every refused handshake as an unfinished one.
            self.handshake_complete = True

    # Ending

    def _over(self) -> None:
        """Tell the conversation, and see to it that the peer does not hold the socket open. Idempotent."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        conversation, self._conversation = self._conversation, None
        if conversation is not None:
            conversation.lost()
        if self.close_timer is None and not self.disconnected:
            self.close_timer = self.loop.call_later(_CLOSE_SECONDS, self.abort)

    def _watch_idle(self) -> None:
        heard = self.loop.time() if self.read_paused and self._attached else self._heard
        left = heard + self.idle - self.loop.time()
        if left > 0:
            self._idle_timer = self.loop.call_later(left, self._watch_idle)
        elif self.handshake_complete:
            self._idle_timer = None
            self.end(1000)


def websocket_class(idle: float) -> type[HubWebSocket]:
    """The protocol class with this hub's idle time, in seconds."""
    return type("HubWebSocket", (HubWebSocket,), {"idle": idle})
