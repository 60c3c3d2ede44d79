"""The agent as a process, against a real hub: start, signals, parents, locks, and what it costs when idle."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from doorstep.agent.process import session_members
from doorstep.protocol.ids import SessionId, agents_topic
from doorstep.protocol.lanes import Lane
from doorstep.runtime import Role, Session
from doorstep.testing.hub import ThrowAwayHub, throw_away_hub
from doorstep.transport.backend import Backend
from doorstep.transport.credentials import Credentials, save
from doorstep.transport.signaling import ChannelSpec
from doorstep.transport.webrtc import Peer

from .support import DEADLINE, until

pytestmark = pytest.mark.asyncio


class Process:
    """``doorstep agent --events`` and the events it prints."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def event(self, name: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        async with asyncio.timeout(DEADLINE):
            while line := await self.process.stdout.readline():
                event: dict[str, Any] = json.loads(line)
                if event["event"] == name:
                    return event
        raise AssertionError(f"the agent ended without {name}")

    async def ended(self) -> int:
        assert self.process.stdout is not None
        async with asyncio.timeout(DEADLINE):
            await self.process.stdout.read()
            return await self.process.wait()


@pytest_asyncio.fixture
async def hub(tmp_path: Path, nothing_left: None) -> AsyncIterator[ThrowAwayHub]:
    async with throw_away_hub(tmp_path / "hub") as running:
        yield running


@pytest_asyncio.fixture
async def backend(hub: ThrowAwayHub, tmp_path: Path) -> AsyncIterator[Backend]:
    """The owner's client; the agent's state directory is signed in as the same user."""
    user = await hub.user()
    who = Credentials(hub.url, hub.anon_key, user.email, user.password)
    save(tmp_path / "state", who)
    async with await Backend.sign_in(who) as signed_in:
        yield signed_in


@asynccontextmanager
async def agent(state_dir: Path, *more: str) -> AsyncGenerator[Process, None]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DOORSTEP_")}
    environment["HOME"] = str(
        state_dir.parent
    )  # a login shell that is hung up must not be at the real one's work
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "doorstep.cli.main",
            "agent",
            "--events",
            "--state-dir",
            str(state_dir),
            *more,
        ),
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Process(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def connect(backend: Backend, agent_id: str) -> tuple[Peer, Session]:
    """An express knock."""
    heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def hear(event: str, payload: dict[str, Any]) -> None:
        if event == "connection-ready":
            heard.put_nowait(payload)

    spec = ChannelSpec(topic=agents_topic(backend.user_id), on_message=hear)
    channel = await backend.signaling().join(spec, timeout=DEADLINE)
    peer = Peer(())
    offer = await peer.create_offer()
    await channel.send(
        "connection-request", {"agentId": agent_id, "sessionId": "some-session", "offer": offer}
    )
    async with asyncio.timeout(DEADLINE):
        await peer.apply_answer((await heard.get())["answer"])
    session = Session(role=Role.CLIENT, session_id=SessionId("some-session"))
    await session.start(await peer.wire())
    return peer, session


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_takes_back_row_presence_and_processes(
    backend: Backend, tmp_path: Path, number: signal.Signals
) -> None:
    async with agent(tmp_path / "state", "--name", "workshop") as process:
        online = await process.event("online")
        assert online["name"] == "workshop"
        (row,) = await backend.list_agents()
        assert (row.id, row.name, row.status) == (online["agentId"], "workshop", "online")
        peer, session = await connect(backend, row.id)
        try:
            assert (await process.event("connected"))["wire"] == "webrtc"
            stream = await session.open("terminal", "open", {"cols": 80, "rows": 24}, lane=Lane.TERMINAL_IO)
            process.process.send_signal(number)
            assert await process.ended() == 0
            assert not session_members(stream.result["pid"])
            (row,) = await backend.list_agents()
            assert row.status == "offline"
        finally:
            await session.close()
            await peer.close()


async def test_it_ends_with_its_parent(backend: Backend, tmp_path: Path) -> None:
    async with agent(tmp_path / "state", "--exit-with-parent") as process:
        await process.event("online")
        assert process.process.stdin is not None
        process.process.stdin.close()
        assert "parent" in (await process.event("offline"))["reason"]
        assert await process.ended() == 0
        (row,) = await backend.list_agents()
        assert row.status == "offline"


async def test_one_agent_per_state_directory_and_one_row_for_ever(backend: Backend, tmp_path: Path) -> None:
    async with agent(tmp_path / "state") as process:
        first = await process.event("online")
        async with agent(tmp_path / "state") as second:
            assert await second.ended() == 73
        process.process.terminate()
        await process.ended()
    async with agent(tmp_path / "state", "--name", "renamed") as process:
        again = await process.event("online")
        assert (again["agentId"], again["name"]) == (first["agentId"], "renamed")
        (row,) = await backend.list_agents()
        assert (row.id, row.name) == (first["agentId"], "renamed")
        assert (tmp_path / "state" / "agent.json").stat().st_mode & 0o777 == 0o600


async def test_a_back_end_that_goes_and_comes_is_waited_for(tmp_path: Path) -> None:
    async with throw_away_hub(tmp_path / "hub") as hub:
        user = await hub.user()
        save(tmp_path / "state", Credentials(hub.url, hub.anon_key, user.email, user.password))
        port = int(hub.url.rsplit(":", 1)[1])
    async with agent(tmp_path / "state") as process:  # nobody listens there now
        async with throw_away_hub(tmp_path / "hub", port=port):
            await process.event("online")
        assert "out of reach" in (await process.event("offline"))["reason"]
        async with throw_away_hub(tmp_path / "hub", port=port):
            await process.event("online")


async def test_without_credentials_it_says_what_to_do(tmp_path: Path) -> None:
    async with agent(tmp_path / "nobody") as process:
        assert await process.ended() == 77


async def test_an_idle_agent_is_small_and_quiet(backend: Backend, tmp_path: Path) -> None:
    async with agent(tmp_path / "state") as process:
        await process.event("online")
        await until(lambda: not _busy(process.process.pid))
        before, began = _cpu(process.process.pid), time.monotonic()
        await asyncio.sleep(3)
        used, seconds = _cpu(process.process.pid) - before, time.monotonic() - began
        resident = _resident(process.process.pid)
        assert resident < 110 * 1024, f"{resident} KiB"
        assert used <= seconds * 0.005 + 0.01, f"{used} s of CPU in {seconds} s"  # the clock's tick is 10 ms


_last: dict[int, float] = {}


def _busy(pid: int) -> bool:
    before, _last[pid] = _last.get(pid, -1.0), _cpu(pid)
    return before != _last[pid]


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")
