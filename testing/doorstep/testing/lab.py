"""Testing: a network laboratory: an internet with hub and TURN server, and sites behind boxes that translate.

Everything is real: network namespaces, nftables, coturn, ``doorstep hub``, ``doorstep agent``, and clients
that are processes of their own. Needs Linux, root, and the Debian packages that :func:`lacking` names.

::

    hub 203.0.113.10, 2001:db8::10 ─┐
    TURN 203.0.113.20, 2001:db8::20 ┴─ internet ─┬─ open host
                                                 ├─ wan [box] lan ── host 192.168.1.2
                                                 └─ wan [box] lan ── wan [box] lan ── host 192.168.1.2
"""

from __future__ import annotations

import base64
import hmac
import json
import secrets
import sys
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from doorstep.testing.lab_client import LabClient
from doorstep.testing.lab_link import TunLink
from doorstep.testing.lab_nat import HOST, Kind, box_rules, loss_rules
from doorstep.testing.lab_net import Namespaces, inside, lacking, run, sweep
from doorstep.testing.lab_tls import write_certificate
from doorstep.testing.link import Conditions
from doorstep.testing.stack import DOORSTEP, AgentProgram, Program
from doorstep.transport.credentials import Credentials, load, save

__all__ = ["Kind", "Lab", "LabClient", "Servers", "Site", "lab", "lacking"]

_NET4, _NET6 = "203.0.113", "2001:db8::"
_HUB, _TURN = 10, 20
_FIRST = 100
"""Host number of the first site's box."""
_ROUTING = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
_MANY = "events_per_second=10000"
"""A matrix is one user who connects dozens of machines within seconds; each hears what is said to all."""
_QUICK = {
    "DOORSTEP_TIMING_SIGNALING_LINGER": "5",
    "DOORSTEP_TIMING_RECONNECT_FIRST": "0.1",
    "DOORSTEP_TIMING_RECONNECT_CAP": "0.5",
}

TURN_ADDRESSES = frozenset({f"{_NET4}.{_TURN}", f"{_NET6}{_TURN}"})
"""Where relayed candidates are."""


@dataclass(frozen=True, slots=True)
class Servers:
    """Which ICE servers an agent or a client is given."""

    stun: bool = True
    turn: bool = False


@dataclass(slots=True)
class Site:
    """A host, and the boxes before it."""

    name: str
    kind: Kind
    host: str
    """Namespace of the host."""
    boxes: tuple[str, ...]
    """Namespaces of the boxes, the outer one first."""
    number: int
    link: TunLink | None = None

    @property
    def ipv6(self) -> bool:
        """True when the servers have to be named by their IPv6 addresses."""
        return self.kind is Kind.IPV6_ONLY


class Lab:
    """The internet and what is in it. Made by :func:`lab`."""

    def __init__(self, directory: Path, environment: Mapping[str, str], scale: float) -> None:
        self.directory = directory
        self.scale = scale
        self.sites: dict[str, Site] = {}
        self.net = ""
        self.hub: Program
        self.turn: Program
        self._namespaces = Namespaces()
        self._exit = AsyncExitStack()
        self._environment = {**_QUICK, **environment}
        self._secret = secrets.token_hex(16)
        self._started: dict[str, int] = {}

    async def start(self) -> None:
        """Make the internet; start hub and TURN server."""
        await sweep()
        self._exit.push_async_callback(self._namespaces.close)
        self.net, turn = await self._namespaces.make("internet", "turn")
        await self._namespaces.sysctl(self.net, *_ROUTING, "net.ipv4.conf.all.send_redirects=0")
        own = [address for host in (1, _HUB) for address in _addresses(host)]
        await self._namespaces.ip(
            self.net,
            ["link add net type bridge", *(_add_address(a, "net") for a in own), "link set net up"],
        )
        await self._plug(turn, _TURN, _addresses(_TURN))
        self.hub = self._program(
            "hub",
            ("hub", "--host", "::", "--port", "443", "--limits", _MANY, *self._state("back-end")),
            (*inside(self.net), *DOORSTEP),
        )
        self.turn = self._turn(turn)
        await self.start_turn()
        await self.start_hub()

    async def start_hub(self) -> None:
        """Start the hub, or start it again."""
        await self.hub.start()
        await self.hub.line("the hub listens at", within=30 * self.scale)

    async def start_turn(self) -> None:
        """Start the TURN server, or start it again."""
        await self.turn.start()
        await self.turn.line("SQLite DB connection success", within=20 * self.scale)

    # sites

    async def site(self, kind: Kind, name: str = "", *, link: Conditions | None = None) -> Site:
        """Add a site; ``link`` is put between the host and its box (or the internet), each way."""
        name = name or f"{kind}-{len(self.sites)}"
        number = _FIRST + len(self.sites)
        boxes = {Kind.OPEN: 0, Kind.DOUBLE: 2}.get(kind, 1)
        host, *inner = await self._namespaces.make(name, *(f"{name}-box{i}" for i in range(boxes)))
        site = Site(name, kind, host, tuple(inner), number)
        self.sites[name] = site
        both = _addresses(number)
        mine = {Kind.OPEN: both, Kind.IPV6_ONLY: both[1:]}.get(kind, both[:1])
        await self._plug(site.boxes[0] if boxes else host, number, mine)
        if boxes:
            await self._box(site.boxes[0], site)
        if kind is Kind.DOUBLE:
            await self._second_box(site)
        if boxes:
            await self._attach(site, link)
        return site

    async def _plug(self, namespace: str, number: int, addresses: Sequence[str]) -> None:
        """Connect a namespace's ``wan`` to the internet."""
        port = f"port{number}"
        await self._namespaces.ip(
            self.net,
            [f"link add {port} type veth peer name wan netns {namespace}", f"link set {port} master net up"],
        )
        lines = [_add_address(address, "wan") for address in addresses]
        lines += ["link set wan up", *(_default_route(address) for address in addresses)]
        await self._namespaces.ip(namespace, lines)

    async def _box(self, box: str, site: Site) -> None:
        await self._namespaces.sysctl(box, *_ROUTING)
        await self._namespaces.nft(box, box_rules(site.kind))
        if site.kind is Kind.IPV6_ONLY:
            route = f"route add {_lan6(site)}:/64 via {_NET6}{site.number}"
            await self._namespaces.ip(self.net, [route])

    async def _second_box(self, site: Site) -> None:
        outer, inner = site.boxes
        await self._namespaces.ip(
            outer,
            [
                f"link add lan type veth peer name wan netns {inner}",
                "address add 192.168.0.1/24 dev lan",
                "link set lan up",
            ],
        )
        await self._namespaces.ip(
            inner,
            ["address add 192.168.0.2/24 dev wan", "link set wan up", "route add default via 192.168.0.1"],
        )
        await self._namespaces.sysctl(inner, *_ROUTING)
        await self._namespaces.nft(inner, box_rules(Kind.PORT_RESTRICTED))

    async def _attach(self, site: Site, conditions: Conditions | None) -> None:
        """Connect the host to the (inner) box."""
        box = site.boxes[-1]
        if conditions is None:
            await self._namespaces.ip(box, [f"link add lan type veth peer name eth0 netns {site.host}"])
        else:
            site.link = TunLink(conditions)
            self._exit.callback(site.link.close)
            await site.link.open((box, "lan"), (site.host, "eth0"))
        near, far = (f"{_lan6(site)}:1", f"{_lan6(site)}:2") if site.ipv6 else ("192.168.1.1", HOST)
        size = 64 if site.ipv6 else 24
        for namespace, device, address in ((box, "lan", near), (site.host, "eth0", far)):
            lines = [_add_address(f"{address}/{size}", device), f"link set {device} up"]
            await self._namespaces.ip(namespace, lines)
        await self._namespaces.ip(site.host, [f"route add default via {near}"])

    # what happens to a site

    async def lose(self, site: Site, percent: int) -> None:
        """Lose this part of all packets, each way, at the site's outer box."""
        await self._namespaces.nft(site.boxes[0], loss_rules(percent))

    async def rebind(self, site: Site) -> None:
        """Forget every mapping; new ones get other ports, as after a restart of the box."""
        await self._namespaces.nft(site.boxes[0], box_rules(Kind.SYMMETRIC))
        await run(*inside(site.boxes[0]), "conntrack", "-F")

    async def link_state(self, site: Site, state: str) -> None:
        """Set the host's interface ``up`` or ``down``; the default route is back with it."""
        lines = [f"link set eth0 {state}"]
        if state == "up":
            lines.append("route add default via 192.168.1.1")
        await self._namespaces.ip(site.host, lines)

    async def move(self, site: Site, address: str = "192.168.1.77") -> None:
        """Give the host another address in its network, as another lease would."""
        await self._namespaces.ip(
            site.host,
            [
                f"address del {HOST}/24 dev eth0",
                f"address add {address}/24 dev eth0",
                "route replace default via 192.168.1.1",
            ],
        )

    # programs

    def ice_servers(self, site: Site, servers: Servers) -> list[dict[str, object]]:
        """W3C ``RTCIceServer`` objects, with a TURN login that ends in an hour (coturn's REST form)."""
        host = f"[{_NET6}{_TURN}]" if site.ipv6 else f"{_NET4}.{_TURN}"
        found: list[dict[str, object]] = []
        if servers.stun:
            found.append({"urls": [f"stun:{host}:3478"]})
        if servers.turn:
            user = f"{int(time.time()) + 3600}:lab"
            digest = hmac.digest(self._secret.encode(), user.encode(), "sha1")
            urls = [
                f"turn:{host}:3478?transport=udp",
                f"turn:{host}:3478?transport=tcp",
                f"turns:{host}:443?transport=tcp",
            ]
            login = {"username": user, "credential": base64.b64encode(digest).decode()}
            found.append({"urls": urls, **login})
        return found

    def credentials(self, site: Site) -> Credentials:
        """The owner's login, at the address that the site reaches."""
        host = f"[{_NET6}{_HUB}]" if site.ipv6 else f"{_NET4}.{_HUB}"
        return replace(load(self.directory / "back-end", {}), url=f"http://{host}:443", directory=None)

    async def agent(
        self, site: Site, servers: Servers, *, environment: Mapping[str, str] | None = None
    ) -> AgentProgram:
        """Start an agent at a site and wait until it is online; it is named after the site."""
        state = self.directory / f"agent-{site.name}"
        save(state, self.credentials(site))
        program = AgentProgram(
            site.name,
            ("agent", "--events", "--name", site.name, "--state-dir", str(state)),
            {
                **self._environment,
                "DOORSTEP_ICE_SERVERS": json.dumps(self.ice_servers(site, servers)),
                **(environment or {}),
            },
            self._log(f"agent-{site.name}"),
            command=(*inside(site.host), *DOORSTEP),
        )
        program.state_dir = state
        self._exit.push_async_callback(program.close)
        await program.start()
        await program.event("online", within=30 * self.scale)
        return program

    async def client(self, site: Site, *, environment: Mapping[str, str] | None = None) -> LabClient:
        """Start a process at a site that makes clients on request."""
        state = self.directory / f"client-{site.name}"
        state.mkdir(exist_ok=True)
        client = LabClient(
            (*inside(site.host), sys.executable, "-m", "doorstep.testing.lab_client"),
            {
                **self._environment,
                "DOORSTEP_STATE_DIR": str(state),
                **(environment or {}),
            },
            self._log(f"client-{site.name}"),
        )
        self._exit.push_async_callback(client.close)
        await client.start()
        await client.agents(self.credentials(site))
        return client

    async def close(self) -> None:
        """End every process, then remove the network."""
        await self._exit.aclose()

    def _turn(self, namespace: str) -> Program:
        certificate, key = write_certificate(self.directory, sorted(TURN_ADDRESSES))
        self._environment["SSL_CERT_FILE"] = str(certificate)
        own = [f"--listening-ip={address}" for address in sorted(TURN_ADDRESSES)]
        own += [f"--relay-ip={address}" for address in sorted(TURN_ADDRESSES)]
        arguments = (
            *("-n", "--no-cli", "--log-file=stdout", "--simple-log", "--realm=lab.test", *own),
            *("--use-auth-secret", f"--static-auth-secret={self._secret}", "--relay-threads=1"),
            *("--listening-port=3478", "--tls-listening-port=443", f"--cert={certificate}", f"--pkey={key}"),
            *(f"--pidfile={self.directory / 'turn.pid'}", f"--userdb={self.directory / 'turn.sqlite'}"),
        )
        return self._program("turn", arguments, (*inside(namespace), "turnserver"))

    def _program(self, name: str, arguments: Sequence[str], command: Sequence[str]) -> Program:
        program = Program(name, arguments, self._environment, self._log(name), command=command)
        self._exit.push_async_callback(program.close)
        return program

    def _state(self, name: str) -> tuple[str, str]:
        return ("--state-dir", str(self.directory / name))

    def _log(self, name: str) -> Path:
        return self.directory / f"{name}.log"


@asynccontextmanager
async def lab(
    directory: Path, *, environment: Mapping[str, str] | None = None, scale: float = 1.0
) -> AsyncGenerator[Lab]:
    """Run a laboratory. ``scale`` stretches the deadlines of slow machines."""
    running = Lab(directory, environment or {}, scale)
    try:
        await running.start()
        yield running
    finally:
        await running.close()


def _addresses(host: int) -> tuple[str, str]:
    return f"{_NET4}.{host}/24", f"{_NET6}{host}/64"


def _add_address(address: str, device: str) -> str:
    """With IPv6, do not first spend a second to see whether somebody else has the address."""
    return f"address add {address} dev {device}{' nodad' if ':' in address else ''}"


def _default_route(address: str) -> str:
    return f"route add default via {_NET6}1" if ":" in address else f"route add default via {_NET4}.1"


def _lan6(site: Site) -> str:
    """The prefix of an IPv6 site, to which a host number or nothing and a colon are added."""
    return f"2001:db8:{site.number}:"
