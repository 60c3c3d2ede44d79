"""Testing, network laboratory: Linux network namespaces of one process, none of which outlive it for long.

A namespace is named ``doorlab-<pid>-<name>``. They are removed by :meth:`Namespaces.close`; those of a
process that died are removed, with what still runs in them, when the next laboratory begins.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ["Namespaces", "inside", "lacking", "run", "sweep"]

_PREFIX = "doorlab"
_OURS = re.compile(rf"^{_PREFIX}-(\d+)-")
_NAMED = Path("/run/netns")
_PROGRAMS = {"ip": "iproute2", "nft": "nftables", "conntrack": "conntrack", "turnserver": "coturn"}


def lacking() -> str:
    """Why no laboratory can be built here; empty when one can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [
        f"{name} (Debian package {_PROGRAMS[name]})" for name in _PROGRAMS if shutil.which(name) is None
    ]
    return f"missing: {', '.join(missing)}" if missing else ""


def inside(namespace: str) -> tuple[str, ...]:
    """What to put before a command so that it runs in ``namespace``; its process id stays the command's."""
    return ("ip", "netns", "exec", namespace)


async def run(*command: str, stdin: str = "") -> str:
    """Run a command to its end and return what it printed; ``RuntimeError`` when it fails."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(stdin.encode())
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {err.decode(errors='replace').strip()}\n{stdin}")
    return out.decode(errors="replace")


class Namespaces:
    """The namespaces of this process."""

    def __init__(self) -> None:
        self._made: list[str] = []

    async def make(self, *names: str) -> list[str]:
        """Create namespaces, with their loopback up; return their full names."""
        full = [f"{_PREFIX}-{os.getpid()}-{name}" for name in names]
        self._made += full
        await _ip([f"netns add {name}" for name in full])
        for name in full:
            await self.ip(name, ["link set lo up"])
        return full

    async def ip(self, namespace: str, lines: Sequence[str]) -> None:
        """Run lines of ``ip -batch`` in one namespace."""
        await _ip(lines, "-n", namespace)

    async def nft(self, namespace: str, rules: str) -> None:
        """Load nftables rules."""
        await run(*inside(namespace), "nft", "-f", "-", stdin=rules)

    async def sysctl(self, namespace: str, *settings: str) -> None:
        await run(*inside(namespace), "sysctl", "-qw", *settings)

    async def close(self) -> None:
        """Remove them all. What runs in them must have been ended by whoever started it."""
        made, self._made = self._made, []
        await _ip([f"netns del {name}" for name in made if (_NAMED / name).exists()])


async def sweep() -> list[str]:
    """Remove what laboratories of dead processes have left behind; return the names."""
    left = _orphans()
    for name in left:
        for pid in (await run("ip", "netns", "pids", name)).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        with suppress(RuntimeError):  # another laboratory sweeps at the same moment
            await run("ip", "netns", "del", name)
    return left


def _orphans() -> list[str]:
    names = os.listdir(_NAMED) if _NAMED.exists() else []
    return [name for name in names if (found := _OURS.match(name)) and not Path("/proc", found[1]).exists()]


async def _ip(lines: Sequence[str], *options: str) -> None:
    if lines:
        await run("ip", *options, "-batch", "-", stdin="\n".join(lines) + "\n")
