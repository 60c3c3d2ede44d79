"""Transport, layer 0: what a wire is. One live connection to the peer, with one ordered road per lane."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from doorstep.protocol.frames import Frame
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import LANE_HIGH_WATER

__all__ = ["ORDINARY", "Receiver", "Traits", "Wire"]

Receiver = Callable[[Lane, Frame], None]
"""Called in the event loop for every frame, in order per lane. Must not block and must not raise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a session must know of a kind of wire."""

    lanes: frozenset[Lane] = frozenset(Lane)
    """Those it carries. Streams of the others wait for a better wire."""
    high_water: int = LANE_HIGH_WATER
    """A writer waits above this many bytes in :meth:`Wire.buffered`."""
    patience: float = 1.0
    """So many times slower the session asks whether the peer is there, and gives it up."""


ORDINARY = Traits()


class Wire(Protocol):
    """A live connection. Created open; once closed it stays closed."""

    @property
    def kind(self) -> str:
        """``webrtc``, ``relay``, ``broadcast`` or ``local``."""
        ...

    @property
    def traits(self) -> Traits: ...

    @property
    def max_frame(self) -> int:
        """The largest frame in bytes that the wire carries."""
        ...

    def start(self, receiver: Receiver) -> None:
        """Hand over what has arrived so far, then every further frame. Called once."""
        ...

    def send(self, lane: Lane, frame: Frame) -> None:
        """Queue a frame; return at once. Raises :class:`~doorstep.protocol.errors.WireClosed`."""
        ...

    def buffered(self, lane: Lane) -> int:
        """Bytes queued on the lane and not yet handed to the network."""
        ...

    async def drained(self, lane: Lane) -> None:
        """Wait until the lane is below its low-water mark, and no lane above it is over its own.

        Raises :class:`~doorstep.protocol.errors.WireClosed`.
        """
        ...

    async def wait_closed(self) -> str:
        """Wait until the wire is gone and return the reason, one short sentence."""
        ...

    async def close(self, reason: str = "closed") -> None:
        """Close; release every task, timer and socket. Idempotent."""
        ...

    def stats(self) -> dict[str, object]:
        """What this wire knows of the fields of :mod:`doorstep.transport.wire_stats`, JSON-ready."""
        ...
