"""Testing, network laboratory: connects every kind of site with every other, and tells how it went."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from doorstep.testing.lab import TURN_ADDRESSES, Kind, Lab, LabClient, Servers, Site
from doorstep.testing.lab_client import Failed
from doorstep.testing.lab_expected import Table
from doorstep.testing.stack import AgentProgram

__all__ = ["CELL_TIMING", "Outcome", "complaints", "markdown", "matrix", "used"]

_AT_ONCE = 6
"""Cells connected at the same time; most of them wait for the network."""
_STARTS = 4
"""Programs started at the same time: that is a second of CPU each."""

_SETTLES = 40.0
"""Seconds for a session to come from the relay to a better wire, on a busy machine."""

CELL_TIMING = {
    "DOORSTEP_TIMING_ICE": "5",
    "DOORSTEP_TIMING_RETRY_PAUSE": "1",
    "DOORSTEP_TIMING_IMPROVE_FIRST": "2",
}
"""A client in a cell does not wait long before it tries again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one cell came out."""

    agent: Kind
    client: Kind
    wire: str
    """``direct``, ``turn``, another kind of wire, or ``none``."""
    pair: str = ""
    """Types of the local and the remote ICE candidate, as the client sees them."""
    seconds: float = 0.0
    """From the call of ``connect()``, with sign-in, to the output of a first command."""
    detail: str = ""

    @property
    def cell(self) -> tuple[Kind, Kind]:
        return self.agent, self.client


def used(stats: Mapping[str, Any]) -> tuple[str, str]:
    """(wire, candidate pair) from a session's ``stats()``."""
    if stats["wire"] != "webrtc":
        return str(stats["wire"]), ""
    ends = stats["transport"]["localCandidate"], stats["transport"]["remoteCandidate"]
    relayed = any(end["type"] == "relay" or end["address"] in TURN_ADDRESSES for end in ends)
    return ("turn" if relayed else "direct"), "-".join(str(end["type"]) for end in ends)


async def matrix(
    lab: Lab,
    servers: Servers,
    cells: Sequence[tuple[Kind, Kind]],
    clients: dict[Kind, LabClient],
    expected: Table,
) -> list[Outcome]:
    """Connect the cells, (agent's kind, client's kind); ``clients`` are used and kept for the next matrix."""
    agent_kinds, client_kinds = ({cell[end] for cell in cells} for end in (0, 1))
    for kind in agent_kinds:
        await _site(lab, "agent", kind)
    for kind in client_kinds:
        await _site(lab, "client", kind)
    agents: dict[Kind, AgentProgram] = {}

    starts = asyncio.Semaphore(_STARTS)

    async def start_agent(kind: Kind) -> None:
        async with starts:
            agents[kind] = await lab.agent(_named(lab, "agent", kind), servers)

    async def start_client(kind: Kind) -> None:
        async with starts:
            clients[kind] = await lab.client(_named(lab, "client", kind), environment=CELL_TIMING)

    starting = [start_agent(kind) for kind in agent_kinds]
    starting += [start_client(kind) for kind in client_kinds - clients.keys()]
    await asyncio.gather(*starting)
    turn = asyncio.Semaphore(_AT_ONCE)

    async def one(agent: Kind, client: Kind) -> Outcome:
        async with turn:
            direct = expected[agent, client] in ("direct", "turn")
            return await _cell(lab, servers, agent, client, clients[client], settles=direct)

    try:
        return await asyncio.gather(*(one(*cell) for cell in cells))
    finally:
        await asyncio.gather(*(agent.close() for agent in agents.values()))


async def _cell(
    lab: Lab, servers: Servers, agent: Kind, client: Kind, runner: LabClient, *, settles: bool
) -> Outcome:
    site, session = _named(lab, "client", client), f"to-{agent}"
    login, ice_servers = lab.credentials(site), lab.ice_servers(site, servers)
    started = time.monotonic()
    try:
        found = await runner.connect(session, _named(lab, "agent", agent).name, login, ice_servers)
        stats = await _settled(runner, session, started) if settles else found["stats"]
        await runner.close_session(session)
    except Failed as error:
        return Outcome(agent, client, "none", detail=str(error))
    return Outcome(agent, client, *used(stats), seconds=found["seconds"], detail=str(found["states"]))


async def _settled(runner: LabClient, session: str, started: float) -> dict[str, Any]:
    """Wait until the session has left the relay for the wire that it is to come to, if ever."""
    while True:
        stats = await runner.stats(session)
        if stats["wire"] == "webrtc" or time.monotonic() - started > _SETTLES:
            return stats
        await asyncio.sleep(0.1)  # another process's state: there is nothing to wait on


async def _site(lab: Lab, end: str, kind: Kind) -> Site:
    name = f"{end}-{kind}"
    return lab.sites.get(name) or await lab.site(kind, name)


def _named(lab: Lab, end: str, kind: Kind) -> Site:
    return lab.sites[f"{end}-{kind}"]


def complaints(outcomes: Iterable[Outcome], expected: Table) -> list[str]:
    """What is not as the table says."""
    found: list[str] = []
    for outcome in outcomes:
        if outcome.wire != expected[outcome.cell]:
            what = f"agent {outcome.agent}, client {outcome.client}: {outcome.wire} ({outcome.pair})"
            found.append(f"{what} instead of {expected[outcome.cell]}; {outcome.detail}")
    return found


def markdown(outcomes: Iterable[Outcome]) -> str:
    """A table: agents' sites down, clients' sites across; wire, pair and seconds to usable in each cell."""
    found = {outcome.cell: outcome for outcome in outcomes}
    agents, clients = ([kind for kind in Kind if any(c[end] is kind for c in found)] for end in (0, 1))
    lines = ["| agent ↓ · client → | " + " | ".join(clients) + " |"]
    lines.append("|---" * (len(clients) + 1) + "|")
    for agent in agents:
        cells = [_say(found.get((agent, client))) for client in clients]
        lines.append(f"| **{agent}** | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _say(outcome: Outcome | None) -> str:
    if outcome is None:
        return ""
    if outcome.wire == "none":
        return "none"
    return f"{outcome.wire} {outcome.seconds:.2f} s"
