"""Network laboratory: it leaves nothing behind, not even when it is killed."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from doorstep.testing.lab import Kind, lab
from doorstep.testing.lab_net import sweep

KILLED = """
import asyncio, os
from doorstep.testing.lab_net import Namespaces, inside

async def main():
    namespaces = Namespaces()
    (name,) = await namespaces.make("orphan")
    process = await asyncio.create_subprocess_exec(*inside(name), "sleep", "999", stdout=-3)
    print(name, process.pid, flush=True)
    os._exit(9)

asyncio.run(main())
"""


def ours() -> list[str]:
    return [name for name in os.listdir("/run/netns") if name.startswith(f"doorlab-{os.getpid()}-")]


def gone(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.asyncio
async def test_a_laboratory_removes_itself(tmp_path: Path, scale: float) -> None:
    before = ours()
    async with lab(tmp_path, scale=scale) as network:
        site = await network.site(Kind.DOUBLE)
        hub, turn = network.hub.pid, network.turn.pid
        assert {site.host, *site.boxes} <= set(ours())
    assert ours() == before
    assert not [pid for pid in (hub, turn) if Path(f"/proc/{pid}").exists()]


@pytest.mark.asyncio
async def test_what_a_killed_laboratory_left_is_swept(scale: float) -> None:
    killed = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await killed.communicate()
    name, pid = out.decode().split()
    assert Path("/run/netns", name).exists()
    assert name in await sweep()
    assert not Path("/run/netns", name).exists()
    assert name not in await sweep()
    async with asyncio.timeout(10 * scale):
        while not gone(pid):
            await asyncio.sleep(0.02)
