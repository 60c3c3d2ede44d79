"""Transport, below the wire: an ICE connection that gathers for a limited time and then trickles (RFC 8838).

aioice's own gathering holds the description back until the slowest STUN or TURN server has answered, five
seconds for a silent one, and asks one server of each kind. Here host candidates are there at once, every
configured server is asked by a task of ours, and what answers late is handed to ``on_late``.

The class is also the transport that aiortc's ``RTCDtlsTransport`` is constructed with: it has the three
members used there (``role``, ``_recv``, ``_send``), so that no task and no event emitter stands between them.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, cast

import aioice
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import (
    ICE_COMPLETED,
    CandidatePair,
    StunProtocol,
    get_host_addresses,
    relayed_candidate,
)
from aioice.mdns import is_mdns_hostname
from aioice.stun import Class, Message, Method, TransactionError

from doorstep.protocol.limits import CANDIDATE_BYTES
from doorstep.transport.webrtc_servers import Server
from doorstep.transport.webrtc_udp import open_udp

__all__ = ["IceConnection", "parse_candidate"]

_log = logging.getLogger("doorstep.transport")

_PACE = 0.005
"""Seconds between two connectivity checks: the least that RFC 8445 section 14.2 allows."""
_LATE = 10.0
"""Seconds after which a STUN or TURN server that has not answered is given up."""
_RELAY, _REFLEXIVE = "gather relay", "gather srflx"
_GRACE = 0.1
"""Seconds that servers which are slower than the first relay have at least."""
_RELAYED = 0.25
"""Seconds that pairs through a TURN server wait for a direct one: the first that works is kept for good."""
_URGENCY = {("udp", False): 65535, ("tcp", False): 65534, ("tcp", True): 65533}
"""Local preference of relays by how the TURN server is reached (RFC 8445 section 5.1.2.1)."""
_INBOX = 4096
"""Datagrams waiting for the DTLS transport; more are dropped, as a full socket buffer would."""
_DTLS = range(20, 64)
"""First bytes of a DTLS record (RFC 7983); everything else is not ours."""
_STUN_FAILURES = (TransactionError, OSError, TimeoutError, ValueError, LookupError)

_OpenUdp = Callable[[str, asyncio.DatagramProtocol], asyncio.DatagramTransport]
_Request = Callable[[], Coroutine[Any, Any, tuple[aioice.Candidate, StunProtocol | None]]]
"""Asks one server over one socket; the second item is a relay's own road."""


def parse_candidate(text: str) -> aioice.Candidate | None:
    """Read ``candidate:…``; return None, with a debug line, for one that is of no use here.

    Of no use are TCP, mDNS (peer-reflexive candidates stand in for them), addresses nobody answers from, and
    what cannot be read.
    """
    line = text.removeprefix("a=").removeprefix("candidate:")
    try:
        candidate = aioice.Candidate.from_sdp(line) if len(text) <= CANDIDATE_BYTES else None
    except ValueError:
        candidate = None
    if candidate is None:
        _log.debug("skipped a candidate that cannot be read: %.80r", text)
    elif not _usable(candidate):
        _log.debug("skipped a candidate of no use: %.80r", text)
    else:
        return candidate
    return None


def _usable(candidate: aioice.Candidate) -> bool:
    if candidate.transport.lower() != "udp" or is_mdns_hostname(candidate.host):
        return False
    try:
        address = ipaddress.ip_address(candidate.host)
    except ValueError:
        return False
    reachable = not (address.is_multicast or address.is_unspecified)
    kind = candidate.type in ("host", "srflx", "relay")
    return reachable and kind and candidate.component == 1 and 0 < candidate.port < 65536


class _Base(StunProtocol):
    """A socket of ours or a TURN allocation, which knows what it is asking whom."""

    def __init__(self, receiver: IceConnection) -> None:
        super().__init__(receiver)
        self._asking: dict[tuple[str, int], Message] = {}

    async def request(
        self,
        request: Message,
        addr: tuple[str, int],
        integrity_key: bytes | None = None,
        retransmissions: int | None = None,
    ) -> tuple[Message, tuple[str, int]]:
        self._asking[addr] = request
        try:
            return await super().request(request, addr, integrity_key, retransmissions)
        finally:
            if self._asking.get(addr) is request:
                del self._asking[addr]

    def repeat(self, addr: tuple[str, int]) -> None:
        """Send the request that waits for an answer from ``addr`` again, now."""
        if (request := self._asking.get(addr)) is not None:
            self.send_stun(request, addr)


class _Host(_Base):
    """A socket of ours: DTLS goes straight on, where aioice would first fail to parse it as STUN."""

    def datagram_received(self, data: bytes | str, addr: tuple[Any, ...]) -> None:
        if data and data[0] in _DTLS:
            self.receiver.data_received(cast(bytes, data), 1)
        else:
            super().datagram_received(data, addr)


class IceConnection(aioice.Connection):
    """One component of ICE with timed gathering, paced checks and a bounded inbox."""

    def __init__(
        self, servers: Sequence[Server], open_udp: _OpenUdp = open_udp, *, relay_only: bool = False
    ) -> None:
        super().__init__(ice_controlling=False)
        self._relay_only = relay_only
        self._open_udp = open_udp
        self.on_late: Callable[[aioice.Candidate], None] = lambda _: None
        self._servers = tuple(servers)
        self._asking: set[asyncio.Task[None]] = set()
        self._trickling = False
        self._pacer: asyncio.TimerHandle | None = None
        self._shutting = False
        self._road_lost = False
        self.sent_last = b""
        """What DTLS sent last, while it sends through us."""
        self._relays_from = 0.0
        self._roads_to_relays: dict[tuple[str, int], str] = {}
        self._sink: Callable[[bytes], None] | None = None

    @property
    def role(self) -> str:
        return "controlling" if self.ice_controlling else "controlled"

    @property
    def gathered(self) -> bool:
        """True when no server is being asked any more."""
        return not self._asking

    @property
    def remote_ended(self) -> bool:
        """True when the peer has said that it has no more candidates."""
        return self._remote_candidates_end

    @property
    def lost(self) -> bool:
        """True when the peer has not consented to traffic for 30 s (RFC 7675), or the TURN server is gone."""
        return (self._closed or self._road_lost) and not self._shutting

    def protocol_lost(self, protocol: StunProtocol) -> None:
        pair = self._nominated.get(1)
        self._road_lost = self._road_lost or (pair is not None and pair.protocol is protocol)
        super().protocol_lost(protocol)

    # gathering

    async def gather(self, limit: float) -> None:
        """Gather host candidates, and those the servers offer within ``limit`` seconds."""
        # A machine without network may still talk to itself: aioice leaves the loopback out.
        addresses = get_host_addresses(use_ipv4=True, use_ipv6=True) or ["127.0.0.1"]
        for host in [] if self._relay_only else addresses:
            self._open(host)
        self._local_candidates_end = True
        self._asking = {
            asyncio.create_task(self._ask(request), name=kind) for kind, request in self._requests()
        }
        await self._enough(limit)
        self._trickling = True

    async def _enough(self, limit: float) -> None:
        """Wait until all servers have answered, but no longer than ``limit``.

        One relay is enough when every reflexive address is known. A relay takes two round trips or more, a
        reflexive address one: who is silent for twice the time of the first relay is taken for blocked. All
        may still answer later.
        """
        loop = asyncio.get_running_loop()
        started, ends = loop.time(), loop.time() + limit
        while self._asking and (left := ends - loop.time()) > 0:
            await asyncio.wait(tuple(self._asking), timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if any(candidate.type == "relay" for candidate in self._local_candidates):
                if all(task.get_name() == _RELAY for task in self._asking):
                    return
                took = loop.time() - started
                ends = min(ends, started + took + max(took, _GRACE))

    def _open(self, host: str) -> None:
        protocol = _Host(self)
        try:
            transport = self._open_udp(host, protocol)
        except OSError as error:
            _log.debug("cannot bind to %s: %s", host, error)
            return
        protocol.local_candidate = aioice.Candidate(
            foundation=candidate_foundation("host", "udp", host),
            component=1,
            transport="udp",
            priority=candidate_priority(1, "host"),
            host=host,
            port=transport.get_extra_info("sockname")[1],
            type="host",
        )
        self._protocols.append(protocol)
        self._local_candidates.append(protocol.local_candidate)

    def _requests(self) -> list[tuple[str, _Request]]:
        requests: list[tuple[str, _Request]] = []
        for server in self._servers:
            if server.transport:
                requests.append((_RELAY, partial(self._relay, server)))
            else:
                requests += [(_REFLEXIVE, partial(_reflexive, p, server)) for p in self._protocols]
        return requests

    async def _relay(self, server: Server) -> tuple[aioice.Candidate, StunProtocol]:
        candidate, protocol = await relayed_candidate(
            component=1,
            hide_related_address=self._relay_only,
            protocol_factory=lambda: _Base(self),
            turn_server=(server.host, server.port),
            turn_username=server.username,
            turn_password=server.credential,
            turn_ssl=server.tls,
            turn_transport=server.transport,
        )
        self._roads_to_relays[candidate.host, candidate.port] = "tls" if server.tls else server.transport
        preference = _URGENCY[server.transport, server.tls]
        candidate.priority = candidate_priority(candidate.component, "relay", preference)
        return candidate, protocol

    async def _ask(self, request: _Request) -> None:
        try:
            async with asyncio.timeout(_LATE):
                candidate, relay = await request()
        except _STUN_FAILURES as error:
            _log.debug("an ICE server gave no candidate: %s", str(error) or type(error).__name__)
        else:
            self._took(candidate, relay)
        finally:
            self._asking.discard(asyncio.current_task())
            if self._early_checks_done and not self._check_list_done:
                self._check_list_maybe_fail()

    def _took(self, candidate: aioice.Candidate, relay: StunProtocol | None) -> None:
        if relay is not None:
            self._protocols.append(relay)
            for remote in self._remote_candidates:
                self._pair_remote_candidate(remote)
            self.sort_check_list()
            self._resume_checks()
        if any((c.host, c.port) == (candidate.host, candidate.port) for c in self._local_candidates):
            return  # no box translates: redundant (RFC 8445 section 5.1.3)
        self._local_candidates.append(candidate)
        if self._trickling:
            self.on_late(candidate)

    # connecting

    def _remote_candidates_expected(self) -> bool:
        return super()._remote_candidates_expected() or bool(self._asking)

    async def connect(self) -> None:
        """Check the candidate pairs until one is nominated; raise ``ConnectionError`` when all have failed.

        As aioice's, which sleeps 20 ms after every check and while there is no pair: here a timer paces the
        checks, and the connection is there in the moment a pair is nominated.
        """
        self._relays_from = asyncio.get_running_loop().time() + _RELAYED
        for candidate in self._remote_candidates:
            self._pair_remote_candidate(candidate)
        self.sort_check_list()
        self._unfreeze_initial()
        for early in self._early_checks:
            self.check_incoming(*early)
        self._early_checks.clear()
        self._early_checks_done = True
        self._pace()
        self._check_list_maybe_fail()
        outcome = await self._check_list_state.get()
        for pair in self._check_list:
            if pair.task is not None:
                pair.task.cancel()
        for asking in self._asking:
            asking.cancel()
        if outcome != ICE_COMPLETED:
            raise ConnectionError("ICE negotiation failed")
        self._query_consent_task = asyncio.create_task(self.query_consent())

    def check_incoming(self, message: Message, addr: tuple[str, int], protocol: StunProtocol) -> None:
        """Take a peer's check; one of ours to the same address that has no answer yet is sent again.

        The peer's box lets ours in only now (RFC 8445 section 7.3.1.4); aioice would leave it to the
        retransmission, half a second later. The first one keeps its right to an answer.
        """
        if isinstance(protocol, _Base):
            protocol.repeat(addr)
        super().check_incoming(message, addr, protocol)

    def _pace(self) -> None:
        self._pacer = None
        if self._check_periodic():
            self._pacer = asyncio.get_running_loop().call_later(_PACE, self._pace)

    def _check_periodic(self) -> bool:
        """Start the next check, as aioice does, but not one that is held back; False when all is done."""
        if self._check_list_done:
            return False
        held = self._holds_relays()
        for state in (CandidatePair.State.WAITING, CandidatePair.State.FROZEN):
            for pair in self._check_list:
                if pair.state is state and not (held and _relayed(pair)):
                    self.check_start_task(pair)
                    return True
        return held or self._remote_candidates_expected()

    def check_start_task(self, pair: CandidatePair) -> None:
        if not (_relayed(pair) and self._holds_relays()):
            super().check_start_task(pair)

    def _holds_relays(self) -> bool:
        """Each check of the controlling side nominates, so what it checks too early would be what is kept."""
        return (
            self.ice_controlling
            and asyncio.get_running_loop().time() < self._relays_from
            and any(p.state is not CandidatePair.State.FAILED and not _relayed(p) for p in self._check_list)
        )

    def _resume_checks(self) -> None:
        if self._early_checks_done and self._pacer is None:
            self._pace()

    # transport of RTCDtlsTransport

    async def _recv(self) -> bytes:
        return await self.recv()

    async def _send(self, data: bytes) -> None:
        pair = self._nominated.get(1)
        if pair is None:
            raise ConnectionError("Cannot send data, not connected")
        self.sent_last = data
        pair.protocol.transport.sendto(data, pair.remote_addr)

    def divert(self, sink: Callable[[bytes], None] | None) -> None:
        """Hand every further DTLS datagram to ``sink`` instead of the queue; those queued go first."""
        while sink is not None and not self._queue.empty():
            if (waiting := self._queue.get_nowait()) is not None:
                sink(waiting[0])
        self._sink = sink

    def data_received(self, data: bytes, component: int) -> None:
        if not data or data[0] not in _DTLS:
            return
        if self._sink is not None:
            self._sink(data)
        elif self._queue.qsize() < _INBOX:
            self._queue.put_nowait((data, component))

    # closing

    async def shut(self, limit: float) -> None:
        """Close within ``limit`` seconds, freeing TURN allocations if their servers still answer."""
        self._shutting = True
        asking = tuple(self._asking)
        for task in asking:
            task.cancel()
        if asking:
            await asyncio.wait(asking)
        for protocol in self._protocols:
            protocol.transport.close()  # all at once: one TURN server after the other could take too long
        try:
            async with asyncio.timeout(limit):
                await self.close()
        except TimeoutError:
            _log.debug("a TURN server did not confirm the end of its allocation")
            self._abandon_relays()
            await self.close()

    async def close(self) -> None:
        self._stop_pacing()
        await super().close()
        self._stop_pacing()

    def _abandon_relays(self) -> None:
        """End what waits for TURN servers; aioice closes the sockets in its ``finally``."""
        for protocol in self._protocols:
            closing: asyncio.Task[None] | None = getattr(
                protocol.transport, "_TurnTransport__close_task", None
            )
            if closing is not None:
                closing.cancel()

    def _stop_pacing(self) -> None:
        if self._pacer is not None:
            self._pacer.cancel()
            self._pacer = None

    @property
    def selected(self) -> tuple[aioice.Candidate, aioice.Candidate] | None:
        """The local and the remote candidate in use."""
        pair = self._nominated.get(1)
        return None if pair is None else (pair.local_candidate, pair.remote_candidate)

    def road_to_relay(self, local: aioice.Candidate) -> str | None:
        """How the TURN server of a candidate of ours is reached: udp, tcp or tls; None for any other."""
        return self._roads_to_relays.get((local.host, local.port)) if local.type == "relay" else None


def _relayed(pair: CandidatePair) -> bool:
    return "relay" in (pair.local_candidate.type, pair.remote_candidate.type)


async def _reflexive(protocol: StunProtocol, server: Server) -> tuple[aioice.Candidate, None]:
    """Ask a STUN server how a socket of ours looks from there, over the socket's own IP version."""
    base = protocol.local_candidate
    family = socket.AF_INET6 if ":" in base.host else socket.AF_INET
    found = await asyncio.get_running_loop().getaddrinfo(
        server.host, server.port, family=family, type=socket.SOCK_DGRAM
    )
    request = Message(message_method=Method.BINDING, message_class=Class.REQUEST)
    answer, _ = await protocol.request(request, (str(found[0][4][0]), server.port))
    host, port = answer.attributes["XOR-MAPPED-ADDRESS"]
    candidate = aioice.Candidate(
        foundation=candidate_foundation("srflx", "udp", base.host),
        component=base.component,
        transport="udp",
        priority=candidate_priority(base.component, "srflx"),
        host=host,
        port=port,
        type="srflx",
        related_address=base.host,
        related_port=base.port,
    )
    return candidate, None
