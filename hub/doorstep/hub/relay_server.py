"""Hub: a relay alone, for a back end that has none: it knows the back end's tokens and nothing else.

It has no table of agents. Two sockets meet when their tokens name the same user.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import jwt
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from doorstep.hub.connection import websocket_class
from doorstep.hub.jwks import PublicKey, read_jwks
from doorstep.hub.listening import listen, local_url, serve
from doorstep.hub.relay import Relay
from doorstep.hub.relay_limits import RelayLimits, TurnConfig
from doorstep.hub.relay_routes import routes
from doorstep.hub.security import Guard, allowed_hosts
from doorstep.hub.tokens import Claims, TokenError, TokenFault
from doorstep.protocol.access import Role
from doorstep.protocol.ids import AgentId

__all__ = ["DEFAULT_PORT", "RelayConfig", "RelayServer"]

log = logging.getLogger("doorstep.hub")

DEFAULT_PORT = 8788
_HMAC = ("HS256", "HS384", "HS512")
_REFRESH = 600.0
"""Seconds between two looks at the issuer's keys: how long a withdrawn key is still believed."""
_FIRST = 10.0
_BODY = 4096
_KEYS = 256 * 1024
"""Bytes of the issuer's keys: some hundreds of them."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RelayConfig:
    """How one relay runs. At least one of the three sources of keys is given."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    public_url: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    jwt_secret: str | None = None
    """The back end's shared secret (HS256, HS384, HS512)."""
    jwks: Mapping[str, Any] | None = None
    """The back end's public keys, a JSON Web Key Set."""
    jwks_url: str | None = None
    """Where they are published; looked at again and again."""
    limits: RelayLimits = field(default_factory=RelayLimits)
    turn: TurnConfig | None = None


class RelayServer:
    """Start and stop."""

    def __init__(self, config: RelayConfig) -> None:
        self.config = config
        self.relay = Relay(config.limits, self._verify, _same_user)
        self._keys: dict[str, PublicKey] = {} if config.jwks is None else read_jwks(config.jwks)
        self._server: uvicorn.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.url = ""

    async def start(self) -> None:
        """Fetch the keys, listen, return when sockets are answered. Raises ``OSError`` for a taken port,
        ``ValueError`` for keys that cannot be read."""
        config = self.config
        self._listener = listen(config.host, config.port)
        try:
            if config.jwks_url is not None:
                await self._fetch(config.jwks_url)
            self.url = (config.public_url or local_url(config.host, self._listener.getsockname()[1])).rstrip(
                "/"
            )
            hosts = allowed_hosts(config.host, config.public_url, config.allowed_hosts)
            app = Starlette(routes=[*routes(self.relay, config.turn), Route("/", _about)])
            self._server = await serve(
                Guard(app, hosts=hosts, body_bytes=_BODY, broadcast_bytes=_BODY),
                self._listener,
                websocket=websocket_class(config.limits.idle),
                message_bytes=config.limits.message_bytes,
            )
        except BaseException:
            self._listener.close()
            raise
        self._tasks.append(asyncio.create_task(self._server.main_loop(), name="relay"))
        if config.jwks_url is not None:
            self._tasks.append(asyncio.create_task(self._keep_keys(config.jwks_url), name="relay-keys"))

    async def stop(self) -> None:
        """Close every socket. Idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        server.should_exit = True
        serving, *others = self._tasks
        for task in others:
            task.cancel()
        await serving
        if others:
            await asyncio.wait(others)
        await server.shutdown([self._listener])

    async def _keep_keys(self, url: str) -> None:
        while True:
            await asyncio.sleep(_REFRESH)
            try:
                await self._fetch(url)
            except (httpx.HTTPError, ValueError) as error:
                log.warning("the issuer's keys cannot be fetched, the old ones stay: %s", error)

    async def _fetch(self, url: str) -> None:
        try:
            async with asyncio.timeout(_FIRST), httpx.AsyncClient(timeout=_FIRST) as http:
                self._keys = read_jwks(await _read_keys(http, url))
        except TimeoutError:
            raise ValueError(f"{url} does not answer within {_FIRST:g} s") from None

    async def _verify(self, token: str) -> Claims:
        claims = self._decoded(token)
        role, expires, sub = claims.get("role"), claims.get("exp"), claims.get("sub")
        if not isinstance(role, str) or not isinstance(expires, int | float):
            raise TokenError(TokenFault.INCOMPLETE)
        found = Claims(role=role, expires=float(expires), sub=sub if isinstance(sub, str) else None)
        found.check(time.time())
        return found

    def _decoded(self, token: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
            algorithm = str(header.get("alg"))
            # Expiry is checked by Claims; the audience is the project's, which may be named anything.
            options: Any = {"verify_exp": False, "verify_aud": False, "verify_iat": False}
            return jwt.decode(token, self._key(algorithm, header), algorithms=[algorithm], options=options)
        except jwt.InvalidSignatureError:
            raise TokenError(TokenFault.SIGNATURE) from None
        except (jwt.PyJWTError, ValueError):
            raise TokenError(TokenFault.MALFORMED) from None

    def _key(self, algorithm: str, header: Mapping[str, Any]) -> Any:
        known = self._keys.get(str(header.get("kid")))
        if known is not None and algorithm in known.algorithms:
            return known.key
        if algorithm in _HMAC and self.config.jwt_secret is not None:
            return self.config.jwt_secret
        raise TokenError(TokenFault.SIGNATURE)


async def _read_keys(http: httpx.AsyncClient, url: str) -> Any:
    """The JSON at ``url``. Raises ``httpx.HTTPError``, ``ValueError``."""
    content = bytearray()
    async with http.stream("GET", url, headers={"Accept-Encoding": "identity"}) as answer:
        answer.raise_for_status()
        async for piece in answer.aiter_raw():
            content += piece
            if len(content) > _KEYS:
                raise ValueError(f"{url} has more than {_KEYS} bytes")
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError(f"{url} is nested too deep") from None


async def _same_user(claims: Claims, _: AgentId) -> Hashable | None:
    return claims.sub if claims.role == Role.AUTHENTICATED else None


async def _about(_: Request) -> Response:
    return PlainTextResponse("doorstep relay\n")
