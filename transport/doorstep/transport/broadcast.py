"""Transport, layer 0: a slow wire over a private Realtime channel, for when there is no other road.

It costs the back end's quota: few messages, paced, and only the lanes a shell needs. Frames are sealed end to
end as on the relay; frames wait by lane and are sealed when their message goes, the most urgent first.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque

from doorstep.protocol.errors import DeadlineExceeded
from doorstep.protocol.frame_types import Role
from doorstep.protocol.ids import AgentId, SessionId, wire_topic
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import BROADCAST_HIGH_WATER, BROADCAST_LOW_WATER
from doorstep.protocol.seal import RANDOM_BYTES, Handshake, Prover, SealedChannel
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.transport.broadcast_link import BroadcastLink
from doorstep.transport.lane_queues import LaneQueues
from doorstep.transport.sealed_wire import SealedWire
from doorstep.transport.signaling import Signaling
from doorstep.transport.wire import Traits

__all__ = ["BroadcastWire", "open_broadcast"]

TRAITS = Traits(
    lanes=frozenset({Lane.CONTROL, Lane.TERMINAL_IO}), high_water=BROADCAST_HIGH_WATER, patience=20.0
)


async def open_broadcast(
    signaling: Signaling,
    *,
    role: Role,
    session_id: SessionId,
    agent_id: AgentId,
    prover: Prover,
    timing: Timing = DEFAULT_TIMING,
) -> BroadcastWire:
    """Meet the other side of the session on its topic; return the wire when it has proved who it is.

    Both sides call this, in any order, ``Timing.broadcast_wait`` apart at most. ``signaling`` is one of its
    own, which is the wire's from now on, even when this raises: :class:`Unauthorized`,
    :class:`SignalingLost`, :class:`DeadlineExceeded` (nobody came), :class:`WireClosed`,
    :class:`ProtocolError`, and what ``prover`` raises.
    """
    clock = asyncio.get_running_loop().time
    since = clock()
    link = BroadcastLink(signaling, wire_topic(agent_id, session_id), role, timing)
    try:
        handshake = Handshake(role, session_id, agent_id, secrets.token_bytes(RANDOM_BYTES))
        outbox = deque([handshake.greeting()])
        link.source = lambda: outbox.popleft() if outbox else None
        await link.open()
        met = clock()
        async with asyncio.timeout(timing.broadcast_open):
            channel = await _greet(link, outbox, handshake, prover)
    except TimeoutError:
        await link.close()
        raise DeadlineExceeded("broadcast_open", timing.broadcast_open) from None
    except BaseException:
        await link.close()
        raise
    steps = {"met": _ms(met - since), "sealed": _ms(clock() - met)}
    return BroadcastWire(link, channel, outbox, steps)


async def _greet(
    link: BroadcastLink, outbox: deque[bytes], handshake: Handshake, prover: Prover
) -> SealedChannel:
    channel = handshake.complete(await link.receive())
    outbox.append(channel.prove(prover))
    link.offer()
    channel.check(await link.receive(), prover)
    return channel


class BroadcastWire(SealedWire):
    """One end. See :class:`~doorstep.transport.wire.Wire` for the contract of each method."""

    kind = "broadcast"
    traits = TRAITS

    def __init__(
        self, link: BroadcastLink, channel: SealedChannel, outbox: deque[bytes], steps: dict[str, float]
    ) -> None:
        lanes = [lane for lane in Lane if lane in TRAITS.lanes]
        super().__init__(channel, LaneQueues(lanes, BROADCAST_HIGH_WATER, BROADCAST_LOW_WATER), steps)
        self._link = link
        self._outbox = outbox  # the rest of the handshake
        link.source = self._next
        self._begin()

    def _offer(self) -> None:
        self._link.offer()

    def _next(self) -> bytes | None:
        """What the link sends next."""
        if self._outbox:
            return self._outbox.popleft()
        if (taken := self._queues.take()) is None:
            return None
        self._queues.gone(*taken)
        self._has_left(len(taken[1]))
        return self._channel.seal(*taken)

    async def _flush(self) -> None:
        await self._link.flush()

    async def _arriving(self) -> bytes:
        return await self._link.receive()

    async def _gone(self) -> str:
        return await self._link.wait_ended()

    async def _release(self) -> None:
        await self._link.close()

    def stats(self) -> dict[str, object]:
        return {**super().stats(), **self._link.stats()}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
