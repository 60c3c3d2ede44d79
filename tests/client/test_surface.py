"""What the client package offers is a list, and importing it is cheap."""

from __future__ import annotations

import subprocess
import sys

from doorstep import client
from doorstep.client import sync


def test_the_public_surface() -> None:
    assert client.__all__ == [
        "Agent",
        "AgentInfo",
        "AttemptReport",
        "Command",
        "CommandFailed",
        "CommandResult",
        "Commands",
        "FileInfo",
        "Files",
        "OnProgress",
        "OnState",
        "Output",
        "Terminal",
        "TerminalEnded",
        "TooLarge",
        "TransferDamaged",
        "agents",
        "connect",
        "watch_agents",
    ]
    assert sync.__all__ == [
        "Agent",
        "Command",
        "Commands",
        "Files",
        "Stream",
        "Terminal",
        "agents",
        "connect",
    ]
    for module in (client, sync):
        for name in module.__all__:
            assert hasattr(module, name)


def test_importing_it_loads_no_web_or_media_stack() -> None:
    code = f"import sys; sys.path[:] = {sys.path!r}; import doorstep.client.sync; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert not {"aiortc", "supabase", "realtime", "httpx", "av"} & set(done.stdout.decode().split())
