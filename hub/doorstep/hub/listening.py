"""Hub: a listening socket and the web server that answers on it, for the hub and for a relay alone."""

from __future__ import annotations

import socket

import uvicorn
from starlette.types import ASGIApp

from doorstep.hub.config import REQUEST_SECONDS
from doorstep.hub.connection import HubWebSocket
from doorstep.hub.request import http_class

__all__ = ["listen", "local_url", "serve"]

_STOP_SECONDS = 2


async def serve(
    app: ASGIApp,
    listener: socket.socket,
    *,
    websocket: type[HubWebSocket],
    message_bytes: int,
    request_seconds: float = REQUEST_SECONDS,
) -> uvicorn.Server:
    """A started server. The caller runs its ``main_loop()``: uvicorn's ``serve()`` would take the process's
    signals, which belong to the command line."""
    config = uvicorn.Config(
        app,
        # h11 limits a request's head to 64 KiB; httptools, where it is installed, to nothing
        http=http_class(request_seconds),
        log_config=None,
        log_level="warning",  # at "info" it logs URLs, which carry keys
        access_log=False,
        lifespan="off",
        server_header=False,
        ws=websocket,
        ws_max_size=message_bytes,
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=_STOP_SECONDS,
        proxy_headers=False,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup([listener])
    return server


def listen(host: str, port: int) -> socket.socket:
    """Listen; port 0 is any free one. Raises ``OSError`` for a port that is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    everywhere = host == "::"  # as other servers understand it: IPv4 too
    listener = socket.create_server((host, port), family=family, backlog=512, dualstack_ipv6=everywhere)
    # Inherited by what it accepts. asyncio sets it only on sockets that name their protocol; without it each
    # first small frame after another waits 40 ms for the reader's delayed acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def local_url(host: str, port: int) -> str:
    """The URL on this machine; a hub on all addresses is called by the loopback one."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (compared, not bound)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
