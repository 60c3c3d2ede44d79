"""Transport, layer 0: a wire through a relay that cannot read it: one WebSocket, frames sealed end to end.

Frames wait in a queue per lane and are sealed when they are sent, the most urgent lane first. Of the bulk
lanes no more is under way than the road carries, or a keystroke would wait behind it in the relay.
"""

from __future__ import annotations

import asyncio
import logging
import secrets

from doorstep.protocol.bulk_window import BULK_LANES, BulkTaken, BulkWindow
from doorstep.protocol.errors import DeadlineExceeded, DoorstepError, InvalidInput, ProtocolError, WireClosed
from doorstep.protocol.frame_types import Role
from doorstep.protocol.frames import Frame, decode, encode
from doorstep.protocol.ids import AgentId, SessionId
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import LANE_HIGH_WATER, LANE_LIMIT, LANE_LOW_WATER, MAX_FRAME, MIB
from doorstep.protocol.relay import Join
from doorstep.protocol.seal import RANDOM_BYTES, Handshake, Prover, SealedChannel
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.transport.lane_queues import LaneQueues
from doorstep.transport.relay_socket import RelaySocket, Token, relay_url
from doorstep.transport.wire import ORDINARY, Receiver

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


class RelayWire:
    """One end. See :class:`~doorstep.transport.wire.Wire` for the contract of each method."""

    kind = "relay"
    traits = ORDINARY
    max_frame = MAX_FRAME

    def __init__(self, socket: RelaySocket, channel: SealedChannel, steps: dict[str, float]) -> None:
        self._socket = socket
        self._channel = channel
        self._steps = steps
        self._queues = LaneQueues(Lane, LANE_HIGH_WATER, LANE_LOW_WATER)
        self._clock = asyncio.get_running_loop().time
        self._window = BulkWindow(self._clock())
        self._taken = BulkTaken(self._clock())
        self._tell_taken = False
        self._receiver: Receiver | None = None
        self._started = asyncio.Event()
        self._sendable = asyncio.Event()
        self._flushed = asyncio.Event()
        self._flushed.set()
        self._reason: str | None = None
        self._stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ended = asyncio.Event()
        self._bytes_out = self._bytes_in = self._frames_out = self._frames_in = 0
        self._running = asyncio.create_task(self._run(), name="relay wire")

    # sending

    def send(self, lane: Lane, frame: Frame) -> None:
        if self._reason is not None:
            raise WireClosed(self._reason)
        data = encode(frame)
        if len(data) > self.max_frame:
            raise InvalidInput("frame", f"has {len(data)} bytes, the peer takes at most {self.max_frame}")
        if self.buffered(lane) + len(data) > LANE_LIMIT:
            self._end(f"more than {LANE_LIMIT // MIB} MiB wait on the lane {lane}")
            raise WireClosed(self._reason or "")
        self._queues.put(lane, data)
        self._flushed.clear()
        self._sendable.set()

    def buffered(self, lane: Lane) -> int:
        return self._queues.buffered[lane]

    async def drained(self, lane: Lane) -> None:
        if self._reason is None:
            await self._queues.room(lane)
        if self._reason is not None:
            raise WireClosed(self._reason)

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
        self._frames_out += 1
        self._bytes_out += len(data)
        if not self._queues:
            self._flushed.set()

    # receiving

    def start(self, receiver: Receiver) -> None:
        assert self._receiver is None, "start() is called once"
        self._receiver = receiver
        self._started.set()

    async def _read(self) -> None:
        await self._started.wait()  # until then what arrives stays in the socket
        assert self._receiver is not None
        while True:
            opened = self._channel.open(await self._socket.receive())
            if isinstance(opened, int):
                self._window.taken(opened, self._clock())
                self._sendable.set()
            else:
                self._deliver(self._receiver, *opened)

    def _deliver(self, receiver: Receiver, lane: Lane, data: bytes) -> None:
        self._frames_in += 1
        self._bytes_in += len(data)
        frame = decode(data)
        if frame is not None and self._reason is None:
            receiver(lane, frame)
        if lane in BULK_LANES and self._taken.take(len(data), self._clock()):
            self._tell_taken = True
            self._sendable.set()

    # life

    async def _run(self) -> None:
        """Read and write until either ends or the socket does; then say why and release everything."""
        parts: set[asyncio.Task[None]] = {
            asyncio.create_task(self._read(), name="relay read"),
            asyncio.create_task(self._write(), name="relay write"),
            asyncio.create_task(self._watch(), name="relay watch"),
        }
        try:
            await asyncio.wait({*parts, self._stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._end(_reason_of([part for part in parts if part.done() and not part.cancelled()]))
            for part in parts:
                part.cancel()
            await asyncio.wait(parts)
            await self._socket.close()
            self._ended.set()

    async def _watch(self) -> None:
        reason = await self._socket.wait_closed()
        if self._started.is_set():
            # What has arrived is read first; the reader then ends by itself.
            await asyncio.sleep(_FLUSH)
        raise WireClosed(reason)

    def _end(self, reason: str) -> None:
        """Say that the wire is gone; the first reason stays."""
        if self._reason is not None:
            return
        self._reason = reason
        self._queues.clear()
        self._flushed.set()
        self._stop.set_result(None)

    async def wait_closed(self) -> str:
        await self._ended.wait()
        return self._reason or "closed"

    async def close(self, reason: str = "closed") -> None:
        try:
            if self._reason is None:
                async with asyncio.timeout(_FLUSH):
                    await self._flushed.wait()
        except TimeoutError:
            _log.debug("a wire was closed with frames unsent")
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
            "relay": self._socket.url,
            "bulkWindow": self._window.window,
            "bulkUnderWay": self._window.under_way,
            "connectMs": dict(self._steps),
        }


def _reason_of(parts: list[asyncio.Task[None]]) -> str:
    """Of what ended the wire a broken protocol says more than the lost socket."""
    errors = [part.exception() for part in parts]
    for error in errors:
        if isinstance(error, ProtocolError):
            _log.warning("a relay wire ends: %s", error)
            return f"protocol error: {error}"
    for error in errors:
        if error is not None and not isinstance(error, DoorstepError):
            _log.error("a relay wire ends", exc_info=error)
            return "internal error"
    return next((str(error) for error in errors if error is not None), "closed")


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
