"""Contract: an agent process and a client that have nothing in common but the back end."""

from __future__ import annotations

import asyncio

import pytest

from doorstep.client import AgentInfo, AttemptReport, agents, connect
from doorstep.protocol.errors import AgentUnreachable
from doorstep.protocol.timing import Timing
from doorstep.transport.backend import AgentRecord, Backend

from .conftest import BackEnd, RunningAgent, rest

pytestmark = pytest.mark.asyncio(loop_scope="session")

NORMAL = ["requesting", "waiting-ready", "creating-offer", "waiting-answer", "connecting", "connected"]


async def info(back_end: BackEnd, agent: RunningAgent) -> AgentInfo:
    (found,) = [each for each in await agents(credentials=back_end.owner) if each.id == agent.id]
    return found


async def test_an_agent_registers_and_is_present(back_end: BackEnd, agent: RunningAgent) -> None:
    async with await Backend.sign_in(back_end.owner) as backend:
        row = await backend.find_agent(agent.id)
        assert (row.owner_id, row.name, row.status) == (backend.user_id, agent.name, "online")
        assert row.platform
        assert row.version
        assert row.last_seen
    assert (await info(back_end, agent)).online


async def test_a_knock_ends_in_a_shell(back_end: BackEnd, agent: RunningAgent) -> None:
    reports: list[AttemptReport] = []
    async with connect(agent.name, credentials=back_end.owner, on_state=reports.append) as machine:
        assert [str(report.state) for report in reports if report.state != "idle"] == NORMAL
        async with machine.terminal(100, 30) as terminal:
            await terminal.write(b"stty size; echo sum-$((40 + 2))\n")
            await terminal.expect(r"30 100", timeout=10 * back_end.scale)
            await terminal.expect(r"sum-42", timeout=10 * back_end.scale)


async def test_a_shell_over_broadcasts(back_end: BackEnd, agent: RunningAgent) -> None:
    """Nothing but the back end's Realtime: the policies of wires are there, its quotas are kept."""
    async with connect(agent.name, credentials=back_end.owner, force="broadcast") as machine:
        assert machine.stats()["wire"] == "broadcast"
        result = await machine.commands.run("seq 1 2000; exit 3")
        assert (result.exit_code, len(result.stdout.split())) == (3, 2000)
        async with machine.terminal(100, 30) as terminal:
            await terminal.write(b"echo sum-$((40 + 2))\n")
            await terminal.expect(r"sum-42", timeout=20 * back_end.scale)


async def test_several_clients_at_once(back_end: BackEnd, agent: RunningAgent) -> None:
    async def visit(number: int) -> str:
        async with connect(agent.id, credentials=back_end.owner) as machine:
            return (await machine.commands.run(f"echo {number}")).stdout

    assert await asyncio.gather(*map(visit, range(3))) == ["0\n", "1\n", "2\n"]


async def test_a_stopped_agent_is_offline_and_comes_back_as_itself(back_end: BackEnd) -> None:
    """SIGTERM: the row and the presence say so at once; the next start has the same row."""
    async with back_end.agent("leaver") as agent:
        await agent.program.close()
        async with rest(back_end.owner) as table:
            (row,) = (await table.get("agents", params={"id": f"eq.{agent.id}"})).json()
            assert row["status"] == "offline"
        assert not (await info(back_end, agent)).online
        impatient = Timing(ready=0.5, retry_pause=0.1, total=4.0)  # nobody is there to be late
        with pytest.raises(AgentUnreachable):
            await connect(agent.name, credentials=back_end.owner, timing=impatient)
        await agent.program.start()
        online = await agent.program.event("online", within=30 * back_end.scale)
        assert online["agentId"] == agent.id
        assert (await info(back_end, agent)).online


async def test_a_killed_agent_is_not_present(back_end: BackEnd) -> None:
    """Its row still says online: the socket's end is what the back end tells at once."""
    async with back_end.agent("victim") as agent:
        await agent.program.kill()
        assert not (await info(back_end, agent)).online


async def test_two_agents_that_want_one_name_get_two_rows(back_end: BackEnd, agent: RunningAgent) -> None:
    async with await Backend.sign_in(back_end.owner) as backend:
        twin = "99999999-cccc-4ccc-8ccc-" + agent.id[-12:]
        record = AgentRecord(id=twin, name=agent.name, platform="test", version="0")
        row = await backend.register_agent(record)
        assert (row.id, row.name) == (twin, f"{agent.name}-2")
        await backend.set_offline(twin)
    async with rest(back_end.owner) as table:
        assert len((await table.delete("agents", params={"id": f"eq.{twin}"})).json()) == 1
