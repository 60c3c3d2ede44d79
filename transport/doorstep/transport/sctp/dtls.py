"""SCTP, below: DTLS through OpenSSL's memory BIOs, called directly.

aiortc's way costs a queue, a task and one or two exceptions per packet, pyOpenSSL's another few copies. After
the handshake, which stays aiortc's, a datagram here is one BIO_write and one SSL_read; a batch of packets to
send is one SSL_write each and, where the socket takes segments, one BIO_read and one system call for all.
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# ruff: noqa: SLF001
# The BIOs are private attributes of pyOpenSSL, and the library behind it has no types: see ``versions``.

from __future__ import annotations

import logging
from collections import deque
from typing import Any, Protocol

from aiortc import RTCCertificate
from aiortc.rtcdtlstransport import State
from OpenSSL import _util

from doorstep.transport.webrtc_dtls import Dtls
from doorstep.transport.webrtc_ice import IceConnection
from doorstep.transport.webrtc_udp import UdpTransport, most_segments

__all__ = ["DirectDtls", "PacketReceiver"]

_log = logging.getLogger("doorstep.transport")
_lib: Any = _util.lib
_ffi: Any = _util.ffi

_RECORD = 1 << 14
"""Plain bytes of a DTLS record at most (RFC 6347 section 4.1)."""
_OUT = 1 << 17
_RECORD_HEADER = 13
_ZERO_RETURN = 6
"""SSL_ERROR_ZERO_RETURN: the peer's close-notify."""
_EARLY = 64
"""Packets kept until SCTP is there to take them."""


class PacketReceiver(Protocol):
    """What SCTP offers to DTLS."""

    def packet_received(self, packet: bytes, waited: float) -> None:
        """``waited``: seconds that it has lain in the kernel, because the loop was late."""
        ...

    def batch_over(self) -> None: ...


class DirectDtls(Dtls):
    """DTLS with lists of packets out and single packets in, synchronously."""

    _out: Any = None
    """Where OpenSSL's records are read to: one buffer for all connections of the process."""

    def __init__(self, ice: IceConnection, certificate: RTCCertificate) -> None:
        super().__init__(ice, certificate)
        self._receiver: PacketReceiver | None = None
        self._early: deque[bytes] = deque(maxlen=_EARLY)
        self._plain: Any = None
        self._session: Any = None
        self._bio_in: Any = None
        self._bio_out: Any = None
        self._sockets: list[UdpTransport] = []
        self._waited = 0.0

    # receiving

    def attach(self, receiver: PacketReceiver | None) -> None:
        """Give packets to ``receiver``, and those that came before it."""
        self._receiver = receiver
        while self._early and receiver is not None:
            receiver.packet_received(self._early.popleft(), 0.0)

    def receive_directly(self) -> None:
        connection = self._ssl
        assert connection is not None
        self._session, self._bio_in = connection._ssl, connection._into_ssl
        self._bio_out = connection._from_ssl
        self._plain = _ffi.new("char[]", _RECORD)
        self._view = _ffi.buffer(self._plain)
        if DirectDtls._out is None:
            DirectDtls._out = _ffi.new("char[]", _OUT)
        self._ice.divert(self._take_one)
        for protocol in self._ice._protocols:
            if isinstance(protocol.transport, UdpTransport):
                self._read_from(protocol.transport)

    def _read_from(self, transport: UdpTransport) -> None:
        start = _ffi.from_buffer(transport.buffer)
        self._sockets.append(transport)

        def take(at: int, size: int) -> None:
            self._waited = transport.waited
            self._record(start + at, size)

        transport.direct(take, self._over)

    def _take_one(self, data: bytes) -> None:
        """A datagram that came some other way: a relay's."""
        self._waited = 0.0
        self._record(data, len(data))
        self._over()

    def _over(self) -> None:
        if self._receiver is not None:
            self._receiver.batch_over()

    def _record(self, data: Any, size: int) -> None:
        session = self._session
        if session is None:
            return
        _lib.BIO_write(self._bio_in, data, size)
        while (got := _lib.SSL_read(session, self._plain, _RECORD)) > 0:
            packet = self._view[:got]
            if self._receiver is not None:
                self._receiver.packet_received(packet, self._waited)
                if self._session is None:
                    return
            else:
                self._early.append(packet)
            if got + 64 > size:
                return  # one record per datagram, as everybody sends them: spare a call that finds nothing
        self._no_data(got)

    def _no_data(self, result: int) -> None:
        """A handshake message again, an alert, or nothing whole: OpenSSL may want to answer."""
        ended = _lib.SSL_get_error(self._session, result) == _ZERO_RETURN
        _lib.ERR_clear_error()
        self._send_records(0)
        if ended:
            self._set_state(State.CLOSED)

    # sending

    def send_packets(self, packets: list[bytes]) -> bool:
        """Send each packet as a record and datagram of its own; False when DTLS is gone."""
        session = self._session
        if session is None:
            return False
        pair = self._ice._nominated.get(1)
        if pair is None:
            return False
        transport = pair.protocol.transport
        at, count = 0, len(packets)
        together = getattr(transport, "segments", False)
        while at < count:
            size = len(packets[at])
            stop = at + 1
            if together and stop < count:
                stop = _equal(packets, at, most_segments(size + 64))
            for index in range(at, stop):
                packet = packets[index]
                if _lib.SSL_write(session, packet, len(packet)) <= 0:
                    _lib.ERR_clear_error()
                    return False
            self._send_records(stop - at)
            at = stop
        return True

    def _send_records(self, count: int) -> None:
        got = _lib.BIO_read(self._bio_out, self._out, _OUT)
        pair = self._ice._nominated.get(1)
        if got <= 0 or pair is None:
            return
        data = _ffi.buffer(self._out, got)[:]
        transport: Any = pair.protocol.transport
        if count > 1:
            transport.send_segments(data, pair.remote_addr, _RECORD_HEADER + (data[11] << 8 | data[12]))
        else:
            transport.sendto(data, pair.remote_addr)

    async def stop(self) -> None:
        for transport in self._sockets:
            transport.direct(None)
        self._sockets.clear()
        self._session = None
        self._receiver = None
        self._early.clear()
        await super().stop()


def _equal(packets: list[bytes], at: int, most: int) -> int:
    """The end of a run of packets of one size, and at most one smaller, that may share a call."""
    size = len(packets[at])
    end = min(len(packets), at + most)
    stop = at + 1
    while stop < end and len(packets[stop]) == size:
        stop += 1
    if stop < end and len(packets[stop]) < size:
        stop += 1
    return stop
