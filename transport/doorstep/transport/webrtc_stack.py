"""Transport, below the wire: aiortc's DTLS and SCTP transports, made safe against what a peer may send.

aiortc asserts on several messages a peer can send (a DCEP OPEN for a stream in use, an ACK for none) and ends
its receive task with the exception; its timers send from tasks nobody awaits. Here every such end becomes one
call of ``on_broken`` with a reason, and nothing is left for the event loop to complain about.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from aiortc import RTCCertificate, RTCDtlsTransport, RTCSctpTransport
from aiortc.rtcsctptransport import Chunk
from OpenSSL import SSL

from doorstep.protocol.limits import MIB
from doorstep.transport.webrtc_ice import IceConnection

__all__ = ["Dtls", "Sctp"]

_log = logging.getLogger("doorstep.transport")

_UNASSEMBLED = -4 * MIB
"""aiortc counts its receive window down and does not hold the peer to it; here fragments are a flood."""


class Dtls(RTCDtlsTransport):
    """DTLS over an :class:`IceConnection`."""

    def __init__(self, ice: IceConnection, certificate: RTCCertificate) -> None:
        super().__init__(ice, [certificate])  # type: ignore[arg-type]

    def take_role(self, role: str) -> None:
        """Be ``client`` or ``server``, as offer and answer have settled it."""
        self._set_role(role)

    async def stop(self) -> None:
        """Say close-notify, and end: aiortc cancels its receive task without waiting for it."""
        receiving = self._task
        await super().stop()
        if receiving is not None:
            await asyncio.wait((receiving,))
            if not receiving.cancelled() and (error := receiving.exception()) is not None:
                _log.warning("the DTLS transport ended in %s: %s", type(error).__name__, error)


class Sctp(RTCSctpTransport):
    """SCTP whose failures are reported once, to ``on_broken``."""

    def __init__(self, dtls: Dtls) -> None:
        super().__init__(dtls)
        self.on_broken: Callable[[str], None] = lambda _: None

    @property
    def round_trip(self) -> float | None:
        """The smoothed round-trip time in seconds, once measured."""
        return self._srtt

    @property
    def remote_max_message(self) -> int:
        """Bytes of the largest message the peer takes; 0 = any."""
        return self._remote_max_message_size

    @property
    def unsent(self) -> int:
        """Messages and fragments that have not left yet."""
        return len(self._data_channel_queue) + len(self._outbound_queue)

    async def _handle_data(self, data: bytes) -> None:
        try:
            await super()._handle_data(data)
        except ConnectionError:
            raise  # the DTLS transport ends quietly on this one
        except Exception as error:  # noqa: BLE001 - whatever the peer provoked ends the connection, with a reason
            _log.warning("the peer broke SCTP: %s: %s", type(error).__name__, error)
            self.on_broken("the peer broke the SCTP protocol")
        if self._advertised_rwnd < _UNASSEMBLED:
            self.on_broken("the peer sends fragments of messages without end")

    async def _send_chunk(self, chunk: Chunk) -> None:
        try:
            await super()._send_chunk(chunk)
        except (ConnectionError, SSL.Error):
            self.on_broken("the connection to the peer was lost")
