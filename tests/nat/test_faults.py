"""Network laboratory: what happens to a session when something on its way changes or breaks."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from doorstep.testing.lab import Kind, Lab, LabClient, Servers, Site
from doorstep.testing.lab_matrix import used
from doorstep.testing.link import Conditions
from doorstep.testing.stack import AgentProgram

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVERS = Servers(turn=True)
KIB = 1024


@dataclass
class Ends:
    """An agent behind a port-restricted box, and clients at other sites."""

    lab: Lab
    agent: AgentProgram
    client: LabClient
    site: Site
    numbers: itertools.count[int]

    async def session(self, client: LabClient | None = None, site: Site | None = None) -> tuple[str, str]:
        """Connect; return the session's name and its wire."""
        name, site = f"session-{next(self.numbers)}", site or self.site
        client = client or self.client
        await client.connect(
            name, self.agent.name, self.lab.credentials(site), self.lab.ice_servers(site, SERVERS)
        )
        async with asyncio.timeout(60 * self.lab.scale):
            while used(stats := await client.stats(name))[0] == "relay":
                await asyncio.sleep(0.1)  # another process's state: there is nothing to wait on
        return name, used(stats)[0]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ends(network: Lab) -> AsyncIterator[Ends]:
    there = await network.site(Kind.PORT_RESTRICTED, "agent")
    here = await network.site(Kind.PORT_RESTRICTED, "client")
    agent, client = await asyncio.gather(network.agent(there, SERVERS), network.client(here))
    yield Ends(network, agent, client, here, itertools.count())
    await client.close()
    await agent.close()


async def echoes(client: LabClient, session: str, within: float = 30) -> None:
    assert await client.run(session, "echo still", within=within) == "still\n"


async def goes_on(ends: Ends, session: str, client: LabClient | None = None) -> None:
    """The session is usable again, over another wire."""
    async with asyncio.timeout(60 * ends.lab.scale):
        await echoes(client or ends.client, session, within=60 * ends.lab.scale)


@pytest.mark.parametrize("percent", [1, 5, 10])
async def test_loss(ends: Ends, percent: int) -> None:
    await ends.lab.lose(ends.site, percent)
    try:
        async with asyncio.timeout(60 * ends.lab.scale):
            session, _ = await ends.session()
            for _ in range(5):
                await echoes(ends.client, session)
            await ends.client.copy(session, 128 * KIB)
            await ends.client.close_session(session)
    finally:
        await ends.lab.lose(ends.site, 0)


async def test_delay(ends: Ends) -> None:
    """A round trip of 100 ms to everything: TCP, sign-in, signaling, ICE, DTLS, SCTP, and a first command."""
    far = await ends.lab.site(Kind.PORT_RESTRICTED, "far", link=Conditions(delay=0.05))
    client = await ends.lab.client(far)
    session, wire = await ends.session(client, far)
    assert wire == "direct"
    async with asyncio.timeout(30 * ends.lab.scale):
        await client.copy(session, 256 * KIB)
    await client.close()


async def test_interface_down_and_up(ends: Ends) -> None:
    session, _ = await ends.session()
    await ends.lab.link_state(ends.site, "down")
    asking = asyncio.create_task(echoes(ends.client, session))
    await asyncio.sleep(2)  # the fault itself: shorter than Timing.give_up
    await ends.lab.link_state(ends.site, "up")
    await asking
    await ends.client.close_session(session)


async def test_silent_loss(ends: Ends) -> None:
    """Every packet is dropped and nobody is told: the wire is lost by silence alone, then made anew."""
    session, _ = await ends.session()
    await ends.lab.lose(ends.site, 100)
    try:
        async with asyncio.timeout(60 * ends.lab.scale):
            while (await ends.client.stats(session))["state"] != "away":
                await asyncio.sleep(0.05)
    finally:
        await ends.lab.lose(ends.site, 0)
    await goes_on(ends, session)
    assert (await ends.client.stats(session))["wires"] >= 2
    await ends.client.close_session(session)


async def test_hub_killed(ends: Ends) -> None:
    session, _ = await ends.session()
    await ends.lab.hub.kill()
    await echoes(ends.client, session)
    ends.agent.lines.clear()
    await ends.lab.start_hub()
    await ends.agent.event("online", within=30 * ends.lab.scale)
    await echoes(ends.client, session)
    await ends.session()


async def test_turn_killed(ends: Ends) -> None:
    blocked = await ends.lab.site(Kind.NO_UDP, "blocked")
    client = await ends.lab.client(blocked)
    session, wire = await ends.session(client, blocked)
    assert wire == "turn"
    await ends.lab.turn.kill()
    await ends.lab.start_turn()
    await goes_on(ends, session, client)
    session, _ = await ends.session(client, blocked)
    await echoes(client, session)
    await client.close()


async def test_the_relay_killed(ends: Ends) -> None:
    """Only the relay connects the two, and it is in the hub: a count that was begun before comes whole."""
    blocked = await ends.lab.site(Kind.NO_UDP, "by-relay")
    client = await ends.lab.client(blocked)
    name = f"session-{next(ends.numbers)}"
    found = await client.connect(name, ends.agent.name, ends.lab.credentials(blocked), [])
    assert found["stats"]["wire"] == "relay"
    counting = asyncio.create_task(
        client.run(name, "for i in $(seq 300); do echo $i; sleep 0.02; done", within=120 * ends.lab.scale)
    )
    await echoes(client, name)  # behind the count, which has begun then
    await ends.lab.hub.kill()
    ends.agent.lines.clear()
    await ends.lab.start_hub()
    await ends.agent.event("online", within=30 * ends.lab.scale)
    await goes_on(ends, name, client)
    assert (await counting).split() == [str(number) for number in range(1, 301)]
    await client.close()


async def test_turn_over_udp_killed(ends: Ends) -> None:
    """Both sides are symmetric: what goes through TURN goes on by the relay, and nothing is lost."""
    here, there = (
        await ends.lab.site(Kind.SYMMETRIC, "udp-here"),
        await ends.lab.site(Kind.SYMMETRIC, "udp-there"),
    )
    agent, client = await asyncio.gather(ends.lab.agent(there, SERVERS), ends.lab.client(here))
    name = f"session-{next(ends.numbers)}"
    servers = ends.lab.ice_servers(here, SERVERS)
    await client.connect(name, agent.name, ends.lab.credentials(here), servers)
    async with asyncio.timeout(60 * ends.lab.scale):
        while used(await client.stats(name))[0] != "turn":
            await asyncio.sleep(0.1)  # another process's state: there is nothing to wait on
    counting = asyncio.create_task(
        client.run(name, "for i in $(seq 300); do echo $i; sleep 0.02; done", within=120 * ends.lab.scale)
    )
    await echoes(client, name)
    await ends.lab.turn.kill()
    await goes_on(ends, name, client)
    assert (await counting).split() == [str(number) for number in range(1, 301)]
    await ends.lab.start_turn()
    await client.close()
    await agent.close()


async def test_box_forgets_its_mappings(ends: Ends) -> None:
    """The client's box restarts as a symmetric one: everything comes from other ports."""
    session, wire = await ends.session()
    assert wire == "direct"
    await ends.lab.rebind(ends.site)
    await goes_on(ends, session)
    await echoes(ends.client, (await ends.session())[0])


async def test_address_changes(ends: Ends) -> None:
    session, _ = await ends.session()
    await ends.lab.move(ends.site)
    await goes_on(ends, session)
    await echoes(ends.client, (await ends.session())[0])
