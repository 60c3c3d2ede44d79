"""Transport, layer 0: a peer connection of DataChannels (W3C WebRTC), built from aiortc's ORTC objects.

``RTCPeerConnection`` is not used: it makes a certificate per connection, holds an answer back until the
slowest STUN server has answered, and connects in a task nobody owns. Its parts (ICE, DTLS and SCTP transport)
are public classes of aiortc; here they are put together with one owner per task, a limit on every wait, and
trickle ICE.

Importing this module imports aiortc, most of a second: import it where it is needed, after
:func:`doorstep.transport.certificate.warm_up`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Literal

import aioice
from aiortc import (
    RTCDataChannel,
    RTCDataChannelParameters,
    RTCDtlsFingerprint,
    RTCDtlsParameters,
    RTCSctpCapabilities,
)

from doorstep.protocol.errors import ConnectFailed, InvalidInput
from doorstep.protocol.lanes import REQUIRED_LANES, Lane
from doorstep.protocol.limits import CANDIDATES_PER_SESSION, MAX_FRAME
from doorstep.protocol.signaling import Candidate, IceCandidate, IceServer
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.transport import sdp
from doorstep.transport.certificate import process_certificate
from doorstep.transport.sctp.road import choose_road
from doorstep.transport.webrtc_ice import IceConnection, parse_candidate
from doorstep.transport.webrtc_servers import servers_of
from doorstep.transport.webrtc_wire import WebRtcWire

__all__ = ["IcePolicy", "IceServer", "Peer", "WebRtcWire"]

IcePolicy = Literal["all", "relay"]
"""W3C ``RTCIceTransportPolicy``: ``relay`` uses TURN servers only and tells the peer no address of ours."""

_log = logging.getLogger("doorstep.transport")

_CLOSE = 0.8
"""Seconds to free TURN allocations at the end; a server that does not answer lets them expire."""
_FOREIGN_CHANNELS = 8
"""Channels with other labels that a peer may open, and that are closed, before it is taken for hostile."""
_MID = "0"
_URGENCY = {lane.value: number for number, lane in enumerate(Lane)}
"""What SCTP sends first, by label."""


class Peer:
    """One peer connection, from either side: ``create_offer`` + ``apply_answer``, or ``accept_offer``.

    Created in a running loop; :meth:`close` releases everything and must be awaited, whatever happened.
    """

    def __init__(
        self,
        ice_servers: Sequence[IceServer],
        *,
        timing: Timing = DEFAULT_TIMING,
        policy: IcePolicy = "all",
    ) -> None:
        self.on_candidate: Callable[[Candidate], None] | None = None
        """Called with each local candidate found after the description was made."""
        self._timing = timing
        road = choose_road()
        self._ice = IceConnection(servers_of(ice_servers), relay_only=policy == "relay")
        self._ice.on_late = self._trickle
        self._dtls = road.make_dtls(self._ice, process_certificate())
        self._dtls.on("statechange", self._dtls_changed)
        self._sctp = road.make_sctp(self._dtls, _URGENCY)
        self._sctp.on_broken = self._lose
        self._sctp.on("datachannel", self._announced)
        self._wire = WebRtcWire(self._shut_down, self._lose, lambda: self._sctp.has_room, self._facts)
        self._sctp.on_room = self._wire.pump
        self._offers = False
        self._local: sdp.Description | None = None
        self._remote: sdp.Description | None = None
        self._early: list[Candidate] = []
        self._candidates = 0
        self._skipped = False
        self._lanes: dict[Lane, RTCDataChannel] = {}
        self._foreign = 0
        self._stage = "ICE"
        self._since = 0.0
        self._steps: dict[str, float] = {}
        self._settled = asyncio.Event()
        self._up = False
        self._failure = ""
        self._connecting: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None

    # offer and answer

    async def create_offer(self) -> str:
        """Make the required lanes; return the offer, with the candidates found within ``timing.gather``.

        Raises :class:`~doorstep.protocol.errors.ConnectFailed` when the peer is closed meanwhile.
        """
        self._refuse_when_ended()
        self._offers = self._ice.ice_controlling = True
        for lane in REQUIRED_LANES:
            self._take_lane(lane, RTCDataChannel(self._sctp, RTCDataChannelParameters(label=lane.value)))
        section = sdp.Section("application", "UDP/DTLS/SCTP", "webrtc-datachannel", _MID)
        return await self._describe((section,), 0, "actpass")

    async def accept_offer(self, offer: str) -> str:
        """Return the answer and begin to connect.

        Raises :class:`~doorstep.protocol.errors.InvalidInput` for an offer that is malformed or has no data
        channel section.
        """
        remote = sdp.parse(offer)
        self._refuse_when_ended()
        self._ice.ice_controlling = remote.ice_lite
        role: sdp.Setup = "passive" if remote.setup == "active" else "active"
        answer = await self._describe(remote.sections, remote.index, role)
        await self._take_remote(remote)
        return answer

    async def apply_answer(self, answer: str) -> None:
        """Take the answer to :meth:`create_offer` and begin to connect.

        Raises :class:`~doorstep.protocol.errors.InvalidInput` for an answer that is malformed or rejects the
        data channels.
        """
        remote = sdp.parse(answer)
        if remote.setup == "actpass":
            raise InvalidInput("sdp", "an answer must settle setup as active or passive")
        if not self._offers or self._remote is not None:
            raise InvalidInput("sdp", "there is no offer that waits for an answer")
        await self._take_remote(remote)

    async def _describe(self, sections: tuple[sdp.Section, ...], index: int, setup: sdp.Setup) -> str:
        if self._local is not None:
            raise InvalidInput("sdp", "a peer makes one description only")
        fingerprints = process_certificate().getFingerprints()
        self._local = sdp.Description(
            sections=sections,
            index=index,
            ufrag=self._ice.local_username,
            password=self._ice.local_password,
            fingerprints=tuple(sdp.Fingerprint(f.algorithm, f.value) for f in fingerprints[:1]),
            setup=setup,
            max_message=MAX_FRAME,
        )
        await self._ice.gather(self._timing.gather)
        self._refuse_when_ended()
        return sdp.render(
            dataclasses.replace(
                self._local,
                candidates=tuple(f"candidate:{c.to_sdp()}" for c in self._ice.local_candidates),
                complete=self._ice.gathered,
            )
        )

    async def _take_remote(self, remote: sdp.Description) -> None:
        self._refuse_when_ended()
        self._remote = remote
        for text in remote.candidates:
            await self._use(text)
        early, self._early = self._early, []
        for candidate in early:
            await self.add_candidate(candidate)
        if remote.complete:
            await self._use("")
        self._connecting = asyncio.create_task(self._connect(remote))

    # candidates

    async def add_candidate(self, candidate: Candidate) -> None:
        """Take a candidate of the peer; before its description is here, keep it. ``""`` = there are no more.

        What cannot be used (TCP, mDNS, malformed, of another section, too many) is skipped with a debug line.
        """
        if self._ending is not None:
            return
        if self._remote is None:
            if len(self._early) < CANDIDATES_PER_SESSION:
                self._early.append(candidate)
        else:
            for one in (candidate, *candidate.more):
                if self._concerns_us(one, self._remote):
                    await self._use(one.candidate)

    def _concerns_us(self, candidate: IceCandidate, remote: sdp.Description) -> bool:
        fragment = candidate.username_fragment
        if fragment is not None and fragment != remote.ufrag:
            _log.debug("skipped a candidate of another ICE generation")
            return False
        if candidate.sdp_mid:
            return candidate.sdp_mid == remote.mid
        return candidate.sdp_m_line_index in (None, remote.index)

    async def _use(self, text: str) -> None:
        if self._ice.remote_ended:
            return
        if not text:
            if not self._skipped:  # a skipped one may still come, as a peer-reflexive candidate
                await self._ice.add_remote_candidate(None)
            return
        self._candidates += 1
        candidate = parse_candidate(text) if self._candidates <= CANDIDATES_PER_SESSION else None
        if candidate is None:
            self._skipped = True
        else:
            await self._ice.add_remote_candidate(candidate)

    def _trickle(self, candidate: aioice.Candidate) -> None:
        if self.on_candidate is None or self._local is None or self._ending is not None:
            return
        self.on_candidate(
            Candidate(
                candidate=f"candidate:{candidate.to_sdp()}",
                sdp_mid=self._local.mid,
                sdp_m_line_index=self._local.index,
                username_fragment=self._local.ufrag,
            )
        )

    # connecting

    async def wire(self) -> WebRtcWire:
        """Return the wire when ICE, DTLS and all required lanes are up.

        Raises :class:`~doorstep.protocol.errors.ConnectFailed`, at the latest ``timing.ice`` after both
        descriptions were known.
        """
        await self._settled.wait()
        if self._failure:
            raise ConnectFailed(self._failure)
        return self._wire

    async def _connect(self, remote: sdp.Description) -> None:
        limit = self._timing.ice
        self._since = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(limit):
                await self._connect_ice(remote)
                self._next_stage("DTLS")
                await self._connect_dtls(remote)
                self._next_stage("lanes")
                self._dtls.receive_directly()
                await self._sctp.start(RTCSctpCapabilities(maxMessageSize=remote.max_message), remote.port)
                await self._settled.wait()
                self._next_stage("")
        except TimeoutError:
            self._lose(f"no connection within {limit:g} s: still waiting for {self._stage}")
        except ConnectFailed as error:
            self._lose(str(error))

    def _next_stage(self, stage: str) -> None:
        now = asyncio.get_running_loop().time()
        self._steps[self._stage] = round((now - self._since) * 1000, 2)
        self._stage, self._since = stage, now

    async def _connect_ice(self, remote: sdp.Description) -> None:
        self._ice.remote_is_lite = remote.ice_lite
        self._ice.remote_username, self._ice.remote_password = remote.ufrag, remote.password
        try:
            await self._ice.connect()
        except ConnectionError as error:
            raise ConnectFailed("no pair of ICE candidates connects the two peers") from error

    async def _connect_dtls(self, remote: sdp.Description) -> None:
        mine = "client" if remote.setup == "passive" else "server"
        if not self._offers:
            mine = "server" if remote.setup == "active" else "client"
        self._dtls.take_role(mine)
        fingerprints = [RTCDtlsFingerprint(f.algorithm, f.digest) for f in remote.fingerprints]
        await self._dtls.start(RTCDtlsParameters(fingerprints=fingerprints))
        if self._dtls.state != "connected":
            raise ConnectFailed("the DTLS handshake failed: the peer is not the one of the description")

    # lanes

    def _announced(self, channel: RTCDataChannel) -> None:
        """The peer has opened a channel: it is a lane, or it is closed."""
        lane = next((lane for lane in REQUIRED_LANES if lane.value == channel.label), None)
        if self._offers or lane is None or lane in self._lanes:
            self._foreign += 1
            _log.debug("closed a foreign channel: %.64r", channel.label)
            channel.close()
            if self._foreign > _FOREIGN_CHANNELS:
                self._lose("the peer opens channels without end")
        elif (
            not channel.ordered or channel.maxRetransmits is not None or channel.maxPacketLifeTime is not None
        ):
            self._lose(f"the peer opened the lane {lane} unordered or unreliable")
        else:
            self._take_lane(lane, channel)
            self._opened()

    def _take_lane(self, lane: Lane, channel: RTCDataChannel) -> None:
        self._lanes[lane] = channel
        self._wire.attach(lane, channel)
        channel.on("open", self._opened)
        channel.on("close", lambda: self._lose(self._closing_reason("the peer closed the connection")))

    def _opened(self) -> None:
        if self._ending is not None or self._up or len(self._lanes) < len(REQUIRED_LANES):
            return
        if all(channel.readyState == "open" for channel in self._lanes.values()):
            self._wire.max_frame = min(MAX_FRAME, self._sctp.remote_max_message or MAX_FRAME)
            self._up = True
            self._settled.set()

    # ending

    def _dtls_changed(self) -> None:
        if self._dtls.state == "closed":
            self._lose(self._closing_reason("the peer closed the connection"))

    def _closing_reason(self, otherwise: str) -> str:
        return "the connection to the peer was lost" if self._ice.lost else otherwise

    def _lose(self, reason: str) -> None:
        """Begin the end, once, from whatever side it comes."""
        if self._ending is not None:
            return
        _log.debug("a peer connection ends: %s", reason)
        if not self._up:
            self._failure = reason
        self._settled.set()
        self._wire.end(reason)
        self._ending = asyncio.get_running_loop().create_task(self._tear_down())

    async def _tear_down(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait((self._connecting,))
        await self._sctp.stop()
        await self._dtls.stop()
        await self._ice.shut(_CLOSE)
        self.on_candidate = None

    async def _shut_down(self, reason: str) -> None:
        self._lose(reason)
        assert self._ending is not None
        await asyncio.shield(self._ending)

    async def close(self) -> None:
        """Close the connection and its wire; release every task, timer and socket. Idempotent."""
        await self._shut_down("closed")

    def _refuse_when_ended(self) -> None:
        if self._ending is not None:
            raise ConnectFailed(self._failure or "the peer connection was closed")

    def _facts(self) -> dict[str, object]:
        rtt = self._sctp.round_trip
        sent, resent = self._sctp.chunks_sent
        facts: dict[str, object] = {
            "roundTripMs": None if rtt is None else round(rtt * 1000, 3),
            "chunksOut": sent,
            "chunksResent": resent,
            "connectMs": dict(self._steps),
        }
        if self._ice.selected is not None:
            local, remote = self._ice.selected
            facts["localCandidate"] = _fact(local, self._ice.road_to_relay(local))
            facts["remoteCandidate"] = _fact(remote, None)
        return facts


def _fact(candidate: aioice.Candidate, relay_protocol: str | None) -> dict[str, object]:
    return {
        "type": candidate.type,
        "address": candidate.host,
        "port": candidate.port,
        "protocol": candidate.transport.lower(),
        "relayProtocol": relay_protocol,
    }
