"""Hub: what the request handlers share: one object, made at start, owned by the server."""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.requests import HTTPConnection

from doorstep.hub.bus import Bus
from doorstep.hub.changes import Changes
from doorstep.hub.config import HubConfig
from doorstep.hub.events import OnEvent
from doorstep.hub.keys import Keys
from doorstep.hub.lockout import Lockout
from doorstep.hub.messages import Messages
from doorstep.hub.passwords import Passwords
from doorstep.hub.sockets import Sockets
from doorstep.hub.store import Store
from doorstep.hub.tokens import Claims, TokenError, TokenFault, Tokens

__all__ = ["Services", "bearer", "services"]


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of a running hub."""

    config: HubConfig
    url: str
    keys: Keys
    store: Store
    tokens: Tokens
    passwords: Passwords
    lockout: Lockout
    bus: Bus
    sockets: Sockets
    messages: Messages
    on_event: OnEvent
    changes: Changes = field(default_factory=Changes)


def services(connection: HTTPConnection) -> Services:
    """The services of the hub that serves this request."""
    found: Services = connection.app.state.services
    return found


def bearer(connection: HTTPConnection) -> Claims:
    """Whom a request speaks for: its bearer token, else its ``apikey``; raise :class:`TokenError`.

    The official clients send the project's key in both places until somebody is signed in.
    """
    kind, _, token = connection.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not token.strip():
        token = connection.headers.get("apikey", "")
    if not token.strip():
        raise TokenError(TokenFault.MALFORMED)
    return services(connection).tokens.verify(token)
