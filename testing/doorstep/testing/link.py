"""Testing: a network link with rate, delay, loss, queue, reordering, duplication.

:class:`Link` is one direction, without I/O: the caller says what time it is. :class:`UdpRelay` puts one link
in each direction between two peers on the loopback: give each peer the relay's address, not the other's.
"""

from __future__ import annotations

import asyncio
import heapq
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from aioice.ice import get_host_addresses

__all__ = ["Conditions", "Link", "UdpRelay", "redirect"]

_HEADERS = 28
"""Bytes of IPv4 and UDP around each datagram: they use the link's rate too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What a link does to packets. Times in seconds."""

    rate: float = 0.0
    """Bits per second; 0 = any."""
    delay: float = 0.0
    """One way."""
    queue: float = 0.1
    """Seconds that a packet may wait for the rate before it is dropped."""
    loss: float = 0.0
    """Part of the packets that is lost."""
    duplicate: float = 0.0
    jitter: float = 0.0
    """Up to this many seconds are added to each packet's delay, so that packets overtake each other."""
    cut: bool = False
    """Lose everything."""


class Link:
    """One direction. ``conditions`` may be replaced at any time; what is under way is not touched."""

    def __init__(self, conditions: Conditions, random: Random | None = None) -> None:
        self.conditions = conditions
        self.dropped = self.lost = self.carried = 0
        self.longest_wait = 0.0
        self._random = random or Random(1)  # noqa: S311 - not for secrets
        self._busy_until = 0.0
        self._flying: list[tuple[float, int, bytes]] = []
        self._number = 0

    def push(self, packet: bytes, now: float) -> None:
        """A packet enters the link."""
        c, chance = self.conditions, self._random.random
        if c.cut or (c.loss and chance() < c.loss):
            self.lost += 1
            return
        leaves = now
        if c.rate:
            begins = max(self._busy_until, now)
            if begins - now > c.queue:
                self.dropped += 1
                return
            self.longest_wait = max(self.longest_wait, begins - now)
            leaves = self._busy_until = begins + (len(packet) + _HEADERS) * 8 / c.rate
        self._fly(packet, leaves + c.delay + (chance() * c.jitter if c.jitter else 0.0))
        if c.duplicate and chance() < c.duplicate:
            self._fly(packet, leaves + c.delay + (chance() * c.jitter if c.jitter else 0.0))

    def waiting(self, now: float) -> float:
        """Seconds of queue before the link."""
        return max(0.0, self._busy_until - now)

    def _fly(self, packet: bytes, arrives: float) -> None:
        self._number += 1
        heapq.heappush(self._flying, (arrives, self._number, packet))

    @property
    def next_arrival(self) -> float:
        return self._flying[0][0] if self._flying else float("inf")

    def arrived(self, now: float) -> list[bytes]:
        """Those that leave the link by now, in order."""
        out: list[bytes] = []
        while self._flying and self._flying[0][0] <= now:
            out.append(heapq.heappop(self._flying)[2])
        self.carried += len(out)
        return out


class _End:
    """One socket of a relay: what comes in here goes through ``link`` and out of ``other``."""

    def __init__(self, link: Link, host: str) -> None:
        self.link = link
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            self.sock.setsockopt(socket.SOL_SOCKET, option, 1 << 22)
        self.sock.bind((host, 0))
        self.peer: tuple[str, int] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.other = self


class UdpRelay:
    """Two sockets, and a link each way, between two peers that are told of each other through here.

    The address of each peer comes from its description, then from its packets.
    """

    def __init__(self, there: Conditions, back: Conditions, seed: int = 1, host: str = "") -> None:
        self._loop = asyncio.get_running_loop()
        self.host = host or next(iter(get_host_addresses(use_ipv4=True, use_ipv6=False)), "127.0.0.1")
        self._near = _End(Link(there, Random(seed)), self.host)  # noqa: S311
        self._far = _End(Link(back, Random(seed + 1)), self.host)  # noqa: S311
        self._near.other, self._far.other = self._far, self._near
        self.there, self.back = self._near.link, self._far.link
        self.near_port: int = self._near.sock.getsockname()[1]
        self.far_port: int = self._far.sock.getsockname()[1]
        for end in (self._near, self._far):
            self._loop.add_reader(end.sock, self._read, end)

    def to_far(self, offer_or_answer: str) -> str:
        """Change the near peer's description for the far one: it is reached through here."""
        return redirect(offer_or_answer, self.host, self.far_port, lambda port: self._know(self._near, port))

    def to_near(self, offer_or_answer: str) -> str:
        """Change the far peer's description for the near one."""
        return redirect(offer_or_answer, self.host, self.near_port, lambda port: self._know(self._far, port))

    def _know(self, end: _End, port: int) -> None:
        end.peer = (self.host, port)

    def set(self, there: Conditions, back: Conditions) -> None:
        self.there.conditions, self.back.conditions = there, back

    def _read(self, end: _End) -> None:
        now = self._loop.time()
        for _ in range(64):
            try:
                data, address = end.sock.recvfrom(65536)
            except BlockingIOError:
                break
            except OSError:
                continue
            end.peer = address
            end.link.push(data, now)
        self._deliver(end)

    def _deliver(self, end: _End) -> None:
        now = self._loop.time()
        out = end.other
        for packet in end.link.arrived(now):
            if out.peer is not None:
                try:
                    out.sock.sendto(packet, out.peer)
                except OSError:
                    end.link.lost += 1
        if end.timer is not None:
            end.timer.cancel()
            end.timer = None
        if (at := end.link.next_arrival) != float("inf"):
            end.timer = self._loop.call_at(at, self._deliver, end)

    def close(self) -> None:
        for end in (self._near, self._far):
            if end.timer is not None:
                end.timer.cancel()
            self._loop.remove_reader(end.sock)
            end.sock.close()


_CANDIDATE = re.compile(r"a=candidate:\S+ 1 udp \d+ (\S+) (\d+) typ host[^\r\n]*", re.IGNORECASE)


def redirect(sdp: str, host: str, port: int, learn: Callable[[int], None]) -> str:
    """Replace the candidates of a description by the one of a relay; ``learn`` gets the peer's own port."""
    found = [(match[1], int(match[2])) for match in _CANDIDATE.finditer(sdp)]
    own = next((p for h, p in found if h == host), found[0][1] if found else 0)
    if own:
        learn(own)
    lines = [line for line in sdp.split("\r\n") if not line.startswith("a=candidate:")]
    lines = [line for line in lines if not line.startswith("a=end-of-candidates")]
    at = next(i for i, line in enumerate(lines) if line.startswith("a=ice-pwd"))
    lines.insert(at, f"a=candidate:1 1 udp 2130706431 {host} {port} typ host")
    lines.insert(at + 1, "a=end-of-candidates")
    return "\r\n".join(lines)
