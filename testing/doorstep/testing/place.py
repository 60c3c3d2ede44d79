"""Testing: a place where the two sides of a session meet in this process: a road without a relay.

The handshake and its proofs are real; what comes of it is a pair of :class:`LocalWire` of the road's kind.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field

from doorstep.protocol.errors import DeadlineExceeded, DoorstepError, WireClosed
from doorstep.protocol.frame_types import Role
from doorstep.protocol.ids import AgentId, SessionId
from doorstep.protocol.seal import RANDOM_BYTES, Handshake, Prover
from doorstep.protocol.signaling import RELAY
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.transport.local import LocalWire, local_pair
from doorstep.transport.road import Road

__all__ = ["Place"]


@dataclass(slots=True)
class _Seat:
    """One side at the place, and what the other side says to it; None: it has gone."""

    wire: LocalWire
    """Its own end; replaced when the other side comes."""
    words: asyncio.Queue[bytes | None] = field(default_factory=lambda: asyncio.Queue[bytes | None](8))
    other: asyncio.Future[_Seat] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    async def hear(self) -> bytes:
        word = await self.words.get()
        if word is None:
            raise WireClosed("the peer closed the connection")
        return word


class Place:
    """Give :attr:`road` to both sides. ``fails`` is raised instead, as where there is no such place."""

    def __init__(self, kind: str = RELAY, timing: Timing = DEFAULT_TIMING) -> None:
        self.road = Road(kind, self._meet)
        self.fails: DoorstepError | None = None
        self.came: list[tuple[Role, SessionId]] = []
        """Everybody who came, in order."""
        self.wires: list[LocalWire] = []
        """One end of every wire."""
        self._kind = kind
        self._timing = timing
        self._waiting: dict[tuple[SessionId, AgentId, Role], _Seat] = {}

    async def _meet(
        self, *, role: Role, session_id: SessionId, agent_id: AgentId, prover: Prover
    ) -> LocalWire:
        self.came.append((role, session_id))
        if self.fails is not None:
            raise self.fails
        here = session_id, agent_id, role
        there = session_id, agent_id, Role.AGENT if role is Role.CLIENT else Role.CLIENT
        peer = self._waiting.pop(there, None)
        mine, other = local_pair()
        seat = _Seat(mine)
        if peer is None:
            self._waiting[here] = seat
        else:
            peer.wire = other
            mine.kind = other.kind = self._kind
            self.wires.append(mine)
            seat.other.set_result(peer)
            peer.other.set_result(seat)
        try:
            async with asyncio.timeout(self._timing.relay_wait):
                await asyncio.wait({seat.other})
        except TimeoutError:
            raise DeadlineExceeded("relay_wait", self._timing.relay_wait) from None
        except asyncio.CancelledError:
            if seat.other.done():
                seat.other.result().words.put_nowait(None)
                await seat.wire.close("gone")
            raise
        finally:
            if self._waiting.get(here) is seat:
                del self._waiting[here]
        return await self._greet(seat, Handshake(role, session_id, agent_id, _random()), prover)

    async def _greet(self, seat: _Seat, handshake: Handshake, prover: Prover) -> LocalWire:
        other = seat.other.result()
        try:
            other.words.put_nowait(handshake.greeting())
            channel = handshake.complete(await seat.hear())
            other.words.put_nowait(channel.prove(prover))
            channel.check(await seat.hear(), prover)
        except BaseException:
            other.words.put_nowait(None)
            await seat.wire.close("no handshake")
            raise
        return seat.wire


def _random() -> bytes:
    return secrets.token_bytes(RANDOM_BYTES)
