"""Runtime, layer 2: a stream as programs use it: bytes in, bytes out, a trailer, an end."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from doorstep.protocol.errors import SessionClosed, StreamClosed
from doorstep.protocol.frames import Accept, Data, Fin, Reset, Window
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import DATA_CHUNK
from doorstep.protocol.stream import StreamMachine, StreamState
from doorstep.runtime.outbound import Outbound
from doorstep.runtime.params import error_code, error_message, to_object

if TYPE_CHECKING:
    from doorstep.runtime.session import Session

__all__ = ["Stream"]

_SMALL = 1024
"""Bytes below which a chunk is kept together with others."""


class Stream:
    """One end of a stream, the same at both ends. Made by ``Session.open`` and ``StreamRequest.accept``."""

    def __init__(
        self,
        *,
        session: Session,
        outbound: Outbound,
        machine: StreamMachine,
        lane: Lane,
        params: dict[str, Any],
        settled: Callable[[Stream], None],
        released: Callable[[int], None],
    ) -> None:
        """``settled`` is called when both directions have ended and the peer knows, ``released`` with the
        window once nothing unread is kept any more; each once."""
        self.session = session
        self.id = machine.stream_id
        self.lane = lane
        self.params = params
        self.result: dict[str, Any] = {}
        self.on_reset: Callable[[], object] | None = None
        """Called when the peer resets the stream."""
        self._outbound = outbound
        self._machine = machine
        self._settled: Callable[[Stream], None] | None = settled
        self._released: Callable[[int], None] | None = released
        self._gate = outbound.gates[lane]
        self._ended: str | None = None
        self._chunks: deque[bytes | bytearray] = deque()
        self._head = 0  # bytes of the first chunk that were read already
        self._dropped = False  # unread bytes were dropped: what is left is not whole
        self._writing = asyncio.Lock()
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Stream {self.id} {self._machine.state} on {self.lane}>"

    @property
    def state(self) -> StreamState:
        return self._machine.state

    @property
    def ended(self) -> bool:
        """Both directions have ended."""
        return self._machine.ended

    @property
    def trailer(self) -> dict[str, Any] | None:
        """What the peer's FIN carried, once everything before it was read."""
        return None if self._chunks or self._dropped else self._machine.trailer

    @property
    def sent(self) -> int:
        """Bytes written so far; after a cancelled :meth:`write` this says how far it got."""
        return self._machine.sent

    @property
    def received(self) -> int:
        """Bytes the peer has sent so far, read or not."""
        return self._machine.received

    # --- writing ---

    async def write(self, data: bytes) -> None:
        """Send ``data``; wait for the peer's window and for the lane. Two writes never interleave.

        Raises :class:`RemoteError` when the peer has reset the stream, :class:`StreamClosed` after
        :meth:`finish` or :meth:`reset`, :class:`SessionClosed`.
        """
        position, size = 0, len(data)
        async with self._writing:
            self._check_writable()
            while position < size:
                if not self._machine.credit:
                    await self._credit()
                async with self._gate:
                    position += self._send(data, position)

    def _send(self, data: bytes, position: int) -> int:
        """Send one chunk from ``position``; return how many bytes it had. Credit only shrinks by a reset."""
        machine, outbound = self._machine, self._outbound
        self._check_writable()
        if machine.behind:
            self._send_again()
            return 0
        count = min(machine.credit, len(data) - position, outbound.chunk)
        chunk = data if count == len(data) else data[position : position + count]
        outbound.send(self.lane, machine.send(bytes(chunk)))
        outbound.bytes += count
        return count

    async def _credit(self) -> None:
        while not self._machine.credit:
            self._check_writable()
            self._writer = asyncio.get_running_loop().create_future()
            try:
                await self._writer
            finally:
                self._writer = None

    def _check_writable(self) -> None:
        if self._ended is not None:
            raise SessionClosed(self._ended)
        self._machine.check_writable()

    async def finish(self, trailer: Mapping[str, Any] | None = None) -> None:
        """End our direction whole, after the writes before it. Does nothing when it has ended whole already.

        Raises :class:`RemoteError` when the peer has reset the stream, :class:`StreamClosed` after
        :meth:`reset`, :class:`SessionClosed`.
        """
        body = to_object("trailer", trailer or {})
        async with self._writing:
            if self._machine.state in (StreamState.LOCAL_FINISHED, StreamState.FINISHED):
                return
            self._check_writable()
            frame = self._machine.finish(body)
            if frame is not None:
                self._outbound.send(self.lane, frame)
            self._settle()

    async def reset(self, code: str, message: str) -> None:
        """End in error what has not ended yet, at once, and drop what is unread. Idempotent."""
        self.abort(code, message)

    def abort(self, code: str, message: str) -> None:
        """:meth:`reset` for where nothing can be awaited."""
        self._drop_unread()
        frame = self._machine.reset(error_code(code), error_message(message))
        if frame is not None and self._ended is None:
            with suppress(SessionClosed):  # it has ended everything already
                self._outbound.send(self.lane, frame)
        self._settle()
        self._release()

    # --- reading ---

    async def read(self, most: int = 65536) -> bytes:
        """Return up to ``most`` bytes, at least one; ``b""`` once the peer has finished and all was read.

        One task reads at a time. Raises :class:`RemoteError` when the peer has reset the stream,
        :class:`StreamClosed` after :meth:`reset`, :class:`SessionClosed` (after the bytes that had arrived).
        """
        while not self._chunks:
            if self._machine.whole and not self._dropped:
                return b""
            self._machine.check_readable()
            if self._dropped:
                raise StreamClosed("this side has dropped what was unread")
            if self._ended is not None:
                raise SessionClosed(self._ended)
            await self._arrival()
        return self._take(most)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """:meth:`read` until the peer has finished. No generator: leaving the loop leaves nothing behind."""
        if chunk := await self.read():
            return chunk
        raise StopAsyncIteration

    async def _arrival(self) -> None:
        if self._reader is not None:
            raise RuntimeError("another task is already reading this stream")
        self._reader = asyncio.get_running_loop().create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    def _take(self, most: int) -> bytes:
        chunks = self._chunks
        parts: list[bytes | bytearray] = []
        wanted = most
        while chunks and wanted > 0:
            left = len(chunks[0]) - self._head
            if left > wanted:
                parts.append(chunks[0][self._head : self._head + wanted])
                self._head += wanted
                wanted = 0
                break
            parts.append(chunks.popleft()[self._head :])
            self._head = 0
            wanted -= left
        data = bytes(parts[0]) if len(parts) == 1 else b"".join(parts)
        self._consumed(len(data))
        return data

    def _consumed(self, count: int) -> None:
        window = self._machine.consume(count)
        if window is not None and self._ended is None:
            with suppress(SessionClosed):  # these bytes are read all the same
                self._outbound.send(Lane.CONTROL, window)
        if not self._chunks:
            self._release()

    # --- what the registry hands over ---

    async def opened(self) -> None:
        """Wait until the peer has taken the stream; raise as :meth:`read` does when it has not."""
        while self._machine.state is StreamState.OPENING:
            if self._ended is not None:
                raise SessionClosed(self._ended)
            await self._arrival()
        self._machine.check_readable()

    def accept(self, result: Mapping[str, Any], grant: Callable[[], int]) -> None:
        """Send ACCEPT; ``grant`` gives the window once nothing can go wrong any more."""
        body = to_object("result", result)
        if self._ended is not None:
            raise SessionClosed(self._ended)
        self._machine.check_acceptable()
        self._outbound.send(self.lane, self._machine.accept(body, grant()))
        self.result = body

    def receive_accept(self, frame: Accept) -> None:
        self._machine.receive_accept(frame)
        self.result = frame.result
        _wake(self._reader)

    def receive_data(self, frame: Data) -> None:
        payload = self._machine.receive_data(frame)
        if payload:
            self._keep(payload)
            _wake(self._reader)

    def _keep(self, payload: bytes) -> None:
        """Keep unread bytes; small ones together, so that many of them take no more memory than they say."""
        chunks = self._chunks
        if not chunks or len(payload) >= _SMALL:
            chunks.append(payload)
            return
        last = chunks[-1]
        if isinstance(last, bytearray) and len(last) < DATA_CHUNK:
            last += payload
        else:
            chunks.append(bytearray(payload))

    def receive_window(self, frame: Window) -> None:
        self._machine.receive_window(frame)
        _wake(self._writer)
        self._settle()

    def receive_fin(self, frame: Fin) -> None:
        self._machine.receive_fin(frame)
        self._acknowledge()
        _wake(self._reader)
        self._settle()

    def receive_reset(self, frame: Reset) -> None:
        self._machine.receive_reset(frame)
        self._acknowledge()
        if not self._machine.whole:
            self._drop_unread()
        self._wake_all()
        self._settle()
        if self.on_reset is not None:
            self.on_reset()

    def _acknowledge(self) -> None:
        if self._machine.replay:
            self._outbound.send(Lane.CONTROL, self._machine.acknowledge())

    # --- another wire (wire.md §7) ---

    @property
    def position(self) -> int:
        """What we tell the peer that we have."""
        return self._machine.position

    @property
    def unacknowledged(self) -> int:
        """Bytes kept for another wire."""
        return self._machine.sent - self._machine.acked

    def resume(self, position: int | None) -> bool:
        """Take back what the peer may not have; return whether anything is to be sent again in turn.

        OPEN goes at once: those of later streams must not overtake it.
        """
        machine = self._machine
        machine.resume(position)
        if machine.opener and machine.state in (StreamState.OPENING, StreamState.RESET) and machine.behind:
            self._send_again()
        if machine.state not in (StreamState.OPENING, StreamState.RESET) and not machine.first_due:
            self._outbound.send(Lane.CONTROL, machine.acknowledge())
        self._settle()
        return machine.behind

    async def replay(self) -> None:
        """Send again what is due, chunk by chunk, in turn with others. Raises :class:`SessionClosed`."""
        while self._machine.behind:
            async with self._gate:
                self._send_again()

    def _send_again(self) -> None:
        frame = self._machine.pull(self._outbound.chunk)
        if frame is not None:
            self._outbound.send(self.lane, frame)

    def end(self, reason: str) -> None:
        """The session has ended: every wait raises, what arrived can still be read."""
        self._ended = reason
        self._wake_all()

    # --- ends ---

    def _wake_all(self) -> None:
        _wake(self._reader)
        _wake(self._writer)

    def _drop_unread(self) -> None:
        self._dropped = self._dropped or bool(self._chunks)
        self._chunks.clear()
        self._head = 0

    def _settle(self) -> None:
        if self._machine.ended:
            self._wake_all()
            self._release()
        if self._machine.settled and self._settled is not None:
            settled, self._settled = self._settled, None
            settled(self)

    def _release(self) -> None:
        if self._machine.ended and not self._chunks and self._released is not None:
            released, self._released = self._released, None
            released(self._machine.window)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
