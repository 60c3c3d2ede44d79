"""A hub that is killed, again and again, comes back with all it has acknowledged."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.asyncio

ROOTS = [str(Path(__file__).parents[2] / room) for room in ("hub", "protocol", "testing")]
KILLS = 12
WRITERS = 4
PROGRAM = """
import asyncio, sys
from pathlib import Path
from doorstep.testing.hub import throw_away_hub

async def main():
    async with throw_away_hub(Path(sys.argv[1])) as hub:
        owner = await hub.server.ensure_owner()
        print(hub.url, hub.anon_key, hub.service_key, owner.email, owner.password or "", flush=True)
        await asyncio.Event().wait()

sys.stdin.readline()
asyncio.run(main())
"""


class Hub:
    """A process that has imported everything and starts its hub when it is told to."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def go(self) -> list[str]:
        """Start the hub; its URL, keys and owner."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        async with asyncio.timeout(20):
            return (await self.process.stdout.readline()).decode().split()

    async def kill(self) -> None:
        if self.process.returncode is None:
            os.kill(self.process.pid, signal.SIGKILL)
        await self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()


@asynccontextmanager
async def waiting(state: Path) -> AsyncIterator[Hub]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        str(state),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(ROOTS)},
    )
    hub = Hub(process)
    try:
        yield hub
    finally:
        await hub.kill()


async def test_kill_and_restart(tmp_path: Path) -> None:
    async with waiting(tmp_path) as first, waiting(tmp_path) as second, httpx.AsyncClient() as http:
        url, *keys = await first.go()
        headers: dict[str, str] = {"apikey": keys[0]}
        account = {"email": keys[2], "password": keys[3]}
        session: dict[str, Any] = (
            await http.post(f"{url}/auth/v1/token?grant_type=password", json=account, headers=headers)
        ).json()
        signed = headers | {"Authorization": f"Bearer {session['access_token']}"}
        made = signed | {"Prefer": "return=representation"}
        rows = (await http.post(f"{url}/rest/v1/agents", json={"name": "box"}, headers=made)).json()
        await first.kill()
        url, *after = await second.go()
        assert after == keys[:3]
        assert (await http.get(f"{url}/rest/v1/agents", headers=signed)).json() == rows
        body = {"refresh_token": session["refresh_token"]}
        again = await http.post(f"{url}/auth/v1/token?grant_type=refresh_token", json=body, headers=headers)
        assert again.json()["user"]["id"] == session["user"]["id"]


class Writer:
    """Adds, changes and removes rows of its own, and knows what was acknowledged."""

    def __init__(self, number: int, owner: str, headers: dict[str, str]) -> None:
        self.kept: dict[str, str] = {}
        """Name to version, as the hub said it is."""
        self.open: set[str] = set()
        """Names whose last request was not answered: either outcome is right."""
        self._number, self._owner, self._headers = number, owner, headers
        self._random, self._count = random.Random(number), 0

    async def write(self, http: httpx.AsyncClient, url: str, enough: asyncio.Event, goal: int) -> None:
        """Write until the hub is gone; ``enough`` is set after ``goal`` answers."""
        for answered in range(1_000_000):
            if answered == goal:
                enough.set()
            try:
                await self._one(http, f"{url}/rest/v1/agents")
            except httpx.TransportError:
                return

    async def _one(self, http: httpx.AsyncClient, table: str) -> None:
        self._count += 1
        choice = self._random.random()
        sure = [name for name in self.kept if name not in self.open]
        if choice < 0.5 or not sure:
            name, version = f"w{self._number}-{self._count}", "1"
            row = {"owner_id": self._owner, "name": name, "version": version}
            await self._send(http, "POST", table, name, row)
            self.kept[name] = version
        elif choice < 0.8:
            name, version = self._random.choice(sure), str(self._count)
            await self._send(http, "PATCH", f"{table}?name=eq.{name}", name, {"version": version})
            self.kept[name] = version
        else:
            name = self._random.choice(sure)
            await self._send(http, "DELETE", f"{table}?name=eq.{name}", name, None)
            del self.kept[name]
        self.open.discard(name)

    async def _send(self, http: httpx.AsyncClient, method: str, url: str, name: str, body: Any) -> None:
        self.open.add(name)
        answer = await http.request(method, url, json=body, headers=self._headers)
        assert answer.is_success, answer.text


async def test_nothing_acknowledged_is_lost_when_the_hub_is_killed(tmp_path: Path) -> None:
    chance = random.Random(4)
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=10))
        hub = await stack.enter_async_context(waiting(tmp_path))
        url, _, service, email, *_ = await hub.go()
        headers = {"apikey": service}
        users = (await http.get(f"{url}/auth/v1/admin/users", headers=headers)).json()["users"]
        (owner,) = (user["id"] for user in users if user["email"] == email)
        writers = [Writer(number, owner, headers) for number in range(WRITERS)]
        for _ in range(KILLS):
            following = await stack.enter_async_context(waiting(tmp_path))  # imports while this one works
            enough = asyncio.Event()
            async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
                for writer in writers:
                    tasks.create_task(writer.write(http, url, enough, chance.randint(2, 12)))
                await enough.wait()
                await hub.kill()
            hub = following
            url, *_ = await hub.go()
            await compare(http, url, headers, writers)
    database = sqlite3.connect(tmp_path / "hub/hub.sqlite")
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    assert (tmp_path / "hub/hub.sqlite").stat().st_mode & 0o077 == 0
    assert sum(len(writer.kept) for writer in writers) > KILLS


async def compare(http: httpx.AsyncClient, url: str, headers: dict[str, str], writers: list[Writer]) -> None:
    """What is there is what was acknowledged; of what was not, the writers learn how it ended."""
    rows = (await http.get(f"{url}/rest/v1/agents?select=name,version", headers=headers)).json()
    found = {row["name"]: row["version"] for row in rows}
    for writer in writers:
        for name in writer.open:
            if name in found:
                writer.kept[name] = found[name]
            else:
                writer.kept.pop(name, None)
        writer.open.clear()
    assert found == {name: version for writer in writers for name, version in writer.kept.items()}
