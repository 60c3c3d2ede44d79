"""Runtime, layer 2: one wire of a session, from its greeting until it is left or lost."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from types import MappingProxyType

from doorstep.protocol.errors import WireClosed
from doorstep.protocol.frames import Frame, Switch
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import MAX_FRAME
from doorstep.transport.wire import Wire

__all__ = ["TRANSITIONS", "Link", "LinkState"]


class LinkState(StrEnum):
    """What a wire is to its session."""

    GREETING = "greeting"  # HELLO or WELCOME is awaited
    WELCOMED = "welcomed"  # agent only: WELCOME was sent; the client's next frame says that it has come over
    CARRYING = "carrying"  # what we send goes here
    LEFT = "left"  # we send elsewhere; what the peer sent before its SWITCH may still come
    GONE = "gone"


TRANSITIONS: Mapping[LinkState, frozenset[LinkState]] = MappingProxyType(
    {
        LinkState.GREETING: frozenset({LinkState.WELCOMED, LinkState.CARRYING, LinkState.GONE}),
        LinkState.WELCOMED: frozenset({LinkState.CARRYING, LinkState.GONE}),
        LinkState.CARRYING: frozenset({LinkState.LEFT, LinkState.GONE}),
        LinkState.LEFT: frozenset({LinkState.GONE}),
        LinkState.GONE: frozenset(),
    }
)


class Link:
    """A wire and what it is to the session that owns it."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.state = LinkState.GREETING
        self.settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when it carries the session; an exception when it never will."""
        self.quiet = asyncio.Event()
        """The peer has sent SWITCH, or the wire is gone: nothing more comes."""
        self.positions: Mapping[int, int] | None = None
        """What the peer said it has; None on a session's first wire."""
        self.peer_max_frame = MAX_FRAME
        self.early: list[tuple[Lane, Frame]] = []
        """What came before the WELCOME that it belongs after."""
        self.farewell = False
        """The peer was told of the end, or that the session is not here; having heard it closes the wire."""
        self.reason = ""

    def __repr__(self) -> str:
        return f"<Link {self.wire.kind} {self.state}>"

    @property
    def greeting(self) -> bool:
        return self.state in (LinkState.GREETING, LinkState.WELCOMED)

    @property
    def max_frame(self) -> int:
        """What we say we take on this wire."""
        return min(MAX_FRAME, self.wire.max_frame)

    def move(self, state: LinkState) -> None:
        """The one setter."""
        assert state in TRANSITIONS[self.state], f"{self} cannot become {state}"
        self.state = state
        if state is LinkState.CARRYING and not self.settled.done():
            self.settled.set_result(None)

    def send(self, frame: Frame) -> None:
        """Send beside the session's gate: greetings, SWITCH. A wire that is gone says so itself."""
        with suppress(WireClosed):
            self.wire.send(Lane.CONTROL, frame)

    def leave(self) -> None:
        """The session goes on elsewhere."""
        self.move(LinkState.LEFT)
        self.send(Switch())

    def end(self, reason: str) -> bool:
        """Note that it is gone; False when that was known."""
        if self.state is LinkState.GONE:
            return False
        self.move(LinkState.GONE)
        self.reason = reason
        self.quiet.set()
        if not self.settled.done():
            self.settled.set_exception(WireClosed(reason))
            self.settled.exception()  # somebody may or may not be waiting
        return True
