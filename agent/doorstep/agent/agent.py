"""Agent: present on its owner's channel from start to stop, registered, answering knocks.

::

    Signaling ──▶ Agent ── presence, knocks ──▶ Door ─┬▶ Caller ──▶ Peer ──┬▶ Session ──▶ services
                    │                                 └▶ Meetings ▶ Road ──┘
                    └──── Registration ──▶ Directory (the agents table)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from doorstep.agent.door import Door
from doorstep.agent.events import AgentEvent, EventKind, OnEvent
from doorstep.agent.identity import Identity
from doorstep.agent.registration import Directory, Registration, platform_name, version
from doorstep.protocol.errors import SignalingLost, UsageError
from doorstep.protocol.ids import UserId, agents_topic
from doorstep.protocol.limits import SESSIONS_PER_AGENT
from doorstep.protocol.proof import PrivateKey
from doorstep.protocol.signaling import IceServer
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.runtime import Service
from doorstep.transport.road import Road
from doorstep.transport.signaling import Channel, ChannelSpec, ChannelState, Signaling
from doorstep.transport.supervisor import Backoff

__all__ = ["Agent"]

_log = logging.getLogger("doorstep.agent")


class Agent:
    """One agent of one owner. Created in a running loop; started once, stopped once."""

    def __init__(
        self,
        *,
        identity: Identity,
        owner: UserId,
        signaling: Signaling,
        services: Iterable[Service],
        directory: Directory | None = None,
        key: PrivateKey | None = None,
        require_proof: bool = False,
        roads: Sequence[Road] = (),
        ice_servers: Callable[[], tuple[IceServer, ...]] = tuple,
        ice_policy: Literal["all", "relay"] = "all",
        timing: Timing = DEFAULT_TIMING,
        limit: int = SESSIONS_PER_AGENT,
        on_event: OnEvent | None = None,
    ) -> None:
        """``limit`` bounds sessions and attempts; a knock above it is refused.

        ``roads`` are those by which it comes to clients besides WebRTC. ``ice_servers`` gives those that are
        known at a knock; it must not block. Without ``key`` the agent proves nothing. ``require_proof``
        refuses clients that prove nothing.

        ``signaling``, ``services`` and ``directory`` stay the caller's to close, after :meth:`stop`.
        """
        self.identity = identity
        self.name = identity.name
        """As registered: the back end adds a number when another agent has the name."""
        self._owner = owner
        self._signaling = signaling
        self._timing = timing
        self._on_event = on_event
        self._public_key = None if key is None else str(key.public)
        self._registration = (
            None if directory is None else Registration(directory, identity, timing, self._public_key)
        )
        self._about: dict[str, Any] = {"name": self.name, "platform": platform_name(), "version": version()}
        self._services = {service.name: service for service in services}
        self._door = Door(
            agent_id=identity.id,
            signaling=signaling,
            services=self._services,
            about=self._about,
            ice_servers=ice_servers,
            ice_policy=ice_policy,
            timing=timing,
            limit=limit,
            tell=self._tell,
            roads=roads,
            key=key,
            require_proof=require_proof,
        )
        self._channel: Channel | None = None
        self._left = asyncio.Event()
        self._online_since = ""
        self._keeping: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()
        self._reason = ""

    @property
    def sessions(self) -> int:
        """Sessions and attempts there are now."""
        return self._door.callers

    async def start(self) -> None:
        """Register and become present, however long the back end is away.

        Raises :class:`NotSignedIn`, :class:`Unauthorized`, :class:`InvalidInput`: what waiting does not cure.
        """
        if self._registration is not None:
            self.name = self._about["name"] = await self._registration.start()
        self._online_since = datetime.now(UTC).isoformat(timespec="seconds")
        await self._appear()
        self._keeping = asyncio.create_task(self._keep(), name="keep present")

    async def stop(self, reason: str = "the agent stops") -> None:
        """Row offline, presence gone, every session and its processes ended. Idempotent."""
        if self._stopping is None:
            self._reason = reason
            self._stopping = asyncio.create_task(self._stop(reason), name="stop agent")
        await asyncio.shield(self._stopping)

    async def wait(self) -> str:
        """Wait until the agent has stopped; return the reason."""
        await self._gone.wait()
        return self._reason

    async def _stop(self, reason: str) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
        jobs = [self._door.stop(reason), self._disappear()]
        if self._registration is not None:
            jobs.append(self._registration.stop())
        for outcome in await asyncio.gather(*jobs, return_exceptions=True):
            if isinstance(outcome, BaseException):
                _log.error("stopping was not orderly", exc_info=outcome)
        self._tell(EventKind.OFFLINE, reason=reason)
        self._gone.set()

    async def _appear(self) -> None:
        """Join the owner's channel and announce the agent."""
        backoff = Backoff(self._timing)
        spec = ChannelSpec(
            topic=agents_topic(self._owner),
            on_message=self._door.receive,
            on_state=self._on_state,
            presence_key=self.identity.id,
        )
        while True:
            self._left.clear()
            try:
                channel = await self._signaling.join(spec, timeout=self._timing.join)
                self._channel = self._door.agents_channel = channel
                await channel.track(self._meta())
                self._tell(EventKind.ONLINE)
            except SignalingLost as error:
                if self._channel is not None:
                    return  # joined; the supervisor announces it with the next join
                pause = backoff.pause()
                _log.warning("not present: %s; next attempt in %.1f s", error, pause)
                await asyncio.sleep(pause)
            else:
                return

    async def _keep(self) -> None:
        """Appear again when a later join was refused, which ends the supervisor's own efforts."""
        backoff = Backoff(self._timing)
        while True:
            await self._left.wait()
            self._channel = self._door.agents_channel = None
            await asyncio.sleep(backoff.pause())
            try:
                await self._appear()
            except UsageError as error:
                _log.error("not present: %s", error)
                self._left.set()

    async def _disappear(self) -> None:
        channel, self._channel = self._channel, None
        if channel is None:
            return
        try:
            async with asyncio.timeout(self._timing.shutdown):
                await channel.untrack()
        except (SignalingLost, TimeoutError) as error:
            _log.info("presence was not taken back, it ends with the channel: %s", error)
        await channel.leave()

    def _meta(self) -> dict[str, Any]:
        """At most 10 keys (a limit of Supabase); tracked once and after every rejoin."""
        return {
            "agent_id": self.identity.id,
            "name": self.name,
            "platform": self._about["platform"],
            "version": self._about["version"],
            "public_key": self._public_key,
            "services": sorted(self._services),
            "availability": "available",
            "online_at": self._online_since,
        }

    def _on_state(self, state: ChannelState) -> None:
        if self._stopping is not None or self._channel is None:  # a first join is told by _appear
            return
        if state is ChannelState.JOINED:
            self._tell(EventKind.ONLINE)
        elif state is ChannelState.LOST:
            self._tell(EventKind.OFFLINE, reason="the back end is out of reach; live sessions go on")
        else:
            self._left.set()

    def _tell(self, kind: EventKind, **facts: Any) -> None:
        event = AgentEvent(kind=kind, agent_id=self.identity.id, name=self.name, **facts)
        _log.info("agent %s: %s %s", self.name, kind, facts)
        if self._on_event is not None:
            self._on_event(event)
