"""Agent: what happens at the door, for whoever shows it: one frozen event each."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import msgspec

from doorstep.protocol.ids import AgentId, SessionId

__all__ = ["AgentEvent", "EventKind", "OnEvent"]


class EventKind(StrEnum):
    """The things worth showing."""

    ONLINE = "online"  # registered and present; also again after an outage
    OFFLINE = "offline"  # stopped, or the back end is out of reach (``reason``)
    KNOCK = "knock"  # a client asks for a connection
    REFUSED = "refused"  # it was turned down (``reason``)
    CONNECTED = "connected"  # a session has begun (``wire``, ``seconds`` since the knock, ``client_key``)
    RESUMED = "resumed"  # a living session goes on over another connection (as ``connected``)
    FAILED = "failed"  # no connection came of the knock (``reason``)
    SESSION_ENDED = "session-ended"  # (``reason``)


class AgentEvent(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One thing that happened. ``at`` is Unix time in seconds."""

    kind: EventKind = msgspec.field(name="event")
    agent_id: AgentId
    name: str
    at: float = msgspec.field(default_factory=time.time)
    session_id: SessionId | None = None
    wire: str | None = None
    seconds: float | None = None
    reason: str | None = None
    client_key: str | None = None
    """Fingerprint of the key the client has proved; None for a client that proves none."""


OnEvent = Callable[[AgentEvent], Any]
"""Called in the event loop; must not block and must not raise."""
