"""Protocol: a whole, ordered stream of bytes each way over messages that may be lost, doubled, reordered.

For roads on which every message counts against a quota (Realtime broadcasts): few messages, paced. What is to
be sent waits for a time slot, so that keystrokes go together; an acknowledgement rides on a message of its
own only if nothing else goes its way for a while.

* Every message has a ``number``, a new one when its content is sent again. ``seen`` is the highest number of
  the peer that came: what was sent three messages before that and is not acknowledged is lost and goes again
  (as in RFC 9002 §6.1.1); what follows nothing goes again after a time-out (RFC 6298).
* A piece of the stream keeps its ``place``. Those below ``received`` have come; bit *i* of ``beyond`` says
  that piece ``received + 1 + i`` has.

One end each; no I/O, no clock: ``poll`` gives the next message that may be sent at ``now``, ``deadline`` says
when to ask again, ``receive`` takes a message of the peer and gives the bytes that are next in order.
"""

from __future__ import annotations

from dataclasses import dataclass

from doorstep.protocol.errors import ProtocolError
from doorstep.protocol.limits import (
    BROADCAST_BURST,
    BROADCAST_BYTES,
    BROADCAST_RATE,
    BROADCAST_RESENDS,
    BROADCAST_WINDOW,
)
from doorstep.protocol.timing import DEFAULT_TIMING, Timing

__all__ = ["Arq", "Pace", "Parcel"]

REORDERED = 3
"""A message that is so many behind the newest is lost, not late (RFC 9002 §6.1.1)."""
RECOVER = 30.0
"""Seconds in which a pace that was halved doubles again."""
_FRACTION = 1e-6
"""Of a message: what sums of fractions of a second may lack."""
_TIMES_KEPT = 256
"""Numbers whose time of sending is remembered."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """What one message carries; ``place`` is None and ``data`` empty in a mere acknowledgement."""

    number: int
    seen: int
    received: int
    beyond: int
    place: int | None = None
    data: bytes = b""


class Pace:
    """How many messages may go: ``rate`` per second, and ``burst`` of them at once after a rest."""

    def __init__(self, now: float, rate: float = BROADCAST_RATE, burst: int = BROADCAST_BURST) -> None:
        self._most = rate
        self._rate = rate
        self._burst = burst
        self._left = float(burst)
        self._at = now
        self._slowed = now

    def ready(self, now: float) -> float:
        """When the next message may go: now or later."""
        self._pass(now)
        return now if self._left >= 1 - _FRACTION else now + (1 - self._left) / self._rate

    def take(self, now: float) -> bool:
        """One message goes, if it may."""
        if self.ready(now) > now:
            return False
        self._left -= 1
        return True

    def slow_down(self, now: float) -> None:
        """The server may have had enough: half as many, and no burst; more again in time."""
        self._pass(now)
        self._rate = max(self._rate / 2, self._most / 8)
        self._left = min(self._left, 1.0)
        self._slowed = now

    def _pass(self, now: float) -> None:
        self._left = min(self._left + max(now - self._at, 0.0) * self._rate, float(self._burst))
        self._at = now
        while self._rate < self._most and now - self._slowed >= RECOVER:
            self._rate = min(2 * self._rate, self._most)
            self._slowed += RECOVER


@dataclass(slots=True)
class _Piece:
    """Of the stream, and not acknowledged; ``number`` is that of the message that carried it last."""

    data: bytes
    number: int
    lost: bool = False


class Arq:
    """One end."""

    def __init__(self, now: float, *, timing: Timing = DEFAULT_TIMING, pace: Pace | None = None) -> None:
        self.pace = pace or Pace(now)
        self.resent = 0
        """Pieces that were sent again."""
        self._timing = timing
        self._unsent = bytearray()
        self._wanted: float | None = None  # since when there is something to send
        self._pieces: dict[int, _Piece] = {}  # in the order of their places
        self._place = 0
        self._number = 0
        self._peer_seen = 0
        self._times: dict[int, float] = {}  # when a number was sent
        self._resend_at: float | None = None
        self._tries = 0
        self._round_trip: float | None = None
        self._deviation = 0.0
        self._seen = 0
        self._received = 0
        self._early: dict[int, bytes] = {}
        self._untold = 0  # pieces that came and are not acknowledged
        self._tell_at: float | None = None

    # what the wire asks

    @property
    def round_trip(self) -> float | None:
        """Seconds, smoothed, the peer's waits for a slot included; None before the first measure."""
        return self._round_trip

    @property
    def sent(self) -> int:
        """Messages, those sent again and acknowledgements included."""
        return self._number

    @property
    def met(self) -> bool:
        """Something of the peer has come."""
        return self._seen > 0

    @property
    def idle(self) -> bool:
        """Nothing is to be sent, and everything that was has been acknowledged."""
        return not self._pieces and not self._unsent and self._wanted is None

    @property
    def given_up(self) -> bool:
        """The peer was there and acknowledges nothing any more."""
        return self.met and self._tries > BROADCAST_RESENDS

    def deadline(self, now: float) -> float | None:
        """When :meth:`poll` is to be asked next, if nothing happens until then."""
        due = [] if self._tell_at is None else [self._tell_at]
        if self._has_lost():
            due.append(now)
        elif self._wanted is not None and self._window_open:
            due.append(self._wanted + self._timing.broadcast_slot)
        when = None if not due else max(min(due), self.pace.ready(now))
        if self._resend_at is None or (when is not None and when <= self._resend_at):
            return when
        return self._resend_at

    # sending

    def want(self, now: float) -> None:
        """There is something to send: it goes in the next slot."""
        if self._wanted is None:
            self._wanted = now

    def room(self, now: float) -> int:
        """How many bytes a message that goes now takes: what is most urgent is chosen at the last moment."""
        if self._has_lost() or not self._slot(now) or self.pace.ready(now) > now:
            return 0
        return max(BROADCAST_BYTES - len(self._unsent), 0)

    def write(self, data: bytes) -> None:
        """Append to the stream; what finds no room in this message waits for the next."""
        self._unsent += data

    def poll(self, now: float) -> Parcel | None:
        """The next message, when there is one that may go now."""
        self._time_out(now)
        if self.pace.ready(now) > now:
            return None
        again = self._has_lost()
        fresh = not again and self._has_fresh(now)
        if not (again or fresh or (self._tell_at is not None and self._tell_at <= now)):
            return None
        self.pace.take(now)
        self._number += 1
        if not (again or fresh):
            return self._parcel(None)
        self._remember(now)
        return self._parcel(self._again() if again else self._next(now))

    def _slot(self, now: float) -> bool:
        """Something new may go."""
        waited = self._wanted is not None and self._wanted + self._timing.broadcast_slot <= now
        return waited and self._window_open

    @property
    def _window_open(self) -> bool:
        return not self._pieces or self._place - next(iter(self._pieces)) < BROADCAST_WINDOW

    def _has_fresh(self, now: float) -> bool:
        if not self._slot(now):
            return False
        if not self._unsent:
            self._wanted = None  # there was nothing after all
        return bool(self._unsent)

    def _again(self) -> int:
        place = next(place for place, piece in self._pieces.items() if piece.lost)
        piece = self._pieces[place]
        piece.lost, piece.number = False, self._number
        self.resent += 1
        return place

    def _next(self, now: float) -> int:
        place, self._place = self._place, self._place + 1
        self._pieces[place] = _Piece(bytes(self._unsent[:BROADCAST_BYTES]), self._number)
        del self._unsent[:BROADCAST_BYTES]
        if not self._unsent:
            self._wanted = None
        if self._resend_at is None:
            self._resend_at = now + self._wait()
        return place

    def _parcel(self, place: int | None) -> Parcel:
        self._tell_at, self._untold = None, 0
        data = b"" if place is None else self._pieces[place].data
        beyond = sum(1 << (early - self._received - 1) for early in self._early)
        return Parcel(self._number, self._seen, self._received, beyond, place, data)

    def _remember(self, now: float) -> None:
        self._times[self._number] = now
        while len(self._times) > _TIMES_KEPT:
            del self._times[next(iter(self._times))]

    # losses

    def _has_lost(self) -> bool:
        return any(piece.lost for piece in self._pieces.values())

    def _wait(self) -> float:
        """Seconds without a sign until the oldest piece goes again."""
        first, cap = self._timing.broadcast_resend, self._timing.broadcast_resend_cap
        usual = first if self._round_trip is None else self._round_trip + 4 * self._deviation
        return min(max(usual, first) * (1 << min(self._tries, 8)), cap)

    def _time_out(self, now: float) -> None:
        if self._resend_at is None or self._resend_at > now:
            return
        self._tries += 1
        self._resend_at = now + self._wait()
        self.lose_first()
        if self.met:  # of too many messages a server tells their receiver alone: by closing its channel
            self.pace.slow_down(now)

    def lose_first(self) -> None:
        """What is oldest is taken for lost: the road was away."""
        if self._pieces:
            next(iter(self._pieces.values())).lost = True

    # receiving

    def receive(self, parcel: Parcel, now: float) -> bytes:
        """Take a message of the peer; raise :class:`ProtocolError` when it speaks of what was never sent."""
        if parcel.seen > self._number or parcel.received > self._place:
            raise ProtocolError("it acknowledges what was never sent")
        arrived = not self.met
        self._seen = max(self._seen, parcel.number)
        self._take_seen(parcel.seen, now)
        self._take_received(parcel, now)
        if arrived and parcel.seen == 0:  # the peer has only just come: what was sent until now it has missed
            for piece in self._pieces.values():
                piece.lost = True
        return b"" if parcel.place is None else self._take(parcel.place, parcel.data, now)

    def _take_seen(self, seen: int, now: float) -> None:
        if seen <= self._peer_seen:
            return
        self._peer_seen = seen
        if (sent := self._times.get(seen)) is not None:
            self._measure(now - sent)
        for number in [number for number in self._times if number <= seen]:
            del self._times[number]

    def _measure(self, trip: float) -> None:
        """RFC 6298 §2."""
        if self._round_trip is None:
            self._round_trip, self._deviation = trip, trip / 2
            return
        self._deviation = 0.75 * self._deviation + 0.25 * abs(self._round_trip - trip)
        self._round_trip = 0.875 * self._round_trip + 0.125 * trip

    def _take_received(self, parcel: Parcel, now: float) -> None:
        came = [place for place in self._pieces if _has(parcel, place)]
        for place in came:
            del self._pieces[place]
        if came:
            self._tries = 0
            self._resend_at = now + self._wait() if self._pieces else None
        for piece in self._pieces.values():
            if piece.number <= self._peer_seen - REORDERED:
                piece.lost = True

    def _take(self, place: int, data: bytes, now: float) -> bytes:
        if place < self._received or place in self._early:
            self._tell(now)  # our acknowledgement was lost, or this came twice
            return b""
        if place >= self._received + BROADCAST_WINDOW:
            raise ProtocolError(f"piece {place} is beyond the window")
        self._early[place] = data
        came = bytearray()
        while (piece := self._early.pop(self._received, None)) is not None:
            came += piece
            self._received += 1
        self._untold += 1
        soon = self._early or self._untold >= BROADCAST_WINDOW // 4
        self._tell(now if soon else now + self._timing.broadcast_acknowledge)
        return bytes(came)

    def _tell(self, when: float) -> None:
        self._tell_at = when if self._tell_at is None else min(self._tell_at, when)


def _has(parcel: Parcel, place: int) -> bool:
    above = place - parcel.received - 1
    return place < parcel.received or (above >= 0 and bool(parcel.beyond >> above & 1))
