"""SCTP, the socket: many datagrams per system call where the kernel can (Linux: UDP_GRO, UDP_SEGMENT).

Elsewhere, and where a network driver refuses, the same calls carry one datagram each.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

__all__ = ["SegmentedUdp", "open_segmented_udp"]

_log = logging.getLogger("doorstep.transport")

_UDP_SEGMENT, _UDP_GRO = 103, 104
"""Linux: linux/udp.h; Python has no names for them."""
_LINUX = sys.platform == "linux"
_KERNEL_BUFFER = 4 << 20
"""Asked of the kernel for each direction; it grants up to net.core.rmem_max."""
_READ = 65536
_READS = 8
"""System calls per wake-up, or bytes: then there is a SACK, and the loop has its turn. A quarter of the bytes
costs nothing measurable either; four times as many delay an urgent message by a millisecond."""
_READ_BYTES = 48 * 1024
_SEGMENTS = 64
"""Linux takes 64 in one call, newer kernels 128; and at most 64 KiB."""
_UNSENT = 2048
"""Datagrams kept while the kernel's buffer is full; more are dropped, as a router would."""
_REFUSED = (errno.EIO, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOPROTOOPT)
_DTLS = range(20, 64)
"""First bytes of a DTLS record (RFC 7983)."""

Take = Callable[[int, int], None]
"""Called with offset and length of one datagram in the transport's ``buffer``."""


def open_segmented_udp(host: str, protocol: asyncio.DatagramProtocol) -> SegmentedUdp:
    """Bind a socket to ``host``, any port; raise ``OSError`` when that cannot be done."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _KERNEL_BUFFER)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BUFFER)
        sock.bind((host, 0))
    except OSError:
        sock.close()
        raise
    return SegmentedUdp(sock, protocol)


class SegmentedUdp(asyncio.DatagramTransport):
    """Owns a bound socket until :meth:`close`. Feeds ``protocol``; DTLS goes where :meth:`direct` says."""

    segments = _LINUX
    """Whether one call may send several datagrams; turned off when the kernel refuses."""

    def __init__(self, sock: socket.socket, protocol: asyncio.DatagramProtocol) -> None:
        super().__init__({"socket": sock, "sockname": sock.getsockname()})
        self.buffer = bytearray(_READ)
        self._sock = sock
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[tuple[bytes, Any, int]] = deque()
        self._closing = False
        self._take: Take | None = None
        self._over: Callable[[], None] = _nothing
        self._gro = _enable_gro(sock)
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
                size, ancillary, _, address = self._sock.recvmsg_into(buffers, 64 if self._gro else 0)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:  # an ICMP answer to something sent
                self._protocol.error_received(error)
                break
            segment = _gro_size(ancillary) if ancillary else size
            for at in range(0, size, segment or size or 1):
                self._datagram(at, min(segment or size, size - at), address)
            took += size
            if took > _READ_BYTES or self._closing:
                break
        if took and self._take is not None:
            self._over()

    def _datagram(self, at: int, size: int, address: Any) -> None:
        take = self._take
        if take is not None and self.buffer[at] in _DTLS:
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


def _enable_gro(sock: socket.socket) -> bool:
    if not _LINUX:
        return False
    try:
        sock.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)
    except OSError:
        return False
    return True


def _gro_size(ancillary: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_UDP and kind == _UDP_GRO:
            return int.from_bytes(data[:4], sys.byteorder)
    return 0
