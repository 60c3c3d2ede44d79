"""Transport: keeps channels joined, whatever the sockets do. Knows no library.

One supervisor task owns the socket: it opens one, probes it, and opens a new one after a loss, for as long as
there is a channel that wants it. Each channel owns one keeper task that joins its spec on whichever socket is
up. Both pause with full jitter under a doubling ceiling and never give up. Sockets and memberships are thrown
away after a loss: what is joined again is the spec, so nothing stale can be delivered late.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, Protocol

from doorstep.protocol.errors import (
    DoorstepError,
    InvalidInput,
    LinkError,
    NotSignedIn,
    SignalingLost,
    Unauthorized,
    UsageError,
)
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.transport.presence import PresenceView
from doorstep.transport.signaling import Channel, ChannelSpec, ChannelState, Presence

__all__ = ["Backoff", "Membership", "Socket", "SupervisedChannel", "SupervisedSignaling", "Token"]

Token = Callable[[], Awaitable[str]]
"""Gives an access token that is valid now. Raises LinkError (tried again) or NotSignedIn."""

log = logging.getLogger("doorstep.transport")


class Membership(Protocol):
    """One topic joined on one socket."""

    @property
    def lost(self) -> asyncio.Future[str]:
        """Done, with the reason, once this membership is of no use; also when its socket is lost."""
        ...

    async def send(self, event: str, payload: Mapping[str, Any]) -> None:
        """Broadcast and wait for the acknowledgement. Raises SignalingLost."""
        ...

    async def track(self, meta: Mapping[str, Any] | None) -> None:
        """Track or (None) untrack and wait for the reply. Raises SignalingLost, Unauthorized."""
        ...

    async def leave(self) -> None:
        """Tell the server, if it can still be told, and release everything. Idempotent."""
        ...


class Socket(Protocol):
    """One live connection. Once lost it is closed by the supervisor and never used again."""

    @property
    def lost(self) -> asyncio.Future[str]: ...

    async def join(self, spec: ChannelSpec, token: str) -> Membership:
        """Join once. Raises Unauthorized, NotSignedIn, SignalingLost; leaves nothing behind if cancelled."""
        ...

    async def set_token(self, token: str) -> None: ...

    async def probe(self) -> None:
        """Return when the server has answered; fail the memberships it no longer knows. Raises LinkError."""
        ...

    async def close(self) -> None: ...


class Backoff:
    """Pauses with full jitter: uniform between 0 and a ceiling of first, 2·first, 4·first … cap."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._ceiling = timing.reconnect_first

    def pause(self, lasted: float = 0.0) -> float:
        """Give the next pause; what ``lasted`` for the longest pause counts as a new beginning."""
        if lasted >= self._timing.reconnect_cap:
            self._ceiling = self._timing.reconnect_first
        ceiling = min(self._ceiling, self._timing.reconnect_cap)
        self._ceiling = 2 * ceiling
        return random.uniform(0, ceiling)  # noqa: S311 - spreads reconnections, guards nothing


@asynccontextmanager
async def limit(seconds: float, what: str) -> AsyncGenerator[None]:
    """Turn the end of a wait into :class:`SignalingLost`."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise SignalingLost(f"{what}: no answer within {seconds:g} s") from None


class SupervisedChannel:
    """Satisfies :class:`~doorstep.transport.signaling.Channel`."""

    def __init__(self, owner: SupervisedSignaling, spec: ChannelSpec) -> None:
        self._owner = owner
        self._spec = spec
        self._timing = owner.timing
        self._loop = asyncio.get_running_loop()
        self._state = ChannelState.LOST
        self._membership: Membership | None = None
        self._meta: Mapping[str, Any] | None = None
        self._view = PresenceView(self._timing.presence_debounce)
        self._debounce: asyncio.TimerHandle | None = None
        self.settled: asyncio.Future[UsageError | None] = self._loop.create_future()
        """Done when the first join has succeeded (None) or never will."""
        self.reason = "the socket is not open yet"
        """Why the channel is not joined."""
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {spec.topic}")

    @property
    def topic(self) -> str:
        return self._spec.topic

    @property
    def state(self) -> ChannelState:
        return self._state

    @property
    def presence(self) -> Presence:
        return self._view.members

    async def send(self, event: str, payload: Mapping[str, Any]) -> None:
        if self._membership is None:
            raise SignalingLost(f"{self.topic} is not joined ({self.reason}); {event} was not sent")
        async with limit(self._timing.acknowledge, f"{event} on {self.topic}"):
            await self._membership.send(event, payload)

    async def track(self, meta: Mapping[str, Any]) -> None:
        if meta == self._meta:
            return
        self._meta = dict(meta)
        try:
            await self._announce()
        except Unauthorized:
            self._meta = None
            raise

    async def untrack(self) -> None:
        if self._meta is not None:
            self._meta = None
            await self._announce()

    async def leave(self) -> None:
        if self._state is not ChannelState.LEFT:
            membership = self._membership
            self.abandon()
            if membership is not None:
                await membership.leave()
        await asyncio.wait({self._keeper})

    def abandon(self) -> asyncio.Task[None]:
        """End it without a word to the server; the task that is returned is done when nothing is left."""
        if self._state is not ChannelState.LEFT:
            self.reason = "it was left"
            self._end()
            self._keeper.cancel()
        return self._keeper

    def give_up(self, error: UsageError) -> None:
        """End a first join that cannot succeed."""
        if not self.settled.done():
            self._refused(error)
            self._keeper.cancel()

    async def _keep(self) -> None:
        backoff = Backoff(self._timing)
        while True:
            socket = await self._owner.live_socket()
            lasted = 0.0
            try:
                membership = await self._join(socket)
            except (Unauthorized, NotSignedIn) as error:
                if isinstance(error, Unauthorized) or not self.settled.done():
                    return self._refused(error)
                self.reason = str(error)
            except LinkError as error:
                self.reason = str(error)
            except Exception as error:
                log.exception("joining %s failed", self.topic)
                self.reason = repr(error)
            else:
                began = self._loop.time()
                await self._hold(membership)
                lasted = self._loop.time() - began
            log.info("%s is not joined: %s", self.topic, self.reason)
            if not socket.lost.done():
                await asyncio.sleep(backoff.pause(lasted))

    async def _join(self, socket: Socket) -> Membership:
        spec = replace(
            self._spec,
            on_message=self._on_message,
            on_presence=self._on_presence if self._spec.on_presence else None,
        )
        async with limit(self._timing.join, f"join of {self.topic}"):
            return await socket.join(spec, await self._owner.token())

    async def _hold(self, membership: Membership) -> None:
        """Stay joined until the membership is lost."""
        self._membership = membership
        self._set_state(ChannelState.JOINED)
        try:
            if not self.settled.done():
                self.settled.set_result(None)
            elif self._meta is not None:
                await self._announce_again()
            self.reason = await asyncio.shield(membership.lost)
        finally:
            self._membership = None
            self._set_state(ChannelState.LOST)
        await membership.leave()

    async def _announce(self) -> None:
        membership = self._membership
        if membership is None:
            return  # tracked by the next join
        try:
            async with limit(self._timing.acknowledge, f"presence on {self.topic}"):
                await membership.track(self._meta)
        except SignalingLost:
            await membership.leave()  # the keeper joins again and announces what is wanted then
            raise

    async def _announce_again(self) -> None:
        try:
            await self._announce()
        except DoorstepError as error:
            log.warning("not present on %s: %s", self.topic, error)

    def _refused(self, error: UsageError) -> None:
        self.reason = str(error)
        log.warning("%s is given up: %s", self.topic, error)
        if not self.settled.done():
            self.settled.set_result(error)
        self._end()

    def _end(self) -> None:
        self._owner.forget(self)
        self._membership = None
        if self._debounce is not None:
            self._debounce.cancel()
        self._set_state(ChannelState.LEFT)

    def _set_state(self, state: ChannelState) -> None:
        if state is self._state or self._state is ChannelState.LEFT:
            return
        log.debug("%s: %s -> %s", self.topic, self._state, state)
        self._state = state
        self._call(self._spec.on_state, state)

    def _on_message(self, event: str, payload: dict[str, Any]) -> None:
        if self._state is not ChannelState.LEFT:
            self._call(self._spec.on_message, event, payload)

    def _on_presence(self, state: Presence) -> None:
        if self._state is not ChannelState.LEFT:
            self._presence_changed(self._view.update(state, self._loop.time()))

    def _expire(self) -> None:
        self._presence_changed(self._view.expire(self._loop.time()))

    def _presence_changed(self, changed: bool) -> None:
        if self._debounce is not None:
            self._debounce.cancel()
        deadline = self._view.deadline()
        self._debounce = None if deadline is None else self._loop.call_at(deadline, self._expire)
        if changed:
            self._call(self._spec.on_presence, self._view.members)

    def _call(self, callback: Callable[..., None] | None, *arguments: object) -> None:
        """Call a listener; its fault is logged and ends neither the channel nor the socket."""
        try:
            if callback is not None:
                callback(*arguments)
        except Exception:
            log.exception("a listener of %s failed", self.topic)


class SupervisedSignaling:
    """Satisfies :class:`~doorstep.transport.signaling.Signaling` over sockets from ``open_socket``.

    ``open_socket`` gets a valid token and raises LinkError (tried again) or Unauthorized (ends first joins).
    """

    def __init__(
        self, open_socket: Callable[[str], Awaitable[Socket]], token: Token, timing: Timing = DEFAULT_TIMING
    ) -> None:
        self.timing = timing
        self.token = token
        self._open_socket = open_socket
        self._channels: dict[str, SupervisedChannel] = {}
        self._socket: Socket | None = None
        self._arrived = asyncio.Event()
        self._joining = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None
        self._closed = False

    async def join(self, spec: ChannelSpec, *, timeout: float) -> Channel:
        if self._closed:
            raise SignalingLost("signaling is closed")
        if spec.topic in self._channels:
            raise InvalidInput("topic", f"{spec.topic} is already joined here; a topic has one owner")
        channel = self._channels[spec.topic] = SupervisedChannel(self, spec)
        self._joining.set()
        if self._supervisor is None:
            self._supervisor = asyncio.create_task(self._supervise(), name="supervise realtime")
        try:
            async with asyncio.timeout(timeout):
                refusal = await asyncio.shield(channel.settled)
        except TimeoutError:
            reason = channel.reason
            await channel.leave()
            raise SignalingLost(f"{spec.topic} is not joined after {timeout:g} s: {reason}") from None
        except asyncio.CancelledError:
            await channel.leave()
            raise
        if refusal is not None:
            raise refusal
        return channel

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    def topics(self) -> tuple[str, ...]:
        return tuple(self._channels)

    async def set_token(self, token: str) -> None:
        """Push a refreshed token to the open channels; a join fetches its own."""
        if self._socket is not None and not self._socket.lost.done():
            async with limit(self.timing.acknowledge, "access token"):
                await self._socket.set_token(token)

    async def close(self) -> None:
        self._closed = True
        channels = list(self._channels.values())
        try:
            await asyncio.gather(*(channel.leave() for channel in channels))
        finally:  # also of a close that is cancelled
            ending = {channel.abandon() for channel in channels}
            if self._supervisor is not None:
                self._supervisor.cancel()
                ending.add(self._supervisor)
            if ending:
                await asyncio.wait(ending)

    async def live_socket(self) -> Socket:
        """Wait for a socket that is up."""
        while self._socket is None or self._socket.lost.done():
            self._arrived.clear()
            await self._arrived.wait()
        return self._socket

    def forget(self, channel: SupervisedChannel) -> None:
        """Take a channel off the list; called by the channel when it ends."""
        if self._channels.get(channel.topic) is channel:
            del self._channels[channel.topic]

    async def _supervise(self) -> None:
        backoff = Backoff(self.timing)
        loop = asyncio.get_running_loop()
        while True:
            while not self._channels:
                self._joining.clear()
                await self._joining.wait()
            began = loop.time()
            try:
                reason = await self._hold(await self._connect())
            except UsageError as error:
                reason = str(error)
                for channel in list(self._channels.values()):
                    channel.give_up(error)
            except LinkError as error:
                reason = str(error)
            except Exception as error:
                log.exception("the Realtime socket failed")
                reason = repr(error)
            pause = backoff.pause(loop.time() - began)
            self._explain(reason, pause)
            await self._rest(pause)

    async def _connect(self) -> Socket:
        async with limit(self.timing.join, "Realtime socket"):
            return await self._open_socket(await self.token())

    async def _hold(self, socket: Socket) -> str:
        log.debug("the Realtime socket is open")
        self._socket = socket
        self._arrived.set()
        try:
            return await self._watch(socket)
        finally:
            self._socket = None
            await socket.close()

    async def _watch(self, socket: Socket) -> str:
        """Probe the socket until it is lost, does not answer or is not needed; return the reason."""
        while True:
            done, _ = await asyncio.wait({socket.lost}, timeout=self.timing.probe)
            if done:
                return socket.lost.result()
            if not self._channels:
                return "no channel needs it"
            try:
                async with limit(self.timing.probe_answer, "probe"):
                    await socket.probe()
            except LinkError as error:
                return str(error)

    def _explain(self, reason: str, pause: float) -> None:
        if not self._channels:
            return log.debug("the Realtime socket is closed: %s", reason)
        for channel in self._channels.values():
            if channel.state is ChannelState.LOST:
                channel.reason = reason
        return log.warning("the Realtime socket is down: %s; next attempt in %.1f s", reason, pause)

    async def _rest(self, pause: float) -> None:
        """Pause; a join that comes meanwhile does not wait for the end of it."""
        self._joining.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._joining.wait()
