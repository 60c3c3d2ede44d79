"""Transport, below the wire: a UDP socket that moves many datagrams each time the loop wakes.

Where the kernel can (Linux: UDP_GRO, UDP_SEGMENT), a system call carries many; elsewhere, and where a network
driver refuses, one each. asyncio's own transport reads one datagram per turn of the loop.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from struct import Struct
from typing import Any

__all__ = ["UdpTransport", "most_segments", "open_udp"]

_log = logging.getLogger("doorstep.transport")

_UDP_SEGMENT, _UDP_GRO = 103, 104
_TIMESTAMP = 35
"""Linux: linux/udp.h, and SO_TIMESTAMPNS of asm/socket.h; Python has no names for them."""
_TIMESPEC = Struct("@ll")
_LINUX = sys.platform == "linux"
_KERNEL_BUFFER = 4 << 20
"""Asked of the kernel for each direction; it grants up to net.core.rmem_max."""
_READ = 65536
_READS, _READ_BYTES = 40, 48 * 1024
"""System calls per wake-up, or bytes: then there is a SACK, and the loop has its turn. A quarter of the bytes
costs nothing measurable either; four times as many delay an urgent message by a millisecond."""
_LATE_MOST = 1.0
"""Seconds that a datagram may have waited for the loop; more says that somebody has set the clock."""
_SEGMENTS = 64
"""Linux takes 64 in one call, newer kernels 128; and at most 64 KiB."""
_UNSENT = 2048
"""Datagrams kept while the kernel's buffer is full; more are dropped, as a router would."""
_REFUSED = (errno.EIO, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOPROTOOPT)
_DTLS = range(20, 64)
"""First bytes of a DTLS record (RFC 7983)."""

Take = Callable[[int, int], None]
"""Called with offset and length of one datagram in the transport's ``buffer``."""


def open_udp(host: str, protocol: asyncio.DatagramProtocol) -> UdpTransport:
    """Bind a socket to ``host``, any port; raise ``OSError`` when that cannot be done."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        with suppress(OSError):  # some kernels refuse what others only cap
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _KERNEL_BUFFER)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BUFFER)
        sock.bind((host, 0))
    except OSError:
        sock.close()
        raise
    return UdpTransport(sock, protocol)


class UdpTransport(asyncio.DatagramTransport):
    """Owns a bound socket until :meth:`close`. Feeds ``protocol``; DTLS goes where :meth:`direct` says."""

    segments = _LINUX
    """Whether one call may send several datagrams; turned off when the kernel refuses."""

    def __init__(self, sock: socket.socket, protocol: asyncio.DatagramProtocol) -> None:
        super().__init__({"socket": sock, "sockname": sock.getsockname()})
        self.buffer = bytearray(_READ)
        self.waited = 0.0
        """Seconds that the datagrams being read have lain in the kernel because the loop was late."""
        self._sock = sock
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[tuple[bytes, Any, int]] = deque()
        self._closing = False
        self._take: Take | None = None
        self._over: Callable[[], None] = _nothing
        self._directed = False
        """Something of the batch being read went to ``take``."""
        self._ancillary = 128 if _enable(sock) else 0
        self._loop.add_reader(sock, self._readable)
        protocol.connection_made(self)

    def direct(self, take: Take | None, over: Callable[[], None] = lambda: None) -> None:
        """Hand DTLS datagrams to ``take``, and call ``over`` after each batch; None = to the protocol."""
        self._take, self._over = take, over

    # reading

    def _readable(self) -> None:
        took = 0
        buffers = [self.buffer]
        for _ in range(_READS):
            try:
                size, ancillary, _, address = self._sock.recvmsg_into(buffers, self._ancillary)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:  # an ICMP answer to something sent
                self._protocol.error_received(error)
                break
            segment = self._told(ancillary) if ancillary else size
            for at in range(0, size, segment or size or 1):
                self._datagram(at, min(segment or size, size - at), address)
            took += size
            if took > _READ_BYTES or self._closing:
                break
        if self._directed:  # ICE's own checks are nobody's batch
            self._directed = False
            self._over()

    def _told(self, ancillary: list[tuple[int, int, bytes]]) -> int:
        """Take what the kernel says beside the bytes: return the size of a segment, 0 for a single one."""
        segment = 0
        for level, kind, data in ancillary:
            if kind == _TIMESTAMP and level == socket.SOL_SOCKET:
                seconds, nanoseconds = _TIMESPEC.unpack(data)
                waited = time.time() - seconds - nanoseconds * 1e-9
                self.waited = waited if 0 < waited < _LATE_MOST else 0.0
            elif kind == _UDP_GRO and level == socket.IPPROTO_UDP:
                segment = int.from_bytes(data[:4], sys.byteorder)
        return segment

    def _datagram(self, at: int, size: int, address: Any) -> None:
        take = self._take
        if take is not None and self.buffer[at] in _DTLS:
            self._directed = True
            take(at, size)
        elif size and not self._closing:
            self._protocol.datagram_received(bytes(self.buffer[at : at + size]), address)

    # sending

    def sendto(self, data: bytes, addr: Any = None) -> None:  # type: ignore[override]
        self.send_segments(data, addr, 0)

    def send_segments(self, data: bytes, addr: Any, segment: int) -> None:
        """Send ``data`` as datagrams of ``segment`` bytes, the last one shorter; 0 = as one."""
        if self._closing:
            return
        if self._unsent:
            self._keep(data, addr, segment)
            return
        try:
            self._send(data, addr, segment)
        except (BlockingIOError, InterruptedError):
            self._loop.add_writer(self._sock, self._writable)
            self._keep(data, addr, segment)
        except OSError as error:
            self._refused(error, data, addr, segment)

    def _send(self, data: bytes, addr: Any, segment: int) -> None:
        if not segment or segment >= len(data):
            self._sock.sendto(data, addr)
        else:
            size = segment.to_bytes(2, sys.byteorder)
            self._sock.sendmsg((data,), ((socket.IPPROTO_UDP, _UDP_SEGMENT, size),), 0, addr)

    def _refused(self, error: OSError, data: bytes, addr: Any, segment: int) -> None:
        if segment and self.segments and error.errno in _REFUSED:
            self.segments = False
            _log.debug("this network takes one datagram per call: %s", error)
            for at in range(0, len(data), segment):
                self.send_segments(data[at : at + segment], addr, 0)
        else:
            self._protocol.error_received(error)

    def _keep(self, data: bytes, addr: Any, segment: int) -> None:
        if len(self._unsent) < _UNSENT:
            self._unsent.append((data, addr, segment))

    def _writable(self) -> None:
        while self._unsent:
            try:
                self._send(*self._unsent[0])
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._protocol.error_received(error)
            self._unsent.popleft()
        self._loop.remove_writer(self._sock)

    # closing

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._take = None
        self._over = _nothing
        self._unsent.clear()
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._loop.call_soon(self._closed)

    def abort(self) -> None:
        self.close()

    def _closed(self) -> None:
        self._sock.close()
        self._protocol.connection_lost(None)


def most_segments(size: int) -> int:
    """How many datagrams of ``size`` bytes one call takes."""
    return min(_SEGMENTS, 65000 // size)


def _nothing() -> None:
    pass


def _enable(sock: socket.socket) -> bool:
    """Ask the kernel for segments, and for when they came; False when it knows neither."""
    if not _LINUX:
        return False
    enabled = False
    for level, option in ((socket.IPPROTO_UDP, _UDP_GRO), (socket.SOL_SOCKET, _TIMESTAMP)):
        with suppress(OSError):
            sock.setsockopt(level, option, 1)
            enabled = True
    return enabled
