"""Runtime, layer 3: what a service is, and how a route finds its handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from doorstep.protocol.errors import DoorstepError
from doorstep.protocol.lanes import Lane

if TYPE_CHECKING:
    from doorstep.runtime.session import Session
    from doorstep.runtime.streams import Stream

__all__ = ["CallHandler", "Router", "Service", "ServiceError", "StreamHandler", "StreamRequest"]


class ServiceError(DoorstepError):
    """Raised by a handler: the peer gets ``code`` and ``message`` in a REPLY or a RESET.

    Codes: ``invalid``, ``not-found``, ``permission``, ``exists``, ``too-large``, ``unknown-route``,
    ``timeout``, ``cancelled``, ``busy``, ``internal``, ``unsupported``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class StreamRequest:
    """A stream that the peer asked for. A handler answers it once, by :meth:`accept` or :meth:`refuse`."""

    def __init__(
        self,
        *,
        session: Session,
        route: str,
        lane: Lane,
        params: dict[str, Any],
        accept: Callable[[Mapping[str, Any], int | None], Stream],
        refuse: Callable[[str, str], None],
    ) -> None:
        self.session = session
        self.route = route
        self.lane = lane
        self.params = params
        self.answered = False
        self._accept = accept
        self._refuse = refuse

    async def accept(self, result: Mapping[str, Any] | None = None, window: int | None = None) -> Stream:
        """Take the stream; ``result`` is what the opener gets, ``window`` bounds the bytes kept unread.

        Raises :class:`RemoteError` when the peer has reset it meanwhile, :class:`SessionClosed`.
        """
        self.answered = True
        return self._accept(result or {}, window)

    async def refuse(self, code: str, message: str) -> None:
        """Turn the stream down; the same as raising :class:`ServiceError`."""
        self.answered = True
        self._refuse(code, message)


CallHandler: TypeAlias = "Callable[[Session, dict[str, Any]], Awaitable[dict[str, Any]]]"
StreamHandler: TypeAlias = Callable[[StreamRequest], Awaitable[None]]


class Service(Protocol):
    """Something a session offers to its peer.

    A handler runs in a task that its session owns. It is cancelled when the session ends and, for a stream,
    when the peer resets it; it cleans up in ``finally``, within ``Timing.shutdown``. When a stream's handler
    returns, its direction is finished (with an empty trailer unless it did so itself) and what the peer still
    sends is turned away with RESET ``cancelled``. Raising :class:`ServiceError` answers with its code; any
    other exception is logged and answered with ``internal``, without details.
    """

    @property
    def name(self) -> str: ...

    @property
    def calls(self) -> Mapping[str, CallHandler]:
        """Method → handler; the route is ``name.method``."""
        ...

    @property
    def streams(self) -> Mapping[str, StreamHandler]:
        """Method → handler."""
        ...


class Router:
    """Finds the handler of a route among a session's services."""

    def __init__(self, services: Mapping[str, Service]) -> None:
        self._services = services

    def call(self, route_key: str) -> CallHandler:
        """Return the handler of ``service.method``; raise :class:`ServiceError` ``unknown-route``."""
        name, _, method = route_key.rpartition(".")
        service = self._services.get(name)
        handler = service.calls.get(method) if service is not None else None
        if handler is None:
            raise ServiceError("unknown-route", f"there is no call {route_key}")
        return handler

    def stream(self, name: str, method: str) -> StreamHandler:
        """Return the handler of a stream; raise :class:`ServiceError` ``unknown-route``."""
        service = self._services.get(name)
        handler = service.streams.get(method) if service is not None else None
        if handler is None:
            raise ServiceError("unknown-route", f"there is no stream {name}.{method}")
        return handler
