"""Hub: one HTTP connection as uvicorn serves it, and an end to the time in which a request must come."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["HubHttp", "http_class"]

_COMING = (h11.IDLE, h11.SEND_BODY)


class HubHttp(H11Protocol):
    """Drops a peer whose request, head and body, is not there ``patience`` seconds after it could have begun.

    uvicorn itself waits for ever, for a first byte too: a stranger could hold any number of descriptors.
    """

    patience = 60.0
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_request()

    def on_response_complete(self) -> None:
        self._await_request()
        super().on_response_complete()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._stop()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _await_request(self) -> None:
        self._stop()
        self._late = self.loop.call_later(self.patience, self._check)

    def _check(self) -> None:
        if self.conn.their_state in _COMING:
            self.transport.abort()

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def http_class(patience: float) -> type[HubHttp]:
    """The protocol class with this hub's patience, in seconds."""
    return type("HubHttp", (HubHttp,), {"patience": patience})
