"""Hub: the ASGI application: all routes, their errors, and the guard around them."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from doorstep.hub import auth, auth_admin, auth_parts, realtime, realtime_rest, relay_routes, rest, static
from doorstep.hub.security import Guard, allowed_hosts
from doorstep.hub.services import Services

__all__ = ["build_app"]


def build_app(services: Services) -> ASGIApp:
    """The application that serves ``services``."""
    app = Starlette(
        routes=[
            *auth.ROUTES,
            *auth_admin.ROUTES,
            *rest.ROUTES,
            *realtime.ROUTES,
            *realtime_rest.ROUTES,
            *relay_routes.of_hub(services),
            *static.ROUTES,
        ],
        exception_handlers={
            auth_parts.AuthError: auth_parts.auth_error,
            rest.RestError: rest.rest_error,
            HTTPException: _http_error,
        },
    )
    app.state.services = services
    config = services.config
    return Guard(
        app,
        hosts=allowed_hosts(config.host, config.public_url, config.allowed_hosts),
        body_bytes=config.body_bytes,
        broadcast_bytes=config.realtime.frame_bytes,
    )


def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"message": error.detail}, status_code=error.status_code, headers=error.headers)
