"""A hub that is killed comes back with the same rows, keys and sessions."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.asyncio

ROOTS = [str(Path(__file__).parents[2] / room) for room in ("hub", "protocol", "testing")]
PROGRAM = """
import asyncio, sys
from pathlib import Path
from doorstep.testing.hub import throw_away_hub

async def main():
    async with throw_away_hub(Path(sys.argv[1])) as hub:
        owner = await hub.server.ensure_owner()
        print(hub.url, hub.anon_key, hub.service_key, owner.email, owner.password or "", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def start(state: Path) -> tuple[asyncio.subprocess.Process, list[str]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        str(state),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(ROOTS)},
    )
    assert process.stdout is not None
    async with asyncio.timeout(20):
        return process, (await process.stdout.readline()).decode().split()


async def test_kill_and_restart(tmp_path: Path) -> None:
    process, (url, *keys) = await start(tmp_path)
    headers: dict[str, str] = {"apikey": keys[0]}
    account = {"email": keys[2], "password": keys[3]}
    async with httpx.AsyncClient() as http:
        session: dict[str, Any] = (
            await http.post(f"{url}/auth/v1/token?grant_type=password", json=account, headers=headers)
        ).json()
        signed = headers | {"Authorization": f"Bearer {session['access_token']}"}
        made = signed | {"Prefer": "return=representation"}
        rows = (await http.post(f"{url}/rest/v1/agents", json={"name": "box"}, headers=made)).json()
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        process, (url, *after) = await start(tmp_path)
        try:
            assert after == keys[:3]
            assert (await http.get(f"{url}/rest/v1/agents", headers=signed)).json() == rows
            body = {"refresh_token": session["refresh_token"]}
            again = await http.post(
                f"{url}/auth/v1/token?grant_type=refresh_token", json=body, headers=headers
            )
            assert again.json()["user"]["id"] == session["user"]["id"]
        finally:
            process.terminate()
            await process.wait()
