"""Runtime, layer 2: a session: the greeting, every frame to whom it concerns, and one orderly end.

::

    Wire ──▶ Session.receive ─┬─ StreamRegistry ──▶ Stream ──▶ service
                              ├─ IncomingCalls ───▶ service          all of them ──▶ Outbound ──▶ Wire
                              ├─ OutgoingCalls
                              └─ Pulse
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from doorstep.protocol.errors import DeadlineExceeded, ProtocolError, SessionClosed, WireClosed
from doorstep.protocol.frames import (
    PROTOCOL_VERSION,
    Accept,
    Call,
    Data,
    Datagram,
    Fin,
    Frame,
    Hello,
    Open,
    Ping,
    Pong,
    Reply,
    Reset,
    Role,
    Switch,
    Tell,
    Welcome,
    Window,
)
from doorstep.protocol.ids import SessionId
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import MAX_FRAME, STREAMS_PER_SESSION
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.runtime.calls import IncomingCalls, OutgoingCalls
from doorstep.runtime.outbound import Outbound
from doorstep.runtime.pulse import Beat, Pulse
from doorstep.runtime.registry import StreamRegistry
from doorstep.runtime.services import Router, Service
from doorstep.runtime.streams import Stream
from doorstep.runtime.tasks import TaskOwner
from doorstep.transport.wire import Wire

__all__ = ["Session", "SessionState"]

logger = logging.getLogger("doorstep.runtime")

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class SessionState(StrEnum):
    """A session is started once and closed once."""

    NEW = "new"
    GREETING = "greeting"
    OPEN = "open"
    CLOSED = "closed"


TRANSITIONS: Mapping[SessionState, frozenset[SessionState]] = MappingProxyType(
    {
        SessionState.NEW: frozenset({SessionState.GREETING, SessionState.CLOSED}),
        SessionState.GREETING: frozenset({SessionState.OPEN, SessionState.CLOSED}),
        SessionState.OPEN: frozenset({SessionState.CLOSED}),
        SessionState.CLOSED: frozenset(),
    }
)


class Session:
    """One session with one peer: streams, calls and services over a wire that the session owns.

    Everything it starts ends with it: :meth:`close`, the loss of the wire and a broken protocol all take the
    same way out, and :meth:`wait_closed` returns when nothing is left.
    """

    def __init__(
        self,
        *,
        role: Role,
        session_id: SessionId,
        services: Mapping[str, Service] = MappingProxyType({}),
        about: Mapping[str, Any] = _NOTHING,
        timing: Timing = DEFAULT_TIMING,
    ) -> None:
        """``about`` is what the peer sees as :attr:`peer`; an agent's is {name, platform, version}."""
        self.role = role
        self.id = session_id
        self.peer: dict[str, Any] = {}
        """What the peer said about itself in its greeting."""
        self._about = dict(about)
        self._timing = timing
        self._state = SessionState.NEW
        self._reason = ""
        self._router = Router(services)
        self._tasks = TaskOwner()
        self._pulse = Pulse(timing)
        self._ticker: asyncio.TimerHandle | None = None
        self._greeted = asyncio.Event()
        self._early: list[tuple[Lane, Frame]] = []
        self._round_trip: float | None = None
        self._pongs = 0
        self._ending: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Session {self.id} {self.role} {self._state}>"

    # --- life ---

    async def start(self, wire: Wire) -> None:
        """Greet the peer over ``wire``, which belongs to the session from now on, even when this raises.

        Raises :class:`DeadlineExceeded` when the greeting takes longer than ``Timing.ice``,
        :class:`SessionClosed` when the wire is lost, the peer breaks the protocol or :meth:`close` is called.
        """
        if self._state is not SessionState.NEW:
            await wire.close("the session was already started or closed")
            raise SessionClosed(self._reason or "it was already started")
        self._build(wire)
        self._move(SessionState.GREETING)
        try:
            await self._greet()
        except BaseException as error:
            await self.close(f"no greeting: {error}" if str(error) else "no greeting")
            raise

    def _build(self, wire: Wire) -> None:
        self._wire = wire
        self._outbound = Outbound(wire, self._lost)
        self._streams = StreamRegistry(self, self._outbound, self._router, self._tasks)
        self._outgoing = OutgoingCalls(self._outbound)
        self._incoming = IncomingCalls(self, self._outbound, self._router, self._tasks, self._timing.repeat)
        self._handlers = self._make_handlers()

    async def _greet(self) -> None:
        self._tasks.spawn(self._watch(), f"session {self.id} wire")
        self._wire.start(self._receive)
        if self.role is Role.CLIENT and not self.closed:
            self._outbound.send(Lane.CONTROL, self._hello())
        try:
            async with asyncio.timeout(self._timing.ice):
                await self._greeted.wait()
        except TimeoutError:
            raise DeadlineExceeded("greeting", self._timing.ice) from None
        if self.closed:
            raise SessionClosed(self._reason)

    async def _watch(self) -> None:
        self._end(f"the wire is gone: {await self._wire.wait_closed()}")

    async def close(self, reason: str = "closed") -> None:
        """End handlers, streams, calls and the wire; return when nothing is left. Idempotent."""
        self._end(reason)
        assert self._ending is not None
        await asyncio.shield(self._ending)

    async def wait_closed(self) -> str:
        """Wait until the session has ended and nothing of it is left; return the reason."""
        await self._gone.wait()
        return self._reason

    def _lost(self, error: WireClosed) -> None:
        self._end(f"the wire is gone: {error}")

    def _end(self, reason: str) -> None:
        """The one way out; the first reason counts. What others wait for fails now, the rest is cleared."""
        if self.closed:
            return
        started = self._state is not SessionState.NEW
        self._reason = reason
        self._move(SessionState.CLOSED)
        logger.info("session %s ended: %s", self.id, reason)
        if started:
            self._outbound.end(reason)
            self._streams.end(reason)
            self._outgoing.end(reason)
        self._early.clear()
        self._greeted.set()
        if self._ticker is not None:
            self._ticker.cancel()
        self._ending = asyncio.create_task(self._clear_away(started), name=f"session {self.id} end")

    async def _clear_away(self, started: bool) -> None:
        self._tasks.cancel()
        try:
            if started:
                await self._close_wire()
        finally:
            await self._tasks.ended(self._timing.shutdown)
            self._gone.set()

    async def _close_wire(self) -> None:
        try:
            async with asyncio.timeout(self._timing.shutdown):
                await self._wire.close(self._reason)
        except TimeoutError:
            logger.error("session %s: its wire did not close within %g s", self.id, self._timing.shutdown)

    def _move(self, state: SessionState) -> None:
        if state not in TRANSITIONS[self._state]:
            raise SessionClosed(f"a session that is {self._state} cannot become {state}")
        logger.debug("session %s: %s -> %s", self.id, self._state, state)
        self._state = state

    # --- what programs see ---

    @property
    def state(self) -> SessionState:
        return self._state

    @property
    def closed(self) -> bool:
        """The session has ended, or is about to have."""
        return self._state is SessionState.CLOSED

    @property
    def wire(self) -> Wire:
        """The wire it runs on. Raises :class:`SessionClosed` before :meth:`start`."""
        if self._state is SessionState.NEW:
            raise SessionClosed("it was not started")
        return self._wire

    @property
    def stalled(self) -> bool:
        """Nothing has come from the peer for ``Timing.silence``."""
        return self._state is SessionState.OPEN and self._pulse.stalled

    async def open(
        self,
        service: str,
        method: str,
        params: Mapping[str, Any] = _NOTHING,
        *,
        lane: Lane,
        window: int | None = None,
        timeout: float | None = None,
    ) -> Stream:
        """Open a stream and wait until the peer has taken it.

        ``window`` bounds what is kept unread here; ``timeout`` is in seconds, ``Timing.call`` by default. An
        opener that gives up, by timeout or cancellation, resets the stream. Raises :class:`RemoteError` when
        the service refuses, :class:`DeadlineExceeded`, :class:`InvalidInput`, :class:`SessionClosed`.
        """
        self._require_open()
        limit = self._timing.call if timeout is None else timeout
        return await self._streams.open(service, method, params, lane, window, limit)

    async def call(
        self, route: str, params: Mapping[str, Any] = _NOTHING, *, timeout: float | None = None
    ) -> dict[str, Any]:
        """Call ``service.method`` and return its result; ``timeout`` is ``Timing.call`` by default.

        Raises :class:`RemoteError` with the service's code, :class:`DeadlineExceeded`, :class:`InvalidInput`
        when ``params`` is not JSON or too large, :class:`SessionClosed`.
        """
        self._require_open()
        return await self._outgoing.call(route, params, self._timing.call if timeout is None else timeout)

    def tell(self, route: str, params: Mapping[str, Any] = _NOTHING) -> None:
        """Call ``service.method`` without an answer. Raises :class:`InvalidInput`, :class:`SessionClosed`."""
        self._require_open()
        self._outgoing.tell(route, params)

    def stats(self) -> dict[str, object]:
        """What is known about the session, ready for JSON; ``rtt`` in seconds, bytes are those of streams."""
        if self._state is SessionState.NEW:
            return {"wire": None}
        return {
            "wire": self._wire.kind,
            "rtt": self._round_trip,
            "bytesIn": self._streams.received_bytes,
            "bytesOut": self._outbound.bytes,
            "streams": len(self._streams),
            "calls": len(self._outgoing),
            "stalled": self.stalled,
            "transport": self._wire.stats(),
        }

    def _require_open(self) -> None:
        if self._state is not SessionState.OPEN:
            raise SessionClosed(self._reason or "it was not started")

    # --- frames in ---

    def _receive(self, lane: Lane, frame: Frame) -> None:
        """Take one frame from the wire; whatever goes wrong ends the session, never the wire's reader."""
        if self._state is SessionState.CLOSED:
            return
        self._pulse.heard()
        try:
            if type(frame) is Data and self._state is SessionState.OPEN:
                self._streams.receive_data(lane, frame)
            else:
                self._dispatch(lane, frame)
        except SessionClosed:
            return  # ended while at it; the reason is known
        except ProtocolError as error:
            self._end(f"the peer broke the protocol: {error}")
        except Exception:
            logger.exception("session %s: a frame could not be handled", self.id)
            self._end("internal error")

    def _dispatch(self, lane: Lane, frame: Frame) -> None:
        if self._state is SessionState.GREETING and type(frame) not in (Hello, Welcome):
            self._keep_early(lane, frame)
        else:
            self._handlers[type(frame)](lane, frame)

    def _keep_early(self, lane: Lane, frame: Frame) -> None:
        """The agent may open streams at once, on lanes that overtake its WELCOME."""
        if self.role is Role.AGENT or type(frame) is not Open or lane is Lane.CONTROL:
            raise ProtocolError(f"{type(frame).__name__} before the greeting")
        if len(self._early) >= STREAMS_PER_SESSION:
            raise ProtocolError("too many streams before the greeting")
        self._early.append((lane, frame))

    def _make_handlers(self) -> dict[type, Callable[[Lane, Any], None]]:
        streams, outgoing, incoming = self._streams, self._outgoing, self._incoming
        return {
            Hello: self._receive_hello,
            Welcome: self._receive_welcome,
            Open: streams.receive_open,
            Accept: streams.receive_accept,
            Data: streams.receive_data,
            Window: streams.receive_window,
            Fin: streams.receive_fin,
            Reset: streams.receive_reset,
            Call: lambda _, frame: incoming.receive_call(frame),
            Reply: lambda _, frame: outgoing.receive_reply(frame),
            Tell: lambda _, frame: incoming.receive_tell(frame),
            Datagram: lambda _, __: None,  # latency first: nobody listens, it is lost
            Ping: self._receive_ping,
            Pong: self._receive_pong,
            Switch: self._receive_switch,
        }

    # --- the greeting (wire.md §6, HELLO and WELCOME) ---

    def _hello(self) -> Hello:
        return Hello(PROTOCOL_VERSION, self.id, self.role, [], self._max_frame(), self._about)

    def _max_frame(self) -> int:
        return min(MAX_FRAME, self._wire.max_frame)

    def _receive_hello(self, _: Lane, frame: Hello) -> None:
        if self.role is not Role.AGENT or frame.role is not Role.CLIENT:
            raise ProtocolError("HELLO from one that is not a client")
        self._check_greeting(frame)
        welcome = Welcome(PROTOCOL_VERSION, self.id, self.role, [], self._max_frame(), self._about)
        self._outbound.send(Lane.CONTROL, welcome)
        self._begin(frame.client, frame.max_frame)

    def _receive_welcome(self, _: Lane, frame: Welcome) -> None:
        if self.role is not Role.CLIENT or frame.role is not Role.AGENT:
            raise ProtocolError("WELCOME from one that is not an agent")
        self._check_greeting(frame)
        self._begin(frame.agent, frame.max_frame)

    def _check_greeting(self, frame: Hello | Welcome) -> None:
        if self._state is not SessionState.GREETING:
            raise ProtocolError("a second greeting")
        if frame.version != PROTOCOL_VERSION:
            raise ProtocolError(f"protocol version {frame.version}; this side speaks {PROTOCOL_VERSION}")

    def _begin(self, peer: dict[str, Any], max_frame: int) -> None:
        self.peer = peer
        self._outbound.limit_frames(max_frame)
        self._move(SessionState.OPEN)
        self._greeted.set()
        self._ticker = asyncio.get_running_loop().call_later(self._pulse.interval, self._tick)
        early, self._early = self._early, []
        for lane, frame in early:
            self._handlers[type(frame)](lane, frame)

    # --- the pulse ---

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        was_stalled = self._pulse.stalled
        beat = self._pulse.tick(self._outbound.frames - self._pongs)
        if self._pulse.stalled and not was_stalled:
            logger.warning("session %s: nothing from the peer for %g s", self.id, self._timing.silence)
        if beat is Beat.LOST:
            self._end(f"the wire is lost: nothing came for {self._timing.give_up:g} s")
            return
        self._ticker = loop.call_later(self._pulse.interval, self._tick)
        if beat is Beat.PING:
            try:
                self._outbound.send(Lane.CONTROL, Ping(_microseconds(loop)))
            except SessionClosed:
                return  # the ticker is cancelled

    def _receive_ping(self, _: Lane, frame: Ping) -> None:
        self._outbound.send(Lane.CONTROL, Pong(frame.timestamp))
        self._pongs += 1

    def _receive_pong(self, _: Lane, frame: Pong) -> None:
        elapsed = _microseconds(asyncio.get_running_loop()) - frame.timestamp
        if elapsed >= 0:
            self._round_trip = elapsed / 1e6

    def _receive_switch(self, _: Lane, __: Switch) -> None:
        raise ProtocolError("SWITCH without a second wire")


def _microseconds(loop: asyncio.AbstractEventLoop) -> int:
    return int(loop.time() * 1e6)
