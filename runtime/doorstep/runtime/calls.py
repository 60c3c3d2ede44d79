"""Runtime, layer 2: CALL, REPLY and TELL: replies to their calls, calls to their services, each once."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from doorstep.protocol.errors import DeadlineExceeded, InvalidInput, ProtocolError, RemoteError, SessionClosed
from doorstep.protocol.frames import Call, CallError, Reply, Tell
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import CALLS_IN_FLIGHT, MAX_FRAME, REPLIES_BYTES, REPLIES_KEPT
from doorstep.runtime.outbound import Outbound
from doorstep.runtime.params import CALL_BYTES, check_route, error_code, error_message, from_json, to_json
from doorstep.runtime.services import Router, ServiceError
from doorstep.runtime.tasks import TaskOwner

if TYPE_CHECKING:
    from doorstep.runtime.session import Session

__all__ = ["IncomingCalls", "OutgoingCalls", "ReplyCache"]

logger = logging.getLogger("doorstep.runtime")

_REPLY_COST = 256
"""What a kept reply costs beside its payload, roughly."""
_LONGEST_CALL_MS = (1 << 31) - 1
_SMALL_REPLY = 1024
"""Bytes; so many replies of this size fit, see limits.py."""
_LOST = "the call has run, but its reply was too large to be kept for a repeat"


class OutgoingCalls:
    """Our calls: at most :data:`CALLS_IN_FLIGHT` unanswered, further ones wait their turn."""

    def __init__(self, outbound: Outbound) -> None:
        self._outbound = outbound
        self._waiting: dict[str, asyncio.Future[Reply]] = {}
        self._sent: dict[str, Call] = {}
        self._slots = asyncio.Semaphore(CALLS_IN_FLIGHT)
        self._count = 0

    def __len__(self) -> int:
        return len(self._waiting)

    async def call(self, route: str, params: Mapping[str, Any], limit: float) -> dict[str, Any]:
        """Send CALL and wait for its REPLY, at most ``limit`` seconds."""
        check_route(route)
        payload = to_json("params", params)
        try:
            async with asyncio.timeout(limit), self._slots:
                reply = await self._answer(route, payload, limit)
        except TimeoutError:
            raise DeadlineExceeded(f"call {route}", limit) from None
        if reply.error is not None:
            raise RemoteError(reply.error.code, reply.error.message)
        try:
            return from_json("result", reply.payload)
        except InvalidInput as error:
            raise ProtocolError(f"call {route}: {error}") from error

    async def _answer(self, route: str, payload: bytes, limit: float) -> Reply:
        self._count += 1
        request_id = str(self._count)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = future
        timeout_ms = max(1, min(round(limit * 1000), _LONGEST_CALL_MS))
        try:
            frame = Call(request_id, route, timeout_ms, payload)
            await self._outbound.send_in_turn(Lane.CONTROL, frame)
            self._sent[request_id] = frame
            return await future
        finally:
            self._waiting.pop(request_id, None)
            self._sent.pop(request_id, None)

    async def repeat(self) -> None:
        """Send again, over another wire, what has no reply; the peer runs a requestId once."""
        with suppress(SessionClosed):
            for request_id, frame in list(self._sent.items()):
                if request_id in self._sent:
                    await self._outbound.send_in_turn(Lane.CONTROL, frame)

    def tell(self, route: str, params: Mapping[str, Any]) -> None:
        check_route(route)
        self._outbound.send(Lane.CONTROL, Tell(route, to_json("params", params)))

    def receive_reply(self, frame: Reply) -> None:
        """Hand a reply to its call; one that nobody waits for any more is ignored."""
        future = self._waiting.get(frame.request_id)
        if future is not None and not future.done():
            future.set_result(frame)

    def end(self, reason: str) -> None:
        """The session has ended: every call fails."""
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(SessionClosed(reason))


class ReplyCache:
    """Replies to repeat: for ``keep`` seconds, bounded in number and bytes, the oldest forgotten first.

    A reply that no longer fits leaves a small one that says so: a call never runs twice for lack of room, for
    there are more places than calls in flight.
    """

    def __init__(self, keep: float) -> None:
        self._keep = keep
        self._replies: OrderedDict[str, tuple[float, Reply]] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, request_id: str, now: float) -> Reply | None:
        """Return the reply of a repeated request."""
        self._forget(now)
        found = self._replies.get(request_id)
        return found[1] if found is not None else None

    def put(self, reply: Reply, now: float) -> None:
        """Keep a reply."""
        self._replies[reply.request_id] = (now, reply)
        self.bytes += _cost(reply)
        self._forget(now)

    def _forget(self, now: float) -> None:
        while self._replies:
            kept, reply = next(iter(self._replies.values()))
            if len(self._replies) <= REPLIES_KEPT and now < kept + self._keep:
                break
            del self._replies[reply.request_id]
            self.bytes -= _cost(reply)
        if self.bytes > REPLIES_BYTES:
            self._shrink()

    def _shrink(self) -> None:
        """Keep of large replies, the oldest first, only that they were given."""
        for request_id, (kept, reply) in list(self._replies.items()):
            if self.bytes <= REPLIES_BYTES:
                return
            if len(reply.payload) > _SMALL_REPLY:
                self.bytes -= len(reply.payload)
                self._replies[request_id] = (kept, _refusal(request_id, "internal", _LOST))


def _cost(reply: Reply) -> int:
    return len(reply.payload) + _REPLY_COST


class IncomingCalls:
    """The peer's calls: at most :data:`CALLS_IN_FLIGHT` at work, each requestId once."""

    def __init__(
        self,
        session: Session,
        outbound: Outbound,
        router: Router,
        tasks: TaskOwner,
        keep: float,
        clock: Callable[[], float],
    ) -> None:
        """``clock`` stands still without a wire: a reply that was lost can then be asked for again."""
        self._clock = clock
        self._session = session
        self._outbound = outbound
        self._router = router
        self._tasks = tasks
        self._running: set[str] = set()
        self._at_work = 0
        self._replies = ReplyCache(keep)

    def receive_call(self, frame: Call) -> None:
        """Run the call in a task of its own; a repeat gets the first one's reply."""
        if frame.request_id in self._running:
            return  # the reply comes when it is done
        reply = self._replies.get(frame.request_id, self._clock())
        if reply is None and self._at_work >= CALLS_IN_FLIGHT:
            reply = Reply(frame.request_id, b"", CallError("busy", "too many calls at once"))
        if reply is not None:
            self._outbound.send(Lane.CONTROL, reply)
            return
        self._running.add(frame.request_id)
        self._spawn(self._call(frame), f"call {frame.route_key}")

    def receive_tell(self, frame: Tell) -> None:
        """Run it; nobody hears how it went, so an error is logged."""
        if self._at_work >= CALLS_IN_FLIGHT:
            logger.warning("tell %s dropped: too many calls at once", frame.route_key)
            return
        self._spawn(self._tell(frame), f"tell {frame.route_key}")

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._at_work += 1
        self._tasks.spawn(work, name).add_done_callback(self._done)

    def _done(self, _: asyncio.Task[None]) -> None:
        self._at_work -= 1

    async def _call(self, frame: Call) -> None:
        try:
            reply = await self._answer(frame)
        except asyncio.CancelledError:
            if self._session.closed:
                raise
            reply = _refusal(frame.request_id, "cancelled", "the handler was cancelled")
        with suppress(SessionClosed):
            await self._outbound.send_in_turn(Lane.CONTROL, reply)
            self._replies.put(reply, self._clock())
            # In this very step: it may have gone by a wire that is dead, and the repeat may be here already.
            self._running.discard(frame.request_id)

    async def _answer(self, frame: Call) -> Reply:
        seconds = frame.timeout_ms / 1000
        deadline = asyncio.timeout(seconds)
        try:
            async with deadline:
                return Reply(frame.request_id, await self._run(frame.route_key, frame.payload))
        except ServiceError as error:
            return _refusal(frame.request_id, error.code, error.message)
        except Exception as error:
            if isinstance(error, TimeoutError) and deadline.expired():
                return _refusal(frame.request_id, "timeout", f"not done within {seconds:g} s")
            logger.exception("%s: its handler failed", frame.route_key)
            return _refusal(frame.request_id, "internal", "internal error")

    async def _tell(self, frame: Tell) -> None:
        try:
            await self._run(frame.route_key, frame.payload)
        except ServiceError as error:
            logger.warning("tell %s refused: %s", frame.route_key, error.code)
        except Exception:
            logger.exception("%s: its handler failed", frame.route_key)

    async def _run(self, route: str, payload: bytes) -> bytes:
        """Return the handler's result as JSON; raise :class:`ServiceError` for what the peer may know."""
        handler = self._router.call(route)
        try:
            params = from_json("params", payload)
        except InvalidInput as error:
            raise ServiceError("invalid", str(error)) from error
        result = to_json("result", await handler(self._session, params), MAX_FRAME)
        if len(result) > CALL_BYTES:
            raise ServiceError("too-large", f"the result is longer than {CALL_BYTES} bytes")
        return result


def _refusal(request_id: str, code: str, message: str) -> Reply:
    return Reply(request_id, b"", CallError(error_code(code), error_message(message)))
