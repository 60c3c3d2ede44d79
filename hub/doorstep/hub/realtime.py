"""Hub: ``/realtime/v1/websocket``: who is let in, and the refusals in the real server's words."""

from __future__ import annotations

import asyncio

from starlette.responses import JSONResponse, Response
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from doorstep.hub.connection import HubWebSocket
from doorstep.hub.realtime_socket import RealtimeSocket
from doorstep.hub.services import Services, services
from doorstep.hub.tokens import Claims, TokenError, TokenFault
from doorstep.protocol.phoenix import Vsn

__all__ = ["ROUTES"]


async def websocket(connection: WebSocket) -> None:
    """Admit a socket; from then on it is a :class:`RealtimeSocket`'s."""
    hub = services(connection)
    refusal = await _admit(connection, hub)
    if isinstance(refusal, Response):
        await connection.send_denial_response(refusal)
        return
    vsn, claims = refusal
    await connection.accept()
    wire: HubWebSocket = connection.state.wire
    wire.attach(RealtimeSocket(wire, hub, vsn, claims))


ROUTES = [
    WebSocketRoute("/realtime/v1/websocket", websocket),
    WebSocketRoute("/socket/websocket", websocket),
]


async def _admit(connection: WebSocket, hub: Services) -> Response | tuple[Vsn, Claims]:
    try:
        vsn = Vsn(connection.query_params.get("vsn", Vsn.V1))
    except ValueError:
        return Response(status_code=403)
    key = connection.headers.get("x-api-key") or connection.query_params.get("apikey")
    if not key:
        return await _refuse(hub, 401, "API key is missing")
    try:
        claims = hub.tokens.verify(key)
    except TokenError as error:
        expired = error.fault is TokenFault.EXPIRED
        return await _refuse(hub, 401, "Token has expired" if expired else str(error))
    reason = hub.sockets.refusal()
    return (vsn, claims) if reason is None else await _refuse(hub, 429, reason)


async def _refuse(hub: Services, status: int, reason: str) -> Response:
    """Refuse, as late as the real server does."""
    await asyncio.sleep(hub.config.realtime.connect_error_delay)
    return JSONResponse({"error": reason}, status_code=status)
