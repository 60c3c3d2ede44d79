"""Hub: what the relay and the TURN credentials can be configured to, with defaults, units and reasons."""

from __future__ import annotations

from dataclasses import dataclass

from doorstep.protocol.limits import MAX_FRAME, MIB
from doorstep.protocol.seal import OVERHEAD
from doorstep.protocol.timing import DEFAULT_TIMING

__all__ = ["RelayLimits", "TurnConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayLimits:
    """Waits (seconds) and bounds of the relay.

    What a pairing can make the relay hold, per direction: one message that is being read, what one read from
    the kernel brought (256 KiB), one message that is being written and 64 KiB written and not yet taken.
    """

    join: float = 5.0
    """A socket must have said whose it is after this long."""
    wait: float = DEFAULT_TIMING.relay_wait
    """The other side must have come after this long."""
    idle: float = 60.0
    """A pairing in which nothing was said for this long ends. A session says something every second."""
    stall: float = 30.0
    """A reader that takes nothing for this long is dropped."""
    grace: float = 30.0
    """A newer token may come this long after the older one's expiry."""
    pairing_bytes: int = 256 * 1024 * MIB
    """Bytes of one pairing, both ways together; then it ends and a session makes another."""
    pairing_seconds: float = 24 * 3600.0
    """The life of one pairing."""
    sockets: int = 1000
    sockets_per_user: int = 256
    """128 sessions of one agent (``SESSIONS_PER_AGENT``), both sides."""
    message_bytes: int = MAX_FRAME + OVERHEAD
    """A larger message closes the socket with 1009."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TurnConfig:
    """TURN servers that know ``secret`` (coturn: ``use-auth-secret``, ``static-auth-secret``)."""

    urls: tuple[str, ...]
    """``turn:host:3478?transport=udp`` and so on."""
    secret: str
    seconds: int = 6 * 3600
    """The life of a credential."""
