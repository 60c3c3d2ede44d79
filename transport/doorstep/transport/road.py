"""Transport, layer 1: ways to a wire that need no session descriptions: both sides come to the same place.

A side that comes by a :class:`Road` says its kind among the ``capabilities`` of the knock and of its ready.
Where the place is each side is configured with; no message says it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from doorstep.protocol.frame_types import Role
from doorstep.protocol.ids import AgentId, SessionId
from doorstep.protocol.seal import Prover
from doorstep.protocol.signaling import BROADCAST, RELAY
from doorstep.protocol.timing import Timing
from doorstep.transport.broadcast import open_broadcast
from doorstep.transport.relay import open_relay
from doorstep.transport.relay_socket import Token
from doorstep.transport.signaling import Signaling
from doorstep.transport.wire import Wire

__all__ = ["Meet", "Road", "broadcast_road", "relay_road"]


class Meet(Protocol):
    """Comes to the place, and returns the wire when the other side has come and both have proved themselves.

    Raises a ``DoorstepError``: ``DeadlineExceeded`` means that nobody came in time and may be tried again,
    what ``prover`` raises that it is somebody else. Cancelled, it leaves nothing behind.
    """

    async def __call__(
        self, *, role: Role, session_id: SessionId, agent_id: AgentId, prover: Prover
    ) -> Wire: ...


@dataclass(frozen=True, slots=True)
class Road:
    """One way. ``kind`` is its word among the capabilities, and that of its wires."""

    kind: str
    meet: Meet
    costly: bool = False
    """Taken when every other has failed or is late, and given up when one has not: ``Timing.broadcast_*``."""


def relay_road(url: str, token: Token, timing: Timing) -> Road:
    """By the relay at ``url``, as :func:`~doorstep.transport.relay_socket.relay_url` gives it."""

    async def meet(*, role: Role, session_id: SessionId, agent_id: AgentId, prover: Prover) -> Wire:
        return await open_relay(
            url,
            role=role,
            session_id=session_id,
            agent_id=agent_id,
            token=token,
            prover=prover,
            timing=timing,
        )

    return Road(RELAY, meet)


def broadcast_road(signaling: Callable[[], Signaling], timing: Timing) -> Road:
    """Over the session's own channel; ``signaling`` gives a connection of its own for each wire."""

    async def meet(*, role: Role, session_id: SessionId, agent_id: AgentId, prover: Prover) -> Wire:
        return await open_broadcast(
            signaling(), role=role, session_id=session_id, agent_id=agent_id, prover=prover, timing=timing
        )

    return Road(BROADCAST, meet, costly=True)
