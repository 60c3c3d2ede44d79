"""Hub: one WebSocket as uvicorn speaks it, plus what ASGI cannot say: idle time, dropping a stuck peer."""

from __future__ import annotations

import asyncio

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

__all__ = ["HubWebSocket", "websocket_class"]


class HubWebSocket(WebSocketsSansIOProtocol):
    """Closes with 1000 after ``idle`` seconds without incoming bytes; the peer's pings count, as on the real
    server. The ASGI scope's ``state["wire"]`` is this object."""

    idle = 60.0
    _heard = 0.0
    _idle_timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        self._heard = self.loop.time()
        super().data_received(data)

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        # The task that reads the scope has not run yet.
        if self.response.status_code == 101:
            self.scope.setdefault("state", {})["wire"] = self
            self._watch_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        super().connection_lost(exc)

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            # uvicorn 0.54 would log every refused handshake as an unfinished one.
            self.handshake_complete = True

    def abort(self) -> None:
        """Drop the peer without waiting for what it has not read."""
        self.transport.abort()

    def _watch_idle(self) -> None:
        left = self._heard + self.idle - self.loop.time()
        if left > 0:
            self._idle_timer = self.loop.call_later(left, self._watch_idle)
        elif self.handshake_complete and not self.close_sent and not self.transport.is_closing():
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1000, "reason": ""})
            self.conn.send_close(1000)
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
            self.close_timer = self.loop.call_later(self.close_timeout, self.transport.abort)


def websocket_class(idle: float) -> type[HubWebSocket]:
    """The protocol class with this hub's idle time, in seconds."""
    return type("HubWebSocket", (HubWebSocket,), {"idle": idle})
