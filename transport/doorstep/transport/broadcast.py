"""Transport, layer 0: a slow wire over a private Realtime channel, for when there is no other road.

It costs the back end's quota: few messages, paced, and only the lanes a shell needs. Frames are sealed end to
end as on the relay; frames wait by lane and are sealed when their message goes, the most urgent first.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque

from doorstep.protocol.errors import DeadlineExceeded, DoorstepError, InvalidInput, ProtocolError, WireClosed
from doorstep.protocol.frame_types import Role
from doorstep.protocol.frames import Frame, decode, encode
from doorstep.protocol.ids import AgentId, SessionId, wire_topic
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import (
    BROADCAST_HIGH_WATER,
    BROADCAST_LOW_WATER,
    LANE_LIMIT,
    MAX_FRAME,
    MIB,
)
from doorstep.protocol.seal import RANDOM_BYTES, Handshake, Prover, SealedChannel
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.transport.broadcast_link import BroadcastLink
from doorstep.transport.lane_queues import LaneQueues
from doorstep.transport.signaling import Signaling
from doorstep.transport.wire import Receiver, Traits

__all__ = ["BroadcastWire", "open_broadcast"]

_log = logging.getLogger("doorstep.transport")

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


class BroadcastWire:
    """One end. See :class:`~doorstep.transport.wire.Wire` for the contract of each method."""

    kind = "broadcast"
    traits = TRAITS
    max_frame = MAX_FRAME

    def __init__(
        self, link: BroadcastLink, channel: SealedChannel, outbox: deque[bytes], steps: dict[str, float]
    ) -> None:
        self._link = link
        self._channel = channel
        self._outbox = outbox  # the rest of the handshake
        self._steps = steps
        self._queues = LaneQueues(
            [lane for lane in Lane if lane in TRAITS.lanes], BROADCAST_HIGH_WATER, BROADCAST_LOW_WATER
        )
        self._receiver: Receiver | None = None
        self._started = asyncio.Event()
        self._reason: str | None = None
        self._stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ended = asyncio.Event()
        self._bytes_out = self._bytes_in = self._frames_out = self._frames_in = 0
        link.source = self._next
        self._running = asyncio.create_task(self._run(), name="broadcast wire")

    # sending

    def send(self, lane: Lane, frame: Frame) -> None:
        if self._reason is not None:
            raise WireClosed(self._reason)
        if lane not in self.traits.lanes:
            raise InvalidInput("lane", f"{lane} is not carried over {self.kind}")
        data = encode(frame)
        if len(data) > self.max_frame:
            raise InvalidInput("frame", f"has {len(data)} bytes, the peer takes at most {self.max_frame}")
        if self.buffered(lane) + len(data) > LANE_LIMIT:
            self._end(f"more than {LANE_LIMIT // MIB} MiB wait on the lane {lane}")
            raise WireClosed(self._reason or "")
        self._queues.put(lane, data)
        self._link.offer()

    def buffered(self, lane: Lane) -> int:
        return self._queues.buffered.get(lane, 0)

    async def drained(self, lane: Lane) -> None:
        if self._reason is None and lane in self.traits.lanes:
            await self._queues.room(lane)
        if self._reason is not None:
            raise WireClosed(self._reason)

    def _next(self) -> bytes | None:
        """What the link sends next."""
        if self._outbox:
            return self._outbox.popleft()
        if (taken := self._queues.take()) is None:
            return None
        self._queues.gone(*taken)
        self._frames_out += 1
        self._bytes_out += len(taken[1])
        return self._channel.seal(*taken)

    # receiving

    def start(self, receiver: Receiver) -> None:
        assert self._receiver is None, "start() is called once"
        self._receiver = receiver
        self._started.set()

    async def _read(self) -> None:
        await self._started.wait()
        assert self._receiver is not None
        while True:
            opened = self._channel.open(await self._link.receive())
            if isinstance(opened, int):
                raise ProtocolError("a count of bulk, which is not carried")
            lane, data = opened
            if lane not in self.traits.lanes:
                raise ProtocolError(f"a frame on lane {lane}, which is not carried")
            self._frames_in += 1
            self._bytes_in += len(data)
            frame = decode(data)
            if frame is not None and self._reason is None:
                self._receiver(lane, frame)

    # life

    async def _run(self) -> None:
        """Read until the link ends or we do; then say why and release everything."""
        reading = asyncio.create_task(self._read(), name="broadcast read")
        ending = asyncio.create_task(self._until_ended(), name="broadcast end")
        parts = {reading, ending}
        try:
            await asyncio.wait({*parts, self._stop}, return_when=asyncio.FIRST_COMPLETED)
            if self._started.is_set() and not self._stop.done():
                await asyncio.wait({reading, self._stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._end(_reason_of([part for part in parts if part.done() and not part.cancelled()]))
            for part in parts:
                part.cancel()
            await asyncio.wait(parts)
            await self._link.close()
            self._ended.set()

    async def _until_ended(self) -> None:
        raise WireClosed(await self._link.wait_ended())

    def _end(self, reason: str) -> None:
        """Say that the wire is gone; the first reason stays."""
        if self._reason is None:
            self._reason = reason
            self._queues.clear()
            self._stop.set_result(None)

    async def wait_closed(self) -> str:
        await self._ended.wait()
        return self._reason or "closed"

    async def close(self, reason: str = "closed") -> None:
        try:
            if self._reason is None:
                await self._link.flush()
        finally:
            self._end(reason)
        await self._ended.wait()

    def stats(self) -> dict[str, object]:
        return {
            "kind": self.kind,
            "state": "open" if self._reason is None else "closed",
            "bytesOut": self._bytes_out,
            "bytesIn": self._bytes_in,
            "framesOut": self._frames_out,
            "framesIn": self._frames_in,
            "buffered": {lane.value: waiting for lane, waiting in self._queues.buffered.items()},
            "connectMs": dict(self._steps),
            **self._link.stats(),
        }


def _reason_of(parts: list[asyncio.Task[None]]) -> str:
    """Of what ended the wire a broken protocol says more than the lost link."""
    errors = [part.exception() for part in parts]
    for error in errors:
        if isinstance(error, ProtocolError):
            _log.warning("a broadcast wire ends: %s", error)
            return f"protocol error: {error}"
    for error in errors:
        if error is not None and not isinstance(error, DoorstepError):
            _log.error("a broadcast wire ends", exc_info=error)
            return "internal error"
    return next((str(error) for error in errors if error is not None), "closed")


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
