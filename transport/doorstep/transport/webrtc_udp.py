"""Transport, below the wire: a UDP socket that reads everything there is each time the loop wakes.

asyncio's own datagram transport reads one datagram per turn of the loop, which for SCTP means one
``select()`` per packet and an acknowledgement for each.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from contextlib import suppress
from typing import Any

__all__ = ["UdpTransport", "open_udp"]

_BATCH = 64
"""Datagrams read before the loop gets its turn."""
_DATAGRAM = 2048
"""More than any packet of ICE, DTLS or SCTP has."""
_BUFFER = 1 << 20
"""Asked of the kernel for each direction: what arrives while the loop is busy elsewhere."""
_UNSENT = 1024
"""Datagrams kept while the kernel's buffer is full; more are dropped, as a router would."""


def open_udp(host: str, protocol: asyncio.DatagramProtocol) -> UdpTransport:
    """Bind a socket to ``host``, any port; raise ``OSError`` when that cannot be done."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        with suppress(OSError):  # some kernels refuse what others only cap
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        sock.bind((host, 0))
    except OSError:
        sock.close()
        raise
    return UdpTransport(sock, protocol)


class UdpTransport(asyncio.DatagramTransport):
    """Owns a bound socket until :meth:`close`."""

    def __init__(self, sock: socket.socket, protocol: asyncio.DatagramProtocol) -> None:
        super().__init__({"socket": sock, "sockname": sock.getsockname()})
        self._sock = sock
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[tuple[bytes, Any]] = deque()
        self._closing = False
        self._loop.add_reader(sock, self._readable)
        protocol.connection_made(self)

    def sendto(self, data: bytes, addr: Any = None) -> None:  # type: ignore[override]
        if self._closing:
            return
        if self._unsent:
            self._keep(data, addr)
            return
        try:
            self._sock.sendto(data, addr)
        except BlockingIOError:
            self._loop.add_writer(self._sock, self._writable)
            self._keep(data, addr)
        except OSError as error:
            self._protocol.error_received(error)

    def _keep(self, data: bytes, addr: Any) -> None:
        if len(self._unsent) < _UNSENT:
            self._unsent.append((data, addr))

    def _writable(self) -> None:
        while self._unsent:
            try:
                self._sock.sendto(*self._unsent[0])
            except BlockingIOError:
                return
            except OSError as error:
                self._protocol.error_received(error)
            self._unsent.popleft()
        self._loop.remove_writer(self._sock)

    def _readable(self) -> None:
        for _ in range(_BATCH):
            try:
                data, addr = self._sock.recvfrom(_DATAGRAM)
            except BlockingIOError:
                return
            except OSError as error:  # an ICMP answer to something sent
                self._protocol.error_received(error)
                return
            self._protocol.datagram_received(data, addr)
            if self._closing:
                return

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._unsent.clear()
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._loop.call_soon(self._closed)

    def abort(self) -> None:
        self.close()

    def _closed(self) -> None:
        self._sock.close()
        self._protocol.connection_lost(None)
