"""SCTP, pure: where the packets of an association gather until its caller sends them."""

from __future__ import annotations

from doorstep.transport.sctp import chunks as wire
from doorstep.transport.sctp.chunks import Cause, Envelope, Kind
from doorstep.transport.sctp.limits import BUNDLE_BELOW, HEADER

__all__ = ["Bundle", "Outlet", "cause"]


class Outlet:
    """``packets`` in order; ``envelope`` is the peer's, once it is known."""

    __slots__ = ("envelope", "packets")

    def __init__(self, port: int) -> None:
        self.packets: list[bytes] = []
        self.envelope = Envelope(port, port, 0)

    def seal(self, chunk: bytes) -> None:
        """Send chunks that are made, as a packet of their own."""
        self.packets.append(self.envelope.seal(chunk))

    def control(self, kind: Kind, body: bytes = b"") -> None:
        self.seal(wire.chunk(kind, body))


class Bundle:
    """Chunks that share a packet of ``most`` bytes while they fit; a full one leaves at once."""

    __slots__ = ("_most", "_open", "_outlet", "_size")

    def __init__(self, outlet: Outlet, most: int) -> None:
        self._outlet = outlet
        self._most = most - HEADER
        self._open: list[bytes] = []
        self._size = 0

    def add(self, chunk: bytes) -> None:
        size = len(chunk)
        if self._open and self._size + size > self._most:
            self.close()
        if size > BUNDLE_BELOW and not self._open:
            self._outlet.seal(chunk)
        else:
            self._open.append(chunk)
            self._size += size

    def close(self) -> None:
        if self._open:
            self._outlet.seal(b"".join(self._open))
            self._open = []
            self._size = 0


def cause(code: Cause, info: bytes) -> bytes:
    return int(code).to_bytes(2, "big") + (4 + len(info)).to_bytes(2, "big") + info
