"""Client: the peer connection of one try, from the offer to the greeted session; it closes what it does not
hand over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from doorstep.protocol.attempt import LocalCandidate, NotTrusted, OfferCreated, PeerFailed, WireUp
from doorstep.protocol.errors import DoorstepError, PeerNotTrusted
from doorstep.protocol.signaling import Candidate, IceServer
from doorstep.runtime import Session
from doorstep.runtime.tasks import TaskOwner
from doorstep.transport.pool import Carry

if TYPE_CHECKING:
    from doorstep.transport.webrtc import Peer

__all__ = ["OpenPeer", "PeerEvent", "Peering"]

OpenPeer = Callable[[Sequence[IceServer]], Awaitable["Peer"]]
"""Makes a peer with these ICE servers; the real one unless a test says why not."""
Check = Callable[[], Awaitable[None]]
"""Raises what stands against an answer."""
PeerEvent: TypeAlias = OfferCreated | LocalCandidate | WireUp | PeerFailed | NotTrusted


class Peering:
    """Runs what the machine wants of a peer, in order, and tells it what came of that."""

    def __init__(
        self,
        serial: int,
        make_session: Callable[[], Session],
        tell: Callable[[PeerEvent], None],
        carry: Carry | None = None,
    ) -> None:
        """``make_session`` gives the session that the wire is for: a new one, which is started here, unless
        ``carry`` takes it over to the wire; it is somebody else's then."""
        self._serial = serial
        self._make_session = make_session
        self._carry = carry
        self._tell = tell
        self._peer: Peer | None = None
        self._session: Session | None = None
        self._tasks = TaskOwner()
        self._turn = asyncio.Lock()  # its waiters are served in order

    def create_offer(self, open_peer: OpenPeer, servers: Sequence[IceServer]) -> None:
        """Make the peer and its offer."""
        self._run(self._create_offer(open_peer, servers), "offer")

    def apply_answer(self, sdp: str, check: Check | None = None) -> None:
        """When ``check`` has passed, give the answer to the peer; wait for its wire and greet the session."""
        self._run(self._apply_answer(sdp, check), "answer")

    def add_candidate(self, candidate: Candidate) -> None:
        """Give the peer a candidate, after the answer."""
        self._run(self._add_candidate(candidate), "candidate")

    def take_session(self) -> Session:
        """Hand over the greeted session; from here on it owns the peer."""
        session, self._session, self._peer = self._session, None, None
        assert session is not None
        return session

    async def close(self) -> None:
        """End everything that was not handed over. Idempotent."""
        self._tasks.cancel()
        await self._tasks.ended(1.0)
        session, self._session = self._session, None
        peer, self._peer = self._peer, None
        if session is not None and self._carry is None:
            await session.close()
        if peer is not None:
            await peer.close()

    def _run(self, work: Coroutine[Any, Any, None], what: str) -> None:
        self._tasks.spawn(self._guarded(work), f"doorstep-connect-{what}-{self._serial}")

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except PeerNotTrusted as error:
            self._tell(NotTrusted(self._serial, error.message, error.known, error.shown))
        except DoorstepError as error:
            self._tell(PeerFailed(self._serial, str(error)))

    async def _create_offer(self, open_peer: OpenPeer, servers: Sequence[IceServer]) -> None:
        async with self._turn:
            self._peer = await open_peer(servers)
            self._peer.on_candidate = lambda candidate: self._tell(LocalCandidate(self._serial, candidate))
            sdp = await self._peer.create_offer()
        self._tell(OfferCreated(self._serial, sdp))

    async def _apply_answer(self, sdp: str, check: Check | None) -> None:
        async with self._turn:
            assert self._peer is not None
            if check is not None:
                await check()
            await self._peer.apply_answer(sdp)
        wire = await self._peer.wire()
        self._session = self._make_session()
        await (self._carry or self._session.start)(wire)
        self._tell(WireUp(self._serial))

    async def _add_candidate(self, candidate: Candidate) -> None:
        async with self._turn:
            if self._peer is not None:
                await self._peer.add_candidate(candidate)
