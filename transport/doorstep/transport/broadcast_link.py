"""Transport, below the broadcast wire: records, whole and in order, over one private Realtime channel.

The adapter around :mod:`doorstep.protocol.arq`: something happened → what may be sent goes → one timer.
It owns its signaling (a socket of its own): a join that is refused freezes no other channel, and whatever
becomes of this channel leaves the agent's presence alone.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from doorstep.protocol.arq import Arq, Parcel
from doorstep.protocol.broadcast import EVENT, Letter, Party, Records, dump, parse, record
from doorstep.protocol.errors import (
    DeadlineExceeded,
    DoorstepError,
    LinkError,
    MalformedMessage,
    ProtocolError,
    UsageError,
    WireClosed,
)
from doorstep.protocol.frame_types import Role
from doorstep.protocol.limits import LANE_LIMIT
from doorstep.protocol.timing import Timing
from doorstep.transport.signaling import Channel, ChannelSpec, ChannelState, Signaling

__all__ = ["BroadcastLink"]

_log = logging.getLogger("doorstep.transport")

_UNDER_WAY = 16
"""Broadcasts whose acknowledgement by the server is awaited; more are not sent meanwhile."""
_FLUSH = 0.5
"""Seconds that the last records get to arrive."""
_BYE = 0.3
"""Seconds that the word of the end gets to leave."""
_GONE = "the connection was closed"


class BroadcastLink:
    """One end. What is sent is pulled from ``source`` at the last moment; :meth:`offer` says there is some.

    Ends by :meth:`close`, by the peer's farewell, or when the peer acknowledges nothing any more;
    ``ended`` tells.
    """

    def __init__(self, signaling: Signaling, topic: str, role: Role, timing: Timing) -> None:
        self._signaling = signaling
        self._topic = topic
        self._timing = timing
        self._loop = asyncio.get_running_loop()
        self._party = Party(role, secrets.token_urlsafe(12))
        self._arq = Arq(self._loop.time(), timing=timing)
        self._records = Records()
        self._arrived: deque[bytes] = deque()
        self._arrived_bytes = 0
        self._channel: Channel | None = None
        self._joined = False
        self._sends: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()  # for the task that sends
        self._heard = asyncio.Event()  # for who waits for the peer, a record or the end
        self._settled = asyncio.Event()  # everything has been acknowledged
        self._sender: asyncio.Task[None] | None = None
        self._reason: str | None = None
        self.source: Callable[[], bytes | None] = lambda: None
        """Gives the next record to send, if there is one. Must not raise anything but a DoorstepError."""
        self.faults = 0
        """Losses of the channel."""

    # life

    async def open(self) -> None:
        """Join the topic and wait for the peer, :meth:`close` it whatever this raises.

        Raises :class:`Unauthorized`, :class:`SignalingLost`, :class:`DeadlineExceeded`, :class:`WireClosed`.
        """
        spec = ChannelSpec(topic=self._topic, on_message=self._on_message, on_state=self._on_state)
        self._channel = await self._signaling.join(spec, timeout=self._timing.join)
        self._joined = True
        self._sender = asyncio.create_task(self._send(), name="broadcast send")
        self.offer()
        try:
            async with asyncio.timeout(self._timing.broadcast_wait):
                await self._until(lambda: self._arq.met)
        except TimeoutError:
            raise DeadlineExceeded("broadcast_wait", self._timing.broadcast_wait) from None

    def end(self, reason: str) -> None:
        """Nothing is sent or received any more. Idempotent; the first reason stays."""
        if self._reason is None:
            self._reason = reason
            self._wake()

    async def wait_ended(self) -> str:
        """Wait for the end; return the reason."""
        while self._reason is None:
            await self._heard.wait()
        return self._reason

    async def flush(self) -> None:
        """Wait until the peer has everything, for a moment at most."""
        self.offer()
        with suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH):
                while self._reason is None and not self._arq.idle:
                    self._settled.clear()
                    await self._settled.wait()

    async def close(self) -> None:
        """Say goodbye, leave, close the socket; leave no task. Idempotent."""
        tell = self._reason is None
        self.end(_GONE)
        try:
            if self._sender is not None:
                self._sender.cancel()
                await asyncio.wait({self._sender})
            if tell and self._channel is not None and self._joined and self._arq.met:
                await self._say_goodbye(self._channel)
        finally:
            for send in tuple(self._sends):
                send.cancel()
            if self._sends:
                await asyncio.wait(self._sends)
            await self._signaling.close()

    async def _say_goodbye(self, channel: Channel) -> None:
        letter = self._party.letter(Parcel(self._arq.sent + 1, 0, 0, 0), bye=_GONE)
        try:
            async with asyncio.timeout(_BYE):
                await channel.send(EVENT, dump(letter))
        except (TimeoutError, LinkError) as error:
            _log.debug("%s: no goodbye: %s", self._topic, error)

    def stats(self) -> dict[str, object]:
        trip = self._arq.round_trip
        return {
            "topic": self._topic,
            "chunksOut": self._arq.sent,
            "chunksResent": self._arq.resent,
            "roundTripMs": None if trip is None else round(trip * 1000, 2),
            "losses": self.faults,
        }

    # sending

    def offer(self) -> None:
        """The source has something."""
        self._arq.want(self._loop.time())
        self._news.set()

    async def _send(self) -> None:
        try:
            while self._reason is None:
                self._news.clear()
                await self._pause(self._send_due())
        except DoorstepError as error:
            self.end(str(error))
        except Exception:  # noqa: BLE001 - logged; a source that fails ends this link and nothing else
            _log.exception("%s: cannot send", self._topic)
            self.end("internal error")

    def _send_due(self) -> float | None:
        """Send what may go; return when there may be more."""
        while self._joined and len(self._sends) < _UNDER_WAY:
            now = self._loop.time()
            more = self._fill(now)
            parcel = self._arq.poll(now)
            if self._arq.given_up:
                self.end("the peer does not answer any more")
                return None
            if parcel is None:
                if self._arq.idle:
                    self._settled.set()
                return self._arq.deadline(now)
            if more:
                self._arq.want(now)
            self._post(self._party.letter(parcel))
        return None

    def _fill(self, now: float) -> bool:
        """Put into the message that goes now what fits; whether there may be more."""
        filled = False
        while self._arq.room(now) > 0:
            data = self.source()
            if data is None:
                return False
            self._arq.write(record(data))
            filled = True
        return filled

    async def _pause(self, until: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._news.wait()

    def _post(self, letter: Letter) -> None:
        """Let a broadcast go; one that fails is one that was lost."""
        assert self._channel is not None
        send = self._loop.create_task(_broadcast(self._channel, dump(letter)), name="broadcast")
        self._sends.add(send)
        send.add_done_callback(self._posted)

    def _posted(self, send: asyncio.Task[None]) -> None:
        self._sends.discard(send)
        self._news.set()

    # receiving

    async def receive(self) -> bytes:
        """The next record. Raises :class:`WireClosed`."""
        while not self._arrived:
            if self._reason is not None:
                raise WireClosed(self._reason)
            await self._heard.wait()
        data = self._arrived.popleft()
        self._arrived_bytes -= len(data)
        return data

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            if self._reason is not None:
                raise WireClosed(self._reason)
            await self._heard.wait()

    def _wake(self) -> None:
        self._news.set()
        self._settled.set()
        heard, self._heard = self._heard, asyncio.Event()
        heard.set()

    def _on_message(self, event: str, payload: dict[str, Any]) -> None:
        if event != EVENT or self._reason is not None:
            return
        try:
            letter = parse(payload)
            if self._party.concerns(letter):
                self._take(letter)
        except MalformedMessage as error:
            _log.warning("%s: a malformed message is dropped: %s", self._topic, error)
        except (ProtocolError, UsageError) as error:
            self.end(f"protocol error: {error}")

    def _take(self, letter: Letter) -> None:
        if letter.bye is not None:
            self.end(f"the peer says: {letter.bye}")
            return
        for data in self._records.feed(self._arq.receive(letter.parcel, self._loop.time())):
            self._arrived.append(data)
            self._arrived_bytes += len(data)
        if self._arrived_bytes > LANE_LIMIT:
            self.end("more has come than is read")
        self._wake()

    def _on_state(self, state: ChannelState) -> None:
        """The channel comes and goes, the stream stays; what was under way is sent again."""
        self._joined = state is ChannelState.JOINED
        if state is ChannelState.LEFT:
            self.end("the channel was left")
        elif state is ChannelState.LOST:
            self.faults += 1
            self._arq.pace.slow_down(self._loop.time())  # it may be that there was too much
        else:
            self._arq.lose_first()
        self._wake()


async def _broadcast(channel: Channel, payload: dict[str, Any]) -> None:
    try:
        await channel.send(EVENT, payload)
    except LinkError as error:
        _log.debug("%s: a broadcast is lost: %s", channel.topic, error)
