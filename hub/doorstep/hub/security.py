"""Hub: what surrounds every request: which hosts may be named, body limits, CORS, and the browser's orders.

A hub on the loopback address is reachable by every page its user opens. The bearer token keeps those out; the
host check keeps a page from becoming "same origin" by pointing its own name at 127.0.0.1 (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from doorstep.hub.config import is_loopback

__all__ = ["API_PREFIXES", "Guard", "allowed_hosts", "content_policy"]

API_PREFIXES = ("/auth/v1/", "/rest/v1/", "/realtime/v1/", "/relay/v1/", "/api/", "/socket/")
_TOO_LARGE = "request body too large"
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": (
        "Content-Range, Content-Location, Link, Location, Preference-Applied, Range-Unit, Retry-After,"
        " X-Total-Count"
    ),
}
_PREFLIGHT = _CORS | {
    "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
    "Access-Control-Max-Age": "3600",
}


def allowed_hosts(host: str, public_url: str | None, configured: Iterable[str]) -> frozenset[str]:
    """The host names (without port) that requests may be addressed to; ``*`` stands for any IP address.

    An address cannot be rebound, so a hub that listens beyond loopback may be called by any of its addresses.
    """
    hosts = {*_LOOPBACK, *(name.lower() for name in configured)}
    if public_url is not None:
        hosts.add((urlsplit(public_url).hostname or "").lower())
    hosts.add(_bracketed(host.lower()))
    if not is_loopback(host):
        hosts.add("*")
    return frozenset(hosts)


def content_policy(host: str, relay_url: str | None = None) -> str:
    """The page's Content-Security-Policy; ``host`` is the authority the page was asked from, ``relay_url``
    that of a relay elsewhere."""
    relay = "" if relay_url is None else "".join(f" {source}" for source in _sources(relay_url))
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",  # the page gives xterm.js a document that keeps to this: strict_styles.ts
            f"connect-src 'self' ws://{host} wss://{host}{relay}",
            "img-src 'self' data: blob:",
            "font-src 'self'",
            "manifest-src 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _sources(relay_url: str) -> tuple[str, str]:
    """Its socket and its HTTP, as sources of CSP (level 3, section 2.3.1)."""
    parts = urlsplit(relay_url)
    secure = "s" if parts.scheme in ("https", "wss") else ""
    return f"ws{secure}://{parts.netloc}", f"http{secure}://{parts.netloc}"


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str], body_bytes: int, broadcast_bytes: int) -> None:
        self._app = app
        self._hosts = hosts
        self._body_bytes = body_bytes
        self._broadcast_bytes = broadcast_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if not self._allowed(headers.get("host", "")):
            refusal = JSONResponse({"error": "this host name is not served here"}, status_code=421)
            await _answer(refusal, scope, receive, send)
            return
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        api = scope["path"].startswith(API_PREFIXES)
        if api and scope["method"] == "OPTIONS":
            wanted = headers.get("access-control-request-headers", "authorization, apikey, content-type")
            preflight = _PREFLIGHT | {"Access-Control-Allow-Headers": wanted}
            await Response(status_code=204, headers=preflight)(scope, receive, send)
            return
        limit = (
            self._broadcast_bytes if scope["path"].startswith(("/realtime/", "/api/")) else self._body_bytes
        )
        await _Bounded(self._app, scope, receive, send, limit, api).run()

    def _allowed(self, authority: str) -> bool:
        host = _host_of(authority)
        if host in self._hosts:
            return True
        return "*" in self._hosts and _is_address(host)


class _Bounded:
    """One HTTP request: its body counted while it is read, its response given the common headers."""

    def __init__(
        self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, limit: int, api: bool
    ) -> None:
        self._app, self._scope, self._receive, self._send = app, scope, receive, send
        self._left = limit
        self._limit = limit
        self._api = api

    async def run(self) -> None:
        try:
            length = int(Headers(scope=self._scope).get("content-length", "0"))
        except ValueError:
            length = self._limit + 1
        if length > self._limit:
            await self._too_large()
            return
        await self._app(self._scope, self._read, self._write)

    async def _read(self) -> Message:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise HTTPException(413, _TOO_LARGE)
        return message

    async def _write(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=message["headers"])
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Referrer-Policy"] = "no-referrer"
            if self._api:
                headers.update(_CORS)
        await self._send(message)

    async def _too_large(self) -> None:
        response = JSONResponse({"message": _TOO_LARGE}, status_code=413)
        await response(self._scope, self._receive, self._write)


async def _answer(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a plain request, or refuse a WebSocket before its upgrade."""
    if scope["type"] == "websocket":
        await receive()
    await response(scope, receive, send)


def _host_of(authority: str) -> str:
    """The host of a ``Host`` header, lower case, with the port cut off; IPv6 keeps its brackets."""
    if authority.startswith("["):
        return authority.partition("]")[0].lower() + "]"
    return authority.partition(":")[0].lower()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
