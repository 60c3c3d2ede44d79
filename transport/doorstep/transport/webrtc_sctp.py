"""Transport, below the wire: aiortc's SCTP, made safe against what a peer may send, and quicker.

aiortc asserts on several messages a peer can send (a DCEP OPEN for a stream in use, an ACK for none) and ends
its receive task with the exception; its timers send from tasks nobody awaits. Here every such end becomes one
call of ``on_broken`` with a reason, and nothing is left for the event loop to complain about.

Quicker: packets are parsed without a second checksum (DTLS has authenticated them), chunks that arrive in
order skip the sets and scans for those that do not, and one acknowledgement answers several packets (RFC 9260
section 6.2). What is out of order goes aiortc's own way. Overridden are methods of one pinned release.
"""

# ruff: noqa: SLF001
# pyright: reportPrivateUsage=false, reportUnknownMemberType=false
# Channels and chunks belong to their SCTP transport, which keeps its state in attributes of theirs.

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from struct import unpack_from

from aiortc import RTCDataChannel, RTCSctpTransport
from aiortc.rtcsctptransport import (
    CHUNK_TYPES,
    SCTP_DATA_LAST_FRAG,
    USERDATA_MAX_LENGTH,
    WEBRTC_BINARY,
    Chunk,
    DataChunk,
    SackChunk,
)
from OpenSSL import SSL

from doorstep.protocol.limits import MIB
from doorstep.transport.delay import DelayControl
from doorstep.transport.webrtc_dtls import Dtls, run_now

__all__ = ["Sctp"]

_log = logging.getLogger("doorstep.transport")

_UNASSEMBLED = -4 * MIB
"""aiortc counts its receive window down and does not hold the peer to it; here fragments are a flood."""
_SACK_EVERY = 4
"""Packets in order that one acknowledgement may answer."""
_SACK_DELAY = 0.001
"""Seconds that fewer packets wait for theirs (RFC 9260 §6.2: at most 0.2): first goes a keystroke's echo."""
_BURST = 16 * USERDATA_MAX_LENGTH
"""Bytes one acknowledgement may release at once."""
_GROWTH = 16
"""Packets by which one acknowledgement may widen the window in slow start."""
_HEADER = 12
_DATA, _SACK = DataChunk.type, SackChunk.type


class Sctp(RTCSctpTransport):
    """SCTP whose failures are reported once, to ``on_broken``."""

    def __init__(self, dtls: Dtls) -> None:
        super().__init__(dtls)
        self.on_broken: Callable[[str], None] = lambda _: None
        self._flushing = False
        self._unacknowledged = 0
        self.sack_delay = _SACK_DELAY
        self._sack_timer: asyncio.TimerHandle | None = None
        self._resending = False
        self.on_room: Callable[[], None] = lambda: None
        self._delay = DelayControl()
        self._chunks = self._chunks_again = 0

    @property
    def has_room(self) -> bool:
        """True when all that was handed over has been sent: the next message goes out at once."""
        return not self._outbound_queue and not self._data_channel_queue

    @property
    def round_trip(self) -> float | None:
        """The smoothed round-trip time in seconds, once measured."""
        return self._srtt

    @property
    def chunks_sent(self) -> tuple[int, int]:
        """DATA chunks sent so far, and how many of these had been sent before."""
        return self._chunks, self._chunks_again

    @property
    def remote_max_message(self) -> int:
        """Bytes of the largest message the peer takes; 0 = any."""
        return self._remote_max_message_size

    async def stop(self) -> None:
        if self._sack_timer is not None:
            self._sack_timer.cancel()
            self._sack_timer = None
        await super().stop()

    # receiving

    async def _handle_data(self, data: bytes) -> None:
        try:
            chunk = _single_chunk(data, self._local_verification_tag)
            if chunk is None:
                await super()._handle_data(data)
            else:
                await self._receive_chunk(chunk)
                if self._sack_needed:
                    await self._send_sack()
        except ConnectionError:
            raise  # the DTLS transport ends quietly on this one
        except Exception as error:  # noqa: BLE001 - whatever the peer provoked ends the connection, with a reason
            _log.warning("the peer broke SCTP: %s: %s", type(error).__name__, error)
            self.on_broken("the peer broke the SCTP protocol")
        if self._advertised_rwnd < _UNASSEMBLED:
            self.on_broken("the peer sends fragments of messages without end")

    def _mark_received(self, tsn: int) -> bool:
        if self._sack_misordered or tsn != (self._last_received_tsn + 1) & 0xFFFFFFFF:  # type: ignore[operator]
            return super()._mark_received(tsn)
        self._last_received_tsn = tsn
        return False

    async def _receive_data_chunk(self, chunk: DataChunk) -> None:
        in_order = not self._sack_misordered
        stream = self._get_inbound_stream(chunk.stream_id)
        if not in_order or chunk.flags & SCTP_DATA_LAST_FRAG or self._reconfig_deferred is not None:
            await super()._receive_data_chunk(chunk)
            return
        # A fragment in order that is not its message's last completes nothing.
        self._sack_needed = True
        if self._mark_received(chunk.tsn):
            return
        stream.add_chunk(chunk)
        self._advertised_rwnd -= len(chunk.user_data)

    async def _send_sack(self) -> None:
        """Acknowledge at once what is out of order, else every few packets or a moment later."""
        self._unacknowledged += 1
        if self._sack_misordered or self._sack_duplicates or self._unacknowledged >= _SACK_EVERY:
            await self._acknowledge()
        else:
            self._sack_needed = False
            if self._sack_timer is None:
                loop = asyncio.get_running_loop()
                self._sack_timer = loop.call_later(self.sack_delay, self._acknowledge_rest)

    def _acknowledge_rest(self) -> None:
        self._sack_timer = None
        if self._unacknowledged:
            run_now(self._acknowledge())

    async def _acknowledge(self) -> None:
        self._unacknowledged = 0
        await super()._send_sack()

    # sending

    async def _send_chunk(self, chunk: Chunk) -> None:
        if isinstance(chunk, DataChunk):
            self._chunks += 1
            self._chunks_again += chunk._sent_count > 1
        try:
            await super()._send_chunk(chunk)
        except (ConnectionError, SSL.Error):
            self.on_broken("the connection to the peer was lost")

    def _data_channel_send(self, channel: RTCDataChannel, data: bytes | str) -> None:
        """Queue and send in this turn of the loop; aiortc starts a task for it."""
        assert isinstance(data, bytes)
        channel._addBufferedAmount(len(data))
        self._data_channel_queue.append((channel, WEBRTC_BINARY, data))
        if not self._flushing:
            run_now(self._data_channel_flush())

    async def _data_channel_flush(self) -> None:
        if self._flushing:
            return  # called by an event of the flush at work, which goes on with what was queued
        self._flushing = True
        try:
            await super()._data_channel_flush()
        finally:
            self._flushing = False

    async def _receive_sack_chunk(self, chunk: SackChunk) -> None:
        if chunk.gaps:
            self._resending = True
        acked = (chunk.cumulative_tsn - self._last_sacked_tsn) & 0xFFFFFFFF
        if 0 < acked <= len(self._sent_queue) and self._sent_queue[0]._sent_count == 1:
            now = time.time()
            self._delay.measured(now, now - (self._sent_queue[0]._sent_time or now))
        window = self._cwnd
        slow_start = window <= self._ssthresh
        await super()._receive_sack_chunk(chunk)
        if slow_start and self._cwnd > window:
            # By bytes, not by acknowledgements (RFC 3465): one of these answers several packets.
            self._cwnd = window + min(acked, _GROWTH) * USERDATA_MAX_LENGTH
        self._cwnd = self._delay.window(window, self._cwnd)

    def _t3_expired(self) -> None:
        self._resending = True
        super()._t3_expired()

    async def _transmit(self) -> None:
        """Send what the windows allow, and have the next message when all of the last is gone."""
        await self._transmit_chunks()
        if not self._outbound_queue:
            if self._data_channel_queue:
                await self._data_channel_flush()
            self.on_room()

    async def _transmit_chunks(self) -> None:
        """As aiortc's, which looks through all that is in flight: here only after a loss."""
        if self._resending or self._forward_tsn_chunk is not None:
            self._resending = any(chunk._retransmit for chunk in self._sent_queue)
            await super()._transmit()
            return
        window = min(self._flight_size + _BURST, self._cwnd)
        while self._outbound_queue and self._flight_size < window:
            chunk = self._outbound_queue.popleft()
            self._sent_queue.append(chunk)
            self._flight_size_increase(chunk)
            chunk._sent_count += 1
            chunk._sent_time = time.time()
            await self._send_chunk(chunk)
            if self._t3_handle is None:
                self._t3_start()


def _single_chunk(data: bytes, tag: int) -> Chunk | None:
    """Parse the packets that nearly all are: one DATA or SACK chunk for us. None = have aiortc look at it."""
    if len(data) < _HEADER + 16:
        return None
    verification, kind, flags, length = unpack_from("!L4xBBH", data, 4)
    if verification != tag or kind not in (_DATA, _SACK) or not 0 <= len(data) - _HEADER - length < 4:
        return None
    return CHUNK_TYPES[kind](flags=flags, body=data[_HEADER + 4 : _HEADER + length])
