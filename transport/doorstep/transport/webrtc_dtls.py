"""Transport, below the wire: aiortc's DTLS transport, with a way for datagrams that needs no task.

Once the handshake is done, a datagram goes from the socket's reader through OpenSSL to SCTP in one call;
aiortc would put it in a queue, wake a task and raise an exception or two for each.
"""

# pyright: reportPrivateUsage=false
# The hook for received data has a private name in aiortc; its DTLS transport calls it on its SCTP transport.

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from typing import Any

from aiortc import RTCCertificate, RTCDtlsParameters, RTCDtlsTransport
from aiortc.rtcdtlstransport import State
from OpenSSL import SSL

from doorstep.transport.webrtc_ice import IceConnection

__all__ = ["Dtls", "run_now"]

_log = logging.getLogger("doorstep.transport")

_REPEATS = (0.2, 0.2, 0.4, 0.4, 0.8, 0.8, 0.8)
"""Seconds after which a handshake flight is sent again while it is the last. OpenSSL begins with 1 s and
doubles. A record that comes twice is dropped by the receiver (RFC 6347 section 4.1.2.6)."""
_RECORD = 1500
"""One DTLS record as aiortc reads them."""


def run_now(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run to its end a coroutine that awaits nothing that is not there: aiortc's senders, over our socket."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    raise RuntimeError("a sender waited")


class Dtls(RTCDtlsTransport):
    """DTLS over an :class:`IceConnection`."""

    def __init__(self, ice: IceConnection, certificate: RTCCertificate) -> None:
        super().__init__(ice, [certificate])  # type: ignore[arg-type]
        self._ice = ice
        self._repeating: asyncio.Task[None] | None = None

    def take_role(self, role: str) -> None:
        """Be ``client`` or ``server``, as offer and answer have settled it."""
        self._set_role(role)

    async def start(self, remoteParameters: RTCDtlsParameters) -> None:  # noqa: N803 - aiortc's name
        self._repeating = asyncio.create_task(self._repeat_flights())
        try:
            await super().start(remoteParameters)
        finally:
            await self._end_repeating()
        if self._role == "server":  # its flight is the last: nobody can tell us that it was lost
            self._repeating = asyncio.create_task(self._repeat(self._ice.sent_last, _REPEATS[:2]))

    async def _repeat_flights(self) -> None:
        while True:
            flight = self._ice.sent_last
            await self._repeat(flight, _REPEATS)

    async def _repeat(self, flight: bytes, pauses: Iterable[float]) -> None:
        for pause in pauses:
            await asyncio.sleep(pause)
            if flight is not self._ice.sent_last:
                return
            if flight:
                try:
                    await self._ice._send(flight)  # noqa: SLF001 - RTCDtlsTransport's name for it
                except ConnectionError:
                    return

    async def _end_repeating(self) -> None:
        if self._repeating is not None:
            self._repeating.cancel()
            await asyncio.wait((self._repeating,))
            self._repeating = None

    def receive_directly(self) -> None:
        """From now on take datagrams from the socket's reader. Called once, when connected."""
        self._ice.divert(self._receive)

    def _receive(self, data: bytes) -> None:
        assert self._ssl is not None
        try:
            self._ssl.bio_write(data)
            plain = self._ssl.recv(_RECORD)
        except SSL.ZeroReturnError:
            self._set_state(State.CLOSED)
            return
        except SSL.Error:
            run_now(
                self._write_ssl()
            )  # a handshake message again, or nothing whole: OpenSSL may want to answer
            return
        if self._data_receiver is not None:
            try:
                run_now(self._data_receiver._handle_data(plain))  # noqa: SLF001 - aiortc's own name for it
            except ConnectionError:
                self._set_state(State.CLOSED)

    async def stop(self) -> None:
        """Say close-notify, and end: aiortc cancels its receive task without waiting for it."""
        self._ice.divert(None)
        await self._end_repeating()
        receiving = self._task
        await super().stop()
        if receiving is not None:
            await asyncio.wait((receiving,))
            if not receiving.cancelled() and (error := receiving.exception()) is not None:
                _log.warning("the DTLS transport ended in %s: %s", type(error).__name__, error)
