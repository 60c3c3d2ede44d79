"""Hub: the routes of the relay: its socket, and the TURN servers for who is signed in."""

from __future__ import annotations

import time
from collections.abc import Hashable
from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from doorstep.hub.access import grant_for
from doorstep.hub.bus import Topic
from doorstep.hub.relay import Relay, Verify
from doorstep.hub.relay_limits import TurnConfig
from doorstep.hub.services import Services
from doorstep.hub.tokens import Claims, TokenError
from doorstep.hub.turn import ice_servers
from doorstep.protocol.access import Grant
from doorstep.protocol.ids import AgentId, signaling_topic
from doorstep.protocol.relay import PATH

__all__ = ["of_hub", "routes"]


def of_hub(hub: Services) -> list[BaseRoute]:
    """The routes of a hub: who may signal with an agent may meet it at the relay."""

    async def verify(token: str) -> Claims:
        return hub.tokens.verify(token)

    async def authorise(claims: Claims, agent: AgentId) -> Hashable | None:
        grant = await grant_for(hub, claims.subject, Topic(signaling_topic(agent), True))
        return "hub" if grant & Grant.BROADCAST == Grant.BROADCAST else None

    found = routes(Relay(hub.config.relay, verify, authorise), hub.config.turn)
    return [route for route in found if hub.config.relay_served or not isinstance(route, WebSocketRoute)]


def routes(relay: Relay, turn: TurnConfig | None) -> list[BaseRoute]:
    """The routes of a relay, in a hub or alone."""
    return [
        WebSocketRoute(PATH, relay.serve),
        Route(f"{PATH}/ice-servers", partial(_ice_servers, relay.verify, turn), methods=["GET"]),
    ]


async def _ice_servers(verify: Verify, turn: TurnConfig | None, request: Request) -> Response:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    try:
        claims = await verify(token.strip() if kind.lower() == "bearer" else "")
    except TokenError as error:
        return JSONResponse({"code": error.code, "message": str(error)}, status_code=401)
    if claims.sub is None:
        return JSONResponse({"code": "forbidden", "message": "sign in first"}, status_code=403)
    answer = ice_servers(turn, claims.sub, time.time())
    return JSONResponse(answer, headers={"Cache-Control": "no-store"})
