"""Runtime, layer 2: a session: the greeting, every frame to whom it concerns, and one orderly end.

::

    Link ──▶ Session.receive ─┬─ StreamRegistry ──▶ Stream ──▶ service
                              ├─ IncomingCalls ───▶ service          all of them ──▶ Outbound ──▶ Link
                              ├─ OutgoingCalls
                              └─ Heart ─────────▶ Pulse
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import StrEnum
from functools import partial
from types import MappingProxyType
from typing import Any

from msgspec import UNSET

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
    Resume,
    Role,
    Switch,
    Tell,
    Welcome,
    Window,
)
from doorstep.protocol.ids import SessionId
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import STREAMS_PER_SESSION, TOKEN_BYTES
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.runtime.calls import IncomingCalls, OutgoingCalls
from doorstep.runtime.heart import Heart
from doorstep.runtime.links import Link, LinkState
from doorstep.runtime.meter import Meter, Totals
from doorstep.runtime.outbound import Outbound
from doorstep.runtime.params import error_message
from doorstep.runtime.registry import StreamRegistry
from doorstep.runtime.services import Router, Service
from doorstep.runtime.streams import Stream
from doorstep.runtime.tasks import TaskOwner
from doorstep.runtime.wire_time import WireTime
from doorstep.transport.wire import Wire
from doorstep.transport.wire_stats import in_one_shape

__all__ = ["Session", "SessionState"]

logger = logging.getLogger("doorstep.runtime")

RESUME = "resume"
"""The feature both sides name when a session may outlive its wire."""
_FAREWELL = 0.5
"""Seconds that a peer which was told of the end has to close the wire: then it has heard for certain."""
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class SessionState(StrEnum):
    """A session is started once and closed once; in between it may be without a wire, more than once."""

    NEW = "new"
    GREETING = "greeting"
    OPEN = "open"
    AWAY = "away"  # no wire; kept for Timing.keep
    CLOSED = "closed"


TRANSITIONS: Mapping[SessionState, frozenset[SessionState]] = MappingProxyType(
    {
        SessionState.NEW: frozenset({SessionState.GREETING, SessionState.CLOSED}),
        SessionState.GREETING: frozenset({SessionState.OPEN, SessionState.NEW, SessionState.CLOSED}),
        SessionState.OPEN: frozenset({SessionState.AWAY, SessionState.CLOSED}),
        SessionState.AWAY: frozenset({SessionState.OPEN, SessionState.CLOSED}),
        SessionState.CLOSED: frozenset(),
    }
)


class Session:
    """One session with one peer: streams, calls and services over wires that the session owns.

    A session that both sides can resume outlives its wires: :meth:`carry` takes it to another one, while the
    last still works or after it was lost. Any other ends with its wire. Everything it starts ends with it:
    :meth:`close`, the end of ``Timing.keep`` and a broken protocol all take the same way out, and
    :meth:`wait_closed` returns when nothing is left.
    """

    def __init__(
        self,
        *,
        role: Role,
        session_id: SessionId,
        services: Mapping[str, Service] = MappingProxyType({}),
        about: Mapping[str, Any] = _NOTHING,
        timing: Timing = DEFAULT_TIMING,
        resume: bool = True,
    ) -> None:
        """``about`` is what the peer sees as :attr:`peer`; an agent's is {name, platform, version}.

        Without ``resume`` the session is not offered to outlive its wire.
        """
        self.role = role
        self.id = session_id
        self.peer: dict[str, Any] = {}
        """What the peer said about itself in its greeting."""
        self.resumable = False
        """Both sides can go on over another wire; known after the greeting."""
        self.agent_key = self.client_key = ""
        """Fingerprints of the keys proved on the way to the wire; for whoever opens the wires to set."""
        self.connect_ms: dict[str, float] = {}
        """Milliseconds that each step of the last connect took; for whoever connects to set."""
        self.relay_reason: Callable[[], str] = str
        """Says why the wire is not of the best kind; for whoever opens the wires to set."""
        self._about = dict(about)
        self._timing = timing
        self._state = SessionState.NEW
        self._reason = ""
        self._features = [RESUME] if resume else []
        self._token = secrets.token_urlsafe(TOKEN_BYTES) if role is Role.AGENT and resume else ""
        self._tasks = TaskOwner()
        self._closings = TaskOwner()
        self._links: set[Link] = set()
        self._link: Link | None = None  # the one that carries the session, or the last that did
        self._wires = 0
        self._answered = False  # the client has said more than HELLO, so it has our WELCOME
        self._router = Router(services)
        self._outbound = Outbound(self._send_failed)
        self._streams = StreamRegistry(self, self._outbound, self._router, self._tasks)
        self._outgoing = OutgoingCalls(self._outbound)
        self._incoming = IncomingCalls(
            self, self._outbound, self._router, self._tasks, timing.repeat, self.time_with_a_wire
        )
        self._heart = Heart(session_id, timing, self._outbound, lost=self._lost, beat=self._note)
        self._handlers = self._make_handlers()
        self._keeping: asyncio.TimerHandle | None = None
        self._wire_time = WireTime()
        self._not_open = asyncio.Event()
        self._meter = Meter()
        self._ending: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Session {self.id} {self.role} {self._state}>"

    # --- life ---

    async def start(self, wire: Wire) -> None:
        """Greet the peer over ``wire``, which belongs to the session from now on, even when this raises.

        Raises :class:`DeadlineExceeded` when the greeting takes longer than ``Timing.ice``,
        :class:`SessionClosed` when the wire is lost, the peer breaks the protocol or :meth:`close` is called.
        Whatever it raises, the session has ended.
        """
        if self._state is not SessionState.NEW:
            await wire.close("the session was already started or closed")
            raise SessionClosed(self._reason or "it was already started")
        try:
            await self.carry(wire)
        except BaseException as error:
            await self.close(f"no greeting: {error}" if str(error) else "no greeting")
            if isinstance(error, WireClosed):
                raise SessionClosed(self._reason) from error
            raise

    async def carry(self, wire: Wire) -> None:
        """Take the session over to ``wire``, which belongs to it from now on; return when it carries it.

        Until then the session goes on over the wire it has. Raises :class:`SessionClosed` when the session
        ends or has ended, :class:`WireClosed` when this wire is lost or refused by the peer,
        :class:`DeadlineExceeded` after ``Timing.ice``; the last two end the wire, not the session, which
        can be given another one. To be cancelled ends the wire too, unless it carries the session already:
        then this returns.
        """
        if self.closed:
            await wire.close(self._reason)
            raise SessionClosed(self._reason)
        if self._state is SessionState.NEW:
            self._move(SessionState.GREETING)
        link = Link(wire)
        self._links.add(link)
        self._tasks.spawn(self._watch(link), f"session {self.id} wire")
        wire.start(partial(self._receive, link))
        if self.role is Role.CLIENT and not self.closed:
            link.send(self._hello(link))
        try:
            async with asyncio.timeout(self._timing.ice):
                await asyncio.wait({link.settled})
        except TimeoutError:
            late = DeadlineExceeded("greeting", self._timing.ice)
            self._drop(link, f"no greeting: {late}")
            raise late from None
        except asyncio.CancelledError:
            if not link.settled.done():
                self._drop(link, "no greeting")
                raise
            # else it comes too late: the session has left its last wire for this one
        if self.closed:
            raise SessionClosed(self._reason)
        link.settled.result()

    async def wait_away(self) -> None:
        """Wait until the session has no wire or has ended."""
        await self._not_open.wait()

    async def close(self, reason: str = "closed") -> None:
        """End handlers, streams, calls and the wires; return when nothing is left. Idempotent."""
        self._end(reason)
        assert self._ending is not None
        await asyncio.shield(self._ending)

    async def wait_closed(self) -> str:
        """Wait until the session has ended and nothing of it is left; return the reason."""
        await self._gone.wait()
        return self._reason

    def _end(self, reason: str, code: str = "closed", *, tell: bool = True) -> None:
        """The one way out; the first reason counts. What others wait for fails now, the rest is cleared.

        The peer is told, for it would wait for another wire otherwise.
        """
        if self.closed:
            return
        self._reason = reason
        if tell and self._state is SessionState.OPEN and self.resumable and self._link is not None:
            self._link.send(Reset(0, code, error_message(reason)))
            self._link.farewell = True
        self._move(SessionState.CLOSED)
        logger.info("session %s ended: %s", self.id, reason)
        self._outbound.end(reason)
        self._streams.end(reason)
        self._outgoing.end(reason)
        self._not_open.set()
        self._stop_timers()
        self._ending = asyncio.create_task(self._clear_away(), name=f"session {self.id} end")

    def _stop_timers(self) -> None:
        self._heart.stop()
        if self._keeping is not None:
            self._keeping.cancel()

    async def _clear_away(self) -> None:
        self._tasks.cancel()
        try:
            for link in list(self._links):
                self._drop(link, self._reason)
            await self._closings.ended(2 * self._timing.shutdown)
            self._closings.cancel()
        finally:
            await self._tasks.ended(self._timing.shutdown)
            self._gone.set()

    def _move(self, state: SessionState) -> None:
        if state not in TRANSITIONS[self._state]:
            raise SessionClosed(f"a session that is {self._state} cannot become {state}")
        logger.debug("session %s: %s -> %s", self.id, self._state, state)
        self._state = state

    # --- its wires ---

    async def _watch(self, link: Link) -> None:
        reason = await link.wire.wait_closed()
        self._drop(link, f"the wire is gone: {reason}")

    def _send_failed(self, wire: Wire, error: WireClosed) -> None:
        if self._link is not None and self._link.wire is wire:
            self._drop(self._link, f"the wire is gone: {error}")

    def _drop(self, link: Link, reason: str) -> None:
        """This wire is gone or must go; the session goes on if it can."""
        carried = link.state is LinkState.CARRYING
        if not link.end(reason):
            return
        self._links.discard(link)
        self._closings.spawn(self._close_wire(link), f"session {self.id} close wire")
        if carried:
            self._away(reason)
        elif self._state is SessionState.GREETING and not self._links:
            self._move(SessionState.NEW)
        elif self._link is not None and self._link.quiet.is_set() and not self._is_greeting():
            self._drop(self._link, "the peer has left for a wire that is gone")

    def _is_greeting(self) -> bool:
        return any(link.greeting for link in self._links)

    async def _close_wire(self, link: Link) -> None:
        try:
            async with asyncio.timeout(self._timing.shutdown):
                if link.farewell:
                    await self._heard(link)
                await link.wire.close(link.reason)
        except TimeoutError:
            logger.error("session %s: its wire did not close within %g s", self.id, self._timing.shutdown)

    async def _heard(self, link: Link) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                await link.wire.wait_closed()

    def _away(self, reason: str) -> None:
        """No wire carries the session any more."""
        if self.closed:
            return
        if not self.resumable:
            self._end(reason)
            return
        loop = asyncio.get_running_loop()
        logger.info("session %s is without a wire: %s", self.id, reason)
        self._outbound.use(None)
        self._move(SessionState.AWAY)
        self._wire_time.change(frozenset(), loop.time())
        self._stop_timers()
        ended = f"no wire for {self._timing.keep:g} s, since {reason}"
        self._keeping = loop.call_later(self._timing.keep, self._end, ended)
        self._not_open.set()

    def _go_over(self, link: Link) -> None:
        """``link`` carries the session from now on."""
        last, self._link = self._link, link
        self._wire_time.change(link.wire.traits.lanes, asyncio.get_running_loop().time())
        if self._state is not SessionState.OPEN:
            self._move(SessionState.OPEN)
        self._stop_timers()
        self._not_open.clear()
        self._wires += 1
        link.move(LinkState.CARRYING)
        self._outbound.use(link.wire, link.peer_max_frame)
        self._meter.restart(asyncio.get_running_loop().time(), self._totals())
        self._heart.start(resumable=self.resumable, patience=link.wire.traits.patience)
        if last is not None and last.state is LinkState.CARRYING:
            last.leave()
            self._closings.spawn(self._leave(last), f"session {self.id} leave wire")
        if link.positions is not None:
            logger.info("session %s goes on over another wire: %s", self.id, link.wire.kind)
            self._heart.ping()
            self._streams.resume(link.positions)
            self._tasks.spawn(self._outgoing.repeat(), f"session {self.id} repeat calls")

    async def _leave(self, link: Link) -> None:
        """Take what the peer still sends on a wire that was left, for a while."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timing.shutdown):
                await link.quiet.wait()
        self._drop(link, "the session goes on over another wire")

    def time_with_a_wire(self, lane: Lane = Lane.CONTROL) -> float:
        """A clock in seconds that stands still while no wire carries the lane."""
        return self._wire_time.read(lane, asyncio.get_running_loop().time())

    # --- what programs see ---

    @property
    def state(self) -> SessionState:
        return self._state

    @property
    def closed(self) -> bool:
        """The session has ended, or is about to have."""
        return self._state is SessionState.CLOSED

    @property
    def wires(self) -> int:
        """How many wires have carried it so far."""
        return self._wires

    @property
    def wire(self) -> Wire:
        """The wire it runs on, or ran on last. Raises :class:`SessionClosed` before the greeting."""
        if self._link is None:
            raise SessionClosed(self._reason or "it was not started")
        return self._link.wire

    @property
    def stalled(self) -> bool:
        """There is no wire, or nothing has come from the peer for ``Timing.silence``."""
        return self._state is SessionState.AWAY or (self._state is SessionState.OPEN and self._heart.stalled)

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

        ``window`` bounds what is kept unread here; ``timeout`` is in seconds. Without one it is
        ``Timing.call``, of the time in which a wire carries the lane. An opener that gives up, by timeout or
        cancellation, resets the stream. Raises :class:`RemoteError` when the service refuses,
        :class:`NotCarried` when the wire there is now has no such lane, :class:`DeadlineExceeded`,
        :class:`InvalidInput`, :class:`SessionClosed`.
        """
        self._require_open()
        seconds = self._timing.call if timeout is None else timeout
        limit = self._wire_time.timeout(lane, seconds) if timeout is None else asyncio.timeout(timeout)
        try:
            return await self._streams.open(service, method, params, lane, window, limit)
        except TimeoutError:
            raise DeadlineExceeded(f"open {service}.{method}", seconds) from None

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
        """Call ``service.method`` without an answer, at most once: it is lost with its wire, or without one.

        Raises :class:`InvalidInput`, :class:`SessionClosed`.
        """
        self._require_open()
        self._outgoing.tell(route, params)

    def stats(self) -> dict[str, object]:
        """What is known about the session, ready for JSON; docs/network.md explains each field.

        The shape is the same on every wire: what is not known is None. Before the first wire there is only
        ``wire``, None.
        """
        if self._link is None:
            return {"wire": None}
        now, totals = asyncio.get_running_loop().time(), self._totals()
        transport = in_one_shape(self._link.wire.stats())
        measured = transport["roundTripMs"]
        pinged = self._heart.round_trip
        rate_in, rate_out = self._meter.rates(now, totals)
        return {
            "state": self._state.value,
            "wire": self._link.wire.kind,
            "relayReason": self.relay_reason(),
            "wires": self._wires,
            "resumable": self.resumable,
            "stalled": self.stalled,
            "agentKey": self.agent_key or None,
            "clientKey": self.client_key or None,
            "roundTripMs": _milliseconds(pinged) if measured is None else measured,
            "loss": self._meter.loss(now, totals),
            "rateIn": rate_in,
            "rateOut": rate_out,
            "bytesIn": self._streams.received_bytes,
            "bytesOut": self._outbound.bytes,
            "unacknowledged": self._streams.unacknowledged,
            "streams": len(self._streams),
            "calls": len(self._outgoing),
            "connectMs": dict(self.connect_ms),
            "transport": transport,
        }

    def _totals(self) -> Totals:
        told = {} if self._link is None else self._link.wire.stats()
        return Totals.of(self._streams.received_bytes, self._outbound.bytes, told)

    def _require_open(self) -> None:
        if self._state not in (SessionState.OPEN, SessionState.AWAY):
            raise SessionClosed(self._reason or "it was not started")

    # --- frames in ---

    def _receive(self, link: Link, lane: Lane, frame: Frame) -> None:
        """Take one frame from a wire; whatever goes wrong ends the wire or the session, never the reader."""
        if self._state is SessionState.CLOSED or link.state is LinkState.GONE:
            return
        if link is self._link:
            self._heart.heard()
        try:
            if type(frame) is Data and not link.greeting:
                self._streams.receive_data(lane, frame)
            else:
                self._dispatch(link, lane, frame)
        except SessionClosed:
            return  # ended while at it; the reason is known
        except ProtocolError as error:
            self._broken(link, f"the peer broke the protocol: {error}")
        except Exception:
            logger.exception("session %s: a frame could not be handled", self.id)
            self._end("internal error", "internal")

    def _broken(self, link: Link, reason: str) -> None:
        if link.greeting:
            logger.warning("session %s: a wire is refused: %s", self.id, reason)
            self._drop(link, reason)
        else:
            self._end(reason, "protocol")

    def _dispatch(self, link: Link, lane: Lane, frame: Frame) -> None:
        if type(frame) is Hello:
            self._receive_hello(link, frame)
        elif type(frame) is Welcome:
            self._receive_welcome(link, frame)
        elif type(frame) is Switch:
            self._receive_switch(link)
        elif link.state is LinkState.GREETING:
            self._keep_early(link, lane, frame)
        else:
            self._answered = True
            if link.state is LinkState.WELCOMED:
                self._go_over(link)
            self._handlers[type(frame)](lane, frame)

    def _keep_early(self, link: Link, lane: Lane, frame: Frame) -> None:
        """The agent may open streams at once, on lanes that overtake its WELCOME."""
        first = self._state is SessionState.GREETING
        if self.role is Role.AGENT or not first or type(frame) is not Open or lane is Lane.CONTROL:
            raise ProtocolError(f"{type(frame).__name__} before the greeting")
        if len(link.early) >= STREAMS_PER_SESSION:
            raise ProtocolError("too many streams before the greeting")
        link.early.append((lane, frame))

    def _make_handlers(self) -> dict[type, Callable[[Lane, Any], None]]:
        streams, outgoing, incoming = self._streams, self._outgoing, self._incoming
        return {
            Open: streams.receive_open,
            Accept: streams.receive_accept,
            Data: streams.receive_data,
            Window: streams.receive_window,
            Fin: streams.receive_fin,
            Reset: self._receive_reset,
            Call: lambda _, frame: incoming.receive_call(frame),
            Reply: lambda _, frame: outgoing.receive_reply(frame),
            Tell: lambda _, frame: incoming.receive_tell(frame),
            Datagram: lambda _, __: None,  # latency first: nobody listens, it is lost
            Ping: self._heart.receive_ping,
            Pong: self._heart.receive_pong,
        }

    # --- the greeting (wire.md §6 and §7, HELLO and WELCOME) ---

    def _hello(self, link: Link) -> Hello:
        resume = Resume(self._token, self._streams.positions()) if self._token else UNSET
        about = self._about
        return Hello(PROTOCOL_VERSION, self.id, self.role, self._features, link.max_frame, about, resume)

    def _welcome(self, link: Link, *, known: bool = True) -> Welcome:
        resume = Resume(self._token, self._streams.positions()) if self.resumable and known else UNSET
        about = self._about if known else {}
        return Welcome(PROTOCOL_VERSION, self.id, self.role, self._features, link.max_frame, about, resume)

    def _receive_hello(self, link: Link, frame: Hello) -> None:
        if self.role is not Role.AGENT or frame.role is not Role.CLIENT:
            raise ProtocolError("HELLO from one that is not a client")
        self._check_greeting(link, frame)
        if frame.resume is UNSET:
            if self._state is not SessionState.GREETING and not self._may_begin_again(frame):
                raise ProtocolError("HELLO without the token of the session")
            link.positions = None if self._state is SessionState.GREETING else {}
            self._begin(link, frame, frame.client)
        elif self._may_resume(frame, frame.resume):
            link.positions = frame.resume.streams
            link.send(self._welcome(link))
            link.move(LinkState.WELCOMED)
        else:
            link.send(self._welcome(link, known=False))
            link.farewell = True
            raise ProtocolError("it resumes a session that is not this one")

    def _may_begin_again(self, frame: Hello) -> bool:
        """A client that has said only HELLO may have lost the WELCOME, and its token, with the wire."""
        return self.resumable and not self._answered and frame.session_id == self.id

    def _may_resume(self, frame: Hello, resume: Resume) -> bool:
        same = hmac.compare_digest(resume.token.encode(), self._token.encode())
        return same and self.resumable and frame.session_id == self.id

    def _receive_welcome(self, link: Link, frame: Welcome) -> None:
        if self.role is not Role.CLIENT or frame.role is not Role.AGENT:
            raise ProtocolError("WELCOME from one that is not an agent")
        self._check_greeting(link, frame)
        if self._state is SessionState.GREETING:
            self._token = frame.resume.token if frame.resume is not UNSET else ""
            self._begin(link, frame, frame.agent)
        elif frame.resume is not UNSET and hmac.compare_digest(
            frame.resume.token.encode(), self._token.encode()
        ):
            link.positions = frame.resume.streams
            self._go_over(link)
        elif self._state is SessionState.AWAY:
            self._end("the agent does not know this session any more")
        else:
            raise ProtocolError("WELCOME of another session")

    def _check_greeting(self, link: Link, frame: Hello | Welcome) -> None:
        if link.state is not LinkState.GREETING:
            raise ProtocolError("a second greeting")
        if frame.version != PROTOCOL_VERSION:
            raise ProtocolError(f"protocol version {frame.version}; this side speaks {PROTOCOL_VERSION}")
        link.peer_max_frame = frame.max_frame

    def _begin(self, link: Link, frame: Hello | Welcome, peer: dict[str, Any]) -> None:
        """The first wire: what both sides can do is known now."""
        self.peer = peer
        token = self.role is Role.AGENT or bool(self._token)
        self.resumable = self._streams.resumable = (
            token and RESUME in self._features and RESUME in frame.features
        )
        if self.role is Role.AGENT:
            link.send(self._welcome(link))
        if link.state is LinkState.GONE or self.closed:
            return
        self._go_over(link)
        early, link.early = link.early, []
        for lane, kept in early:
            self._handlers[type(kept)](lane, kept)

    def _receive_switch(self, link: Link) -> None:
        if not self.resumable or link.greeting:
            raise ProtocolError("SWITCH without a second wire")
        link.quiet.set()
        if link.state is LinkState.CARRYING and not self._is_greeting():
            self._drop(link, "the peer has left the wire")

    def _receive_reset(self, lane: Lane, frame: Reset) -> None:
        if frame.stream_id == 0 and self.resumable:
            self._end(f"closed by the peer: {frame.message}", tell=False)
        else:
            self._streams.receive_reset(lane, frame)

    # --- the pulse ---

    def _lost(self, reason: str) -> None:
        if self._link is not None:
            self._drop(self._link, reason)

    def _note(self, now: float) -> None:
        self._meter.note(now, self._totals())


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
