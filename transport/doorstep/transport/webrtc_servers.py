"""Transport, below the wire: what ``iceServers`` name, read (RFC 7064, RFC 7065, W3C ``RTCIceServer``)."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

from doorstep.protocol.errors import InvalidInput
from doorstep.protocol.signaling import IceServer

__all__ = ["Server", "servers_of"]

_log = logging.getLogger("doorstep.transport")

_SERVERS = 8
"""More are not asked."""
_URL = re.compile(
    r"(?P<scheme>stuns?|turns?):"
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._~%!$&'()*+,;=-]+))"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?:\?transport=(?P<transport>[A-Za-z0-9-]+))?"
)
_PORTS = {"stun": 3478, "turn": 3478, "stuns": 5349, "turns": 5349}


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A STUN server, or a TURN server when it has a ``transport``."""

    host: str
    port: int
    transport: str = ""
    tls: bool = False
    username: str | None = None
    credential: str | None = None


def servers_of(ice_servers: Sequence[IceServer]) -> list[Server]:
    """The servers that can be asked; those over a transport we do not have are left out.

    Raises :class:`~doorstep.protocol.errors.InvalidInput` for what is not a stun: or turn: URL.
    """
    found = [server for entry in ice_servers for url in entry.urls if (server := _server(url, entry))]
    return found[:_SERVERS]


def _server(url: str, entry: IceServer) -> Server | None:
    parts = _URL.fullmatch(url)
    if parts is None or (parts["transport"] and parts["scheme"].startswith("stun")):
        raise InvalidInput("iceServers", f"{url[:80]!r} is not a stun: or turn: URL")
    scheme, transport = parts["scheme"], parts["transport"]
    port = int(parts["port"] or _PORTS[scheme])
    if not 0 < port < 65536:
        raise InvalidInput("iceServers", f"{url[:80]!r} has no port from 1 to 65535")
    host = parts["v6"] or parts["host"]
    if scheme == "stun":
        return Server(host=host, port=port)
    transport = transport or ("tcp" if scheme == "turns" else "udp")
    if scheme == "stuns" or (scheme, transport) not in (("turn", "udp"), ("turn", "tcp"), ("turns", "tcp")):
        _log.debug("skipped an ICE server over a transport that is not supported: %s", url)
        return None
    login = {"username": entry.username, "credential": entry.credential}
    return Server(host=host, port=port, transport=transport, tls=scheme == "turns", **login)
