"""Runtime, layer 2: a session's streams: ids, the open table, frames to streams, requests to services."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from doorstep.protocol.errors import (
    InvalidInput,
    NotCarried,
    ProtocolError,
    SessionClosed,
)
from doorstep.protocol.frames import Accept, Data, Fin, Open, Reset, Role, Window
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import (
    BULK_WINDOW,
    SESSION_WINDOWS,
    SMALLEST_WINDOW,
    STREAMS_KEPT,
    STREAMS_PER_SESSION,
    STREAMS_STATED,
    TERMINAL_WINDOW,
)
from doorstep.protocol.stream import ENDED, StreamMachine, StreamState
from doorstep.runtime.outbound import Outbound
from doorstep.runtime.params import check_name, to_object
from doorstep.runtime.services import Router, ServiceError, StreamHandler, StreamRequest
from doorstep.runtime.streams import Stream
from doorstep.runtime.tasks import TaskOwner

if TYPE_CHECKING:
    from doorstep.runtime.session import Session

__all__ = ["StreamRegistry"]

logger = logging.getLogger("doorstep.runtime")

_WINDOWS = {
    Lane.CONTROL: TERMINAL_WINDOW,
    Lane.TERMINAL_IO: TERMINAL_WINDOW,
    Lane.BROWSER_STREAM: BULK_WINDOW,
    Lane.FILE_TRANSFER: BULK_WINDOW,
}


class StreamRegistry:
    """Every stream of one session.

    Ids grow per opener and lane: lanes overtake one another, so only within its lane does an id below the
    highest seen mean an old stream. Frames of streams that have ended are late, and ignored.
    """

    def __init__(self, session: Session, outbound: Outbound, router: Router, tasks: TaskOwner) -> None:
        self._session = session
        self._outbound = outbound
        self._router = router
        self._tasks = tasks
        self._next_id = 1 if session.role is Role.CLIENT else 2
        self._seen = dict.fromkeys(Lane, 0)  # highest id the peer opened, per lane
        self._streams: dict[int, Stream] = {}
        self._served = 0  # stream handlers at work
        self._windows = 0  # bytes granted to streams that may hold unread bytes
        self._replays: list[asyncio.Task[None]] = []
        self.resumable = False
        """Streams keep what the peer has not acknowledged; known before the first of them."""
        self.received_bytes = 0

    def __len__(self) -> int:
        """Streams that go on; others are only kept until the peer knows of their end."""
        return sum(not stream.ended for stream in self._streams.values())

    # --- streams we open ---

    async def open(
        self,
        service: str,
        method: str,
        params: Mapping[str, Any],
        lane: Lane,
        window: int | None,
        limit: AbstractAsyncContextManager[object],
    ) -> Stream:
        """Send OPEN and wait for ACCEPT within ``limit``; giving up resets the stream."""
        check_name("service", service)
        check_name("method", method)
        body = to_object("params", params)
        stream: Stream | None = None
        try:
            async with limit:
                wire = await self._outbound.present()
                if lane not in wire.traits.lanes:
                    raise NotCarried(lane, wire.kind)
                stream = self._ask(service, method, body, lane, window)
                await stream.opened()
        except TimeoutError:
            if stream is not None:
                stream.abort("timeout", "the stream was not accepted in time")
            raise
        except asyncio.CancelledError:
            if stream is not None:
                stream.abort("cancelled", "the opener gave up")
            raise
        return stream

    def _ask(
        self, service: str, method: str, params: dict[str, Any], lane: Lane, window: int | None
    ) -> Stream:
        granted = self._grant(lane, window)
        stream_id = self._next_id
        self._next_id += 2
        machine = StreamMachine(stream_id, opener=True, window=granted, replay=self.resumable)
        frame = Open(stream_id, service, method, params, lane, granted)
        if self.resumable:
            machine.first = frame
        stream = self._add(machine, lane, params)
        self._outbound.send(lane, frame)
        return stream

    def _add(self, machine: StreamMachine, lane: Lane, params: dict[str, Any]) -> Stream:
        stream = Stream(
            session=self._session,
            outbound=self._outbound,
            machine=machine,
            lane=lane,
            params=params,
            settled=self._settled,
            released=self._released,
        )
        self._streams[stream.id] = stream
        return stream

    def _grant(self, lane: Lane, window: int | None) -> int:
        """Return a new stream's window: what is asked for, less when the session's memory is given out."""
        wanted = _WINDOWS[lane] if window is None else window
        if wanted < 0:
            raise InvalidInput("window", "must be 0 or more")
        granted = min(wanted, max(SMALLEST_WINDOW, SESSION_WINDOWS - self._windows))
        self._windows += granted
        return granted

    def _released(self, window: int) -> None:
        self._windows -= window

    def _settled(self, stream: Stream) -> None:
        self._streams.pop(stream.id, None)

    def end(self, reason: str) -> None:
        """The session has ended: every stream with it."""
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.end(reason)

    # --- another wire (wire.md §7) ---

    def positions(self) -> dict[int, int]:
        """What we have of every stream; one that is not named is sent again from what we acknowledged."""
        newest = sorted(self._streams)[-STREAMS_STATED:]
        return {stream_id: self._streams[stream_id].position for stream_id in newest}

    @property
    def unacknowledged(self) -> int:
        """Bytes kept for another wire."""
        return sum(stream.unacknowledged for stream in self._streams.values())

    def resume(self, positions: Mapping[int, int]) -> None:
        """Send again, over the wire there is now, what the peer does not have. Raises ProtocolError."""
        for replay in self._replays:
            replay.cancel()
        behind: dict[Lane, list[Stream]] = {}
        for stream_id in sorted(self._streams):
            stream = self._streams[stream_id]
            if stream.resume(positions.get(stream_id)):
                behind.setdefault(stream.lane, []).append(stream)
        self._replays = [
            self._tasks.spawn(self._replay(streams), f"replay on {lane}") for lane, streams in behind.items()
        ]

    async def _replay(self, streams: list[Stream]) -> None:
        try:
            for stream in streams:
                await stream.replay()
        except SessionClosed:
            return

    # --- frames that came ---

    def receive_data(self, lane: Lane, frame: Data) -> None:
        stream = self._find(frame.stream_id, lane)
        if stream is not None:
            self.received_bytes += len(frame.payload)
            stream.receive_data(frame)

    def receive_accept(self, lane: Lane, frame: Accept) -> None:
        if stream := self._find(frame.stream_id, lane):
            stream.receive_accept(frame)

    def receive_fin(self, lane: Lane, frame: Fin) -> None:
        if stream := self._find(frame.stream_id, lane):
            stream.receive_fin(frame)
        else:
            self._acknowledge_late(frame.stream_id)

    def receive_reset(self, lane: Lane, frame: Reset) -> None:
        if stream := self._find(frame.stream_id, lane):
            stream.receive_reset(frame)
        else:
            self._acknowledge_late(frame.stream_id)

    def _acknowledge_late(self, stream_id: int) -> None:
        """Our acknowledgement was lost with a wire, the stream is forgotten: the peer shall forget too."""
        if self.resumable:
            self._outbound.send(Lane.CONTROL, Window(stream_id, ENDED, ENDED))

    def receive_window(self, lane: Lane, frame: Window) -> None:
        if lane is not Lane.CONTROL:
            raise ProtocolError(f"WINDOW on lane {lane}")
        stream = self._streams.get(frame.stream_id)
        if stream is not None:
            stream.receive_window(frame)
        elif not self._was_opened(frame.stream_id, max(self._seen.values())):
            raise ProtocolError(f"stream {frame.stream_id} was never opened")

    def _find(self, stream_id: int, lane: Lane) -> Stream | None:
        """Return the stream, or ``None`` when the frame is late."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            if stream.lane is not lane:
                raise ProtocolError(f"stream {stream_id} belongs to lane {stream.lane}, not {lane}")
            return stream
        if not self._was_opened(stream_id, self._seen[lane]):
            raise ProtocolError(f"stream {stream_id} was never opened")
        return None

    def _was_opened(self, stream_id: int, seen: int) -> bool:
        ours = stream_id % 2 == self._next_id % 2
        return stream_id < self._next_id if ours else stream_id <= seen

    # --- streams the peer opens ---

    def receive_open(self, lane: Lane, frame: Open) -> None:
        if self._is_repeat(lane, frame):
            return
        self._check_open(lane, frame)
        self._seen[lane] = frame.stream_id
        try:
            if self._served >= STREAMS_PER_SESSION:
                raise ServiceError("busy", f"no more than {STREAMS_PER_SESSION} streams at once")
            handler = self._router.stream(frame.service, frame.method)
        except ServiceError as error:
            machine = self._machine_for(frame)
            self._add(machine, lane, frame.params).abort(error.code, error.message)
            return
        self._serve(lane, frame, handler)

    def _machine_for(self, frame: Open) -> StreamMachine:
        return StreamMachine(frame.stream_id, opener=False, peer_window=frame.window, replay=self.resumable)

    def _is_repeat(self, lane: Lane, frame: Open) -> bool:
        """It came before, over another wire."""
        ours = frame.stream_id % 2 == self._next_id % 2
        return self.resumable and not ours and frame.lane is lane and 0 < frame.stream_id <= self._seen[lane]

    def _check_open(self, lane: Lane, frame: Open) -> None:
        if frame.lane is not lane:
            raise ProtocolError(f"OPEN for lane {frame.lane} on lane {lane}")
        if frame.stream_id % 2 == self._next_id % 2:
            raise ProtocolError(f"stream id {frame.stream_id} is not the peer's to open")
        if frame.stream_id <= self._seen[lane] or frame.stream_id in self._streams:
            raise ProtocolError(f"stream id {frame.stream_id} was opened before")
        if len(self._streams) >= STREAMS_KEPT:
            raise ProtocolError(f"{STREAMS_KEPT} streams whose end it does not acknowledge")

    def _serve(self, lane: Lane, frame: Open, handler: StreamHandler) -> None:
        stream = self._add(self._machine_for(frame), lane, frame.params)

        def accept(result: Mapping[str, Any], window: int | None) -> Stream:
            stream.accept(result, lambda: self._grant(lane, window))
            return stream

        route = f"{frame.service}.{frame.method}"
        request = StreamRequest(
            session=self._session,
            route=route,
            lane=lane,
            params=frame.params,
            accept=accept,
            refuse=stream.abort,
        )
        task = self._tasks.spawn(self._handle(handler, request, stream), f"stream {frame.stream_id} {route}")
        self._served += 1
        stream.on_reset = task.cancel

        def done(_: asyncio.Task[None]) -> None:
            self._served -= 1
            stream.abort("cancelled", "the service has ended")

        task.add_done_callback(done)

    async def _handle(self, handler: StreamHandler, request: StreamRequest, stream: Stream) -> None:
        try:
            await handler(request)
            if not request.answered:
                raise RuntimeError(f"the handler of {request.route} neither accepted nor refused")
            await stream.finish()
        except ServiceError as error:
            stream.abort(error.code, error.message)
        except Exception as error:  # noqa: BLE001 - a service may raise anything; it is logged below
            self._failed(request, stream, error)

    def _failed(self, request: StreamRequest, stream: Stream, error: Exception) -> None:
        """Report a handler's error to the peer as ``internal``, unless the stream or session ended first."""
        if stream.state is StreamState.RESET or self._session.closed:
            logger.debug("%s: ended while its handler was at work: %s", request.route, error)
            return
        logger.error("%s: its handler failed", request.route, exc_info=error)
        stream.abort("internal", "internal error")
