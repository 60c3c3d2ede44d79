"""Client: your machines from a script.

::

    from doorstep import client as doorstep

    async with doorstep.connect("my-machine") as agent:
        print((await agent.commands.run("uname -a")).stdout)

Without ``async``: :mod:`doorstep.client.sync` has the same names.
"""

from __future__ import annotations

from doorstep.client.agent import Agent
from doorstep.client.attempts import AttemptReport, OnState
from doorstep.client.commands import Command, CommandResult, Commands
from doorstep.client.connecting import connect
from doorstep.client.directory import AgentInfo, agents, watch_agents
from doorstep.client.errors import CommandFailed, TerminalEnded, TooLarge, TransferDamaged
from doorstep.client.files import FileInfo, Files, OnProgress
from doorstep.client.records import Output
from doorstep.client.terminal import Terminal

__all__ = [
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
