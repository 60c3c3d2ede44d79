"""Transport, layer 0: a wire through a relay that cannot read it: one WebSocket, frames sealed end to end.

Frames wait in a queue per lane and are sealed when they are sent, the most urgent lane first. Of the bulk
lanes no more is under way than the road carries, or a keystroke would wait behind it in the relay.
"""

from __future__ import annotations

import asyncio
import logging
import secrets

from doorstep.protocol.bulk_window import BULK_LANES, BulkTaken, BulkWindow
from doorstep.protocol.errors import DeadlineExceeded
from doorstep.protocol.frame_types import Role
from doorstep.protocol.ids import AgentId, SessionId
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import LANE_HIGH_WATER, LANE_LOW_WATER
from doorstep.protocol.relay import Join
from doorstep.protocol.seal import RANDOM_BYTES, Handshake, Prover, SealedChannel
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.transport.lane_queues import LaneQueues
from doorstep.transport.relay_socket import RelaySocket, Token, relay_url
from doorstep.transport.sealed_wire import SealedWire
from doorstep.transport.wire import ORDINARY

__all__ = ["RelayWire", "open_relay", "relay_url"]

_log = logging.getLogger("doorstep.transport")

_ALL = frozenset(Lane)
_URGENT = _ALL - BULK_LANES
_FLUSH = 0.2
"""Seconds that :meth:`RelayWire.close` gives to the last frames."""


async def open_relay(
    url: str,
    *,
    role: Role,
    session_id: SessionId,
    agent_id: AgentId,
    token: Token,
    prover: Prover,
    timing: Timing = DEFAULT_TIMING,
) -> RelayWire:
    """Meet the other side of the session at the relay; return the wire when it has proved who it is.

    Both sides call this, in any order, ``Timing.relay_wait`` apart at most. ``url`` is what
    :func:`relay_url` returns. Raises :class:`ConnectFailed`, :class:`DeadlineExceeded` (nobody came),
    :class:`Unauthorized`, :class:`ProtocolError`, and what ``prover`` raises.
    """
    clock = asyncio.get_running_loop().time
    since = clock()
    join = Join(session_id=session_id, agent_id=agent_id, role=role, token=await token())
    socket = await RelaySocket.open(url, join, token, timing)
    paired = clock()
    try:
        async with asyncio.timeout(timing.relay_open):
            handshake = Handshake(role, session_id, agent_id, secrets.token_bytes(RANDOM_BYTES))
            channel = await _greet(socket, handshake, prover)
    except TimeoutError:
        await socket.close()
        raise DeadlineExceeded("relay_open", timing.relay_open) from None
    except BaseException:
        await socket.close()
        raise
    steps = {"paired": _ms(paired - since), "sealed": _ms(clock() - paired)}
    return RelayWire(socket, channel, steps)


async def _greet(socket: RelaySocket, handshake: Handshake, prover: Prover) -> SealedChannel:
    await socket.send(handshake.greeting())
    channel = handshake.complete(await socket.receive())
    await socket.send(channel.prove(prover))
    channel.check(await socket.receive(), prover)
    return channel


class RelayWire(SealedWire):
    """One end. See :class:`~doorstep.transport.wire.Wire` for the contract of each method."""

    kind = "relay"
    traits = ORDINARY

    def __init__(self, socket: RelaySocket, channel: SealedChannel, steps: dict[str, float]) -> None:
        super().__init__(channel, LaneQueues(Lane, LANE_HIGH_WATER, LANE_LOW_WATER), steps)
        self._socket = socket
        self._clock = asyncio.get_running_loop().time
        self._window = BulkWindow(self._clock())
        self._taken = BulkTaken(self._clock())
        self._tell_taken = False
        self._sendable = asyncio.Event()
        self._flushed = asyncio.Event()
        self._flushed.set()
        self._begin(self._write())

    # sending

    def _offer(self) -> None:
        self._flushed.clear()
        self._sendable.set()

    async def _write(self) -> None:
        while True:
            if self._tell_taken:
                self._tell_taken = False
                await self._socket.send(self._channel.seal_count(self._taken.count))
            elif (taken := self._queues.take(_ALL if self._window.open else _URGENT)) is not None:
                await self._send_next(*taken)
            else:
                self._sendable.clear()
                await self._sendable.wait()

    async def _send_next(self, lane: Lane, data: bytes) -> None:
        if lane in BULK_LANES:
            self._window.sent(len(data), self._clock())
        await self._socket.send(self._channel.seal(lane, data))
        self._queues.gone(lane, data)
        self._has_left(len(data))
        if not self._queues:
            self._flushed.set()

    async def _flush(self) -> None:
        try:
            async with asyncio.timeout(_FLUSH):
                await self._flushed.wait()
        except TimeoutError:
            _log.debug("a wire was closed with frames unsent")

    # receiving

    async def _arriving(self) -> bytes:
        return await self._socket.receive()

    def _counted(self, count: int) -> None:
        self._window.taken(count, self._clock())
        self._sendable.set()

    def _deliver(self, lane: Lane, data: bytes) -> None:
        super()._deliver(lane, data)
        if lane in BULK_LANES and self._taken.take(len(data), self._clock()):
            self._tell_taken = True
            self._sendable.set()

    # life

    async def _gone(self) -> str:
        return await self._socket.wait_closed()

    def _end(self, reason: str) -> None:
        super()._end(reason)
        self._flushed.set()

    async def _release(self) -> None:
        await self._socket.close()

    def stats(self) -> dict[str, object]:
        return {
            **super().stats(),
            "relay": self._socket.url,
            "bulkWindow": self._window.window,
            "bulkUnderWay": self._window.under_way,
        }


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
