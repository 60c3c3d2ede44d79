"""SCTP, the adapter: an association on the event loop, with aiortc's DataChannels on top.

One shape everywhere: packets or messages in → association → drain events, packets and departed bytes → re-arm
the one timer. It stands where aiortc's ``RTCSctpTransport`` does: ``RTCDataChannel`` calls the four methods
with its names.
"""

# ruff: noqa: SLF001
# pyright: reportPrivateUsage=false, reportUnknownMemberType=false
# A channel's state belongs to its SCTP transport, which sets it by methods with private names.

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import cast

from aiortc import RTCDataChannel, RTCDataChannelParameters, RTCSctpCapabilities, RTCSctpTransport
from pyee.asyncio import AsyncIOEventEmitter

from doorstep.transport.sctp import dcep
from doorstep.transport.sctp.association import Association, Closed, Ended, Established, Event, Reset, State
from doorstep.transport.sctp.dtls import DirectDtls
from doorstep.transport.sctp.limits import CHANNELS
from doorstep.transport.sctp.scheduler import Message

__all__ = ["SctpTransport"]

_log = logging.getLogger("doorstep.transport")

_ASSUMED_MESSAGE = 65536
"""What a peer takes that does not say (RFC 8841 section 6.1)."""
_PRIORITIES = (1024, 512, 256, 128)
"""Of DCEP (RFC 8831 section 6.4), by our own numbers."""
_URGENT = 2
"""Numbers below this one are of urgent channels."""
_INTERACTIVE = 1
"""The number of the channel of keystrokes; 0, above it, also carries what bulk has to say."""
_CALM = 1.0
"""Seconds after the last of these for which bulk keeps less in flight: whoever types goes on within that."""


class SctpTransport(AsyncIOEventEmitter):
    """SCTP over a :class:`DirectDtls`. Emits ``datachannel``; ``priorities`` by label, 0 = most urgent."""

    def __init__(self, dtls: DirectDtls, priorities: Mapping[str, int] | None = None) -> None:
        super().__init__()
        self.on_broken: Callable[[str], None] = lambda _: None
        """Called once with a reason when the association ends by itself."""
        self.on_room: Callable[[], None] = lambda: None
        """Called when there is room for more to send."""
        self.association = Association()
        self.association.outbound.scheduler.urgent_below = _URGENT
        self._dtls = dtls
        self._ours = asyncio.get_running_loop()  # the emitter has a ``_loop`` of its own
        self._priorities = dict(priorities or {})
        self._channels: dict[int, RTCDataChannel] = {}
        self._unnamed: list[RTCDataChannel] = []
        """Created before the DTLS role told which numbers are ours."""
        self._unconfirmed: set[int] = set()
        """Unordered channels whose OPEN is not yet answered: ordered until then (RFC 8832 section 6)."""
        self._in_closed: set[int] = set()
        self._out_closed: set[int] = set()
        """Streams of which the peer's direction, or ours, is closed, and the other one not yet."""
        self._parity = self._next_number = 0
        self._remote_max_message = _ASSUMED_MESSAGE
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._turning = False
        self._urgent: dict[int, bool] = {}
        """Streams of urgent channels; True for that of keystrokes."""
        self._calm_until = 0.0
        self._hurried = self._delivered = False
        """Since the last turn an urgent message was sent in a hurry, or delivered."""
        self._soon: asyncio.Handle | None = None
        self._stopped = False

    # facts

    @property
    def transport(self) -> DirectDtls:
        return self._dtls

    @property
    def state(self) -> str:
        if self._stopped or self.association.state is State.ENDED:
            return "closed"
        return "connected" if self.association.state is State.ESTABLISHED else "connecting"

    @property
    def has_room(self) -> bool:
        """True when another message would not only queue up."""
        return self.association.room

    @property
    def round_trip(self) -> float | None:
        """The smoothed round-trip time in seconds, once measured."""
        return self.association.outbound.round_trips.smoothed or None

    @property
    def chunks_sent(self) -> tuple[int, int]:
        """DATA chunks sent so far, and how many of these had been sent before."""
        return self.association.outbound.outstanding.sendings

    @property
    def remote_max_message(self) -> int:
        """Bytes of the largest message the peer takes; 0 = any."""
        return self._remote_max_message

    # life

    async def start(self, capabilities: RTCSctpCapabilities | None, port: int) -> None:
        """Begin the association; DTLS is connected, and so is its role settled."""
        if capabilities is not None:
            self._remote_max_message = capabilities.maxMessageSize
        self._parity = self._next_number = 1 if self._dtls._role == "server" else 0  # RFC 8832 section 6
        unnamed, self._unnamed = self._unnamed, []
        for channel in unnamed:
            self._name(channel)
        self.association.start(port, self._ours.time())
        self._dtls.attach(self)
        self._turn()

    async def stop(self) -> None:
        """Abort the association, close the channels, release the timer. Idempotent."""
        if self._stopped:
            return
        self.association.abort()
        self._dtls.send_packets(self.association.take_packets())
        self._dtls.attach(None)
        self._finish()

    def _finish(self) -> None:
        self._stopped = True
        for handle in (self._timer, self._soon):
            if handle is not None:
                handle.cancel()
        self._timer = self._soon = None
        channels = [*self._channels.values(), *self._unnamed]
        self._channels.clear()
        self._unnamed.clear()
        for channel in channels:
            self._set_state(channel, "closed")
        self.remove_all_listeners()

    # packets in, from DTLS

    def packet_received(self, packet: bytes, waited: float) -> None:
        self.association.receive(packet, self._ours.time() - waited)

    def batch_over(self) -> None:
        """What a reader makes of an urgent message goes before what else there is to send."""
        if self.association.events and not self._turning and not self._stopped:
            self._delivered = False
            self._turning = True
            try:
                self._drain()
            finally:
                self._turning = False
            if self._delivered:
                self._schedule()
                return
        self._turn()

    # the turn

    def _turn(self) -> None:
        """Drain what the association has to say, let it send, re-arm the timer."""
        if self._turning or self._stopped:
            return
        self._turning = True
        self._hurried = False
        association = self.association
        association.outbound.congestion.calm = self._ours.time() < self._calm_until
        try:
            if association.events:
                self._drain()
            if association.room:
                self.on_room()
            association.flush(self._ours.time())
            self._send_packets()
            if association.outbound.departed:
                self._departed()
        finally:
            self._turning = False
        if not self._stopped:
            self._arm()

    def _send_packets(self) -> None:
        association = self.association
        if association.packets and not self._dtls.send_packets(association.take_packets()):
            association.fail("the connection to the peer was lost")

    def _hurry(self) -> None:
        """Send now what is urgent. What has left is told in a turn of its own (W3C WebRTC section 6.2), and
        more of the same leaves with that."""
        if not self._hurried and not self._stopped:
            self._hurried = True
            self.association.flush(self._ours.time())
            self._send_packets()

    def _arm(self) -> None:
        at = self.association.deadline
        if self.association.events:
            self._schedule()
        if at < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = at
            self._timer = self._ours.call_at(at, self._timer_fired)

    def _timer_fired(self) -> None:
        """Mostly early: deadlines that move back leave the timer as it is."""
        self._timer = None
        self._timer_at = float("inf")
        now = self._ours.time()
        if now + 0.0005 >= self.association.deadline:
            self.association.handle_timer(max(now, self.association.deadline))
            self._turn()
        else:
            self._arm()

    def _schedule(self) -> None:
        """Have a turn when this callback of the loop is over: what it sends goes together."""
        if self._soon is None and not self._stopped:
            self._soon = self._ours.call_soon(self._soon_turn)

    def _soon_turn(self) -> None:
        self._soon = None
        self._turn()

    def _departed(self) -> None:
        for stream, size in self.association.take_departed().items():
            channel = self._channels.get(stream)
            if channel is not None and channel.bufferedAmount:
                # DCEP messages share the stream and are nobody's bytes.
                self._guard(channel._addBufferedAmount, -min(size, channel.bufferedAmount))

    # events out

    def _drain(self) -> None:
        events = self.association.events[:]
        self.association.events.clear()
        for event in events:
            if self._stopped:
                return
            if isinstance(event, tuple):
                self._message(*event)
            else:
                self._changed(event)

    def _stay_calm(self, stream: int) -> None:
        if self._urgent[stream]:
            self._calm_until = self._ours.time() + _CALM

    def _changed(self, event: Event) -> None:
        match event:
            case Established():
                for channel in list(self._channels.values()):
                    if channel.readyState == "connecting":
                        self._set_state(channel, "open")
            case Reset(streams):
                for stream in streams:
                    self._peer_closed(stream)
            case Closed(streams):
                for stream in streams:
                    self._half_closed(stream, self._out_closed)
            case Ended(reason):
                self.on_broken(reason)
                if not self._stopped:
                    self._dtls.send_packets(self.association.take_packets())
                    self._dtls.attach(None)
                    self._finish()
            case _:
                pass

    def _message(self, stream: int, protocol: int, data: bytes) -> None:
        channel = self._channels.get(stream)
        if protocol != dcep.DCEP and stream in self._urgent:
            self._delivered = True
            self._stay_calm(stream)
        if protocol == dcep.DCEP:
            self._dcep(stream, channel, data)
        elif channel is None or channel.readyState not in ("open", "closing"):
            return
        elif protocol == dcep.BINARY:
            self._guard(channel.emit, "message", data)
        elif protocol == dcep.TEXT:
            try:
                text = data.decode()
            except UnicodeDecodeError:
                _log.debug("dropped a text message that is not UTF-8")
                return
            self._guard(channel.emit, "message", text)
        elif protocol in (dcep.TEXT_EMPTY, dcep.BINARY_EMPTY):
            self._guard(channel.emit, "message", "" if protocol == dcep.TEXT_EMPTY else b"")

    def _guard(self, call: Callable[..., object], *arguments: object) -> None:
        """Run a handler of the application: what it raises is its own affair."""
        try:
            call(*arguments)
        except Exception as error:  # noqa: BLE001 - reported where asyncio reports what callbacks raise
            self._ours.call_exception_handler(
                {"message": "a handler of a data channel raised", "exception": error}
            )

    def _set_state(self, channel: RTCDataChannel, state: str) -> None:
        self._guard(channel._setReadyState, state)

    # opening channels

    def _name(self, channel: RTCDataChannel) -> None:
        stream = channel.id
        if stream is None:
            stream = self._free_number()
            channel._setId(stream)
        self._channels[stream] = channel
        priority = self._prioritise(stream, channel.label)
        if not channel.ordered:
            self._unconfirmed.add(stream)
        self.association.send(Message(stream, dcep.DCEP, bytes(_opening(channel, priority))))

    def _free_number(self) -> int:
        """The number that has been free for longest: the other end may not know yet that one is."""
        for _ in range(CHANNELS):
            number = self._next_number % (2 * CHANNELS)
            self._next_number += 2
            if number not in self._channels:
                return number
        raise ValueError(f"a connection has {CHANNELS} data channels at most")

    def _prioritise(self, stream: int, label: str) -> int:
        number = self._priorities.get(label, len(_PRIORITIES) - 2)
        self.association.outbound.scheduler.prioritise(stream, number)
        if number < _URGENT:
            self._urgent[stream] = number == _INTERACTIVE
        return _PRIORITIES[min(number, len(_PRIORITIES) - 1)]

    def _dcep(self, stream: int, channel: RTCDataChannel | None, data: bytes) -> None:
        if data[:1] == dcep.ACK:
            self._unconfirmed.discard(stream)
            return
        if channel is not None and stream in self._in_closed:
            self.association.assume_closed(stream)
            self._free(stream)
            channel = None
        opening = dcep.read_open(data)
        mine = stream & 1 == self._parity
        if opening is None or channel is not None or mine or len(self._channels) >= CHANNELS:
            _log.debug("refused a channel on stream %d", stream)
            if channel is not None:
                channel.close()  # RFC 8832 section 6: a stream in use is closed
            else:
                self.association.close_stream(stream)
            return
        parameters = RTCDataChannelParameters(
            label=opening.label,
            ordered=opening.ordered,
            maxPacketLifeTime=opening.lifetime,
            maxRetransmits=opening.retransmits,
            protocol=opening.protocol,
            id=stream,
        )
        made = RTCDataChannel(cast(RTCSctpTransport, self), parameters, False)
        self._channels[stream] = made
        self._prioritise(stream, opening.label)
        self._set_state(made, "open")
        self.association.send(Message(stream, dcep.DCEP, dcep.ACK))
        self._guard(self.emit, "datachannel", made)

    # closing channels

    def _peer_closed(self, stream: int) -> None:
        channel = self._channels.get(stream)
        if channel is None:
            return
        if channel.readyState not in ("closing", "closed"):
            self._set_state(channel, "closing")
            self.association.close_stream(stream)
        self._half_closed(stream, self._in_closed)

    def _half_closed(self, stream: int, direction: set[int]) -> None:
        """A number is free again when both directions are closed (RFC 8831 section 6.7)."""
        if stream in self._channels:
            direction.add(stream)
            if stream in self._in_closed and stream in self._out_closed:
                self._free(stream)

    def _free(self, stream: int) -> None:
        for streams in (self._in_closed, self._out_closed, self._unconfirmed):
            streams.discard(stream)
        self._urgent.pop(stream, None)
        self._set_state(self._channels.pop(stream), "closed")

    # called by RTCDataChannel

    def _data_channel_open(self, channel: RTCDataChannel) -> None:
        if channel.id is not None and channel.id in self._channels:
            raise ValueError(f"Data channel with ID {channel.id} already registered")
        if self.association.state is State.CLOSED:
            self._unnamed.append(channel)
            return
        self._name(channel)
        if self.association.state is State.ESTABLISHED:
            self._ours.call_soon(self._opened, channel)  # its maker first wants to listen
        self._schedule()

    def _opened(self, channel: RTCDataChannel) -> None:
        if channel.readyState == "connecting" and not self._stopped:
            self._set_state(channel, "open")

    def _data_channel_add_negotiated(self, channel: RTCDataChannel) -> None:
        assert channel.id is not None
        if channel.id in self._channels:
            raise ValueError(f"Data channel with ID {channel.id} already registered")
        self._channels[channel.id] = channel
        self._prioritise(channel.id, channel.label)
        if self.association.state is State.ESTABLISHED:
            self._set_state(channel, "open")

    def _data_channel_send(self, channel: RTCDataChannel, data: bytes | str) -> None:
        if isinstance(data, str):
            protocol, body = (dcep.TEXT, data.encode()) if data else (dcep.TEXT_EMPTY, b"\0")
        else:
            protocol, body = (dcep.BINARY, data) if data else (dcep.BINARY_EMPTY, b"\0")
        if self._remote_max_message and len(body) > self._remote_max_message:
            raise ValueError(f"the peer takes messages of {self._remote_max_message} bytes at most")
        stream = channel.id
        assert stream is not None
        message = Message(stream, protocol, body)
        if not channel.ordered and stream not in self._unconfirmed:
            message.unordered = True
        message.retransmits = channel.maxRetransmits
        if channel.maxPacketLifeTime is not None:
            message.expires = self._ours.time() + channel.maxPacketLifeTime / 1000
        channel._addBufferedAmount(len(body))
        self.association.send(message)
        if not self._turning:
            if stream in self._urgent:
                self._stay_calm(stream)
                self._hurry()
            self._schedule()

    def _data_channel_close(self, channel: RTCDataChannel) -> None:
        if channel.readyState in ("closing", "closed"):
            return
        stream = channel.id
        if stream is None or self.association.state is not State.ESTABLISHED:
            if channel in self._unnamed:
                self._unnamed.remove(channel)
            if stream is not None:
                self._channels.pop(stream, None)
                self.association.outbound.scheduler.drop(stream)
            self._set_state(channel, "closed")
            return
        self._set_state(channel, "closing")
        self.association.close_stream(stream)
        self._schedule()


def _opening(channel: RTCDataChannel, priority: int) -> dcep.Open:
    return dcep.Open(
        label=channel.label,
        protocol=channel.protocol,
        ordered=channel.ordered,
        retransmits=channel.maxRetransmits,
        lifetime=channel.maxPacketLifeTime,
        priority=priority,
    )
