"""Transport: which ICE servers can be asked, and what a lost packet costs while connecting."""

from __future__ import annotations

import asyncio
import re
import socket
from typing import Any

import pytest
from aioice.stun import Class, Message, Method, parse_message
from aiortc import RTCDtlsParameters

from doorstep.protocol.errors import InvalidInput
from doorstep.protocol.signaling import IceServer
from doorstep.transport.certificate import process_certificate
from doorstep.transport.webrtc import Peer
from doorstep.transport.webrtc_dtls import Dtls
from doorstep.transport.webrtc_ice import IceConnection
from doorstep.transport.webrtc_servers import Server, servers_of
from doorstep.transport.webrtc_udp import UdpTransport, open_udp

LOGIN: dict[str, Any] = {"username": "u", "credential": "c"}


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("stun:example.test", Server(host="example.test", port=3478)),
        ("stun:192.0.2.1:19302", Server(host="192.0.2.1", port=19302)),
        ("stun:[2001:db8::1]", Server(host="2001:db8::1", port=3478)),
        ("stun:[2001:db8::1]:99", Server(host="2001:db8::1", port=99)),
        ("turn:example.test", Server(host="example.test", port=3478, transport="udp", **LOGIN)),
        ("turn:[::1]:5?transport=tcp", Server(host="::1", port=5, transport="tcp", **LOGIN)),
        ("turns:a.test:443", Server(host="a.test", port=443, transport="tcp", tls=True, **LOGIN)),
        ("turns:a.test?transport=tcp", Server(host="a.test", port=5349, transport="tcp", tls=True, **LOGIN)),
        ("stuns:example.test", None),
        ("turns:a.test?transport=udp", None),
        ("turn:a.test?transport=sctp", None),
    ],
)
def test_urls_of_servers(url: str, server: Server | None) -> None:
    assert servers_of([IceServer(urls=(url,), **LOGIN)]) == ([server] if server else [])


@pytest.mark.parametrize(
    "url",
    [
        *("", "example.test", "stun:", "stun:[::1", "stun:a b", "http://a.test"),
        *(
            "stun:a.test:0",
            "stun:a.test:65536",
            "stun:a.test:",
            "stun:a.test?transport=udp",
            "turn:2001:db8::1",
        ),
    ],
)
def test_what_is_no_url_of_a_server_is_named(url: str) -> None:
    with pytest.raises(InvalidInput, match="iceServers"):
        servers_of([IceServer(urls=(url,))])


class StunServer(asyncio.DatagramProtocol):
    """Answers that all come from one foreign address."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        request = parse_message(data)
        answer = Message(Method.BINDING, Class.RESPONSE, transaction_id=request.transaction_id)
        answer.attributes["XOR-MAPPED-ADDRESS"] = ("2001:db8::7", 4711)
        self.transport.sendto(bytes(answer), addr)


def _has_ipv6_address() -> bool:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


class OnLoopback(IceConnection):
    """Gathers on the loopback, which real connections leave out."""

    def _open(self, host: str) -> None:
        super()._open("::1")


@pytest.mark.asyncio
@pytest.mark.skipif(not _has_ipv6_address(), reason="this machine has no IPv6")
async def test_a_stun_server_is_asked_over_ipv6(scale: float) -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(StunServer, local_addr=("::1", 0))
    ice = OnLoopback([Server(host="::1", port=transport.get_extra_info("sockname")[1])])
    await ice.gather(20 * scale)
    assert ("srflx", "2001:db8::7", 4711) in [(c.type, c.host, c.port) for c in ice.local_candidates]
    await ice.shut(1)
    transport.close()
    await asyncio.sleep(0)


@pytest.mark.asyncio
@pytest.mark.skipif(not _has_ipv6_address(), reason="this machine has no IPv6")
async def test_two_peers_that_have_ipv6_only_connect() -> None:
    near, far = Peer([]), Peer([])
    for peer in (near, far):
        limit_to_ipv6(peer._ice)
    try:
        offer = await near.create_offer()
        answer = await far.accept_offer(offer)
        for text in (offer, answer):
            assert set(re.findall(r"candidate:\S+ 1 udp \d+ (\S+) \d+ typ (\S+)", text)) == {("::1", "host")}
        await near.apply_answer(answer)
        async with asyncio.timeout(40):
            for wire in await asyncio.gather(near.wire(), far.wire()):
                for end in ("localCandidate", "remoteCandidate"):
                    assert wire.stats()[end]["address"] == "::1"  # type: ignore[index]
    finally:
        await near.close()
        await far.close()


def limit_to_ipv6(ice: IceConnection) -> None:
    """As on a machine with no other address."""
    opened = ice._open

    def open_one(host: str) -> None:
        if not ice._protocols:
            opened("::1")

    ice._open = open_one  # type: ignore[method-assign]


class Forgetful(UdpTransport):
    """Loses the first DTLS datagrams it is given."""

    lose = 1

    def sendto(self, data: bytes, addr: Any = None) -> None:  # type: ignore[override]
        if self.lose and 20 <= data[0] < 64:
            self.lose -= 1
            return
        super().sendto(data, addr)


def open_forgetful(host: str, protocol: asyncio.DatagramProtocol) -> UdpTransport:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind((host, 0))
    return Forgetful(sock, protocol)


@pytest.mark.asyncio
@pytest.mark.parametrize("end", [0, 1])
async def test_a_lost_flight_does_not_cost_a_second(end: int) -> None:
    """The client's first flight, the server's: OpenSSL alone would wait 1 s for either, each time."""
    for _ in range(5):  # a busy machine may hold one up
        if await handshake_without_the_first_flight_of(end) < 0.9:
            return
    pytest.fail("every handshake took as long as OpenSSL's own patience")


async def handshake_without_the_first_flight_of(end: int) -> float:
    """Seconds that it takes."""
    ices = [IceConnection([], open_forgetful if number == end else open_udp) for number in (0, 1)]
    ices[0].ice_controlling = True
    dtls = [Dtls(ice, process_certificate()) for ice in ices]
    for ice in ices:
        await ice.gather(1)
    for ice, other in (ices, ices[::-1]):
        ice.remote_username, ice.remote_password = other.local_username, other.local_password
        for candidate in other.local_candidates:
            await ice.add_remote_candidate(candidate)
    await asyncio.gather(*(ice.connect() for ice in ices))
    fingerprints = RTCDtlsParameters(fingerprints=process_certificate().getFingerprints())
    started = asyncio.get_running_loop().time()
    for one, role in zip(dtls, ("client", "server"), strict=True):
        one.take_role(role)
    await asyncio.gather(*(one.start(fingerprints) for one in dtls))
    assert [one.state for one in dtls] == ["connected", "connected"]
    took = asyncio.get_running_loop().time() - started
    for one in dtls:
        await one.stop()
    for ice in ices:
        await ice.shut(1)
    return took
